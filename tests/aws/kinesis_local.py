"""kinesis-local: Kinesis with honest shards, which MiniStack lacks. A split or merged one ends and names its children.

A Node.js program from npm, pinned by tests/aws/node/package-lock.json, installed once into .cache/.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Self

from catchment.demo.host import HOST
from catchment.demo.own_environment import make_once, run
from catchment.errors import ConfigError

NODE = Path(__file__).parent / "node"
START_SECONDS = 60.0
QUICK = ("CREATE_STREAM", "DELETE_STREAM", "MERGE_SHARDS", "SPLIT_SHARD", "UPDATE_SHARD_COUNT", "UPDATE_STREAM_MODE")
"""What takes a while on AWS, and half a second in kinesis-local unless it is told otherwise."""


class KinesisLocal:
    """A kinesis-local for the whole run; an access key of twelve digits is an account. It ends with this process."""

    def __init__(self, cache: Path) -> None:
        pins = (NODE / "package-lock.json").read_bytes()
        self.directory = cache / f"kinesis-local-{hashlib.sha256(pins).hexdigest()[:10]}"
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `stop`
        self._port: int | None = None

    @property
    def endpoint(self) -> str:
        """What `AWS_ENDPOINT_URL_KINESIS` has to be."""
        assert self._port is not None, "start it first"
        return f"http://{HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """Its process, when it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def install(self) -> None:
        """Raises `ConfigError` when Node.js is missing or npm's registry does not answer."""
        if shutil.which("node") is None or shutil.which("npm") is None:
            raise ConfigError("kinesis-local needs node and npm on the PATH.")
        make_once("kinesis-local", self.directory, self._install)

    def start(self) -> Self:
        """Start it, empty, and wait until it answers."""
        self._process = subprocess.Popen(
            ["node", "--require", str(NODE / "on_this_machine.js"), "main.js"],
            cwd=self.directory / "node_modules" / "kinesis-local",  # it looks for its certificate there
            env={
                "PATH": os.environ["PATH"],
                "KINESIS_MOCK_PLAIN_PORT": "0",
                "KINESIS_MOCK_TLS_PORT": "0",
                "LOG_LEVEL": "ERROR",
                **{f"{name}_DURATION": "20ms" for name in QUICK},
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        heard = threading.Event()
        threading.Thread(target=self._listen, args=(self._process, heard), daemon=True).start()
        deadline = time.monotonic() + START_SECONDS
        heard.wait(START_SECONDS)
        while not self._answers():  # it hangs up on whoever calls right after it began to listen
            if self.pid is None or time.monotonic() > deadline:
                words = self._last_words()
                self.stop()
                raise AssertionError(f"kinesis-local did not start: {words}")
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """Stop it and wait until it is gone."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._errors.close()

    def _answers(self) -> bool:
        if self._port is None:
            return False
        connection = http.client.HTTPConnection(HOST, self._port, timeout=START_SECONDS)
        try:
            connection.request("GET", "/healthcheck")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-2000:]

    def _install(self) -> None:
        self.directory.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(NODE / name, self.directory)
        run("kinesis-local", ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], self.directory)

    def _listen(self, process: subprocess.Popen[str], heard: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if line.startswith("listening on "):
                    self._port = int(line.split()[-1])
                    heard.set()
        heard.set()
