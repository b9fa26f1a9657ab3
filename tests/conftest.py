"""Real servers for the tests: PostgreSQL 18 from the wheel, PostgreSQL 15 from Debian.

* `servers`: a server by its major version, one each for the whole run, not durable (fsync is off).
* `postgres`: both in turn, or those that `CATCHMENT_POSTGRES=14,17` names, where they are installed as Debian does it.
  For one only: `@pytest.mark.parametrize("postgres", ["18"], indirect=True)`.
* `database`: the DSN of a new, empty database on `postgres`, dropped afterwards with its slots.
* `database_18`: the same on PostgreSQL 18 only.
* `seed`: where a random test begins, printed for its replay.
* `spark`: Spark 4.1 with Iceberg (`readers/spark.py`), one for the whole run, started when it is first asked.
* `ministack`: AWS's stand-in, one for each test process, installed by the first test that asks for it.
* `aws`: an account of its own on it, in `os.environ`; `aws.client("dynamodb")`, and `aws.environ` for subprocesses.
* `kinesis_local`: the same, but its Kinesis is kinesis-local, whose shards can be split and merged.
* `busy_aws`: before `aws`, or before `kinesis_local` where a test has that too, a proxy that throttles, refuses parts,
  and loses answers (`aws/busy_aws.py`). What the test itself asks by `aws.client` goes past it.
* `scans`: DuckDB with its Iceberg extension, and Polars (`readers/scans.py`), one process for the whole run.

A server that is not installed skips its tests, visibly.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import hypothesis
import psycopg
import pytest
from psycopg import sql

from aws.account import AwsAccount, account_number, enter
from aws.busy_aws import BusyAws, busy
from aws.kinesis_local import KinesisLocal
from catchment.demo.account import server_account
from catchment.demo.binaries import find_binaries, server_version
from catchment.demo.ministack import MiniStack
from catchment.demo.ministack import own_environment as ministack_environment
from catchment.demo.postgres import NOT_DURABLE, EmbeddedPostgres
from catchment.errors import ConfigError
from readers.environment import NoReadersError, find
from readers.scans import Scans
from readers.spark import Spark
from seeds import first_seed
from waiting import wait_for

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".cache"
VERSIONS = tuple(int(major) for major in os.environ.get("CATCHMENT_POSTGRES", "18,15").split(","))
SETTINGS = {
    **NOT_DURABLE,
    "max_replication_slots": "64",
    "max_wal_senders": "64",
    "max_prepared_transactions": "4",
    "shared_buffers": "64MB",
}
LIBRARIES = ("pyarrow", "pyiceberg", "duckdb", "psycopg", "adbc-driver-postgresql")

# An example that takes long on a busy machine shows nothing about the code: Hypothesis would call it flaky.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("any machine")


def pytest_configure() -> None:
    """Ctrl-C works in what tests start, also where a shell began them in the background and had it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """CI runs slow tests, too, while there is time: until `CATCHMENT_SLOW_UNTIL`, seconds since 1970."""
    until = float(os.environ.get("CATCHMENT_SLOW_UNTIL", "inf"))
    if time.time() > until and item.get_closest_marker("slow") is not None:
        pytest.skip("slow, and this machine is: no time was left for it")


def pytest_report_header() -> list[str]:
    servers = []
    for major in VERSIONS:
        try:
            servers.append(server_version(find_binaries(major)))
        except ConfigError:
            servers.append(f"{major} missing: its tests are skipped")
    try:
        others = f"in {find().python.parent.parent}"
    except NoReadersError as error:
        others = f"missing, their tests are skipped: {error}"
    stand_in = ministack_environment(CACHE / "catchment")
    of_aws = f"in {stand_in.directory}" if stand_in.made else "will be installed when first asked for"
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return [
        f"PostgreSQL servers: {', '.join(servers)}",
        f"readers of others: {others}",
        f"AWS's stand-in: MiniStack, {of_aws}",
        f"libraries: {libraries}",
    ]


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[[int], EmbeddedPostgres]]:
    """The server of a major version, started when it is first asked for."""
    started: dict[int, EmbeddedPostgres] = {}
    with ExitStack() as all_of_them:

        def server(major: int) -> EmbeddedPostgres:
            if major not in started:
                started[major] = all_of_them.enter_context(_server(major))
            return started[major]

        yield server


