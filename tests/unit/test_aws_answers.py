"""What AWS answers, in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from catchment.aws_client import aws_client
from catchment.aws_errors import translated
from catchment.errors import CatchmentError, SourceRefused, SourceUnavailable
from catchment.sources.aws_answers import PLAIN, answer_plainly


@contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[str]:
    """A server that answers everything with this, as DynamoDB's and Glue's would."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
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


@pytest.mark.parametrize(
    ("status", "code", "of_a_capture", "of_a_command"),
    [
        (400, "InvalidInputException", SourceUnavailable, SourceRefused),
        (400, "AccessDeniedException", SourceRefused, SourceRefused),
        (400, "ThrottlingException", SourceUnavailable, SourceUnavailable),
        (500, "InternalServiceException", SourceUnavailable, SourceUnavailable),
    ],
)
def test_what_aws_finds_wrong_with_a_call_ends_a_command_and_not_a_capture(
    credentials: pytest.MonkeyPatch,
    status: int,
    code: str,
    of_a_capture: type[CatchmentError],
    of_a_command: type[CatchmentError],
) -> None:
    with answering(f'{{"__type": "{code}", "message": "Said by Glue."}}'.encode(), status) as endpoint:
        credentials.setenv("AWS_ENDPOINT_URL", endpoint)
        client = aws_client("glue", attempts=1)
        for expected, for_good in ((of_a_capture, False), (of_a_command, True)):
            with pytest.raises(expected, match=code) as raised, translated("listing tables", for_good=for_good):
                client.get_tables(DatabaseName="shop")
            assert "listing tables" in str(raised.value)
            assert type(raised.value) is expected
        client.close()


def test_a_call_that_cannot_be_made_ends_a_command(credentials: pytest.MonkeyPatch) -> None:
    client = aws_client("glue")
    with pytest.raises(SourceRefused, match="listing tables"), translated("listing tables", for_good=True):
        client.get_tables()
    client.close()
