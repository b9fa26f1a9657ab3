"""The embedded PostgreSQL: starts anywhere, keeps its address, and never outlives us."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from catchment.demo.postgres import NOT_DURABLE, EmbeddedPostgres
from catchment.errors import ConfigError
from waiting import wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets and accounts")


def ask(dsn: str, query: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return str(row[0])


def test_answers_over_tcp_and_unix_socket_and_is_ready_for_capture(postgres: EmbeddedPostgres) -> None:
    assert ask(postgres.dsn, "SHOW wal_level") == "logical"
    assert ask(postgres.unix_dsn, "SHOW listen_addresses") == "127.0.0.1"
    assert ask(postgres.unix_dsn, "SHOW server_version").split()[0] == postgres.version


def test_comes_back_at_the_same_address_with_its_data(open_directory: Path) -> None:
    with EmbeddedPostgres(open_directory / "server", settings=NOT_DURABLE) as server:
        before = server.dsn
        with psycopg.connect(before, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    assert not server.running
    with EmbeddedPostgres(open_directory / "server", settings=NOT_DURABLE) as again:
        assert again.dsn == before
        assert ask(again.dsn, "SELECT answer FROM kept") == "42"


def test_starts_again_after_its_processes_were_killed(open_directory: Path) -> None:
    with EmbeddedPostgres(open_directory / "server") as server:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        server.kill()
        assert not server.running
        assert (server.data / "postmaster.pid").exists()
        server.start()
        assert ask(server.dsn, "SELECT answer FROM kept") == "42"


def test_a_stale_pid_file_that_names_a_living_stranger_does_not_hinder(open_directory: Path) -> None:
    with EmbeddedPostgres(open_directory / "server", settings=NOT_DURABLE) as server:
        server.kill()
        pid_file = server.data / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
        assert not server.running
        server.start()
        assert ask(server.dsn, "SELECT 1") == "1"


def test_moves_when_its_remembered_port_was_taken_and_says_so(open_directory: Path) -> None:
    with EmbeddedPostgres(open_directory / "server", settings=NOT_DURABLE) as server:
        port = server.port
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", port))
        thief.listen()
        with EmbeddedPostgres(open_directory / "server", settings=NOT_DURABLE) as again:
            assert again.moved_from == port
            assert again.port != port
            assert ask(again.dsn, "SELECT 1") == "1"


def test_a_port_that_was_asked_for_and_is_taken_is_refused(open_directory: Path) -> None:
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", 0))
        thief.listen()
        server = EmbeddedPostgres(open_directory / "server", port=thief.getsockname()[1])
        with pytest.raises(ConfigError, match="taken by another program"):
            server.start()
        assert not server.running


def test_takes_a_running_server_as_it_is_and_leaves_it_running(open_directory: Path) -> None:
    with EmbeddedPostgres(open_directory / "server", settings=NOT_DURABLE) as server:
        with EmbeddedPostgres(open_directory / "server") as guest:
            assert guest.pid == server.pid
        assert server.running


def test_ends_with_a_process_that_was_killed(open_directory: Path) -> None:
    script = (
        "import sys, time; from catchment.demo.postgres import EmbeddedPostgres;"
        "server = EmbeddedPostgres(sys.argv[1]).start(); print(server.pid, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(open_directory / "server")], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    try:
        assert int(owner.stdout.readline()) > 0
        server = EmbeddedPostgres(open_directory / "server")
        assert server.running
    finally:
        owner.kill()
        owner.communicate()
    wait_for(lambda: not server.running)


def test_a_server_whose_process_was_killed_is_replaced_not_relied_on(open_directory: Path) -> None:
    script = (
        "import sys, time; from catchment.demo.postgres import EmbeddedPostgres;"
        "server = EmbeddedPostgres(sys.argv[1]).start(); print(server.pid, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(open_directory / "server")], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    try:
        first = int(owner.stdout.readline())
    finally:
        owner.kill()
        owner.communicate()
    with EmbeddedPostgres(open_directory / "server") as server:
        assert server.pid != first
        with psycopg.connect(server.dsn) as connection:
            connection.execute("SELECT pg_sleep(0.5)")
        assert server.running


def test_stays_when_asked_to_be_kept(open_directory: Path) -> None:
    script = (
        "import sys; from catchment.demo.postgres import EmbeddedPostgres;"
        "EmbeddedPostgres(sys.argv[1]).start(keep=True)"
    )
    subprocess.run([sys.executable, "-c", script, str(open_directory / "server")], check=True, timeout=120)
    server = EmbeddedPostgres(open_directory / "server")
    try:
        assert ask(server.dsn, "SELECT 1") == "1"
    finally:
        server.shut_down()
    assert not server.running


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has directories that its server cannot enter")
def test_finds_another_place_for_its_data_under_a_directory_only_root_may_enter(open_directory: Path) -> None:
    closed = open_directory / "closed"
    closed.mkdir(mode=0o700)
    with EmbeddedPostgres(closed / "server", settings=NOT_DURABLE) as server:
        assert ask(server.unix_dsn, "SELECT 1") == "1"
        home, before = server.data.parent, server.dsn
        assert closed not in home.parents
    assert (closed.stat().st_mode & 0o777) == 0o700
    with EmbeddedPostgres(closed / "server", settings=NOT_DURABLE) as again:
        assert again.dsn == before
        assert again.data.parent == home
    subprocess.run(["rm", "-r", str(closed)], check=True)
    closed.mkdir(mode=0o700)
    with EmbeddedPostgres(closed / "server", settings=NOT_DURABLE) as new:
        assert not home.exists(), "what nothing points to any more is removed"
        moved = new.data.parent
    subprocess.run(["rm", "-r", str(moved)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has programs that its server cannot reach")
def test_runs_programs_from_a_directory_only_root_may_enter(open_directory: Path) -> None:
    import shutil

    from catchment.demo.account import server_account
    from catchment.demo.binaries import WHEEL, find_binaries, reachable_binaries

    closed = open_directory / "closed"
    closed.mkdir(mode=0o700)
    found = find_binaries(18)
    if WHEEL not in str(found):
        pytest.skip("the wheel is not installed")
    shutil.copytree(found.parent, closed / WHEEL / found.parent.name, symlinks=True)
    shutil.copytree(found.parent.parent.parent / f"{WHEEL}.libs", closed / f"{WHEEL}.libs")
    hidden = closed / WHEEL / found.parent.name / "bin"
    copied = reachable_binaries(hidden, server_account())
    try:
        assert closed not in copied.parents
        with EmbeddedPostgres(open_directory / "server", settings=NOT_DURABLE, bin_dir=hidden) as server:
            assert ask(server.dsn, "SELECT 1") == "1"
    finally:
        shutil.rmtree(copied.parent.parent.parent)


def test_a_path_too_long_for_a_socket_has_its_socket_elsewhere(open_directory: Path) -> None:
    deep = open_directory / ("long" * 20) / ("longer" * 10)
    deep.mkdir(parents=True)
    with EmbeddedPostgres(deep / "server", settings=NOT_DURABLE) as server:
        assert deep not in server.socket_directory.parents
        assert ask(server.unix_dsn, "SELECT 1") == "1"
        sockets = server.socket_directory
    sockets.rmdir()


def test_a_database_is_dropped_with_a_slot_that_is_in_use(
    postgres: EmbeddedPostgres, drop_database: Callable[[str, str], None]
) -> None:
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE held")
    dsn = postgres.dsn_of("held")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_create_logical_replication_slot('held', 'pgoutput')")
    reader = subprocess.Popen(
        [
            *(str(postgres.bin_dir / "pg_recvlogical"), "-d", dsn, "-S", "held", "--start", "-f", "-"),
            *("-o", "proto_version=1", "-o", "publication_names=none"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(
            lambda: ask(postgres.dsn, "SELECT active FROM pg_replication_slots WHERE slot_name = 'held'") == "True"
        )
        drop_database(postgres.dsn, "held")
    finally:
        reader.kill()
        reader.wait()
    assert ask(postgres.dsn, "SELECT count(*) FROM pg_database WHERE datname = 'held'") == "0"


def test_a_missing_server_is_one_clear_sentence() -> None:
    with pytest.raises(ConfigError, match="No PostgreSQL 9 server was found"):
        EmbeddedPostgres("anywhere", version=9)
