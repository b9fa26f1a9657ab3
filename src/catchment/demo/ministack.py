"""AWS's stand-in on this machine: MiniStack, a server of its own that answers as AWS does, with its state in memory.

It listens on 127.0.0.1 only. What carries data to it is boto3 itself, by `AWS_ENDPOINT_URL`: nothing of Catchment
knows whether it talks to AWS or to this. It runs Lambda functions as our own user: for demos and tests only.
`python -m catchment.demo.ministack` installs it beforehand.
"""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from catchment.demo.host import HOST, free_port
from catchment.demo.own_environment import OwnEnvironment, say
from catchment.errors import ConfigError

REQUIREMENTS = Path(__file__).with_name("ministack-requirements.txt")
REGION = "us-east-1"
ACCOUNT = "000000000001"
START_SECONDS = 60.0
ANSWER_SECONDS = 1.0
STOP_SECONDS = 10.0

TIED_TO_US = """
exec 3<&0
( trap '' TERM; read -r line <&3; kill -TERM 0; for n in 1 2 3 4 5 6 7 8 9 10; do
  kill -0 $$ 2>/dev/null || break; sleep 0.2; done; kill -KILL 0 ) >/dev/null 2>&1 &
exec "$@" </dev/null 3<&-
"""
"""The server, and beside it a shell that waits for the end of our pipe, however we end, and then ends them all."""


class MiniStack:
    """A MiniStack whose files are in `directory`; it ends with this process, however that ends.

    cache: where its environment is installed, once (`own_environment.user_cache()`). settings: environment
    variables for the server. An access key of twelve digits is an account: accounts see nothing of each other.
    """

    def __init__(
        self, directory: Path | str, *, cache: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self.directory = Path(directory).resolve()
        self._environment = own_environment(cache)
        self._settings = dict(settings or {})
        self._name = uuid.uuid4().hex
        """By this it is told from another one that was quicker to take its port: it repeats its edition."""
        self._process: subprocess.Popen[bytes] | None = None
        self._port: int | None = None

    @property
    def port(self) -> int:
        """The port it listens on. Raises `ConfigError` before the first start."""
        if self._port is None:
            raise ConfigError(f"No MiniStack was ever started in {self.directory}; start it first.")
        return self._port

    @property
    def endpoint(self) -> str:
        """What `AWS_ENDPOINT_URL` has to be."""
        return f"http://{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """What the server wrote about itself."""
        return self.directory / "ministack.log"

    @property
    def pid(self) -> int | None:
        """The server's process, when it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def running(self) -> bool:
        """Does it run?"""
        return self.pid is not None

    def environ(self, account: str = ACCOUNT, region: str = REGION) -> dict[str, str]:
        """The environment variables that lead any AWS client to it, and to nothing else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": account,
            "AWS_SECRET_ACCESS_KEY": "stand-in",
            "AWS_REGION": region,
            "AWS_DEFAULT_REGION": region,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, tell: Callable[[str], None] = say) -> Self:
        """Start it, empty, and wait until it answers. tell: hears that it is being installed, the first time.

        Started again it has the same port, if that is still free, and nothing of what was in it.
        Raises `ConfigError` when it cannot be installed or does not start.
        """
        if self.running:
            return self
        self.stop()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{self.directory} cannot be made: {error.strerror}. Choose another directory for the stand-in."
            ) from error
        python = self._environment.make(tell)
        for port in (self._port, None, None, None):
            if self._started(python, port or free_port()):
                return self
        raise ConfigError(f"MiniStack found no free port: {self._last_words()} See {self.log}.")

    def stop(self) -> None:
        """Stop it, with the functions that it runs, and wait until it is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _started(self, python: Path, port: int) -> bool:
        """Start on this port; False when another program was quicker to take it."""
        self._port = port
        with self.log.open("ab") as log:
            written = log.tell()
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", TIED_TO_US, "ministack", str(python), "-m", "ministack"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=self._server_environ(port),
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None:
                self.stop()
                words = self._last_words(written)
                if "in use" in words:
                    return False
                raise ConfigError(f"MiniStack did not start: {words} See {self.log}.")
            if time.monotonic() > deadline:
                self.stop()
                raise ConfigError(f"MiniStack does not answer after {START_SECONDS:.0f} seconds. See {self.log}.")
            time.sleep(0.05)
        return True

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=ANSWER_SECONDS)
        try:
            connection.request("GET", "/_ministack/health")
            return self._name.encode() in connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _server_environ(self, port: int) -> dict[str, str]:
        """Nothing of ours but the path: no credentials, no proxy, no home to write to."""
        place = str(self.directory)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": place,
            "TMPDIR": place,
            "S3_DATA_DIR": f"{place}/s3",
            "STATE_DIR": f"{place}/state",
            "TZ": "UTC",
            "BIND_HOST": HOST,  # otherwise it listens on every address
            "IOT_MTLS_ENABLED": "0",  # opens 0.0.0.0:8883
            "MINISTACK_HOST": HOST,
            "MINISTACK_REGION": REGION,
            "GATEWAY_PORT": str(port),
            "MINISTACK_EDITION": self._name,
            "LOG_LEVEL": "WARNING",
            **self._settings,
        }

    def _last_words(self, since: int = 0) -> str:
        with self.log.open("rb") as log:
            log.seek(since)
            lines = log.read().decode(errors="replace").strip().splitlines()
        telling = [line for line in lines if re.search("error", line, re.IGNORECASE)] or lines
        return telling[-1].strip() if telling else "it said nothing."


def own_environment(cache: Path | None = None) -> OwnEnvironment:
    """Where MiniStack is installed, apart from us: it pins a botocore that is not ours."""
    return OwnEnvironment("MiniStack", REQUIREMENTS, cache=cache)


def main() -> int:
    """Install it beforehand. `python -m catchment.demo.ministack [cache directory]`"""
    try:
        own_environment(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None).make()
    except ConfigError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
