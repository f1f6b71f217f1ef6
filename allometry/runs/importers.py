"""The name under which tables were read before `allometry.runs.tables`."""

from allometry.runs.tables import Imported, read_table, save_mapping

__all__ = ["Imported", "read_table", "save_mapping"]
