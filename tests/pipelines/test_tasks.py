"""Commands that change the lake: done at once when nobody runs the pipeline, else by the process that does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from catchment.errors import ConfigError, Fatal, SinkRefused, SinkUnavailable
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.lease import holder
from catchment.lakehouse.recovery import requests, tasks
from catchment.lakehouse.recovery.requests import State
from catchment.lakehouse.recovery.tasks import PipelineLake, Task, perform, serve_requests
from catchment.lakehouse.writer import LakeWriter
from waiting import wait_for

HERE = Path(__file__).parent


def echo(writer: LakeWriter, task: Task) -> Mapping[str, Any]:
    task.tell("echoing")
    return {"pid": os.getpid(), **task.arguments}


def refuse(writer: LakeWriter, task: Task) -> Mapping[str, Any]:
    raise SinkRefused("There is no table silver.nothing. Choose another.")


def stumble(writer: LakeWriter, task: Task) -> Mapping[str, Any]:
    raise ZeroDivisionError("a secret value")


def die_once(writer: LakeWriter, task: Task) -> Mapping[str, Any]:
    """Kills its process the first time."""
    died = Path(task.arguments["died"])
    if not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"pid": os.getpid()}


def until_stopped(writer: LakeWriter, task: Task) -> Mapping[str, Any]:
    """Works until its process ends; the second time it is done at once."""
    begun = Path(task.arguments["begun"])
    if begun.exists():
        return {"done": True}
    begun.touch()
    while True:
        task.check()


@pytest.fixture(autouse=True)
def _handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch.setitem)


def register(put: Any) -> None:
    for one in (echo, refuse, stumble, die_once, until_stopped):
        put(tasks.HANDLERS, one.__name__, f"{__name__}:{one.__name__}")


def lake(directory: Path) -> PipelineLake:
    return PipelineLake("shop", LakehouseConfig(), directory)


@contextmanager
def running(directory: Path) -> Iterator[threading.Event]:
    """A thread that holds the lease and serves requests, as a running pipeline does."""
    stopping = threading.Event()
    writer = LakeWriter.open(LakehouseConfig(), "shop", directory)

    def serve() -> None:
        while not stopping.wait(0.02):
            serve_requests(writer, stopping)
        writer.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield stopping
    finally:
        stopping.set()
        thread.join()


def states(directory: Path) -> list[str]:
    with closing(lake(directory).open_ops()) as ops:
        return list(ops.tables()["requests"].column("state").to_pylist())


def test_a_command_does_its_work_itself_when_nobody_runs_the_pipeline(tmp_path: Path) -> None:
    assert perform(lake(tmp_path), "echo", {"n": 1}) == {"pid": os.getpid(), "n": 1}
    assert states(tmp_path) == ["done"]
    assert holder("shop", tmp_path) is None


def test_the_running_process_does_the_work(tmp_path: Path) -> None:
    process = _process(tmp_path)
    try:
        done = perform(lake(tmp_path), "echo", {"n": 2})
    finally:
        process.kill()
        process.communicate()
    assert done == {"pid": process.pid, "n": 2}


def test_an_error_comes_back_as_the_same_error_wherever_the_work_was_done(tmp_path: Path) -> None:
    with pytest.raises(SinkRefused, match=r"^There is no table silver.nothing. Choose another.$"):
        perform(lake(tmp_path), "refuse", {})
    with (
        running(tmp_path),
        pytest.raises(SinkRefused, match=r"^There is no table silver.nothing. Choose another.$"),
    ):
        perform(lake(tmp_path), "refuse", {})
    assert states(tmp_path) == ["failed", "failed"]


def test_an_unexpected_error_tells_its_place_and_not_its_message(tmp_path: Path) -> None:
    with running(tmp_path):
        with pytest.raises(Fatal, match=r"ZeroDivisionError at .*test_tasks.py") as raised:
            perform(lake(tmp_path), "stumble", {})
        assert "secret" not in str(raised.value)
        # The process that serves goes on.
        assert perform(lake(tmp_path), "echo", {"n": 3})["n"] == 3


def test_work_that_the_other_process_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="knows no 'dance'"):
        perform(lake(tmp_path), "dance", {})


def test_a_command_does_the_work_of_a_process_that_died_over_it(tmp_path: Path) -> None:
    process = _process(tmp_path)
    try:
        done = perform(lake(tmp_path), "die_once", {"died": str(tmp_path / "died")})
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert done == {"pid": os.getpid()}
    assert states(tmp_path) == ["done"]


def test_work_broken_off_by_the_end_of_the_process_is_done_by_the_next(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    result: dict[str, Any] = {}
    with running(tmp_path) as stopping:
        command = threading.Thread(
            target=lambda: result.update(perform(lake(tmp_path), "until_stopped", {"begun": str(begun)}))
        )
        command.start()
        wait_for(begun.exists)
        stopping.set()
    command.join(120)
    assert result == {"done": True}


def test_nothing_is_done_that_nobody_waits_for_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(lake(tmp_path).open_ops()) as ops, closing(lake(tmp_path).open_writer()) as writer:
        forgotten = requests.submit(ops, "shop", "echo", {})
        monkeypatch.setattr(requests, "LAPSE_SECONDS", -1.0)
        assert serve_requests(writer) == 0
        assert requests.keep_waiting(ops, forgotten).state is State.LAPSED
        monkeypatch.undo()
        register(monkeypatch.setitem)
        awaited = requests.submit(ops, "shop", "echo", {})
        withdrawn = requests.submit(ops, "shop", "echo", {})
        other = requests.submit(ops, "other", "echo", {})
        assert requests.withdraw(ops, withdrawn)
        assert serve_requests(writer) == 1
        assert requests.keep_waiting(ops, awaited).state is State.DONE
        assert not requests.withdraw(ops, awaited)
        assert requests.keep_waiting(ops, other).state is State.WAITING


def test_a_run_that_comes_while_a_command_works_waits_for_it(tmp_path: Path) -> None:
    with closing(lake(tmp_path).open_writer()):
        assert holder("shop", tmp_path) == os.getpid()
        # Retriable: the pipeline tries again, where `LeaseHeld` would end it.
        with pytest.raises(SinkUnavailable, match=f"A command .process {os.getpid()}. works on the lake"):
            LakeWriter.open(LakehouseConfig(), "shop", tmp_path)


def test_finished_requests_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "REQUESTS_KEPT", 3)
    for n in range(6):
        perform(lake(tmp_path), "echo", {"n": n})
    assert len(states(tmp_path)) == 4


def _process(directory: Path) -> subprocess.Popen[str]:
    """A process of its own that holds the lease and serves requests until it is killed."""
    code = (
        "import sys, time, pathlib\n"
        "from pipelines import test_tasks as t\n"
        "t.register(dict.__setitem__)\n"
        "writer = t.LakeWriter.open(t.LakehouseConfig(), 'shop', pathlib.Path(sys.argv[1]))\n"
        "print('open', flush=True)\n"
        "for _ in range(20000):\n"
        "    t.serve_requests(writer)\n"
        "    time.sleep(0.02)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(directory)],
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if (said := process.stdout.readline()) != "open\n":
        process.kill()
        process.communicate()
    assert said == "open\n"
    return process
