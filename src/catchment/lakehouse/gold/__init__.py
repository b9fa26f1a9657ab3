"""Gold: models, how they run here and elsewhere, and how they land."""
