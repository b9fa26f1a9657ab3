"""The lake: catalog, bronze, current, gold, and the operations data beside them."""
