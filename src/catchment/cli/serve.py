"""`catchment serve`: the lake by name, for other readers of this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from catchment.cli.arguments import PipelinePath


def serve(
    pipeline: PipelinePath,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0 picks a free one.")] = 8181,
    as_json: Annotated[
        bool, typer.Option("--json", help="One line of JSON on stdout when it serves, for programs.")
    ] = False,
) -> None:
    """Open the lake to DuckDB, Spark, PyIceberg and Polars as a read-only Iceberg REST catalog on 127.0.0.1.

    Serves until Ctrl-C, also while the pipeline runs. It gives out metadata; readers open the data files themselves.
    """
    import json

    from catchment.cli.serve_screen import instructions
    from catchment.cli.signals import stop_on_signals
    from catchment.config import load
    from catchment.lakehouse.rest.endpoint import RestEndpoint
    from catchment.lakehouse.rest.published import PublishedLake
    from catchment.lakehouse.rest.server import RestServer

    config = load(pipeline)
    lake = PublishedLake.open(config.lakehouse, config.directory)
    try:
        with stop_on_signals() as stop, RestServer(RestEndpoint(lake), port) as server:
            if as_json:
                print(json.dumps({"pipeline": config.name, "uri": server.uri, "read_only": True}), flush=True)
            else:
                print(instructions(config.name, server.uri, lake.example()), flush=True)
            stop.wait()
    finally:
        lake.close()
