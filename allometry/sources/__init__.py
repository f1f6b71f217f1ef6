"""Public tables of scaling runs: where they lie, how they are fetched, and how each becomes a table of one schema.

This is the reading half of `allometry atlas`; what the papers' constants come to is in `laws.verify`.
"""
