"""Architectures: one readable file a family, each with its own counts."""
