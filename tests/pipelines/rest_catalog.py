"""A small Iceberg REST catalog on 127.0.0.1, over PyIceberg's SqlCatalog: a catalog without our database.

What reads is answered as `catchment serve` answers it; here are the writes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.schema import Schema
from pyiceberg.table import CommitTableRequest

from catchment.lakehouse.rest.endpoint import ENDPOINTS, READING, RestEndpoint
from catchment.lakehouse.rest.protocol import Answer, Request, document, refusal
from catchment.lakehouse.rest.published import PublishedLake

WRITING = (
    "POST /v1/{prefix}/namespaces",
    "POST /v1/{prefix}/namespaces/{namespace}/tables",
    "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}",
)
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
        self._reading = RestEndpoint(PublishedLake(self._catalog, directory / "w"))
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

    def answer(self, request: Request, body: bytes) -> Answer:
        if request.parts == ("v1", "config"):
            return document({"defaults": {}, "overrides": {}, "endpoints": [*ENDPOINTS, *WRITING]})
        if request.method in READING:
            return self._reading.answer(request)
        content = json.loads(body)
        try:
            with self._lock:
                return self._write(request.parts, content)
        except tuple(ERRORS) as error:
            status, kind = ERRORS[type(error)]
            return refusal(status, kind, str(error))

    def _write(self, parts: tuple[str, ...], body: dict[str, Any]) -> Answer:
        match parts:
            case ("v1", "namespaces"):
                self._catalog.create_namespace(tuple(body["namespace"]))
                return document({"namespace": body["namespace"], "properties": {}})
            case ("v1", "namespaces", namespace, "tables"):
                schema = Schema.model_validate(body["schema"])
                self._catalog.create_table((namespace, body["name"]), schema, properties=body["properties"])
                return self._table(namespace, body["name"])
            case ("v1", "namespaces", namespace, "tables", name):
                return self._commit(namespace, name, body)
        return refusal(404, "NotFoundException", "/".join(parts))

    def _commit(self, namespace: str, name: str, body: dict[str, Any]) -> Answer:
        identifier = {"namespace": [namespace], "name": name}
        request = CommitTableRequest.model_validate({**body, "identifier": identifier})
        self._catalog.commit_table(self._catalog.load_table((namespace, name)), request.requirements, request.updates)
        self.commits.append(f"{namespace}.{name}")
        if self.lose_answers:
            self.lose_answers -= 1
            return refusal(500, "InternalServerError", "the answer was lost")
        return self._table(namespace, name)

    def _table(self, namespace: str, name: str) -> Answer:
        return self._reading.answer(Request("GET", ("v1", "namespaces", namespace, "tables", name), {}))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_catalog: RestCatalogServer

    def log_message(self, *_: Any) -> None:
        return

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = self.server_catalog.answer(Request.parse(self.command, self.path, {}), body)
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_POST = do_HEAD = _do  # noqa: N815


@contextmanager
def rest_catalog(directory: Path) -> Iterator[RestCatalogServer]:
    """A running server, stopped at the end."""
    server = RestCatalogServer(directory)
    try:
        yield server
    finally:
        server.close()
