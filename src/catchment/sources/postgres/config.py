"""The `source` section of pipeline.yaml for PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from catchment.component import BuildContext, ComponentConfig
from catchment.finding import Finding
from catchment.sources.administration import Removal, Retention

if TYPE_CHECKING:
    from catchment.progress import Progress
    from catchment.schema import TableId
    from catchment.sources.base import Source
    from catchment.sources.sample import Sample
    from catchment.sources.verification import SourceVerification


def _pattern(pattern: str) -> str:
    namespace, dot, table = pattern.partition(".")
    if not (namespace and dot and table):
        raise ValueError("a pattern is schema.table, where * stands for anything, such as public.* or sales.orders")
    return pattern


TablePattern = Annotated[str, AfterValidator(_pattern)]


class PostgresSourceConfig(ComponentConfig):
    """PostgreSQL 14 to 18, by logical decoding (`pgoutput`)."""

    type: Literal["postgres"]
    dsn: SecretStr = Field(min_length=1)
    """A libpq connection string or URI. Its role needs REPLICATION, and SELECT on the tables."""
    tables: list[TablePattern] = Field(default=["public.*"], min_length=1)
    """Patterns of `schema.table`; `*` and `?` as in a shell."""
    exclude: list[TablePattern] = Field(default=[])
    """Patterns of tables to leave out."""
    snapshot: Literal["initial", "never", "only"] = "initial"
    """initial: read the tables, then their changes. never: only changes from now on. only: read and stop."""
    slot: str | None = Field(default=None, pattern=r"^[a-z0-9_]{1,63}$")
    """The replication slot; `catchment_<pipeline>` when not given."""
    publication: str | None = Field(default=None, min_length=1, max_length=55)
    """The publication; the slot's name when not given."""
    without_identity: Literal["insert_only", "refuse"] = "insert_only"
    """Tables whose updates cannot be published: capture inserts and truncates only, or refuse to start."""
    reread_after_ddl: bool = True
    """Read a table again when DDL changed its rows without changes being sent: a column with a default, a rewrite."""
    snapshot_workers: int = Field(default=2, ge=1, le=32)
    """How many connections read the tables at the same time."""
    snapshot_chunk_bytes: int = Field(default=16 << 20, ge=8192)
    """How much of a table one chunk reads, in bytes of the server's heap."""
    snapshot_rows_per_second: int | None = Field(default=None, ge=1)
    """At most so many rows a second over all workers, for busy servers."""
    catch_up_bytes: int = Field(default=64 << 20, ge=0)
    """Lag above which the WAL is pulled in large pieces instead of streamed."""
    new_tables_interval_seconds: float = Field(default=5.0, gt=0)
    """How often to look for tables that appeared."""

    @property
    def ends(self) -> bool:
        """A snapshot alone is over when every table is read."""
        return self.snapshot == "only"

    def slot_name(self, pipeline: str) -> str:
        """The slot's name: lower-case letters, digits and underscores, at most 63."""
        return self.slot or re.sub(r"[^a-z0-9_]", "_", f"catchment_{pipeline.lower()}")[:63]

    def publication_name(self, pipeline: str) -> str:
        """The publication's name; `_inserts` is added for the second one."""
        return self.publication or self.slot_name(pipeline)[:55]

    def build(self, context: BuildContext, *, ephemeral: bool = False, resnapshot: bool = False) -> Source:
        """A source that is not open yet."""
        from catchment.sources.postgres.source import PostgresSource

        return PostgresSource(self, context, ephemeral=ephemeral, resnapshot=resnapshot)

    def check(self, context: BuildContext) -> list[Finding]:
        """Ask the server whether capture would work. Raises `SourceUnavailable` when it does not answer."""
        from catchment.sources.postgres.preflight import check

        return check(self, context.pipeline)

    def columns(self, context: BuildContext) -> Mapping[str, Sequence[str]]:
        """The captured tables and their columns, as they are now."""
        from catchment.sources.postgres.preflight import columns

        return columns(self, context.pipeline)

    def removal(self, context: BuildContext, table: str | None) -> Removal:
        """What taking the pipeline, or one table of it, off the server would do."""
        from catchment.sources.postgres.removal import plan_removal

        return plan_removal(self, context.pipeline, table)

    def retention(self, context: BuildContext) -> Retention:
        """What the server keeps for the pipeline now."""
        from catchment.sources.postgres.retention import ask_retention

        return ask_retention(self, context.pipeline)

    def acknowledged(self, context: BuildContext, held: Progress) -> Progress | None:
        """Where the slot stands, in the lane of `held` that it would go on with."""
        from catchment.sources.postgres.acknowledged import ask_acknowledged

        return ask_acknowledged(self, context.pipeline, held)

    def sample(self, context: BuildContext, wanted: Callable[[TableId], bool], rows: int | None) -> Iterator[Sample]:
        """Rows of the server's tables, whether they are captured yet or not."""
        from catchment.sources.postgres.sample import sample_tables

        return sample_tables(self, context, wanted, rows)

    def verification(self, context: BuildContext) -> SourceVerification:
        """The server's tables at exact points, for comparing them with the lake."""
        from catchment.sources.postgres.verification import PostgresVerification

        return PostgresVerification(self, context)
