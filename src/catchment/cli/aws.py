"""`catchment aws`: the managed parts of AWS, run on this machine, and what helps with the real ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catchment.cli.arguments import AsJson
from catchment.cli.prose import Prose

if TYPE_CHECKING:
    from catchment.aws.local.delivery_stream import DeliveryStreamConfig

app = typer.Typer(
    cls=Prose,
    no_args_is_help=True,
    help="AWS's managed parts on this machine: a pipe, a Firehose, an event source mapping; replay and reconcile.",
)

STATE = Path(".catchment-aws")
"""Where runners keep how far they are."""

State = Annotated[
    Path, typer.Option("--state", metavar="DIR", help="Where it keeps how far it is; run again, it resumes.")
]
IdleSeconds = Annotated[
    float | None, typer.Option(min=0, help="End when so long nothing came; without it, run until Ctrl-C.")
]
RunnerJson = Annotated[
    bool, typer.Option("--json", help="Lines of JSON on stdout: one when it runs, one with the counts at its end.")
]
Latest = Annotated[bool, typer.Option("--latest", help="Begin, the first time, with what comes from now on.")]
Stream = Annotated[str, typer.Option(help="The Kinesis stream, by name or ARN.")]
Table = Annotated[str, typer.Option(help="The DynamoDB table.")]
PartitionKey = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="As $.dynamodb.Keys.orderid.S; the table's hash key when not given."),
]


@app.callback()
def group() -> None:
    """AWS's managed parts on this machine: a pipe, a Firehose, an event source mapping; replay and reconcile.

    All go where AWS_ENDPOINT_URL and AWS's own credentials lead: a stand-in, or AWS itself.
    """


@app.command(epilog="Example: catchment aws pipe --table OrderTable --stream gadget-sales-stream")
def pipe(
    table: Table,
    stream: Stream,
    partition_key: PartitionKey = None,
    reconcile_with: Annotated[
        str | None,
        typer.Option(
            "--reconcile",
            metavar="S3-URL",
            help="When changes were missed, compare the table with the clean records there, and put corrections.",
        ),
    ] = None,
    latest: Latest = False,
    state: State = STATE,
    idle_seconds: IdleSeconds = None,
    as_json: RunnerJson = False,
) -> None:
    """Carry a table's changes from its DynamoDB stream to Kinesis, as an EventBridge pipe does.

    At least once, in order for each key. On AWS the real pipe does this.
    """
    from catchment.aws.local.pipe import Pipe
    from catchment.aws.local.reconciliation import Reconciliation
    from catchment.aws.local.s3_place import S3Place
    from catchment.aws_client import aws_client
    from catchment.cli.runner_line import run

    reconcile = None
    if reconcile_with is not None:
        place = S3Place.of(reconcile_with)
        place.check(aws_client("s3"))  # it may be needed weeks from now
        reconcile = Reconciliation(table, stream, place.bucket, place.prefix, partition_key=partition_key)
    run(
        Pipe(table, stream, state, partition_key=partition_key, start=_start(latest), reconcile=reconcile),
        f"pipe {table} → {stream}",
        idle_seconds,
        as_json,
    )


@app.command(epilog="Example: catchment aws firehose --from-firehose gadget-sales-delivery --buffer-seconds 1")
def firehose(
    config: Annotated[Path | None, typer.Option(help="A YAML or JSON file with the keys of these options.")] = None,
    from_firehose: Annotated[
        str | None, typer.Option(metavar="NAME", help="A delivery stream that exists: run as it is described.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The delivery stream's name.")] = None,
    bucket: Annotated[str | None, typer.Option(help="Where objects go.")] = None,
    stream: Annotated[str | None, typer.Option(help="The Kinesis stream to read; Direct PUT without it.")] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Before objects' names; may hold expressions such as !{timestamp:yyyy/MM/dd/}.")
    ] = None,
    error_prefix: Annotated[
        str | None, typer.Option(help="The same for what failed. It holds raw records: personal data.")
    ] = None,
    function: Annotated[
        str | None, typer.Option(help="The transform: module:name in this process, or a Lambda's name or ARN.")
    ] = None,
    buffer_seconds: Annotated[float | None, typer.Option(help="Store an object at the latest after so long.")] = None,
    buffer_mib: Annotated[float | None, typer.Option(help="Store an object when so much is there.")] = None,
    function_buffer_seconds: Annotated[
        float | None, typer.Option(help="Let records wait so long for others before the transform.")
    ] = None,
    compression: Annotated[str | None, typer.Option(help="UNCOMPRESSED or GZIP.")] = None,
    dynamic_partitioning: Annotated[
        bool | None,
        typer.Option("--dynamic-partitioning/--no-dynamic-partitioning", help="By the keys that the transform gives."),
    ] = None,
    latest: Latest = False,
    state: State = STATE,
    idle_seconds: IdleSeconds = None,
    as_json: RunnerJson = False,
) -> None:
    """Deliver records to S3 as Firehose does: Lambda transform, buffers, prefixes, gzip, error output.

    Options go before what --config or --from-firehose say. Without a stream it takes PutRecord and PutRecordBatch at an
    address that it prints. On AWS the real Firehose does this.
    """
    from catchment.aws.local.firehose import Firehose
    from catchment.cli.runner_line import run

    given = {
        "name": name,
        "bucket": bucket,
        "stream": stream,
        "prefix": prefix,
        "error_prefix": error_prefix,
        "function": function,
        "buffer_seconds": buffer_seconds,
        "buffer_mib": buffer_mib,
        "function_buffer_seconds": function_buffer_seconds,
        "compression": compression,
        "dynamic_partitioning": dynamic_partitioning,
    }
    found = _delivery_stream(config, from_firehose, {key: value for key, value in given.items() if value is not None})
    source = (found.stream or "direct put").rpartition("/")[2]
    run(Firehose(found, state, start=_start(latest)), f"{source} → s3://{found.bucket}", idle_seconds, as_json)


@app.command(
    epilog="Example: catchment aws mapping --stream gadget-sales-stream "
    "--function catchment.aws.kinesis_transform:handler"
)
def mapping(
    stream: Annotated[str | None, typer.Option(help="The Kinesis stream, by name or ARN.")] = None,
    function: Annotated[
        str | None, typer.Option(help="module:name in this process, or a Lambda's name or ARN.")
    ] = None,
    from_mapping: Annotated[
        str | None, typer.Option(metavar="UUID", help="A mapping that exists: run as it is described.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="At most so many records at a time.")] = 100,
    window_seconds: Annotated[float, typer.Option(help="Let records wait so long for a batch.")] = 0,
    retries: Annotated[int, typer.Option(help="Try a batch again so often; -1: without end, as AWS does.")] = -1,
    age_seconds: Annotated[int, typer.Option(help="Give up records older than this; -1: none.")] = -1,
    bisect: Annotated[bool, typer.Option("--bisect", help="Cut a batch that raised in two.")] = False,
    on_failure: Annotated[
        str | None, typer.Option(metavar="ARN", help="An SQS queue or an S3 bucket that is told of what was given up.")
    ] = None,
    latest: Latest = False,
    state: State = STATE,
    idle_seconds: IdleSeconds = None,
    as_json: RunnerJson = False,
) -> None:
    """Give a stream's records to a function, as a Kinesis event source mapping of Lambda does.

    Heeds batchItemFailures, cuts batches, tries again, gives up. On AWS the real mapping does this.
    """
    from catchment.aws.local.event_source_mapping import EventSourceMapping, MappingRules
    from catchment.aws.local.stream_batch import RetryRules
    from catchment.cli.runner_line import run
    from catchment.errors import ConfigError

    rules = MappingRules(
        batch_size, window_seconds, RetryRules(retries, bisect, age_seconds=age_seconds), on_failure, _start(latest)
    )
    if from_mapping is not None:
        rules, described_stream, described_function = MappingRules.described(from_mapping)
        stream, function = stream or described_stream, function or described_function
    if stream is None or function is None:
        raise ConfigError("Give --stream and --function, or --from-mapping.")
    run(
        EventSourceMapping(stream, function, state, rules),
        f"mapping {stream} → {function}",
        idle_seconds,
        as_json,
    )


@app.command(
    epilog="Example: catchment aws replay s3://gadget-sales-data/errors/ --stream gadget-sales-stream --dry-run"
)
def replay(
    errors: Annotated[str, typer.Argument(metavar="S3-URL", help="Where error objects are: s3://bucket/errors/.")],
    stream: Annotated[str | None, typer.Option(help="Put the raw records into this Kinesis stream.")] = None,
    firehose_name: Annotated[
        str | None, typer.Option("--firehose", metavar="NAME", help="Put them to this delivery stream instead.")
    ] = None,
    code: Annotated[
        list[str] | None,
        typer.Option(help="Only records with this error code; objects are then not marked as replayed."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and put nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put the records of the error output again, once what failed at them was mended.

    Each object is replayed once: a mark beside it says so.
    """
    from dataclasses import asdict

    from catchment.aws.local import replay as replaying
    from catchment.aws.local.s3_place import S3Place
    from catchment.aws_client import aws_client
    from catchment.cli.signals import stop_on_signals
    from catchment.errors import ConfigError

    if (stream is None) == (firehose_name is None):
        raise ConfigError("Give either --stream or --firehose: where the records are to be put.")
    place = S3Place.of(errors)
    place.check(aws_client("s3"))
    target = replaying.to_kinesis(stream) if stream is not None else replaying.to_firehose(str(firehose_name))
    with stop_on_signals() as stop:
        done = replaying.replay(place, target, stop, codes=frozenset(code) if code else None, dry_run=dry_run)
    if as_json:
        print(json.dumps({"dry_run": dry_run, **asdict(done)}))
        return
    print(
        f"{done.records:,} records of {done.objects:,} objects {'would be' if dry_run else 'were'} put again; "
        f"{done.before:,} objects had been before; {done.unreadable:,} lines cannot be read."
    )


