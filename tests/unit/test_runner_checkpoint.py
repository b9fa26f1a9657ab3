"""How far a runner has come, where its file cannot be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from catchment.aws.local.checkpoint import Checkpoint
from catchment.errors import ConfigError, LeaseHeld, SinkUnavailable


def test_a_state_directory_that_cannot_be_made_is_a_wrong_option(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(ConfigError, match=r"state.*--state"):
        Checkpoint(tmp_path / "state", "pipe-orders")


def test_a_second_runner_is_told_which_process_runs_it(tmp_path: Path) -> None:
    with Checkpoint(tmp_path, "pipe-orders"):
        with pytest.raises(LeaseHeld, match=rf"Process {os.getpid()} runs pipe-orders .*--state"):
            Checkpoint(tmp_path, "pipe-orders")
        Checkpoint(tmp_path, "pipe-customers").close()
    Checkpoint(tmp_path, "pipe-orders").close()


def test_a_checkpoint_that_cannot_be_written_says_so_and_keeps_the_one_before(tmp_path: Path) -> None:
    with Checkpoint(tmp_path, "pipe-orders") as checkpoint:
        checkpoint.write({"places": {"shard": "1"}})
        in_the_way = tmp_path / "pipe-orders.new"
        in_the_way.mkdir()
        with pytest.raises(SinkUnavailable, match=r"pipe-orders\.json"):
            checkpoint.write({"places": {"shard": "2"}})
        assert checkpoint.read() == {"places": {"shard": "1"}}
        in_the_way.rmdir()
        checkpoint.write({"places": {"shard": "3"}})
        assert checkpoint.read() == {"places": {"shard": "3"}}
