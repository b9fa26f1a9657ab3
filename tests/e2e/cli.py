"""The command line as a person has it: a process, its output and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PIPELINE = """\
name: shop
source:
  type: postgres
  dsn: ${SHOP_DSN}
  tables: [public.*]
lakehouse:
  catalog: {type: sql, uri: "sqlite:///lake/catalog.db", warehouse: "lake/warehouse"}
sinks:
  - {type: iceberg, flush_interval_seconds: 0.2}
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run_command(*arguments: str | Path, stdin: str | None = None, **environ: str) -> Done:
    """Run a command to its end."""
    done = subprocess.run(
        command(*arguments),
        input=stdin if stdin is not None else "",
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environ},
        timeout=200,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "catchment.cli", *map(str, arguments)]


def write_pipeline(directory: Path, dsn: str, text: str = PIPELINE) -> Path:
    """A pipeline.yaml and its .env."""
    (directory / ".env").write_text(f'SHOP_DSN="{dsn}"\n')
    path = directory / "pipeline.yaml"
    path.write_text(text)
    return path
