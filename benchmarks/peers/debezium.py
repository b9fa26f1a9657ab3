"""Debezium's engine, JSON to a consumer that only counts; and its Iceberg path through `pydbzengine`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.environments import HERE, CannotInstallError, java_classes, python_environment
from benchmarks.peers.peer import Peer, Task, debezium_properties

PYDBZENGINE = ("pydbzengine[iceberg]==3.6.3.0", "pyiceberg[sql-sqlite]==0.12.0")


def _engine(task: Task) -> Sequence[str | Path]:
    classpath = java_classes("debezium", HERE / "pom.xml", HERE / "Consume.java")
    properties = task.directory / "connector.properties"
    properties.write_text("".join(f"{name}={value}\n" for name, value in debezium_properties(task).items()))
    return ["java", "-Xmx2g", "-cp", classpath, "Consume", properties, str(task.expected)]


def _into_iceberg(task: Task) -> Sequence[str | Path]:
    if shutil.which("java") is None:
        raise CannotInstallError("java is not on the PATH (pydbzengine starts a JVM)")
    python = python_environment("pydbzengine", PYDBZENGINE)
    properties = task.directory / "connector.json"
    properties.write_text(json.dumps(debezium_properties(task)))
    return [python, HERE / "consume_pydbzengine.py", properties, str(task.expected), task.directory / "lake"]


ENGINE = Peer("Debezium 3.6 engine, JSON to a consumer that counts", "debezium", _engine)
INTO_ICEBERG = Peer("Debezium through pydbzengine into Iceberg", "pydbzengine", _into_iceberg)
