"""AWS on a bad day: in front of the stand-in, an HTTP proxy that throttles, refuses parts, and loses answers.

Behind it is the real server: what is not touched by a fault is answered by it, and a lost answer is one to a request
that was carried out. Operations are named as in the API, `PutRecords`, or with their service, `Kinesis.GetRecords`.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

THROTTLED = "ProvisionedThroughputExceededException"
S3_OPERATIONS = {
    ("PUT", ""): "PutObject",
    ("PUT", "partNumber"): "UploadPart",
    ("GET", ""): "GetObject",
    ("GET", "list-type"): "ListObjectsV2",
    ("HEAD", ""): "HeadObject",
    ("DELETE", ""): "DeleteObject",
    ("POST", "delete"): "DeleteObjects",
    ("POST", "uploads"): "CreateMultipartUpload",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
}
PARTS = {
    "PutRecords": ("Records", "Records", "FailedRecordCount", "InternalFailure"),
    "PutRecordBatch": ("Records", "RequestResponses", "FailedPutCount", "ServiceUnavailableException"),
    "PutEvents": ("Entries", "Entries", "FailedEntryCount", "ThrottlingException"),
}
"""Operation → its entries in the request and in the answer, the count of failed ones, a usual error code."""


@dataclass
class _Fault:
    """One kind of trouble. share: of the calls, or of a call's entries; left: how often it still happens."""

    kind: str
    operation: str
    draw: random.Random
    share: float
    left: float
    code: str = ""
    status: int = 400
    chosen: Callable[[Any], bool] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def strikes(self) -> bool:
        with self.lock:
            if self.left < 1 or (self.kind != "parts" and self.draw.random() >= self.share):
                return False
            self.left -= 1
            return True

    def refuses(self, entries: list[Any]) -> list[bool]:
        with self.lock:
            if self.chosen is not None:
                return [self.chosen(entry) for entry in entries]
            return [self.draw.random() < self.share for _ in entries]


