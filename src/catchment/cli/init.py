"""`catchment init`: a directory to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PIPELINE = """\
# A pipeline: what is captured, what happens to it on the way, and where it goes.
# `catchment validate pipeline.yaml` checks this file, the database and the lake.
# `catchment schema` prints a JSON Schema of it, for editors.
name: {name}

source:
  type: postgres
  dsn: ${{SOURCE_DSN}}               # from the environment, or from .env beside this file
  tables: [public.*]              # patterns: schema.table, where * stands for anything
  # exclude: [public.sessions]
  snapshot: initial               # initial: all rows, then changes | never: only changes | only: all rows, once
  # snapshot_rows_per_second: 20000   # spare a busy server
  # without_identity: refuse      # tables without key or REPLICA IDENTITY; else only their inserts are captured

# What happens before anything is written or logged. Hashes are keyed: equal values stay equal.
# transforms:
#   - type: hash
#     columns: [public.users.email, "*.phone"]
#     secret: ${{HASH_SECRET}}

lakehouse:                        # any PyIceberg catalog; paths are relative to this file
  catalog: {{type: sql, uri: "sqlite:///lake/catalog.db", warehouse: "lake/warehouse"}}
  gold: gold/                     # SQL models, refreshed beside capture
  # quality: quality.yaml         # rules about the data: flag, quarantine, or stop gold

sinks:
  - {{type: iceberg, flush_interval_seconds: 1, flush_rows: 100000}}
  # - {{type: files, path: out/, format: parquet}}   # or ndjson
"""

ENVIRONMENT = """\
# Copy this file to .env and fill it in. Keep .env out of version control.
# What is set in the environment wins over what stands here.
SOURCE_DSN=postgresql://user:password@127.0.0.1:5432/database
# HASH_SECRET=                    # openssl rand -hex 32
"""

MODEL = """\
-- name: orders_by_status
-- key: status
-- description: How many orders there are in each status. Change this model to fit your own tables.
-- A model is one SELECT over silver.<table>, bronze.<table> or gold.<model>; its rows become gold.<name>.
SELECT status, count(*) AS orders
FROM silver.orders
GROUP BY status
ORDER BY orders DESC
"""


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put them; made if there is none.")],
) -> None:
    """Write a commented pipeline.yaml, a gold model and an .env.example, to begin with.

    Files that exist stay as they are.
    """
    import sys

    from catchment.errors import ConfigError

    files = {
        "pipeline.yaml": PIPELINE.format(name=_name(directory)),
        ".env.example": ENVIRONMENT,
        "gold/orders_by_status.sql": MODEL,
    }
    try:
        for name, text in files.items():
            written = _write_new(directory / name, text)
            print(f"{'wrote' if written else 'kept '} {directory / name}", file=sys.stderr)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or directory} cannot be written: {error.strerror}. Choose a directory that you may "
            "write, or change its rights."
        ) from error
    print(
        "Now copy .env.example to .env, set SOURCE_DSN in it, and run: "
        f"catchment validate {directory / 'pipeline.yaml'}",
        file=sys.stderr,
    )


def _write_new(path: Path, text: str) -> bool:
    """Write the file unless there is one; never over another, even one that appears just now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def _name(directory: Path) -> str:
    """A pipeline's name after the directory's."""
    import re

    name = re.sub(r"[^a-z0-9_-]+", "_", directory.resolve().name.lower())
    return name.lstrip("_-0123456789")[:40].rstrip("_-") or "pipeline"
