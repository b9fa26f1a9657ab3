"""`python -m catchment.cli` is `catchment`."""

from catchment.cli import main

if __name__ == "__main__":
    main()
