"""Embedded servers and workload generators: everything the demo needs that is not Catchment itself."""
