"""`run --resnapshot`: begins anew until the new beginning is durable, and never again after that."""

from __future__ import annotations

from catchment.progress import Progress
from catchment.sources.resnapshot import Resnapshots
from catchment.testing.scripted import ScriptedSource, ScriptedSystem


def test_it_begins_anew_until_something_of_it_is_durable_and_then_goes_on() -> None:
    fresh, old = ScriptedSystem(), ScriptedSystem()
    make = Resnapshots(lambda: ScriptedSource(fresh), lambda: ScriptedSource(old))
    held = Progress({"before": b"1"})
    for resume in (held, held, Progress({"before": b"1"}), Progress({"before": b"1", "new": b"5"}), held):
        source = make()
        source.open(resume)
        source.close()
    assert fresh.opened == [held, held, held, held]
    assert old.opened == [Progress({"before": b"1", "new": b"5"})]


def test_an_empty_lake_begins_anew_too() -> None:
    fresh = ScriptedSystem()
    make = Resnapshots(lambda: ScriptedSource(fresh), lambda: ScriptedSource(ScriptedSystem()))
    source = make()
    source.open(None)
    assert source.head() == ScriptedSource(fresh).head()
    assert source.next(0) is None
    source.close()
    assert fresh.opened == [None]


def test_a_source_that_was_never_opened_can_be_closed() -> None:
    system = ScriptedSystem()
    Resnapshots(lambda: ScriptedSource(system), lambda: ScriptedSource(system))().close()
    assert system.opened == []
