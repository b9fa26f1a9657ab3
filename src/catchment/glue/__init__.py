"""Tables that AWS Glue knows: made, kept up to date, and asked, here or by Athena.

with catchment.glue.connect("gadgets_sales_db") as database:
    database.execute("SELECT COUNT(*) FROM gadget_sales").fetchone()
    database.refresh()
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from catchment.glue.database import GlueDatabase


def connect(database: str, *, cache: Path | None = None) -> GlueDatabase:
    """A Glue database to be asked on this machine in Athena's SQL; `refresh()` shows what came since.

    Where Glue and S3 are is up to the environment (the standard AWS chain, AWS_ENDPOINT_URL). cache: where objects
    that were read are kept; usually ~/.cache/catchment/athena. Raises ConfigError when boto3 or a region is missing.
    """
    from catchment.glue.database import GlueDatabase

    return GlueDatabase(database, cache=cache)
