"""Reading: views of one moment, the oracle, history and the past."""
