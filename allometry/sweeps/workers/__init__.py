"""Pools of workers, on this machine or on a Ray cluster, and what a worker does with a task."""
