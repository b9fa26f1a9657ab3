"""Silver: rows merged by key, their quarantine and their history."""
