"""Direct PUT: Firehose's PutRecord and PutRecordBatch on 127.0.0.1, kept durably until they are delivered.

A program reaches it with boto3 as it reaches Firehose, by `AWS_ENDPOINT_URL_FIREHOSE`. A put is answered when its
records are on disk, so that a killed runner loses none.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

from catchment.aws.local.counters import Counters
from catchment.aws.local.intake import IncomingPage, IncomingRecord
from catchment.aws.local.patience import now_ms
from catchment.durable import make_durable

RECORD_BYTES = 1000 * 1024
BATCH_RECORDS = 500
BATCH_BYTES = 4 * 1024 * 1024
SEGMENT_BYTES = 16 * 1024 * 1024
BACKLOG_BYTES = 1024**3
_REQUEST_BYTES = 8 * 1024 * 1024
_PAGE_BYTES = 4 * 1024 * 1024
_PLACE = "journal"


class Rejected(Exception):
    """A request that Firehose would refuse, with the name of its error."""

    def __init__(self, kind: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status


class Journal:
    """Records in files, each named by the offset of its first byte; offsets only grow. Any thread may append."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._changed = threading.Condition()
        self._segments = sorted(int(one.stem) for one in directory.glob("*.ndjson"))
        self._first = self._segments[0] if self._segments else 0
        if not self._segments:
            self._segments = [0]
        last = self._path(self._segments[-1])
        last.touch(mode=0o600)
        self._cut_torn_line(last)
        self._file = last.open("ab")
        make_durable(directory)
        self._end = self._segments[-1] + self._file.tell()

    def append(self, records: list[bytes]) -> None:
        """Keep records. They are durable when this returns."""
        now = now_ms()
        lines = b"".join(b'{"arrival":%d,"data":"%b"}\n' % (now, base64.b64encode(data)) for data in records)
        with self._changed:
            if self._end - self._first > BACKLOG_BYTES:
                raise Rejected("ServiceUnavailableException", "Slow down: too much waits to be delivered.", 503)
            try:
                if self._file.tell() > SEGMENT_BYTES:
                    self._begin_segment()
                self._file.write(lines)
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                self._take_back()
                raise Rejected(
                    "ServiceUnavailableException", f"Records cannot be kept: {error.strerror}.", 503
                ) from None
            self._end += len(lines)
            self._changed.notify_all()

    def read(self, offset: int, timeout: float) -> tuple[list[IncomingRecord], int]:
        """Records from an offset on, and the offset after them; none after `timeout` seconds without any."""
        with self._changed:
            self._changed.wait_for(lambda: self._end > offset, timeout)
            end = self._end
            start = max(one for one in self._segments if one <= offset) if end > offset else 0
            later = [one for one in self._segments if one > offset]
        if end <= offset:
            return [], offset
        with self._path(start).open("rb") as file:
            file.seek(offset - start)
            data = file.read(min(_PAGE_BYTES, (later[0] if later else end) - offset))
            if not data.endswith(b"\n"):
                data = data[: data.rfind(b"\n") + 1] or data + file.readline()
        found = [json.loads(line) for line in data.splitlines()]
        return [IncomingRecord(base64.b64decode(one["data"]), one["arrival"]) for one in found], offset + len(data)

    def forget(self, offset: int) -> None:
        """Delete files that hold nothing from `offset` on: delivered records do not lie about."""
        with self._changed:
            if offset >= self._end and self._end > self._segments[-1]:
                with suppress(OSError):  # the next file can be begun another time
                    self._begin_segment()
            while len(self._segments) > 1 and self._segments[1] <= offset:
                self._path(self._segments.pop(0)).unlink()
            self._first = self._segments[0]

    def close(self) -> None:
        """Close its file."""
        with self._changed:
            self._file.close()

    @property
    def end(self) -> int:
        """The offset after the newest record."""
        return self._end

    @property
    def first(self) -> int:
        """The offset of the oldest record that is kept."""
        return self._first

    def _path(self, offset: int) -> Path:
        return self._directory / f"{offset:020d}.ndjson"

    def _take_back(self) -> None:
        """What came of a write that failed, as when the disk is full, must not be there: offsets would be wrong."""
        with suppress(OSError):
            self._file.close()
        path = self._path(self._segments[-1])
        os.truncate(path, self._end - self._segments[-1])
        self._file = path.open("ab")

    def _begin_segment(self) -> None:
        path = self._path(self._end)
        file = path.open("ab")
        try:
            make_durable(self._directory)
        except OSError:
            # Records go on into the file before it, and an offset must be in one file only.
            file.close()
            path.unlink()
            raise
        self._file.close()
        self._file = file
        self._segments.append(self._end)

    @staticmethod
    def _cut_torn_line(path: Path) -> None:
        """A kill in the middle of a write leaves half a line, which nobody was told is kept."""
        with path.open("rb+") as file:
            data = file.read()
            if not data.endswith(b"\n"):
                file.truncate(data.rfind(b"\n") + 1)
                os.fsync(file.fileno())


