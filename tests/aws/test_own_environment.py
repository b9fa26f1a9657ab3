"""What is installed apart from us: once, whole, by one process, and with a reason when it cannot be."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from catchment.demo.own_environment import OwnEnvironment, is_made, make_once, user_cache
from catchment.errors import ConfigError

MAKE = """
import sys, time
from pathlib import Path
from catchment.demo.own_environment import make_once

place = Path(sys.argv[1])

def make():
    place.mkdir()
    (place / "half").touch()
    print("begun", flush=True)
    time.sleep(float(sys.argv[2]))
    (place / "whole").touch()

make_once("MiniStack", place, make)
print("made")
"""


def start(place: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAKE, str(place), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_several_processes_one_installs_and_the_others_wait(tmp_path: Path) -> None:
    processes = [start(tmp_path / "place", 0.5) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        said = list(pool.map(lambda process: process.communicate(timeout=200)[0], processes))
    assert sorted(said) == ["begun\nmade\n", "made\n", "made\n"]


def test_what_a_killed_process_left_is_not_used(tmp_path: Path) -> None:
    place = tmp_path / "place"
    killed = start(place, 600)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "begun\n"
    killed.kill()
    killed.communicate()
    assert (place / "half").exists()
    assert not is_made(place)
    heard: list[str] = []
    make_once("MiniStack", place, place.mkdir, heard.append)
    assert is_made(place)
    assert not (place / "half").exists()
    assert heard == [f"Installing MiniStack into {place}, once …"]
    make_once("MiniStack", place, lambda: pytest.fail("it was there"))


def test_a_package_index_that_is_not_there_is_said_with_pips_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "none")}.items():
        monkeypatch.setenv(name, value)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"ministack==1.5.33 --hash=sha256:{'0' * 64}\n")
    environment = OwnEnvironment("MiniStack", requirements, cache=tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"could not be installed: .*ministack.* needs a package index"):
        environment.make(lambda _: None)
    assert not environment.made


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="Set XDG_CACHE_HOME"):
        make_once("MiniStack", tmp_path / "file" / "place", lambda: None)


def test_other_pins_are_another_environment(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("ministack==1.5.33")
    (tmp_path / "b").write_text("ministack==1.5.34")
    places = {OwnEnvironment("MiniStack", tmp_path / name, cache=tmp_path).directory for name in ("a", "b")}
    assert len(places) == 2


def test_the_users_cache_is_where_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "catchment"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_cache() == tmp_path / "home" / ".cache" / "catchment"
