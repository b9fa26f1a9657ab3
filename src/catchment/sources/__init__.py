"""Where changes come from. `base` holds the contract."""
