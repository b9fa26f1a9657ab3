"""Every change, once, in files that anybody can read: NDJSON or Parquet in a directory."""
