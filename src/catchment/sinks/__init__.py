"""Where changes go. `base` holds the contract."""
