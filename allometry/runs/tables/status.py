"""How runs ended, in the words of trackers and schedulers."""

from __future__ import annotations

import re

import pandas as pd

from allometry.runs.tables.headings import plain

COLUMNS = (
    "status",
    "state",
    "run_state",
    "run_status",
    "job_state",
    "job_status",
    "trial_status",
    "trial_state",
)
"""Names of the column that says how a run ended."""

DONE = {
    "done", "finished", "complete", "completed", "success", "successful", "succeeded", "ok", "passed",
    "published",
    "inactive", "closed", "ended", "finish",
}  # fmt: skip
"""Words for a run that reached its end: W&B, MLflow, SLURM, Ray Tune, Neptune, ClearML, Kubernetes,
Optuna."""

NOT_DONE = {
    "partial", "failed", "fail", "failure", "error", "errored", "crashed", "crash", "killed", "diverged",
    "nan",
    "running", "active", "pending", "queued", "scheduled", "waiting", "created", "preempted", "preempting",
    "timeout",
    "timed_out", "out_of_memory", "oom", "cancelled", "canceled", "cancelling", "canceling", "node_fail",
    "boot_fail",
    "deadline", "suspended", "requeued", "requeue", "requeue_hold", "completing", "configuring", "stopped",
    "stopping",
    "aborted", "interrupted", "paused", "pruned", "lost", "unknown", "in_progress", "inprogress",
    "initializing",
    "starting", "started", "incomplete", "unfinished", "evicted", "unhealthy", "revoked", "resuming",
    "claimed",
}  # fmt: skip
"""Words for a run that did not, or not yet."""


def finished(column: pd.Series) -> tuple[list[bool], str | None]:
    """Return for each row whether its run counts as finished, and a sentence on words that are not known.

    Blank cells and unknown words count as finished. A column of which fewer than half of the words are known
    is about something else, and leaves nothing out.
    """
    words = [_word(cell) if isinstance(cell, str) else "" for cell in column]
    present = {word for word in words if word}
    done = DONE | ({"terminated"} if not present & DONE else set())  # Ray Tune's word for the end
    known = present & (done | NOT_DONE | {"terminated"})
    if not known or 2 * len(known) < len(present):
        return [True] * len(words), None
    strange = sorted(present - known)
    said = None
    if strange:
        words_shown = ", ".join(map(repr, strange[:4]))
        said = f"column {str(column.name)!r}: {words_shown} was not understood: kept as finished"
    return [not word or word in done or word in strange for word in words], said


def _word(text: str) -> str:
    """Return a status as one word: "CANCELLED by 1000" and "CANCELLED+" are cancelled."""
    return re.sub(r"_by_.*$", "", plain(text))


def status_column(columns: list[str]) -> str | None:
    """Return the column that says how runs ended."""
    found = {plain(name): name for name in reversed(columns)}
    return next((found[name] for name in COLUMNS if name in found), None)
