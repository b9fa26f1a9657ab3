"""The lake's catalog over Iceberg's REST protocol: asked by hand, and by PyIceberg's client."""

from __future__ import annotations

import http.client
import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlparse

import pyarrow as pa
import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.catalog.rest import DEFAULT_ENDPOINTS, RestCatalog
from pyiceberg.exceptions import ForbiddenError, NoSuchNamespaceError, NoSuchTableError

from catchment.errors import ConfigError
from catchment.lakehouse.commit import open_or_create, replace
from catchment.lakehouse.config import CatalogConfig, LakehouseConfig
from catchment.lakehouse.rest.endpoint import ENDPOINTS, RestEndpoint
from catchment.lakehouse.rest.published import PublishedLake
from catchment.lakehouse.rest.server import RestServer
from pipelines.bronze_lake import BronzeLake

ROWS = pa.table({"city": ["Oslo", "Bergen"], "orders": [3, 4]})
LAYOUT = ROWS.schema


@pytest.fixture
def lake(tmp_path: Path) -> BronzeLake:
    """bronze.orders with two changes, gold.by_city with two rows."""
    lake = BronzeLake(tmp_path)
    lake.create("orders")
    lake.append("orders", {"id": 1, "city": "Oslo"}, {"id": 2, "city": "Bergen"})
    commit(lake, "by_city")
    return lake


def commit(lake: BronzeLake, name: str, rows: pa.Table = ROWS) -> None:
    replace(lake.catalog, open_or_create(lake.catalog, ("gold", name), LAYOUT, {}, owns_data=True), rows)


@pytest.fixture
def server(lake: BronzeLake) -> Iterator[RestServer]:
    published = PublishedLake.open(lake.config, lake.directory)
    with RestServer(RestEndpoint(published)) as server:
        yield server
    published.close()


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """The code and type, if it has the protocol's shape."""
        error = self.json["error"]
        assert set(self.json) == {"error"} and set(error) == {"message", "type", "code"}
        assert error["message"] and error["code"] == self.status
        return self.status, error["type"]


def ask(server: RestServer, path: str, method: str = "GET", body: Any = None, **headers: str) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", urlparse(server.uri).port, timeout=60)
    try:
        content = None if body is None else json.dumps(body).encode()
        connection.request(method, path, content, {name.replace("_", "-"): text for name, text in headers.items()})
        answer = connection.getresponse()
        return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def client(server: RestServer) -> RestCatalog:
    catalog = load_catalog("lake", type="rest", uri=server.uri)
    assert isinstance(catalog, RestCatalog)
    return catalog


def insist(server: RestServer) -> RestCatalog:
    """A client that writes whatever it was told of the server."""
    catalog = client(server)
    catalog._supported_endpoints = set(DEFAULT_ENDPOINTS)
    return catalog


def test_a_client_finds_namespaces_tables_and_rows(lake: BronzeLake, server: RestServer) -> None:
    catalog = client(server)
    assert sorted(catalog.list_namespaces()) == [("bronze",), ("gold",)]
    assert catalog.list_tables("bronze") == [("bronze", "orders")]
    assert catalog.load_namespace_properties("gold") == dict(lake.catalog.load_namespace_properties("gold"))
    for name in ("bronze.orders", "gold.by_city"):
        theirs, ours = catalog.load_table(name), lake.catalog.load_table(name)
        assert theirs.metadata == ours.metadata
        assert theirs.metadata_location == ours.metadata_location
        assert theirs.scan().to_arrow().equals(ours.scan().to_arrow())


def test_the_metadata_is_the_file_s_own_text(lake: BronzeLake, server: RestServer) -> None:
    answer = ask(server, "/v1/namespaces/gold/tables/by_city")
    location = lake.catalog.load_table("gold.by_city").metadata_location
    assert answer.json["metadata-location"] == location
    assert Path(location.removeprefix("file://")).read_bytes() in answer.body
    assert answer.headers["content-type"] == "application/json"


