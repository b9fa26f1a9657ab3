"""The catalog of the configuration, ready to use, with every path resolved."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from catchment.errors import ConfigError, SinkRefused, SinkUnavailable
from catchment.lakehouse.config import CatalogConfig

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from sqlalchemy import URL, Engine

CATALOG_NAME = "catchment"
"""What the catalog calls itself: a SQL catalog stores it with every table."""

BUSY_TIMEOUT_SECONDS = 15.0
"""How long a connection waits for another process's SQLite transaction."""

_NOT_IN_LOCATIONS = frozenset("#?")


def load_catalog(config: CatalogConfig, directory: Path) -> Catalog:
    """The configured catalog. Relative SQLite files and warehouses are below `directory`, and are created."""
    from pyiceberg.catalog import load_catalog as load
    from pyiceberg.catalog.sql import SqlCatalog
    from sqlalchemy.exc import OperationalError

    properties = catalog_properties(config, directory)
    if (warehouse := local_path(properties.get("warehouse"))) is not None and is_sql(config):
        _make_directory(warehouse)
    if is_sql(config) and (database := sqlite_file(properties.get("uri"))) is not None:
        _make_directory(database.parent)
        _prepare(database)
    if is_sql(config) and "uri" in properties:
        _address(properties["uri"])
    with catalog_errors("The catalog cannot be opened"), _usable():
        try:
            catalog = load(CATALOG_NAME, **properties)
        except OperationalError:
            # Two processes made the catalog's tables at the same moment: now they are there.
            catalog = load(CATALOG_NAME, **properties)
    if isinstance(catalog, SqlCatalog):
        tune(catalog.engine)
    return catalog


def _address(uri: str) -> URL:
    """The address of a database. Raises ConfigError without its text, which may hold a password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(uri)
    except (ArgumentError, ValueError):
        raise ConfigError(
            "`lakehouse.catalog.uri` is no database's address: write it as sqlite:///lake/catalog.db."
        ) from None


@contextmanager
def _usable() -> Iterator[None]:
    """ConfigError for an unknown type, a missing property, no address, a client that is not installed."""
    from pyiceberg.exceptions import NotInstalledError
    from sqlalchemy.exc import ArgumentError

    try:
        yield
    except (ValueError, ImportError, ArgumentError, NotInstalledError) as error:
        raise ConfigError(f"The catalog cannot be opened: {error}. Correct `lakehouse.catalog`.") from error


@contextmanager
def catalog_errors(what: str) -> Iterator[None]:
    """Turn what goes wrong between us and a catalog into `SinkUnavailable`, or `SinkRefused` if it says no."""
    from pyiceberg.exceptions import ForbiddenError, UnauthorizedError

    try:
        yield
    except (ForbiddenError, UnauthorizedError) as error:
        raise SinkRefused(f"{what}: the catalog refuses us. Check the credentials in `lakehouse.catalog`.") from error
    except _expected_errors() as error:
        # The HTTP client's errors are OSErrors; their texts may hold whole addresses with credentials.
        reason = getattr(error, "orig", None) or getattr(error, "strerror", None) or type(error).__name__
        raise SinkUnavailable(f"{what}: {reason}. The catalog or its storage may be back later.") from error


def _expected_errors() -> tuple[type[Exception], ...]:
    from pyiceberg.exceptions import RESTError
    from sqlalchemy.exc import SQLAlchemyError

    # What boto3 raises, where it is in use (Glue, DynamoDB, S3).
    botocore: Any = sys.modules.get("botocore.exceptions")
    aws = (botocore.BotoCoreError, botocore.ClientError) if botocore is not None else ()
    return (OSError, RESTError, SQLAlchemyError, *aws)


def catalog_properties(config: CatalogConfig, directory: Path) -> dict[str, str]:
    """What PyIceberg is given: the configuration's own keys, paths made absolute."""
    properties = {name: _text(value) for name, value in config.model_dump(exclude_none=True).items()}
    properties["type"] = config.type
    if config.uri is not None:
        properties["uri"] = _absolute_uri(config.uri, directory)
    if config.warehouse is not None and "://" not in config.warehouse and config.type in ("sql", "in-memory"):
        properties["warehouse"] = f"file://{(directory / config.warehouse).resolve()}"
    if not is_local(config):
        properties = {**s3_properties(), **properties}
    if (place := local_path(properties.get("warehouse"))) is not None and set(str(place)) & _NOT_IN_LOCATIONS:
        raise ConfigError(
            f"The lake cannot be in {place}: `#` and `?` end the path in a location, for Iceberg's readers. Choose "
            "another directory."
        )
    return properties


