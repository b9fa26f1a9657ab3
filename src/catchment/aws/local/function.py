"""A Lambda function, invoked for real or called in this process; its failures as the managed parts name them."""

from __future__ import annotations

import importlib
import json
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from catchment.aws_client import aws_client
from catchment.errors import ConfigError, Fatal, SinkUnavailable

PAYLOAD_BYTES = 6 * 1024 * 1024
"""What Lambda takes and what it gives back, at most."""


class FunctionFailed(Exception):
    """One invocation failed. `code` is Firehose's; the message may hold values: for the error output only.

    kind: what may be said of it to everybody, such as the name of the exception that the handler raised.
    """

    def __init__(self, code: str, message: str, *, retriable: bool = True, kind: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retriable = retriable
        self.kind = kind or code


class Function(Protocol):
    """Something to invoke with an event."""

    @property
    def arn(self) -> str:
        """Its ARN, or a name that says where it lives."""
        ...

    def invoke(self, event: Mapping[str, Any]) -> Any:
        """Its answer, decoded from JSON. Raises `FunctionFailed`, `SinkUnavailable` when Lambda is away."""
        ...


@dataclass(frozen=True)
class InvocationContext:
    """What a handler may ask of its second argument."""

    function_name: str
    invoked_function_arn: str
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    function_version: str = "$LATEST"
    memory_limit_in_mb: int = 256
    log_group_name: str = "local"
    log_stream_name: str = "local"

    def get_remaining_time_in_millis(self) -> int:
        """Five minutes: nobody ends a handler here."""
        return 300_000


class InProcessFunction:
    """A handler that is imported: `catchment.aws.firehose_transform:handler`. Quick, and without a Lambda."""

    def __init__(self, path: str, arn: str | None = None) -> None:
        """Raises `ConfigError` when there is no such handler."""
        self.path = path
        self._arn = arn or f"arn:aws:lambda:local:000000000000:function:{path.replace(':', '.')}"
        self._handler = _imported(path)

    @property
    def arn(self) -> str:
        return self._arn

    def invoke(self, event: Mapping[str, Any]) -> Any:
        """As a function's; but a wrong environment, which no attempt would mend, is raised (`ConfigError`)."""
        context = InvocationContext(self.path.partition(":")[0].rpartition(".")[2], self._arn)
        try:
            answer = self._handler(event, context)
        except ConfigError as error:
            raise ConfigError(
                f"{self.path} cannot run in this process: {error}. Set it, then run this again."
            ) from error
        except Exception as error:
            kind = type(error).__name__
            raise FunctionFailed("Lambda.FunctionError", f"{kind}: {error}", kind=kind) from error
        try:
            size = len(json.dumps(answer))
        except (TypeError, ValueError) as error:
            raise FunctionFailed("Lambda.FunctionError", "Runtime.MarshalError: the answer is not JSON") from error
        if size > PAYLOAD_BYTES:
            raise FunctionFailed("Lambda.FunctionError", "Function.ResponseSizeTooLarge: the answer is over 6 MB")
        return answer


def _imported(path: str) -> Callable[[Mapping[str, Any], InvocationContext], Any]:
    module, _, name = path.partition(":")
    try:
        handler = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"There is no handler {path}: give module:name, such as catchment.aws.x:handler.") from error
    if not callable(handler):
        raise ConfigError(f"{path} is not a function. Give module:name of a handler.")
    return handler  # type: ignore[no-any-return]


class DeployedFunction:
    """A function of the account, invoked through Lambda's API."""

    def __init__(self, arn: str) -> None:
        self._arn = arn
        self._local = threading.local()

    @property
    def arn(self) -> str:
        return self._arn

    def invoke(self, event: Mapping[str, Any]) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError

        try:
            answer = self._client.invoke(FunctionName=self._arn, Payload=json.dumps(event).encode())
        except ClientError as error:
            raise _refused(error, self._arn) from error
        except ReadTimeoutError as error:
            raise FunctionFailed("Lambda.FunctionTimedOut", "The function did not answer in time.") from error
        except BotoCoreError as error:
            # Not the records' fault: they are read again by the next run.
            raise SinkUnavailable(f"Lambda cannot be reached to invoke {self._arn}: {error}") from error
        payload = answer["Payload"].read()
        if answer.get("FunctionError"):
            raise FunctionFailed("Lambda.FunctionError", payload.decode(errors="replace")[:2048])
        try:
            return json.loads(payload)
        except ValueError as error:
            raise FunctionFailed(
                "Lambda.JsonProcessingException", "The function's answer is not JSON.", retriable=False
            ) from error

    @property
    def _client(self) -> Any:
        if not hasattr(self._local, "client"):
            self._local.client = aws_client("lambda")
        return self._local.client


def _refused(error: Any, arn: str) -> Exception:
    code = error.response["Error"]["Code"]
    if code in ("TooManyRequestsException", "ServiceException", "EC2ThrottledException"):
        return FunctionFailed("Lambda.InvokeLimitExceeded", code)
    if code in ("AccessDeniedException", "AccessDenied"):
        return FunctionFailed("Lambda.InvokeAccessDenied", code, retriable=False)
    if code == "ResourceNotFoundException":
        return Fatal(f"There is no Lambda function {arn}. Create it, or name a handler of this process instead.")
    return FunctionFailed("Lambda.FunctionError", code)


def function_of(name: str) -> Function:
    """`module:name` is called in this process; a function's name or ARN is invoked."""
    is_path = not name.startswith("arn:") and ":" in name
    return InProcessFunction(name) if is_path else DeployedFunction(name)
