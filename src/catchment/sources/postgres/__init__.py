"""Capture from PostgreSQL 14–18: logical decoding (`pgoutput`) and snapshots, both as Arrow."""
