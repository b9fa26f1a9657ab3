"""What an expression of a rule may say."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from catchment.quality.expression import columns


def test_several_threads_ask_for_columns_and_each_gets_its_own() -> None:
    """The merger, gold and a command judge in threads of their own."""

    def asked(thread: int) -> list[tuple[str, ...]]:
        return [columns(f"c{thread}_{turn} > 0") for turn in range(200)]

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(asked, range(6)))
    assert answers == [[(f"c{thread}_{turn}",) for turn in range(200)] for thread in range(6)]
