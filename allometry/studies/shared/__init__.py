"""Run sets and laws that several studies read."""