@app.command(
    epilog="Example: catchment aws reconcile s3://gadget-sales-data/ --table OrderTable "
    "--stream gadget-sales-stream --dry-run"
)
def reconcile(
    lake: Annotated[str, typer.Argument(metavar="S3-URL", help="Where the clean records are: s3://bucket/prefix/.")],
    table: Table,
    stream: Stream,
    apart: Annotated[
        list[str] | None,
        typer.Option(help="A prefix that holds something else, such as the error output; may be given repeatedly."),
    ] = None,
    timestamp: Annotated[
        list[str] | None, typer.Option(help="An attribute of the handler's TIMESTAMP_ATTRIBUTES; order_timestamp.")
    ] = None,
    partition_key: PartitionKey = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what differs, and put nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare a table with its latest versions in the lake, and put a correction to Kinesis for each difference.

    For changes that are in no stream: made while the table's stream was disabled, or trimmed before they were read.
    Real changes that come later win over corrections.
    """
    from dataclasses import asdict

    from catchment.aws.local.reconciliation import Reconciliation
    from catchment.aws.local.s3_place import S3Place
    from catchment.aws_client import aws_client
    from catchment.cli.signals import stop_on_signals

    place = S3Place.of(lake)
    place.check(aws_client("s3"))
    options: dict[str, Any] = {"apart": apart} if apart else {}
    if timestamp:
        options["timestamps"] = timestamp
    compare = Reconciliation(
        table, stream, place.bucket, place.prefix, partition_key=partition_key, dry_run=dry_run, **options
    )
    with stop_on_signals() as stop:
        found = compare(stop)
    print(json.dumps({"dry_run": dry_run, **asdict(found)}) if as_json else f"{found}{' (not put)' * dry_run}.")


@app.command(
    epilog="Example: catchment aws trace c9fb18a1 --table OrderTable --stream gadget-sales-stream "
    "--bucket gadget-sales-data --database gadgets_sales_db"
)
def trace(
    event_id: Annotated[
        str, typer.Argument(metavar="EVENT-ID", help="A change's event id, as `event_id` in the lake.")
    ],
    table: Annotated[str | None, typer.Option(help="The DynamoDB table: look into its streams.")] = None,
    stream: Annotated[str | None, typer.Option(help="The Kinesis stream, by name or ARN.")] = None,
    bucket: Annotated[
        str | None, typer.Option(metavar="BUCKET", help="Where objects go: a bucket, or s3://bucket/prefix/.")
    ] = None,
    errors: Annotated[str, typer.Option(metavar="PREFIX", help="Where in the bucket failed records go.")] = "errors/",
    database: Annotated[
        str | None, typer.Option(metavar="NAME", help="The Glue database that has sales_data_table.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Follow one change by its event id: DynamoDB, Kinesis, S3 or the error output, SQL; with times and what it waited.

    Looks where an option says a place. Ends with exit code 1 when it was found nowhere. Shows no value of an item.
    """
    from catchment.aws.trace import Trace
    from catchment.cli.exits import FATAL
    from catchment.cli.journey_screen import journey_lines

    journey = Trace(table, stream, bucket, errors, database)(event_id)
    print(json.dumps(journey.to_dict(), indent=2) if as_json else "\n".join(journey_lines(journey)))
    if not journey.found:
        raise typer.Exit(FATAL)


@app.command(name="stand-in", epilog="Example: catchment aws stand-in")
def stand_in(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where its log is; a new directory of its own when not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The variables as one line of JSON.")] = False,
) -> None:
    """Run MiniStack, a stand-in for AWS on 127.0.0.1, until Ctrl-C. What is in it is gone afterwards.

    The first time it is installed, into an environment of its own. In another terminal, enter the lines that it prints.
    """
    import tempfile

    from catchment.cli.signals import stop_on_signals
    from catchment.demo.ministack import MiniStack

    with (
        tempfile.TemporaryDirectory(prefix="catchment-stand-in-", ignore_cleanup_errors=True) as temporary,
        stop_on_signals() as stop,
        MiniStack(directory or temporary) as server,
    ):
        environ = server.environ()
        if as_json:
            print(json.dumps(environ), flush=True)
        else:
            print("\n".join(f"export {key}={value}" for key, value in environ.items()), flush=True)
            print("MiniStack runs; Ctrl-C ends it, with all that is in it.", file=sys.stderr)
        while server.running and not stop.wait(0.5):
            pass


def _start(latest: bool) -> str:
    return "LATEST" if latest else "TRIM_HORIZON"


def _delivery_stream(config: Path | None, from_firehose: str | None, given: dict[str, Any]) -> DeliveryStreamConfig:
    from catchment.aws.local.delivery_stream import DeliveryStreamConfig
    from catchment.errors import ConfigError

    if config is None and from_firehose is None and not {"name", "bucket"} <= given.keys():
        raise ConfigError("Give --name and --bucket, or --config FILE, or --from-firehose NAME.")
    if config is not None and from_firehose is not None:
        raise ConfigError("--config and --from-firehose exclude each other: leave one out.")
    if from_firehose is not None:
        return DeliveryStreamConfig.described(from_firehose, given)
    if config is not None:
        return DeliveryStreamConfig.read(config, given)
    return DeliveryStreamConfig.checked(given, "catchment aws firehose")
