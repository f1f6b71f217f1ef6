"""Runs: a run is a directory; this package reads, queries and exports them. It never imports torch."""
