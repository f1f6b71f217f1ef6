"""What makes a model generalise sooner, and better."""
