"""What one process asks of another: a command's work, done by whoever holds the pipeline's lease.

Only the holder of the lease may change the lake. A command that finds the lease free takes it and does its work
itself; otherwise it leaves a request in `ops.requests` and waits, and the running process does the work between
two pieces of maintenance. If that process dies, the command takes the lease and does the work after all: so a
piece of work is one commit, or may be done twice.

A request whose command has died as well is not carried out any more: nobody expects a rollback of yesterday.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, func, insert, or_, select, update

from catchment import errors
from catchment.errors import CatchmentError, Fatal
from catchment.lakehouse.ops import lease_table, ops_errors, requests_table

if TYPE_CHECKING:
    from catchment.lakehouse.ops import OpsStore

LAPSE_SECONDS = 30.0
"""A command that waits says so each second; after so long without a word nobody waits any more."""

REQUESTS_KEPT = 1_000
"""Finished requests kept for each pipeline."""


class State(StrEnum):
    """How far a request is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    WITHDRAWN = "withdrawn"
    LAPSED = "lapsed"


ENDED = (State.DONE, State.FAILED, State.WITHDRAWN, State.LAPSED)


@dataclass(frozen=True, slots=True)
class Request:
    """A piece of work that somebody waits for. arguments: what JSON can hold."""

    id: int
    pipeline: str
    kind: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a request stands. note: the last word of whoever does it. outcome: once it is done."""

    state: State
    note: str | None
    outcome: dict[str, Any] | None
    error: CatchmentError | None


def submit(ops: OpsStore, pipeline: str, kind: str, arguments: Mapping[str, Any]) -> int:
    """Leave a request; its id. `keep_waiting` must follow at least every `LAPSE_SECONDS`."""
    now = time.time()
    row = {
        "pipeline": pipeline,
        "kind": kind,
        "arguments": json.dumps(dict(arguments), sort_keys=True),
        "state": State.WAITING,
        "requested_by": f"process {os.getpid()} on {os.uname().nodename}",
        "requested_at": now,
        "awaited_at": now,
        "epoch": 0,
    }
    with ops_errors(f"The request to {pipeline} could not be left"), ops.writing() as connection:
        made = connection.execute(insert(requests_table).values(**row)).inserted_primary_key
        _trim(connection, pipeline)
    return int(made[0]) if made is not None else 0


def pending(ops: OpsStore, pipeline: str) -> bool:
    """Is there a request to take? One cheap read."""
    at = requests_table.c
    query = select(at.id).where(at.pipeline == pipeline, at.state.in_((State.WAITING, State.RUNNING))).limit(1)
    with ops_errors(f"The requests to {pipeline} could not be read"), ops.reading() as connection:
        return connection.execute(query).first() is not None


def take(ops: OpsStore, pipeline: str, only: int | None = None) -> Request | None:
    """The oldest request that waits, or that an earlier holder of the lease left half done; None without one.

    Only for who holds the lease. only: this request and no other. What nobody waits for any more lapses.
    """
    if not pending(ops, pipeline):
        return None
    at = requests_table.c
    with ops_errors(f"The requests to {pipeline} could not be taken"), ops.writing() as connection:
        epoch = connection.execute(select(lease_table.c.epoch).where(lease_table.c.pipeline == pipeline)).scalar() or 0
        free = and_(
            at.pipeline == pipeline,
            or_(at.state == State.WAITING, and_(at.state == State.RUNNING, at.epoch != epoch)),
        )
        forgotten = at.awaited_at < time.time() - LAPSE_SECONDS
        connection.execute(
            update(requests_table).where(free, forgotten).values(state=State.LAPSED, ended_at=time.time())
        )
        wanted = select(at.id, at.kind, at.arguments).where(free, at.id == only if only is not None else free)
        row = connection.execute(wanted.order_by(at.id).limit(1)).first()
        if row is None:
            return None
        connection.execute(
            update(requests_table)
            .where(at.id == row.id)
            .values(state=State.RUNNING, epoch=epoch, taken_at=time.time(), note=None)
        )
    return Request(row.id, pipeline, row.kind, json.loads(row.arguments))


def tell(ops: OpsStore, request: int, note: str) -> None:
    """Let whoever waits know how far the work is."""
    _set(ops, request, (State.RUNNING,), note=note)


def finish(ops: OpsStore, request: int, outcome: Mapping[str, Any]) -> None:
    """The work is done; outcome: what JSON can hold."""
    _set(ops, request, (State.RUNNING,), state=State.DONE, outcome=json.dumps(dict(outcome)), ended_at=time.time())


def fail(ops: OpsStore, request: int, error: CatchmentError) -> None:
    """The work cannot be done: whoever waits gets this very error."""
    words = json.dumps({"class": type(error).__name__, "message": str(error)})
    _set(ops, request, (State.RUNNING,), state=State.FAILED, error=words, ended_at=time.time())


def put_back(ops: OpsStore, request: int) -> None:
    """The work was broken off, since this process ends: whoever holds the lease next may take it."""
    _set(ops, request, (State.RUNNING,), state=State.WAITING, note=None)


def withdraw(ops: OpsStore, request: int) -> bool:
    """Take a request back; False when it is too late, because somebody works on it or has done it."""
    return _set(ops, request, (State.WAITING,), state=State.WITHDRAWN, ended_at=time.time())


def keep_waiting(ops: OpsStore, request: int) -> Standing:
    """How the request stands; says at the same time that somebody still waits for it."""
    _set(ops, request, (State.WAITING, State.RUNNING), awaited_at=time.time())
    at = requests_table.c
    query = select(at.state, at.note, at.outcome, at.error).where(at.id == request)
    with ops_errors("The request could not be read"), ops.reading() as connection:
        row = connection.execute(query).first()
    if row is None:
        return Standing(State.LAPSED, None, None, None)
    outcome = json.loads(row.outcome) if row.outcome else None
    return Standing(State(row.state), row.note, outcome, _error(row.error) if row.error else None)


def _set(ops: OpsStore, request: int, states: tuple[State, ...], **values: Any) -> bool:
    mine = and_(requests_table.c.id == request, requests_table.c.state.in_(states))
    with ops_errors("The request could not be written"), ops.writing() as connection:
        return connection.execute(update(requests_table).where(mine).values(**values)).rowcount == 1


def _error(text: str) -> CatchmentError:
    """The error as it was raised in the other process; one that takes more than a message becomes `Fatal`."""
    words = json.loads(text)
    kind = getattr(errors, words["class"], Fatal)
    plain = isinstance(kind, type) and issubclass(kind, CatchmentError) and not issubclass(kind, errors.Poison)
    error: CatchmentError = kind(words["message"]) if plain else Fatal(words["message"])
    return error


def _trim(connection: Any, pipeline: str) -> None:
    at = requests_table.c
    ended = and_(at.pipeline == pipeline, at.state.in_(ENDED))
    surplus = int(connection.execute(select(func.count()).select_from(requests_table).where(ended)).scalar() or 0)
    if surplus > REQUESTS_KEPT:
        oldest = select(at.id).where(ended).order_by(at.id).limit(surplus - REQUESTS_KEPT)
        connection.execute(delete(requests_table).where(at.id.in_(oldest.scalar_subquery())))
