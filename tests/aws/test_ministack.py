"""MiniStack, started and stopped: tied to whoever started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from aws.account import AwsAccount, account_number, enter
from catchment.demo.ministack import MiniStack
from catchment.errors import ConfigError
from waiting import wait_for

CACHE = Path(__file__).parents[2] / ".cache" / "catchment"

HOLD = """
import sys, time
from pathlib import Path
from catchment.demo.ministack import MiniStack
server = MiniStack(sys.argv[1], cache=Path(sys.argv[2])).start()
print(server.pid, flush=True)
time.sleep(600)
"""


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_when_whoever_started_it_is_killed(ministack: MiniStack, tmp_path: Path, how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "aws"), str(CACHE)], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None
            pid = int(holder.stdout.readline())
            family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
            assert not ended(pid)
            holder.send_signal(how)
            holder.wait()
        finally:
            holder.kill()
    for one in family:
        wait_for(lambda one=one: ended(one))  # type: ignore[misc]


def test_it_listens_on_this_machine_only(ministack: MiniStack) -> None:
    assert ministack.pid is not None
    listening = {
        connection.laddr.ip
        for connection in psutil.Process(ministack.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_started_again_it_is_empty_and_where_it_was(
    ministack: MiniStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MiniStack(tmp_path, cache=CACHE) as server:
        endpoint = server.endpoint
        account = enter(monkeypatch, server.environ(account_number()))
        account.client("s3").create_bucket(Bucket="gadget-sales-data")
        server.stop()
        assert not server.running
        server.start()
        assert server.endpoint == endpoint
        assert account.client("s3").list_buckets()["Buckets"] == []
        account.close()


def test_a_port_that_another_program_took_meanwhile_is_left_to_it(ministack: MiniStack, tmp_path: Path) -> None:
    with MiniStack(tmp_path, cache=CACHE) as server:
        taken = server.port
        server.stop()
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", taken))
            other.listen()
            server.start()
            assert server.running
            assert server.port != taken


def test_a_server_that_does_not_start_is_said_with_its_own_words(ministack: MiniStack, tmp_path: Path) -> None:
    server = MiniStack(tmp_path, cache=CACHE, settings={"GATEWAY_PORT": "not a port"})
    with pytest.raises(ConfigError, match=r"MiniStack did not start: .*not a port"):
        server.start()
    assert not server.running


def test_an_account_sees_nothing_of_another(
    aws: AwsAccount, ministack: MiniStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.client("kinesis").create_stream(StreamName="gadget-sales-stream", ShardCount=1)
    other = enter(monkeypatch, ministack.environ(account_number()))
    assert other.client("kinesis").list_streams()["StreamNames"] == []
    assert aws.client("kinesis").list_streams()["StreamNames"] == ["gadget-sales-stream"]
    other.close()


def test_a_subprocess_has_the_same_account(aws: AwsAccount) -> None:
    aws.client("s3").create_bucket(Bucket="gadget-sales-data")
    script = "import boto3; print([bucket['Name'] for bucket in boto3.client('s3').list_buckets()['Buckets']])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=aws.environ)
    assert done.stdout.strip() == "['gadget-sales-data']"


def test_nothing_of_a_developers_own_aws_is_seen(aws: AwsAccount, ministack: MiniStack) -> None:
    kept = {name for name in os.environ if name.startswith("AWS_")}
    assert kept == set(ministack.environ())


def test_it_answers_plain_http(ministack: MiniStack) -> None:
    with urllib.request.urlopen(f"{ministack.endpoint}/_ministack/health") as answer:  # noqa: S310 - ours
        assert answer.status == 200