class BusyAws:
    """The proxy. behind: service → endpoint, "" for all others, such as {"": ministack, "kinesis": kinesis_local}.

    calls: how often each operation was asked for; happened: how often each fault struck, by operation and kind.
    """

    def __init__(self, behind: Mapping[str, str], seed: int) -> None:
        self.behind = behind
        self.calls: Counter[str] = Counter()
        self.happened: Counter[tuple[str, str]] = Counter()
        self._faults: list[_Fault] = []
        self._seed = seed
        self._server = _Server(self)

    @property
    def endpoint(self) -> str:
        """What `AWS_ENDPOINT_URL` has to be."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fail(
        self,
        operation: str,
        code: str = THROTTLED,
        *,
        share: float = 1.0,
        times: float = float("inf"),
        status: int = 400,
    ) -> None:
        """Answer calls with an error and do nothing: throttled, an expired iterator, `InternalFailure` with 500 …"""
        self._add("fails", operation, share, times, code=code, status=status)

    def refuse_parts(
        self,
        operation: str,
        code: str = "",
        *,
        share: float = 0.3,
        times: float = float("inf"),
        chosen: Callable[[Any], bool] | None = None,
    ) -> None:
        """Take only part of the entries of a call, and say so with HTTP 200; the others never reach the server.

        chosen: which entries (as in the request's JSON), else a random share. For PutRecords, PutRecordBatch, PutEvents
        (failed entries), BatchWriteItem (unprocessed items) and BatchCreatePartition (errors). It meets every call,
        though it may refuse nothing of it: other faults of the same operation have to come before it.
        """
        assert operation in {*PARTS, "BatchWriteItem", "BatchCreatePartition"}
        self._add("parts", operation, share, times, code=code, chosen=chosen)

    def lose_answers(self, operation: str, *, share: float = 1.0, times: float = float("inf")) -> None:
        """Carry calls out and hang up without an answer: nobody knows whether it was done."""
        self._add("lost", operation, share, times)

    def hang_up(self, operation: str, *, share: float = 1.0, times: float = float("inf")) -> None:
        """Hang up without carrying calls out."""
        self._add("hung up", operation, share, times)

    def delay(self, operation: str, seconds: float, *, share: float = 1.0, times: float = float("inf")) -> None:
        """Carry calls out only after a while."""
        self._add(f"delayed {seconds}", operation, share, times)

    def calm(self) -> None:
        """A good day again."""
        self._faults = []

    def _add(
        self,
        kind: str,
        operation: str,
        share: float,
        times: float,
        *,
        code: str = "",
        status: int = 400,
        chosen: Callable[[Any], bool] | None = None,
    ) -> None:
        draw = random.Random(self._seed + len(self._faults))
        self._faults = [*self._faults, _Fault(kind, operation, draw, share, times, code, status, chosen)]

    def striking(self, names: tuple[str, str]) -> _Fault | None:
        """The fault, if any, that this call meets."""
        self.calls[names[0]] += 1
        for fault in self._faults:
            if fault.operation in names and fault.strikes():
                if fault.kind != "parts":
                    self.happened[names[0], fault.kind.split()[0]] += 1
                return fault
        return None


@contextmanager
def busy(behind: Mapping[str, str], seed: int) -> Iterator[BusyAws]:
    """The proxy, while the block lasts."""
    proxy = BusyAws(behind, seed)
    server = proxy._server
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: BusyAws) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed in the middle of a call is no error of ours."""


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _handle(self) -> None:
        body = self._body()
        service, operation = self._names()
        fault = self.server.proxy.striking((operation, f"{service}.{operation}"))
        kind = fault.kind if fault is not None else ""
        if fault is None:
            self._answer(self._through(service, body))
        elif kind == "fails":
            self._answer(self._error(fault))
        elif kind == "hung up":
            self.close_connection = True
        elif kind == "lost":
            self._through(service, body)
            self.close_connection = True
        elif kind == "parts":
            self._answer(self._in_part(service, operation, fault, body))
        else:
            time.sleep(float(kind.split()[1]))
            self._answer(self._through(service, body))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815 - so the base class asks for them

    def _names(self) -> tuple[str, str]:
        """Service and operation, as the API names them."""
        if target := self.headers.get("X-Amz-Target", ""):
            service, _, operation = target.rpartition(".")
            return service.split("_")[0], operation
        parts = urlsplit(self.path)
        if re.fullmatch(r"/[0-9-]+/functions/[^/]+/invocations", parts.path):
            return "Lambda", "Invoke"
        given = parse_qs(parts.query, keep_blank_values=True)
        for (method, mark), operation in S3_OPERATIONS.items():
            if method == self.command and mark and mark in given:
                return "S3", operation
        return "S3", S3_OPERATIONS.get((self.command, ""), self.command)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _through(self, service: str, body: bytes) -> _Answer:
        """What the server behind says."""
        behind = self.server.proxy.behind
        at = urlsplit(behind.get(service.lower()) or behind[""])
        assert at.hostname is not None
        connection = http.client.HTTPConnection(at.hostname, at.port, timeout=120)
        own = ("host", "connection", "content-length", "transfer-encoding", "expect")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in own}
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return _Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def _error(self, fault: _Fault) -> _Answer:
        if "X-Amz-Target" in self.headers or self.path.endswith("/invocations"):
            document = {"__type": fault.code, "message": "A fault of the test."}
            headers = [("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-ErrorType", fault.code)]
            return _Answer(fault.status, headers, json.dumps(document).encode())
        text = f"<Error><Code>{fault.code}</Code><Message>A fault of the test.</Message></Error>"
        return _Answer(fault.status, [("Content-Type", "application/xml")], text.encode())

    def _in_part(self, service: str, operation: str, fault: _Fault, body: bytes) -> _Answer:
        request = json.loads(body)
        if operation == "BatchWriteItem":
            return self._some_items(service, fault, request)
        if operation == "BatchCreatePartition":
            return self._some_partitions(service, fault, request)
        entries, answers, count, usual = PARTS[operation]
        refused = fault.refuses(request[entries])
        self._count(operation, refused)
        taken = [entry for entry, no in zip(request[entries], refused, strict=True) if not no]
        document: dict[str, Any] = {answers: [], count: 0}
        if taken:
            answer = self._through(service, json.dumps({**request, entries: taken}).encode())
            if answer.status != 200:
                return answer
            document = json.loads(answer.body)
        done = iter(document[answers])
        error = {"ErrorCode": fault.code or usual, "ErrorMessage": "A fault of the test."}
        document[answers] = [error if no else next(done) for no in refused]
        document[count] += sum(refused)
        return _json(document)

    def _some_items(self, service: str, fault: _Fault, request: dict[str, Any]) -> _Answer:
        taken: dict[str, list[Any]] = {}
        left: dict[str, list[Any]] = {}
        for table, items in request["RequestItems"].items():
            refused = fault.refuses(items)
            self._count("BatchWriteItem", refused)
            for item, no in zip(items, refused, strict=True):
                (left if no else taken).setdefault(table, []).append(item)
        document: dict[str, Any] = {}
        if taken:
            answer = self._through(service, json.dumps({**request, "RequestItems": taken}).encode())
            if answer.status != 200:
                return answer
            document = json.loads(answer.body)
        return _json({**document, "UnprocessedItems": {**document.get("UnprocessedItems", {}), **left}})

    def _some_partitions(self, service: str, fault: _Fault, request: dict[str, Any]) -> _Answer:
        given = request["PartitionInputList"]
        refused = fault.refuses(given)
        self._count("BatchCreatePartition", refused)
        taken = [one for one, no in zip(given, refused, strict=True) if not no]
        document: dict[str, Any] = {"Errors": []}
        if taken:
            answer = self._through(service, json.dumps({**request, "PartitionInputList": taken}).encode())
            if answer.status != 200:
                return answer
            document = json.loads(answer.body)
        error = {"ErrorCode": fault.code or "InternalServiceException", "ErrorMessage": "A fault of the test."}
        errors = [
            {"PartitionValues": one["Values"], "ErrorDetail": error}
            for one, no in zip(given, refused, strict=True)
            if no
        ]
        return _json({**document, "Errors": [*document.get("Errors", []), *errors]})

    def _count(self, operation: str, refused: list[bool]) -> None:
        if any(refused):
            self.server.proxy.happened[operation, "parts"] += sum(refused)

    def _answer(self, answer: _Answer) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = str(len(answer.body))
        if self.command == "HEAD":
            length = next((value for name, value in answer.headers if name.lower() == "content-length"), "0")
        if answer.status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Tests have their own words."""


def _json(document: Any) -> _Answer:
    return _Answer(200, [("Content-Type", "application/x-amz-json-1.1")], json.dumps(document).encode())
