"""A gate before the stand-in that refuses parts of what is put, as a busy AWS does; the rest goes through to it."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEPT = ("content-type", "x-amz-target", "x-amz-date", "authorization", "x-amz-content-sha256", "content-encoding")


class Gate(ThreadingHTTPServer):
    """On a free port of 127.0.0.1.

    refuses: is asked for each record of a PutRecordBatch, by its data; those for which it says yes come back with an
    error code in an answer of status 200. failing: next answers to PutRecordBatch and to S3's PUT, by code.
    calls: how many records each PutRecordBatch had.
    """

    daemon_threads = True

    def __init__(self, behind: str, refuses: Callable[[bytes], bool]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.refuses = refuses
        self.failing: list[str] = []
        self.calls: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def gate(behind: str, refuses: Callable[[bytes], bool]) -> Iterator[Gate]:
    """The gate, open while the block lasts."""
    with Gate(behind, refuses) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Gate
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self._body()
        if not self.headers.get("X-Amz-Target", "").endswith(".PutRecordBatch"):
            return self._answer(*self._through(body))
        if self.server.failing:
            return self._fail()
        return self._put_record_batch(json.loads(body))

    def do_PUT(self) -> None:
        body = self._body()
        if self.server.failing:
            return self._fail()
        return self._answer(*self._through(body))

    def _put_record_batch(self, request: dict[str, Any]) -> None:
        import base64

        records = request["Records"]
        self.server.calls.append(len(records))
        refused = [self.server.refuses(base64.b64decode(record["Data"])) for record in records]
        taken = [record for record, no in zip(records, refused, strict=True) if not no]
        answers: Iterator[Mapping[str, Any]] = iter(())
        if taken:
            status, content, headers = self._through(json.dumps({**request, "Records": taken}).encode())
            if status != 200:
                return self._answer(status, content, headers)
            answers = iter(json.loads(content)["RequestResponses"])
        error = {"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."}
        responses = [error if no else next(answers) for no in refused]
        document = {"FailedPutCount": sum(refused), "Encrypted": False, "RequestResponses": responses}
        return self._answer(200, json.dumps(document).encode(), {"Content-Type": "application/x-amz-json-1.1"})

    def _fail(self) -> None:
        code = self.server.failing.pop(0)
        if self.command == "PUT":
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            return self._answer(503, body, {"Content-Type": "application/xml"})
        body = json.dumps({"__type": code, "message": "no"}).encode()
        return self._answer(400, body, {"Content-Type": "application/x-amz-json-1.1"})

    def _through(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        headers = {name: value for name, value in self.headers.items() if name.lower() in KEPT}
        request = urllib.request.Request(  # noqa: S310 - the stand-in's own address
            self.server.behind + self.path, data=body, headers=headers, method=self.command
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), dict(error.headers)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name in ("Content-Type", "ETag"):
            if value := headers.get(name):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: tests read the output."""
