"""Bronze tables in Iceberg: every change, exactly once."""
