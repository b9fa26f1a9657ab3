"""The documentation: Markdown pages, and what builds and checks them (`python -m docs`)."""