class DirectPut:
    """The intake of a stream without a source. `endpoint` is there after `open`."""

    def __init__(self, name: str, directory: Path) -> None:
        self._name = name
        self._directory = directory
        self._journal: Journal | None = None
        self._server: _Server | None = None
        self._offset = 0

    @property
    def identity(self) -> str:
        return f"direct put to {self._name}"

    @property
    def endpoint(self) -> str:
        """What `AWS_ENDPOINT_URL_FIREHOSE` has to be."""
        assert self._server is not None, "open first"  # noqa: S101
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def open(self, places: Mapping[str, str] | None, counters: Counters) -> None:
        self._journal = Journal(self._directory)
        self._offset = max(int((places or {}).get(_PLACE, 0)), self._journal.first)
        self._server = _Server(self._name, self._journal)
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="direct put", daemon=True).start()

    def next(self, timeout: float) -> IncomingPage | None:
        assert self._journal is not None, "open first"  # noqa: S101
        records, self._offset = self._journal.read(self._offset, timeout)
        return IncomingPage(records, {_PLACE: str(self._offset)}) if records else None

    def caught_up(self, since: float) -> bool:
        return self._journal is None or self._offset >= self._journal.end

    def settled(self, places: Mapping[str, str]) -> None:
        if self._journal is not None:
            self._journal.forget(int(places[_PLACE]))

    def refuse(self) -> None:
        """Take no more; what was taken can still be read."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def close(self) -> None:
        self.refuse()
        if self._journal is not None:
            self._journal.close()
            self._journal = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, name: str, journal: Journal) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.name = name
        self.journal = journal


class _Requests(BaseHTTPRequestHandler):
    """Firehose's JSON protocol, as far as puts need it."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
        try:
            self._answer(200, self._perform(operation, self._body()))
        except Rejected as rejected:
            self._answer(rejected.status, {"__type": rejected.kind, "message": str(rejected)})

    def log_message(self, *_: Any) -> None:
        """No access log."""

    def _body(self) -> bytes:
        length = int(self.headers.get("Content-Length", 0))
        if length > _REQUEST_BYTES:
            raise Rejected("RequestEntityTooLarge", "The request is too large.", 413)
        return self.rfile.read(length)

    def _perform(self, operation: str, body: bytes) -> dict[str, Any]:
        try:
            request = json.loads(body)
        except ValueError:
            raise Rejected("SerializationException", "The request is not JSON.") from None
        server = cast(_Server, self.server)
        if operation not in ("PutRecord", "PutRecordBatch"):
            raise Rejected("UnknownOperationException", f"Only PutRecord and PutRecordBatch are here, not {operation}.")
        if request.get("DeliveryStreamName") != server.name:
            raise Rejected("ResourceNotFoundException", f"This runner plays the delivery stream {server.name} only.")
        records = [request.get("Record")] if operation == "PutRecord" else request.get("Records")
        data = _data_of(records)
        server.journal.append(data)
        if operation == "PutRecord":
            return {"RecordId": str(uuid.uuid4()), "Encrypted": False}
        answers = [{"RecordId": str(uuid.uuid4())} for _ in data]
        return {"FailedPutCount": 0, "Encrypted": False, "RequestResponses": answers}

    def _answer(self, status: int, document: Mapping[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("x-amzn-RequestId", str(uuid.uuid4()))
        self.send_header("Content-Length", str(len(body)))
        if status == 413:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)


def _data_of(records: Any) -> list[bytes]:
    if not isinstance(records, list) or not 1 <= len(records) <= BATCH_RECORDS:
        raise Rejected("ValidationException", f"A batch has 1 to {BATCH_RECORDS} records.")
    try:
        data = [base64.b64decode(one["Data"], validate=True) for one in records]
    except (TypeError, KeyError, binascii.Error):
        raise Rejected("ValidationException", "A record has a member Data, in base64.") from None
    if any(len(one) > RECORD_BYTES for one in data):
        raise Rejected("InvalidArgumentException", f"A record has at most {RECORD_BYTES} bytes.")
    if sum(map(len, data)) > BATCH_BYTES:
        raise Rejected("InvalidArgumentException", f"A batch has at most {BATCH_BYTES} bytes.")
    return data
