"""Foreign tables of runs, read as one table: what a file is, its numbers, its headings, its trackers."""

from allometry.runs.tables.reading import Imported, read_table, save_mapping

__all__ = ["Imported", "read_table", "save_mapping"]