@contextmanager
def _server(major: int) -> Iterator[EmbeddedPostgres]:
    try:
        server_account()
        find_binaries(major)
    except ConfigError as error:
        pytest.skip(str(error))
    directory = Path(tempfile.mkdtemp(prefix=f"catchment-test-{major}-"))
    directory.chmod(0o755)  # mkdtemp lets only ourselves in; as root the server is somebody else
    server = EmbeddedPostgres(directory / "server", settings=SETTINGS, version=major)
    try:
        yield server.start()
    finally:
        server.stop("immediate")
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def postgres_18(servers: Callable[[int], EmbeddedPostgres]) -> EmbeddedPostgres:
    return servers(18)


@pytest.fixture(scope="session", params=[str(major) for major in VERSIONS])
def postgres(servers: Callable[[int], EmbeddedPostgres], request: pytest.FixtureRequest) -> EmbeddedPostgres:
    return servers(int(request.param))


@pytest.fixture
def seed() -> int:
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    return seed


@pytest.fixture(scope="session")
def spark() -> Iterator[Spark]:
    try:
        spark = Spark(find())
    except NoReadersError as error:
        pytest.skip(f"readers of others: {error}")
    yield spark
    spark.close()


@pytest.fixture(scope="session")
def scans() -> Iterator[Scans]:
    try:
        scans = Scans(find())
    except NoReadersError as error:
        pytest.skip(f"readers of others: {error}")
    yield scans
    scans.close()


@pytest.fixture(scope="session")
def ministack() -> Iterator[MiniStack]:
    try:
        ministack_environment(CACHE / "catchment").make()
    except ConfigError as error:
        pytest.skip(str(error))
    with (
        tempfile.TemporaryDirectory(prefix="catchment-test-aws-", ignore_cleanup_errors=True) as directory,
        MiniStack(directory, cache=CACHE / "catchment") as server,
    ):
        yield server


@pytest.fixture
def aws(ministack: MiniStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsAccount]:
    ministack.start()  # a test may have killed it
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE))  # a command that starts a stand-in finds it installed
    account = enter(monkeypatch, ministack.environ(account_number()))
    yield account
    _leave(account, ministack)


@pytest.fixture(scope="session")
def kinesis_server() -> Iterator[KinesisLocal]:
    server = KinesisLocal(CACHE)
    try:
        server.install()
    except ConfigError as error:
        pytest.skip(str(error))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def kinesis_local(
    ministack: MiniStack, kinesis_server: KinesisLocal, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AwsAccount]:
    variables = ministack.environ(account_number())
    account = enter(monkeypatch, {**variables, "AWS_ENDPOINT_URL_KINESIS": kinesis_server.endpoint})
    yield account
    kinesis = account.client("kinesis")
    for name in kinesis.list_streams()["StreamNames"]:  # it has fifty shards, over all accounts
        with suppress(kinesis.exceptions.ResourceNotFoundException):  # the test itself deletes it
            kinesis.delete_stream(StreamName=name)
    _leave(account, ministack)


def _leave(account: AwsAccount, ministack: MiniStack) -> None:
    try:
        if ministack.running:
            account.empty()
    finally:
        account.close()  # what stays open is reported in the next test


@pytest.fixture
def busy_aws(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[BusyAws]:
    fixture = "kinesis_local" if "kinesis_local" in request.fixturenames else "aws"
    account: AwsAccount = request.getfixturevalue(fixture)
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    with busy({"": account.endpoint, "kinesis": account.endpoint_of("kinesis")}, seed) as proxy:
        monkeypatch.delenv("AWS_ENDPOINT_URL_KINESIS", raising=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> Iterator[str]:
    yield from _database(postgres)


@pytest.fixture
def database_18(postgres_18: EmbeddedPostgres) -> Iterator[str]:
    yield from _database(postgres_18)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that everybody may enter, as a home usually is: `tmp_path` lets only its owner in."""
    with tempfile.TemporaryDirectory(prefix="catchment-test-", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture(scope="session")
def drop_database() -> Callable[[str, str], None]:
    """Drops a database, given the server's DSN and its name, with its slots."""
    return _drop_database


def _database(server: EmbeddedPostgres) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield server.dsn_of(name)
    finally:
        server.start()  # the test may have killed it
        _drop_database(server.dsn, name)


def _drop_database(dsn: str, name: str) -> None:
    """Drop a database and its replication slots, whoever still uses them."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        wait_for(lambda: _dropped(connection, name), f"the end of database {name}")


def _dropped(connection: psycopg.Connection[tuple[object, ...]], name: str) -> bool:
    """Try it once: a session that ends in its own time, with a temporary slot or without, may be in the way."""
    try:
        connection.execute(
            "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots"
            " WHERE database = %s AND active_pid IS NOT NULL",
            (name,),
        )
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE database = %s AND NOT temporary",
            (name,),
        )
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    except psycopg.errors.ObjectInUse:
        return False
    return True
