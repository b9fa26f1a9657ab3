"""A small Iceberg REST catalog on 127.0.0.1, over PyIceberg's SqlCatalog: a catalog without our database."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.schema import Schema
from pyiceberg.table import CommitTableRequest, Table

ENDPOINTS = [
    "GET /v1/{prefix}/namespaces",
    "POST /v1/{prefix}/namespaces",
    "GET /v1/{prefix}/namespaces/{namespace}",
    "HEAD /v1/{prefix}/namespaces/{namespace}",
    "GET /v1/{prefix}/namespaces/{namespace}/tables",
    "POST /v1/{prefix}/namespaces/{namespace}/tables",
    "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}",
]
ERRORS: dict[type[Exception], tuple[int, str]] = {
    NoSuchTableError: (404, "NoSuchTableException"),
    NoSuchNamespaceError: (404, "NoSuchNamespaceException"),
    NamespaceAlreadyExistsError: (409, "AlreadyExistsException"),
    TableAlreadyExistsError: (409, "AlreadyExistsException"),
    CommitFailedException: (409, "CommitFailedException"),
}


class RestCatalogServer:
    """Serves one catalog. `lose_answers`: so many commits happen, and are answered with an error."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._catalog = SqlCatalog("rest", uri=f"sqlite:///{directory}/rest.db", warehouse=f"file://{directory}/w")
        self._lock = threading.Lock()
        self.lose_answers = 0
        self.commits: list[str] = []

        class Handler(_Handler):
            server_catalog = self

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._catalog.close()

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        with self._lock:
            if path == "/v1/config":
                return 200, {"defaults": {}, "overrides": {}, "endpoints": ENDPOINTS}
            if path == "/v1/namespaces":
                return self._namespaces(method, body)
            if match := re.fullmatch(r"/v1/namespaces/([^/]+)", path):
                return self._namespace(match[1])
            if match := re.fullmatch(r"/v1/namespaces/([^/]+)/tables", path):
                return self._tables(method, match[1], body)
            if match := re.fullmatch(r"/v1/namespaces/([^/]+)/tables/([^/]+)", path):
                return self._table(method, (match[1], match[2]), body)
        return 404, _error("NotFound", path, 404)

    def _namespaces(self, method: str, body: dict[str, Any]) -> tuple[int, Any]:
        if method == "POST":
            self._catalog.create_namespace(tuple(body["namespace"]))
            return 200, {"namespace": body["namespace"], "properties": {}}
        return 200, {"namespaces": [list(one) for one in self._catalog.list_namespaces()]}

    def _namespace(self, name: str) -> tuple[int, Any]:
        if not self._catalog.namespace_exists(name):
            raise NoSuchNamespaceError(name)
        return 200, {"namespace": [name], "properties": {}}

    def _tables(self, method: str, namespace: str, body: dict[str, Any]) -> tuple[int, Any]:
        if method == "POST":
            schema = Schema.model_validate(body["schema"])
            made = self._catalog.create_table((namespace, body["name"]), schema, properties=body["properties"])
            return 200, _table(made)
        names = self._catalog.list_tables(namespace)
        return 200, {"identifiers": [{"namespace": list(one[:-1]), "name": one[-1]} for one in names]}

    def _table(self, method: str, name: tuple[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        table = self._catalog.load_table(name)
        if method != "POST":
            return 200, _table(table)
        request = CommitTableRequest.model_validate({**body, "identifier": {"namespace": [name[0]], "name": name[1]}})
        self._catalog.commit_table(table, request.requirements, request.updates)
        self.commits.append(".".join(name))
        if self.lose_answers:
            self.lose_answers -= 1
            return 500, _error("InternalServerError", "the answer was lost", 500)
        return 200, _table(self._catalog.load_table(name))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_catalog: RestCatalogServer

    def log_message(self, *_: Any) -> None:
        return

    def _do(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        try:
            status, content = self.server_catalog.answer(self.command, unquote(urlparse(self.path).path), body)
        except tuple(ERRORS) as error:
            status, kind = ERRORS[type(error)]
            content = _error(kind, str(error), status)
        data = b"" if self.command == "HEAD" else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_HEAD = _do  # noqa: N815


@contextmanager
def rest_catalog(directory: Path) -> Iterator[RestCatalogServer]:
    """A running server, stopped at the end."""
    server = RestCatalogServer(directory)
    try:
        yield server
    finally:
        server.close()


def _table(table: Table) -> dict[str, Any]:
    metadata = json.loads(table.metadata.model_dump_json())
    return {"metadata-location": table.metadata_location, "metadata": metadata, "config": {}}


def _error(kind: str, message: str, status: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "code": status}}
