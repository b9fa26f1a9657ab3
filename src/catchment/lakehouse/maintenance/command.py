"""`maintain` as a request: done by whoever holds the pipeline's lease."""