def test_head_says_whether_something_is_there(server: RestServer) -> None:
    expected = {"gold": 204, "gold/tables/by_city": 204, "nothing": 404, "gold/tables/nothing": 404}
    for path, status in expected.items():
        answer = ask(server, f"/v1/namespaces/{path}", "HEAD")
        assert (answer.status, answer.body) == (status, b"")
    catalog = client(server)
    assert catalog.table_exists("gold.by_city") and not catalog.table_exists("gold.nothing")
    assert catalog.namespace_exists("gold") and not catalog.namespace_exists("nothing")


def test_what_is_not_there_is_said_in_the_protocol_s_words(server: RestServer) -> None:
    for path, kind in {
        "namespaces/nothing": "NoSuchNamespaceException",
        "namespaces/nothing/tables": "NoSuchNamespaceException",
        "namespaces?parent=nothing": "NoSuchNamespaceException",
        "namespaces/gold/tables/nothing": "NoSuchTableException",
        "namespaces/nothing/tables/by_city": "NoSuchTableException",
        "namespaces/gold/views": "NotFoundException",
        "anything": "NotFoundException",
    }.items():
        assert ask(server, f"/v1/{path}").error == (404, kind), path
    catalog = client(server)
    with pytest.raises(NoSuchTableError):
        catalog.load_table("gold.nothing")
    with pytest.raises(NoSuchNamespaceError):
        catalog.list_tables("nothing")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    "path",
    [
        "namespaces",
        "namespaces/gold",
        "namespaces/gold/properties",
        "namespaces/gold/tables",
        "namespaces/gold/register",
        "namespaces/gold/tables/by_city",
        "namespaces/gold/tables/by_city/metrics",
        "tables/rename",
        "transactions/commit",
        "oauth/tokens",
    ],
)
def test_every_write_is_refused(server: RestServer, method: str, path: str) -> None:
    assert ask(server, f"/v1/{path}", method, {"namespace": ["mine"]}).error == (403, "ForbiddenException")


def test_a_client_that_writes_is_told_and_changes_nothing(lake: BronzeLake, server: RestServer) -> None:
    before = lake.catalog.load_table("gold.by_city").metadata_location
    table = client(server).load_table("gold.by_city")
    with pytest.raises(NotImplementedError, match="does not support"):
        table.append(ROWS)
    with pytest.raises(ForbiddenError, match="read-only"):
        insist(server).load_table("gold.by_city").append(ROWS)
    assert lake.catalog.load_table("gold.by_city").metadata_location == before
    assert not any(one.split()[0] not in ("GET", "HEAD") for one in ENDPOINTS)


def test_a_method_that_http_does_not_have_is_405(server: RestServer) -> None:
    assert ask(server, "/v1/namespaces", "BREW").error[0] == 405


def test_pages_have_every_table_once_while_tables_come_and_go(lake: BronzeLake, server: RestServer) -> None:
    names = [f"t{number}" for number in range(7)]
    for name in names:
        lake.catalog.create_table(f"gold.{name}", LAYOUT)
    seen: list[str] = []
    token: str | None = ""
    while token is not None:
        answer = ask(server, f"/v1/namespaces/gold/tables?pageSize=3&pageToken={quote(token)}").json
        assert len(answer["identifiers"]) <= 3
        seen += [one["name"] for one in answer["identifiers"]]
        token = answer["next-page-token"]
        lake.catalog.create_table_if_not_exists("gold.a_new_one", LAYOUT)
        if "t1" in seen and lake.catalog.table_exists("gold.t0"):
            lake.catalog.drop_table("gold.t0")
    assert seen == ["by_city", *names]
    everything = ask(server, "/v1/namespaces/gold/tables").json
    assert len(everything["identifiers"]) == 8 and everything["next-page-token"] is None
    paging = load_catalog("lake", type="rest", uri=server.uri, **{"rest-page-size": "2"})
    assert len(paging.list_tables("gold")) == 8


