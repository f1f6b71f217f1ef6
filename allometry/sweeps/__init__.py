"""Sweeps: many runs, planned, packed onto the machine and continued by the same command."""