def is_local(config: CatalogConfig) -> bool:
    """Is all of the lake on this machine, as far as the configuration says?"""
    return config.type in ("sql", "in-memory") and local_path(config.warehouse) is not None


def s3_properties() -> dict[str, str]:
    """Where S3 is, when it is not AWS's own: boto3 looks at the environment, PyIceberg's files do not."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not endpoint:
        return {}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return {"s3.endpoint": endpoint, **({"s3.region": region} if region else {})}


def is_sql(config: CatalogConfig) -> bool:
    """Does this catalog have a database in which several tables and our progress move at once?"""
    return config.type == "sql"


def open_engine(uri: str, *, durable: bool = True) -> Engine:
    """A SQLAlchemy engine on the catalog's database (`uri` as in `catalog_properties`).

    durable: False for data that may be lost with the machine's power (reports), never for progress.
    """
    from sqlalchemy import create_engine

    database = sqlite_file(uri)
    if database is not None:
        _make_directory(database.parent)
        _prepare(database)
    with _usable():
        engine = create_engine(_address(uri))
    tune(engine, durable=durable)
    return engine


def tune(engine: Engine, *, durable: bool = True) -> None:
    """On SQLite: write-ahead log, commits that are on disk when they return, patience with other processes."""
    from sqlalchemy import event

    if engine.dialect.name != "sqlite":
        return

    def connected(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_SECONDS * 1000) if durable else 250}")
        cursor.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        cursor.close()

    event.listen(engine, "connect", connected)
    engine.dispose()


def sqlite_file(uri: str | None) -> Path | None:
    """The file behind a SQLite URI; None for other databases and for memory."""
    if uri is None or not uri.startswith("sqlite"):
        return None
    name = uri.partition(":///")[2].partition("?")[0]
    return None if name in ("", ":memory:") else Path(unquote(name))


def local_path(location: str | None) -> Path | None:
    """The path behind a location on this machine (`file:///…` or a plain path); None for anything else."""
    if location is None:
        return None
    if location.startswith("file:"):
        # PyIceberg puts paths into locations as they are: a percent sign stands for itself.
        return Path(location.removeprefix("file://").removeprefix("file:"))
    return None if "://" in location else Path(location)


def _absolute_uri(uri: str, directory: Path) -> str:
    database = sqlite_file(uri)
    if database is None or database.is_absolute():
        return uri
    scheme, _, rest = uri.partition(":///")
    query = rest.partition("?")[2]
    path = str((directory / database).resolve()).replace("%", "%25")  # a database's URI is quoted, unlike a location
    return f"{scheme}:///{path}" + (f"?{query}" if query else "")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The lake's directory {path} cannot be made: {error.strerror}. Change `lakehouse.catalog` or its rights."
        ) from error


def _prepare(database: Path) -> None:
    """Switch the file to a write-ahead log: readers and the writer do not wait for each other."""
    try:
        connection = sqlite3.connect(database, timeout=BUSY_TIMEOUT_SECONDS)
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        raise SinkUnavailable(f"The catalog's database {database} cannot be opened: {error}.") from error
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"{database} is not a SQLite database: {error}. Correct `lakehouse.catalog.uri`.") from error
