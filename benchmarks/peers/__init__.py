"""Other systems on the same backlog, each in an environment of its own. `python -m benchmarks.peers --help`"""