@pytest.mark.parametrize("query", ["pageSize=0", "pageSize=many", "pageSize=-1", "pageToken=%21", "pageToken=/w=="])
def test_a_page_that_cannot_be_is_a_bad_request(server: RestServer, query: str) -> None:
    assert ask(server, f"/v1/namespaces/gold/tables?{query}").error == (400, "BadRequestException")


def test_namespaces_may_lie_in_namespaces(lake: BronzeLake, server: RestServer) -> None:
    lake.catalog.create_namespace(("team", "eu"))
    lake.catalog.create_table(("team", "eu", "t"), LAYOUT)
    assert ask(server, "/v1/namespaces?parent=team").json["namespaces"] == [["team", "eu"]]
    answer = ask(server, "/v1/namespaces/team%1Feu/tables").json
    assert answer["identifiers"] == [{"namespace": ["team", "eu"], "name": "t"}]
    assert (
        client(server).load_table(("team", "eu", "t")).schema() == lake.catalog.load_table(("team", "eu", "t")).schema()
    )


def test_a_name_is_never_a_path(lake: BronzeLake, server: RestServer) -> None:
    (lake.directory / "lake" / "warehouse" / "gold" / "secret").write_text("{}")
    for name in ("../catalog.db", "..", "secret", "by_city/metadata", ".", "%00", "by_city'--"):
        answer = ask(server, f"/v1/namespaces/gold/tables/{quote(name, safe='')}")
        assert answer.error == (404, "NoSuchTableException"), name
    assert ask(server, "/v1/namespaces/gold/tables/../../../../catalog.db").status == 404
    lake.catalog.create_table(("gold", "a b/c ø"), LAYOUT)
    assert client(server).load_table(("gold", "a b/c ø")).schema().column_names == ["city", "orders"]


def test_metadata_outside_the_warehouse_is_not_served(lake: BronzeLake, server: RestServer, tmp_path: Path) -> None:
    inside = Path(lake.catalog.load_table("gold.by_city").metadata_location.removeprefix("file://"))
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    shutil.copy(inside, outside / inside.name)
    link = tmp_path / "lake" / "warehouse" / "linked"
    link.symlink_to(outside)
    places = {
        "plain": f"file://{outside / inside.name}",
        "dotted": f"file://{tmp_path}/lake/warehouse/../../elsewhere/{inside.name}",
        "linked": f"file://{link / inside.name}",
    }
    for name, place in places.items():
        lake.catalog.register_table(("gold", name), place)
        answer = ask(server, f"/v1/namespaces/gold/tables/{name}")
        assert answer.error == (403, "ForbiddenException")
        assert "elsewhere" not in answer.body.decode()


def test_what_is_no_table_is_not_served_as_one(lake: BronzeLake, server: RestServer) -> None:
    """Other tools keep their views in the same table of the database."""
    view = lake.directory / "lake" / "warehouse" / "view.json"
    view.write_text(json.dumps({"view-uuid": "0", "format-version": 1}))
    lake.catalog.create_table("gold.a_view", LAYOUT)
    database = sqlite3.connect(lake.directory / "lake" / "catalog.db")
    with database:
        database.execute(
            "UPDATE iceberg_tables SET metadata_location = ?, iceberg_type = 'VIEW' WHERE table_name = 'a_view'",
            (f"file://{view}",),
        )
    database.close()
    assert ask(server, "/v1/namespaces/gold/tables/a_view").error == (404, "NoSuchTableException")
    assert ask(server, "/v1/namespaces/gold/tables/a_view", "HEAD").status == 404
    assert [one["name"] for one in ask(server, "/v1/namespaces/gold/tables").json["identifiers"]] == ["by_city"]


def test_only_names_of_this_machine_are_answered(server: RestServer) -> None:
    port = urlparse(server.uri).port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost"):
        assert ask(server, "/v1/config", Host=host).status == 200
    assert ask(server, "/v1/config", Host=f"evil.example:{port}").error == (403, "ForbiddenException")


