"""How few data are enough for a model to generalise."""
