"""Connections to the source: settings that fix what text looks like, and errors sorted by what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import adbc_driver_manager
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from catchment.errors import ConfigError, SourceRefused, SourceUnavailable

# Whatever the server, database or role sets: values must look the same everywhere. Options in the start-up
# packet win over ALTER ROLE and ALTER DATABASE.
_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}

CONNECTING = "connecting"

_HOPELESS = (
    "password authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "not permitted to log in",
    "permission denied",
    "must be superuser or replication role",
    "requires wal_level",
)


def conninfo(dsn: str, application: str, *, replication: bool = False) -> str:
    """The DSN with our session settings, names and keep-alives added; what the user set by hand stays."""
    given = settings_of(dsn)
    options = " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items())
    given["options"] = f"{given['options']} {options}" if "options" in given else options
    given["client_encoding"] = "UTF8"
    given.setdefault("application_name", application)
    given.setdefault("connect_timeout", "10")
    given.setdefault("keepalives_idle", "30")
    given.setdefault("keepalives_interval", "10")
    given.setdefault("keepalives_count", "3")
    given.setdefault("tcp_user_timeout", "60000")
    if replication:
        given["replication"] = "database"
    return make_conninfo("", **given)


def settings_of(dsn: str) -> dict[str, str]:
    """What a libpq connection string or URI says. Raises ConfigError, without any of its text, when that is unclear.

    What libpq says of a malformed one may be the password, or half of one: where it was not percent-encoded, the rest
    stands for the host or the port.
    """
    try:
        given = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value is not None}
    except psycopg.ProgrammingError:
        given = None
    if given is None or not _is_plausible(given.get("host", ""), given.get("port", "")):
        raise ConfigError(
            "The DSN cannot be read. Write postgresql://user:password@host:port/database; in a password percent-encode "
            "what is no letter or digit, such as %40 for @ and %2F for /."
        )
    return given


def _is_plausible(hosts: str, ports: str) -> bool:
    # A host that begins with @ is an abstract socket.
    return re.fullmatch(r"[0-9,]*", ports) is not None and not any("@" in host[1:] for host in hosts.split(","))


def connect(info: str) -> psycopg.Connection[tuple[object, ...]]:
    """An autocommit connection. Raises SourceUnavailable or SourceRefused."""
    with translated(CONNECTING):
        return psycopg.connect(info, autocommit=True)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Errors of the drivers as ours: what waiting may mend is SourceUnavailable, the rest SourceRefused."""
    try:
        yield
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject) as error:
        raise SourceRefused(
            f"PostgreSQL refused while {doing}: {_primary(error)}. Run `catchment validate` to see what is missing."
        ) from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise refusal(doing, _primary(error)) from error
    except psycopg.Error as error:
        raise SourceRefused(f"PostgreSQL refused while {doing}: {_primary(error)}.") from error
    except adbc_driver_manager.Error as error:
        raise refusal(doing, str(error).splitlines()[0]) from error


def refusal(doing: str, message: str) -> SourceRefused | SourceUnavailable:
    """The error for what a server or libpq said."""
    said = message.strip().rstrip(".")
    if any(sign in said for sign in _HOPELESS):
        first = said.partition("\n")[0].rstrip(".")
        return SourceRefused(
            f"PostgreSQL refused while {doing}: {first}. Check the DSN; `catchment validate` says what else is missing."
        )
    check = " Check that the server runs, and that the DSN leads to it." if doing == CONNECTING else ""
    return SourceUnavailable(f"PostgreSQL cannot be reached or hung up while {doing}: {said}.{check}")


def _primary(error: psycopg.Error) -> str:
    """What happened, without DETAIL, which may hold values."""
    return (error.diag.message_primary or str(error).splitlines()[0] if str(error) else type(error).__name__).rstrip(
        "."
    )
