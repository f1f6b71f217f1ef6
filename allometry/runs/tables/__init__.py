"""Tables of runs from other programs, read as one table: file formats, numbers, headings, trackers."""

from allometry.runs.tables.reading import Imported, read_table, save_mapping

__all__ = ["Imported", "read_table", "save_mapping"]
