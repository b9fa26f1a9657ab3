"""A DSN that cannot be read is told without its text, maybe a password; one that leads nowhere, with advice."""

from __future__ import annotations

import pytest

from catchment.demo.shop import connect as connect_to_shop
from catchment.errors import ConfigError, SourceUnavailable
from catchment.sources.postgres.connection import connect, conninfo

MALFORMED = [
    "postgres//app:geheim@127.0.0.1/shop",
    "postgresql://app:geh%eim@127.0.0.1:1/shop",
    "postgresql://app:geh eim@127.0.0.1:1/shop",
    "postgresql://app:geheim/1@127.0.0.1:1/shop",
    "postgresql://app:a@geheim@127.0.0.1:1/shop",
    "postgresql://app@127.0.0.1:geheim/shop",
    "postgresql://app:x@127.0.0.1:1/shop?geheim=1",
    "host=127.0.0.1 password=a geheim",
    "host='127.0.0.1 password=geheim",
]


@pytest.mark.parametrize("dsn", MALFORMED)
def test_it_is_a_wrong_configuration_and_nothing_of_it_is_said(dsn: str) -> None:
    with pytest.raises(ConfigError, match="DSN") as told:
        conninfo(dsn, "test")
    assert "geh" not in str(told.value)
    assert told.value.__cause__ is None
    assert told.value.__context__ is None
    with pytest.raises(ConfigError, match="DSN") as told:
        connect_to_shop(dsn)
    assert "geh" not in str(told.value)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://app:geheim@127.0.0.1:5432,127.0.0.2:5433/shop",
        "postgresql:///shop?host=/tmp",
        "host=/var/run/postgresql,db.example.com port=5432,5433 user=app password='ge@heim/1'",
        "postgresql://app:p%40ss%2F@[::1]/shop",
        "service=shop",
        "",
    ],
)
def test_every_form_that_libpq_takes_is_taken(dsn: str) -> None:
    assert "application_name=test" in conninfo(dsn, "test")


def test_a_server_that_is_not_there_is_told_with_what_to_look_at() -> None:
    with pytest.raises(SourceUnavailable) as away:
        connect(conninfo("postgresql://nobody@127.0.0.1:1/nothing", "test"))
    assert str(away.value).endswith("Check that the server runs, and that the DSN leads to it.")
