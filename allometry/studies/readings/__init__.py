"""Readings: what finished runs say about one law, as a section of a report."""
