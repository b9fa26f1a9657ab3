"""What happens to a change between source and sinks. `base` holds the contract."""
