"""`python -m benchmarks.peers`: Debezium, pydbzengine and dlt beside Catchment, on one backlog, in one run.

The backlog is small, because peers are slow. Each reads a slot of its own; start-up is left out for all.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from benchmarks import orders
from benchmarks.baselines import pg_recvlogical
from benchmarks.figure import Figure, megabytes, table
from benchmarks.peers import debezium, dlt_pg_replication
from benchmarks.peers.environments import CannotInstallError
from benchmarks.peers.peer import Outcome, Peer, Task, measure
from benchmarks.server import Database, database, embedded_server
from benchmarks.subject import Subject, subject

PEERS = {peer.slot: peer for peer in (debezium.ENGINE, debezium.INTO_ICEBERG, dlt_pg_replication.PEER)}


def main() -> int:
    """Run what was asked for and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--changes", type=int, default=300_000)
    parser.add_argument("--transaction-rows", type=int, default=10_000)
    parser.add_argument("--only", action="append", choices=PEERS, help="may be given several times")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    arguments = parser.parse_args()
    peers = [PEERS[name] for name in arguments.only or PEERS]
    failures: list[str] = []
    with embedded_server() as server, database(server, "peers") as base:
        one = subject(base, "peers")
        one.run_until_caught_up()
        for peer in peers:
            base.create_slot(peer.slot)
        with base.connect() as connection:
            backlog = orders.large_transactions(connection, arguments.changes, arguments.transaction_rows)
        tool = backlog.changes / pg_recvlogical(base, one.slot, backlog.end_lsn)
        ours = _ourselves(one, backlog)
        outcomes = {peer.name: _peer(peer, base, backlog, failures) for peer in peers}
    measured = {name: one for name, one in outcomes.items() if one is not None}
    if arguments.json:
        result = {
            "changes": backlog.changes,
            "pg_recvlogical": tool,
            "catchment": asdict(ours),
            "peers": {name: asdict(one) for name, one in measured.items()},
            "failures": failures,
        }
        print(json.dumps(result, indent=2))
    else:
        print(table([_figure(name, one, ours) for name, one in measured.items()]))
        print(f"pg_recvlogical to /dev/null: {tool:,.0f} changes/s", *failures, sep="\n")
    return 1 if failures else 0


def _ourselves(one: Subject, backlog: orders.Backlog) -> Outcome:
    """Catchment into committed bronze."""
    print("Catchment …", file=sys.stderr)
    cost = one.run_until_caught_up()
    startup = one.run_until_caught_up().seconds
    one.must_hold(backlog.changes + 1)
    return Outcome(backlog.changes / (cost.seconds - startup), startup, cost.cpu_seconds, cost.peak_bytes)


def _peer(peer: Peer, base: Database, backlog: orders.Backlog, failures: list[str]) -> Outcome | None:
    """A peer's figures; its failure is said, and does not take the others away."""
    print(f"{peer.name} …", file=sys.stderr)
    try:
        return measure(peer, Task.make(base, peer.slot, backlog.changes + 1))
    except CannotInstallError as reason:
        failures.append(f"{peer.name} could not be installed: {reason}")
    except RuntimeError as reason:
        failures.append(f"{peer.name} failed: {reason}")
    print(failures[-1], file=sys.stderr)
    return None


def _figure(name: str, one: Outcome, ours: Outcome) -> Figure:
    beside = {
        "its changes/s": one.changes_per_second,
        "its peak MB": megabytes(one.peak_bytes),
        "its start-up s": one.startup_seconds,
        "Catchment changes/s": ours.changes_per_second,
        "Catchment peak MB": megabytes(ours.peak_bytes),
    }
    return Figure(f"Catchment against {name}", ours.changes_per_second / one.changes_per_second, "×", beside=beside)


if __name__ == "__main__":
    sys.exit(main())
