"""Losses of single sequences along a run: canaries, passages, documents, training windows.

probes.json    what the probes are: a list by column of TABLE, one entry a probe
probes.jsonl   a line for each evaluation: {"step", "loss": [nats by probe], "hits": [tokens by probe]}
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from allometry.runs.files import read_json, read_lines
from allometry.runs.record import RunRecord, check_format

FORMAT = 1

LINES = "probes.jsonl"

TABLE = ("probe", "kind", "repeats", "prompt", "tokens", "entropy", "text", "steps")
"""What is said of a probe: its name and kind ("canary", "reference", "passage", "extract", "document", "held
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
    """The probes that a run recorded: PROBE_COLUMNS, a row for each probe and evaluation; empty without.

    A step recorded twice counts once, the last time. AllometryError where a newer release wrote them.
    """
    about = read_json(record.path / "probes.json")
    if about is None:
        return pd.DataFrame(columns=list(PROBE_COLUMNS))
    check_format(about, record.path / "probes.json")
    table = pd.DataFrame({key: about.get(key) for key in TABLE})
    lines, _ = read_lines(record.path / LINES)
    newest = {line["step"]: line for line in lines if len(line.get("loss", ())) == len(table)}
    frames = [_at(record.id, table, newest[step]) for step in sorted(newest)]
    if not frames:
        return pd.DataFrame(columns=list(PROBE_COLUMNS))
    return pd.concat(frames, ignore_index=True)


def read_all_probes(records: Iterable[RunRecord]) -> pd.DataFrame:
    """`read_probes` of several runs under each other."""
    frames = [frame for record in records if len(frame := read_probes(record))]
    if not frames:
        return pd.DataFrame(columns=list(PROBE_COLUMNS))
    return pd.concat(frames, ignore_index=True)


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
