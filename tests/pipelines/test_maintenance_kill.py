"""A process that is killed while it maintains the lake, at whatever moment, leaves each row once and no dead one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from catchment.lakehouse.catalog import load_catalog
from catchment.testing.lake import silver_differences
from pipelines import maintained_writer as writer
from pipelines.overtaking import SIMPLE
from pipelines.test_silver import rows
from seeds import first_seed


def run(directory: Path, seed: int, *arguments: str, failpoint: str = "") -> int:
    """Run the writer in a process of its own; its exit code."""
    command = [sys.executable, writer.__file__, str(directory), str(seed), *arguments]
    paths = os.pathsep.join([str(Path(writer.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "CATCHMENT_FAILPOINT": failpoint, "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def expect_one_lake(directory: Path) -> None:
    """Silver is what bronze amounts to, and bronze has no change twice."""
    differences = silver_differences(writer.LAKEHOUSE, directory)
    assert differences == {"items": []}
    catalog = load_catalog(writer.LAKEHOUSE.catalog, directory)
    changes = catalog.load_table(("bronze", "items")).scan(selected_fields=("_position",)).to_arrow()
    catalog.close()
    assert len(set(changes["_position"].to_pylist())) == changes.num_rows


def expect_everything(directory: Path, seed: int) -> None:
    expect_one_lake(directory)
    catalog = load_catalog(writer.LAKEHOUSE.catalog, directory)
    try:
        assert rows(catalog, SIMPLE) == writer.source(seed).expected()
    finally:
        catalog.close()


def new_seed() -> int:
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    return seed


@pytest.mark.parametrize(
    ("failpoint", "times"),
    [("before_exchange", (2, 4)), ("before_commit", (7, 11)), ("after_commit", (7, 11))],
)
def test_kills_at_a_failpoint_leave_each_row_once(tmp_path: Path, failpoint: str, times: tuple[int, ...]) -> None:
    seed = new_seed()
    for count in times:
        assert run(tmp_path, seed, failpoint=f"{failpoint}:{count}") == -signal.SIGKILL
        expect_one_lake(tmp_path)
    assert run(tmp_path, seed) == 0
    expect_everything(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("failpoint", ["data_file_written", "delete_file_written"])
def test_kills_after_a_file_was_written_leave_each_row_once(tmp_path: Path, failpoint: str) -> None:
    seed = new_seed()
    for count in (1, 2, 2, 3):
        assert run(tmp_path, seed, failpoint=f"{failpoint}:{count}") == -signal.SIGKILL
        expect_one_lake(tmp_path)
    assert run(tmp_path, seed) == 0
    expect_everything(tmp_path, seed)


def test_maintenance_that_never_rests_changes_no_row(tmp_path: Path) -> None:
    seed = new_seed()
    assert run(tmp_path, seed, "beside") == 0
    expect_everything(tmp_path, seed)


@pytest.mark.slow
def test_kills_at_any_moment_leave_each_row_once(tmp_path: Path) -> None:
    seed = new_seed()
    moments = random.Random(seed)
    command = [sys.executable, writer.__file__, str(tmp_path), str(seed), "beside"]
    paths = os.pathsep.join([str(Path(writer.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    for _ in range(12):
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + moments.uniform(1.0, 4.0)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        _, said = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), said
        if (tmp_path / "lake/warehouse/silver/items/data").exists():
            expect_one_lake(tmp_path)
    assert run(tmp_path, seed) == 0
    expect_everything(tmp_path, seed)
