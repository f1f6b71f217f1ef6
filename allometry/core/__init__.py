"""What every other part may import: errors, units, files, the registry. Imports nothing of the package."""
