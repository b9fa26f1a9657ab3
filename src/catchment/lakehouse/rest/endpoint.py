"""Which request gets which answer. Whatever would write is refused."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any

from catchment.errors import CatchmentError
from catchment.lakehouse.rest.protocol import (
    Answer,
    BadRequestError,
    Namespace,
    Request,
    document,
    namespace,
    page,
    refusal,
)
from catchment.lakehouse.rest.published import Metadata, OutsideWarehouseError, PublishedLake
from catchment.telemetry import LOGGER

log = logging.getLogger(LOGGER)

READING = ("GET", "HEAD")

ENDPOINTS = (
    "GET /v1/{prefix}/namespaces",
    "GET /v1/{prefix}/namespaces/{namespace}",
    "HEAD /v1/{prefix}/namespaces/{namespace}",
    "GET /v1/{prefix}/namespaces/{namespace}/tables",
    "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}",
)
"""What clients are told that there is: they ask for nothing else, such as views, plans or metrics."""


class RestEndpoint:
    """Answers requests on one lake; any thread may ask."""

    def __init__(self, lake: PublishedLake) -> None:
        self._lake = lake

    def answer(self, request: Request) -> Answer:
        """The answer to a request; never raises."""
        if request.method not in READING:
            return refusal(
                403, "ForbiddenException", "This catalog is read-only: the pipeline alone writes to its tables."
            )
        try:
            return self._find(request)
        except BadRequestError as error:
            return refusal(400, "BadRequestException", f"{error}.")
        except OutsideWarehouseError as error:
            return refusal(403, "ForbiddenException", str(error))
        except CatchmentError as error:
            log.warning("A reader of the catalog was put off: %s", error)
            return refusal(503, "ServiceUnavailableException", str(error))
        except Exception:
            # Whoever asked gets an answer, whoever runs the server the reason.
            log.exception("A request to the catalog failed.")
            return refusal(500, "InternalServerError", "The catalog failed at this; its log says on what.")

    def _find(self, request: Request) -> Answer:
        match request.parts:
            case ("v1", "config"):
                return document({"defaults": {}, "overrides": {}, "endpoints": list(ENDPOINTS)})
            case ("v1", "namespaces"):
                return self._namespaces(request)
            case ("v1", "namespaces", name):
                return self._namespace(namespace(name), request)
            case ("v1", "namespaces", name, "tables"):
                return self._tables(namespace(name), request)
            case ("v1", "namespaces", name, "tables", table):
                return self._table(namespace(name), table, request)
        return refusal(404, "NotFoundException", "There is nothing at this path. Catalogs answer below /v1.")

    def _namespaces(self, request: Request) -> Answer:
        parent = namespace(request.query.get("parent", ""))
        return self._page(
            request, self._lake.namespaces(parent), parent, lambda names: {"namespaces": [[*parent, n] for n in names]}
        )

    def _namespace(self, name: Namespace, request: Request) -> Answer:
        properties = self._lake.properties(name)
        if properties is None:
            return _no_namespace(name)
        if request.method == "HEAD":
            return Answer(204)
        return document({"namespace": list(name), "properties": properties})

    def _tables(self, name: Namespace, request: Request) -> Answer:
        def shown(names: list[str]) -> dict[str, Any]:
            return {"identifiers": [{"namespace": list(name), "name": one} for one in names]}

        return self._page(request, self._lake.tables(name), name, shown)

    def _page(
        self,
        request: Request,
        names: list[str] | None,
        below: Namespace,
        shown: Callable[[list[str]], dict[str, Any]],
    ) -> Answer:
        if names is None:
            return _no_namespace(below)
        found, following = page(names, request.query)
        return document({**shown(found), "next-page-token": following})

    def _table(self, name: Namespace, table: str, request: Request) -> Answer:
        found = self._lake.metadata(name, table)
        if found is None:
            return _no_table(name, table)
        if request.method == "HEAD":
            return Answer(204)
        wanted = request.query.get("snapshots", "all")
        if wanted not in ("all", "refs"):
            raise BadRequestError("snapshots is neither `all` nor `refs`")
        tag = _tag(found, wanted)
        if tag in request.headers.get("if-none-match", ""):
            return Answer(304, headers={"ETag": tag})
        metadata = found.content if wanted == "all" else json.dumps(_with_refs_only(found.document)).encode()
        # The file's own bytes: nothing is lost that we might not know of.
        body = b'{"metadata-location":%s,"metadata":%s,"config":{}}' % (json.dumps(found.location).encode(), metadata)
        return Answer(200, body, {"ETag": tag})


def _with_refs_only(metadata: dict[str, Any]) -> dict[str, Any]:
    """Without the snapshots that no branch or tag names: a client asks for those when it needs them."""
    named = {ref["snapshot-id"] for ref in metadata.get("refs", {}).values()} | {metadata.get("current-snapshot-id")}
    return {**metadata, "snapshots": [one for one in metadata.get("snapshots", []) if one["snapshot-id"] in named]}


def _tag(found: Metadata, wanted: str) -> str:
    # A metadata file never changes: its name stands for its content.
    return f'"{hashlib.sha256(f"{wanted} {found.location}".encode()).hexdigest()[:32]}"'


def _no_namespace(name: Namespace) -> Answer:
    return refusal(404, "NoSuchNamespaceException", f"There is no namespace {'.'.join(name)}.")


def _no_table(name: Namespace, table: str) -> Answer:
    return refusal(404, "NoSuchTableException", f"There is no table {'.'.join((*name, table))}.")
