"""What AWS answers, in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from catchment.aws_client import aws_client
from catchment.errors import SourceUnavailable
from catchment.sources.aws_answers import PLAIN, answer_plainly, translated


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """A server that answers everything with this, as DynamoDB's would."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "application/x-amz-json-1.0")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nobody listens."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return monkeypatch


def test_an_answer_is_taken_as_the_json_that_came(credentials: pytest.MonkeyPatch) -> None:
    with answering(b'{"Records": [{"dynamodb": {"NewImage": {"photo": {"B": "aGk="}}}}]}') as endpoint:
        credentials.setenv("AWS_ENDPOINT_URL", endpoint)
        client = aws_client("dynamodbstreams")
        answer_plainly(client, "dynamodb-streams", "GetRecords")
        answer = client.get_records(ShardIterator="i")
        client.close()
    assert answer[PLAIN]
    assert answer["Records"][0]["dynamodb"]["NewImage"] == {"photo": {"B": "aGk="}}


def test_an_answer_that_is_broken_off_is_worth_another_try(credentials: pytest.MonkeyPatch) -> None:
    with answering(b'{"Records": [') as endpoint:
        credentials.setenv("AWS_ENDPOINT_URL", endpoint)
        client = aws_client("dynamodbstreams")
        answer_plainly(client, "dynamodb-streams", "GetRecords")
        with pytest.raises(SourceUnavailable, match=r"while reading: .*not JSON"), translated("reading"):
            client.get_records(ShardIterator="i")
        client.close()
