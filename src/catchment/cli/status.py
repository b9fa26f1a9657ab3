"""`catchment status`: how a pipeline is, asked from outside."""

from __future__ import annotations

from catchment.cli.arguments import AsJson, PipelinePath


def status(pipeline: PipelinePath, as_json: AsJson = False) -> None:
    """Show a pipeline's tables and sinks, how far behind it is, and what its slot keeps at the source.

    Works while the pipeline runs, when it does not, and when the source is down.
    """
    import json

    from catchment.cli.status_screen import show
    from catchment.config import load
    from catchment.pipeline_status import gather

    document = gather(load(pipeline))
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        show(document)