def test_snapshots_may_be_left_out_that_no_reference_names(lake: BronzeLake, server: RestServer) -> None:
    commit(lake, "by_city", ROWS.slice(1))
    path = "/v1/namespaces/gold/tables/by_city"
    full, referenced = ask(server, path).json["metadata"], ask(server, f"{path}?snapshots=refs").json["metadata"]
    assert len(full["snapshots"]) == 2
    assert [one["snapshot-id"] for one in referenced["snapshots"]] == [full["current-snapshot-id"]]
    assert {**full, "snapshots": []} == {**referenced, "snapshots": []}
    assert ask(server, f"{path}?snapshots=some").error == (400, "BadRequestException")


def test_an_unchanged_table_is_not_sent_again(lake: BronzeLake, server: RestServer) -> None:
    path = "/v1/namespaces/gold/tables/by_city"
    tag = ask(server, path).headers["etag"]
    again = ask(server, path, If_None_Match=tag)
    assert (again.status, again.body) == (304, b"")
    commit(lake, "by_city", ROWS.slice(1))
    changed = ask(server, path, If_None_Match=tag)
    assert changed.status == 200 and changed.headers["etag"] != tag


def test_a_connection_goes_on_after_an_error(server: RestServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", urlparse(server.uri).port, timeout=60)
    for path, status in (("/v1/namespaces/no", 404), ("/v1/config", 200), ("/v1/namespaces", 200)):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status and not answer.will_close
    connection.close()


def test_tables_load_while_a_writer_replaces_their_metadata(lake: BronzeLake, server: RestServer) -> None:
    """Old metadata files are deleted under the reader's hands: what it gets is whole and never older than before."""
    written = threading.Event()

    def read(_: int) -> int:
        catalog, seen, reads = client(server), 0, 0
        while not written.is_set() or reads < 2:
            number = catalog.load_table("gold.by_city").metadata.last_sequence_number
            assert number >= seen
            seen, reads = number, reads + 1
        return reads

    with ThreadPoolExecutor(3) as readers:
        reading = [readers.submit(read, number) for number in range(3)]
        try:
            for number in range(25):
                commit(lake, "by_city", ROWS.slice(number % 2))
        finally:
            written.set()
        assert sum(one.result() for one in reading) > 3


def test_a_metadata_file_that_goes_between_two_steps_is_looked_for_again(lake: BronzeLake) -> None:
    class Late(PublishedLake):
        """The first answer is one from before the writer went on, and tidied up."""

        asked = 0

        def location(self, namespace: tuple[str, ...], table: str) -> str | None:
            found = super().location(namespace, table)
            self.asked += 1
            return found.replace("00000-", "gone-").replace("00001-", "gone-") if found and self.asked == 1 else found

    published = Late.open(lake.config, lake.directory)
    found = published.metadata(("gold",), "by_city")
    assert found is not None and found.location == lake.catalog.load_table("gold.by_city").metadata_location
    published.close()


def test_a_missing_metadata_file_is_told(lake: BronzeLake, server: RestServer) -> None:
    Path(lake.catalog.load_table("gold.by_city").metadata_location.removeprefix("file://")).unlink()
    assert ask(server, "/v1/namespaces/gold/tables/by_city").error == (503, "ServiceUnavailableException")
    assert ask(server, "/v1/namespaces/bronze/tables/orders").status == 200


def test_a_port_in_use_is_told(lake: BronzeLake, server: RestServer) -> None:
    published = PublishedLake.open(lake.config, lake.directory)
    with pytest.raises(ConfigError, match=r"in use.*--port"):
        RestServer(RestEndpoint(published), port=urlparse(server.uri).port or 0)
    published.close()


@pytest.mark.parametrize(
    "catalog",
    [CatalogConfig(type="glue"), CatalogConfig(uri="sqlite:///c.db", warehouse="s3://bucket/lake"), CatalogConfig()],
)
def test_a_catalog_that_others_reach_anyway_is_not_served(catalog: CatalogConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="catalog"):
        PublishedLake.open(LakehouseConfig(catalog=catalog), tmp_path)
