"""What every other part may import: errors, units, files, the registry. Imports nothing of the package."""

__version__ = "0.2.0"
