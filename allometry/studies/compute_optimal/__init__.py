"""Studies of the compute-optimal size: frontiers of loss against compute, and learning curves."""
