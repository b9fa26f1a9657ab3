"""Deleting files that nothing needs any more, beside commits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from catchment.lakehouse.storage import LocalStorage
from catchment.lakehouse.sweeping import Sweeper


class Held(LocalStorage):
    """A slow disk: nothing is deleted before `release`."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def delete(self, locations: Iterable[str]) -> None:
        assert self.release.wait(60)
        super().delete(locations)


class Failing(LocalStorage):
    """A store whose client raises what it likes."""

    def delete(self, locations: Iterable[str]) -> None:
        raise RuntimeError("the secret text of an answer")


def files(directory: Path, count: int) -> list[Path]:
    made = [directory / f"file-{number}" for number in range(count)]
    for one in made:
        one.write_text("old")
    return made


def test_nobody_waits_for_files_to_go_but_who_closes(tmp_path: Path) -> None:
    storage, sweeper, old = Held(), Sweeper(), files(tmp_path, 3)
    sweeper.sweep(storage, [str(one) for one in old[:2]])
    sweeper.sweep(storage, [str(old[2])])
    assert all(one.exists() for one in old)
    storage.release.set()
    sweeper.close()
    assert not any(one.exists() for one in old)
    sweeper.close()


def test_what_cannot_be_deleted_is_told_of_and_the_rest_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sweeper, old = Sweeper(), files(tmp_path, 2)
    with caplog.at_level(logging.WARNING):
        sweeper.sweep(Failing(), [str(old[0])])
        sweeper.sweep(LocalStorage(), [str(old[1])])
        sweeper.close()
    assert [one.exists() for one in old] == [True, False]
    assert "1 files could not be deleted (RuntimeError)" in caplog.text
    assert "secret" not in caplog.text
