"""How one change looks on a wire."""
