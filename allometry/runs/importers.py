"""The former name of `allometry.runs.tables`."""

from allometry.runs.tables import Imported, read_table, save_mapping

__all__ = ["Imported", "read_table", "save_mapping"]
