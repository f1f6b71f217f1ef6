"""Losses of single sequences along a run: canaries, passages, documents, training windows.

probes.json    what the probes are: a list by column of TABLE, one entry a probe
probes.jsonl   a line for each evaluation: {"step", "loss": [nats by probe], "hits": [tokens by probe]}
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.files import read_json, read_lines
from allometry.runs.record import RunRecord, check_format, is_number, is_numbers

FORMAT = 1

_AGAIN = "remove the run (allometry runs rm) and train it again"

LINES = "probes.jsonl"

TABLE = ("probe", "kind", "repeats", "prompt", "tokens", "entropy", "text", "steps")
"""The description of a probe: its name and kind ("canary", "reference", "passage", "extract", "document", "held
out", "trained" or "window"), how often it is trained on in all, after how many tokens of prompt it is asked
for, how many tokens count, their entropy in nats where it is known, an excerpt, and the steps that train on
it."""

PROBE_COLUMNS = (
    *("run", "step", "probe", "kind", "repeats", "seen", "prompt", "loss", "hits", "tokens"),
    *("entropy", "text"),
)
"""Columns of the long table. `loss` in nats, summed over the `tokens` that count; `hits`: how many of them
greedy decoding gets right, given the true text before each (where all are, it yields the text from the prompt
alone); `seen`: how often it was trained on up to the step."""


def read_probes(record: RunRecord) -> pd.DataFrame:
    """Return the probes that a run recorded: PROBE_COLUMNS, a row for each probe and evaluation; empty without.

    A step recorded twice counts once, the last time; damaged lines are left out. AllometryError where a newer
    release wrote them, or probes.json is damaged.
    """
    about = read_json(record.path / "probes.json")
    if about is None:
        return pd.DataFrame(columns=list(PROBE_COLUMNS))
    check_format(about, record.path / "probes.json")
    if problem := _problem(about):
        raise AllometryError(f"{record.path / 'probes.json'} is damaged: {problem}", hint=_AGAIN)
    table = pd.DataFrame({key: about.get(key) for key in TABLE})
    lines, _ = read_lines(record.path / LINES)
    newest = {line["step"]: line for line in lines if _is_whole(line, len(table))}
    frames = [_at(record.id, table, newest[step]) for step in sorted(newest)]
    if not frames:
        return pd.DataFrame(columns=list(PROBE_COLUMNS))
    return pd.concat(frames, ignore_index=True)


def _problem(about: dict[str, Any]) -> str | None:
    """Return what is wrong with the description of probes, or None."""
    count = len(about["probe"]) if isinstance(about.get("probe"), list) else -1
    for key in TABLE:
        column = about.get(key)
        if column is None and key in ("entropy", "text", "steps"):
            continue
        if not isinstance(column, list) or len(column) != count:
            return f"{key!r} is no list of {max(count, 0)} entries"
        if key in ("probe", "kind", "text"):
            fine = all(value is None or isinstance(value, str) for value in column)
        elif key == "steps":
            fine = all(value is None or is_numbers(value) for value in column)
        else:
            fine = all(value is None or is_number(value) for value in column)
        if not fine:
            return f"{key!r} holds something else"
    return None


def _is_whole(line: dict[str, Any], count: int) -> bool:
    """Return whether a line has a step, and a loss and whether it was hit for each of `count` probes."""
    hits = line.get("hits", [None] * count)
    return (
        is_number(line.get("step"))
        and is_numbers(line.get("loss"))
        and len(line["loss"]) == count
        and isinstance(hits, list)
        and len(hits) == count
        and all(hit is None or is_number(hit) for hit in hits)
    )


def _at(run: str, table: pd.DataFrame, line: dict[str, Any]) -> pd.DataFrame:
    step = line["step"]
    seen = [
        repeats if steps is None else int(np.searchsorted(steps, step, side="right"))
        for steps, repeats in zip(table["steps"], table["repeats"], strict=True)
    ]
    numbers = {key: table[key].astype(float) for key in ("prompt", "entropy")}
    hits = np.array(line.get("hits", [None] * len(table)), dtype=float)
    frame = table.assign(run=run, step=step, seen=seen, loss=line["loss"], hits=hits, **numbers)
    return frame[list(PROBE_COLUMNS)]
