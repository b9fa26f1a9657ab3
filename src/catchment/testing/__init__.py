"""The public test kit: what a component inherits to prove that it keeps its contract.

* `catchment.testing.sources.SourceConformance` and `catchment.testing.sinks.SinkConformance`: pytest
  classes to inherit; the subclass supplies one fixture, a harness.
* `catchment.testing.scripted`: a source whose whole life is a script, failures included.
* `catchment.testing.memory`: the plainest sink that keeps the contract, for tests of what stands before it.
* `catchment.testing.faults`: failures of a sink, as data.
* `catchment.testing.changes`: random changes from a seed, and a model of the rows they lead to.
* `catchment.testing.clock`: a clock that a test turns.
* `catchment.testing.lake`: is silver what replaying bronze gives?
"""

from __future__ import annotations

from contextlib import suppress

# The suites' asserts should explain themselves in other people's test runs, too.
with suppress(ImportError):
    import pytest

    pytest.register_assert_rewrite(
        "catchment.testing.reading",
        "catchment.testing.delivery",
        "catchment.testing.lake",
        "catchment.testing.onlooker",
        "catchment.testing.sources",
        "catchment.testing.sinks",
    )
