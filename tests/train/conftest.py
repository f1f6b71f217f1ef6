"""The small corpus and the runs over it that take a second."""

from tiny_runs import corpus, make_run, own_cache, run_files

__all__ = ["corpus", "make_run", "own_cache", "run_files"]
