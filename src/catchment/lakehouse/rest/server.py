"""The endpoint over HTTP, for programs of this machine only: a thread for each connection."""

from __future__ import annotations

import errno
import logging
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, Self

from catchment.errors import ConfigError
from catchment.lakehouse.rest.endpoint import READING, RestEndpoint
from catchment.lakehouse.rest.protocol import Answer, Request, refusal
from catchment.telemetry import LOGGER

log = logging.getLogger(LOGGER)

HOST = "127.0.0.1"
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
IDLE_SECONDS = 120.0
BODY_LIMIT = 1 << 20


class RestServer:
    """Serves an endpoint from when it is made until `close`."""

    def __init__(self, endpoint: RestEndpoint, port: int = 0) -> None:
        """port: 0 takes a free one. Raises ConfigError when the port cannot be had."""

        class Handler(_Handler):
            answers = endpoint

        try:
            self._server = _Server((HOST, port), Handler)
        except OSError as error:
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had: {error.strerror}"
            raise ConfigError(f"Port {port} {reason}. Choose another with --port; 0 picks a free one.") from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="catalog", daemon=True)
        self._thread.start()

    @property
    def uri(self) -> str:
        """The address that clients are given."""
        return f"http://{HOST}:{self._server.server_address[1]}"

    def close(self) -> None:
        """Take no more requests. May be called twice."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingTCPServer):
    """Plain TCP: `http.server` looks its own host name up, which may take seconds."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A reader that goes away in the middle is its own affair.
        log.debug("A connection to the catalog broke off.", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS
    answers: RestEndpoint

    def _do(self) -> None:
        if self.command not in READING:
            # What it wanted to write is not read to its end: the connection cannot go on after it.
            self.close_connection = True
            self._drain()
        if not self._is_local():
            answer = refusal(403, "ForbiddenException", "This catalog answers to 127.0.0.1 and localhost only.")
        else:
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = self.answers.answer(Request.parse(self.command, self.path, headers))
        self._send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _do  # noqa: N815

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the HTTP layer itself refuses, in the protocol's words."""
        self.close_connection = True
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._send(refusal(405, "NotAllowedException", "This catalog is read-only: GET and HEAD are all it takes."))
        else:
            self._send(refusal(code, "BadRequestException", message or HTTPStatus(code).phrase))

    def log_message(self, format: str, *arguments: Any) -> None:
        log.debug("catalog: " + format, *arguments)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status not in (204, 304):
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if getattr(self, "command", None) != "HEAD":
            self.wfile.write(answer.body)

    def _is_local(self) -> bool:
        """A page in a browser can point a name of its own to 127.0.0.1: then the name gives it away."""
        host = self.headers.get("Host", HOST)
        return host.rpartition(":")[0] in LOCAL_NAMES or host in LOCAL_NAMES

    def _drain(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if length.isdigit():
            self.rfile.read(min(int(length), BODY_LIMIT))
