"""Our handlers as functions on the stand-in."""

from __future__ import annotations

from aws.account import AwsAccount
from catchment.aws.bundle import zipped


def deploy(aws: AwsAccount, handler: str, **variables: str) -> str:
    """Create a function of our zip; gives its ARN."""
    answer = aws.client("lambda").create_function(
        FunctionName=handler.rpartition(".")[0].replace(".", "-"),
        Runtime="python3.13",
        Role="arn:aws:iam::000000000000:role/lambda",
        Handler=handler,
        Code={"ZipFile": zipped()},
        Timeout=300,  # its first invocation starts a Python, which takes its time on a busy machine
        Environment={"Variables": variables},
    )
    return str(answer["FunctionArn"])
