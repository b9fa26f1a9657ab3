"""Is the lake what the source is? Rows of both at one exact position, compared by digests. `verification` runs it."""
