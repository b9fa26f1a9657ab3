"""A source's column may be called as the lake calls a column of another type: it is a column like others."""

from __future__ import annotations

from pathlib import Path

from catchment import config
from catchment.verify.report import Outcome
from catchment.verify.verification import Verification
from pipelines.lake import catch_up, query, write_pipeline
from statements import run_sql


def test_a_column_with_a_version_in_its_name_is_no_other_types_column(database_18: str, tmp_path: Path) -> None:
    run_sql(
        database_18,
        "CREATE TABLE accounts (id int PRIMARY KEY, id__v2 text, note text, note__v2 text, v int)",
        "ALTER TABLE accounts ALTER note SET STORAGE EXTERNAL, ALTER note__v2 SET STORAGE EXTERNAL",
        "INSERT INTO accounts SELECT g, 'x', 'short', repeat('long', 1000), g FROM generate_series(1, 20) g",
    )
    pipeline = write_pipeline(tmp_path, database_18)
    catch_up(pipeline)
    run_sql(
        database_18,
        "UPDATE accounts SET id__v2 = 'y' WHERE id < 5",
        "UPDATE accounts SET v = 7 WHERE id = 10",
        "DELETE FROM accounts WHERE id > 15",
    )
    catch_up(pipeline)
    for layer in ("silver", "current"):
        found = query(pipeline, f"SELECT count(*), count(DISTINCT id), min(length(note__v2)) FROM {layer}.accounts")
        assert found == [(15, 15, 4000)], layer
    assert Verification(config.load(pipeline), table="accounts", deep=True).run().outcome is Outcome.EQUAL
