"""Read what runs record besides their losses: by position, of single sequences, copied n-grams, and when questions
were learnt.

Positions (Kaplan et al. 2020, fig. 7, 20 and 21): a curve's row holds the mean test loss at each position under
the key BY_POSITION: one number for each of the first 64 positions and, beyond, one for each bin of an eighth of
an octave, so that a context of 1024 takes 96 numbers. Positions count from 1: the loss at position t is that of
the token predicted from the t before it.

Probes are canaries, passages, documents and training windows:

probes.json    what the probes are: a list by column of PROBE_TABLE, one entry a probe
probes.jsonl   a line for each evaluation: {"step", "loss": [nats by probe], "hits": [tokens by probe]}

Novelty is how often n-grams of a model's text occur in its training data, and how often those of human text do:

novelty.json   {"step", "prompt", "length": tokens, "generated" and "human": [[occurrences by n] by prompt]}

"human" is the held-out text that follows the same prompts: a model copies where it finds more of its n-grams
in the training text than people do. n-grams lie within a continuation, of which there are length - n + 1.

Milestones of a run on questions are the steps at which its accuracy first reached 99 % on each split. Between
the two, steps to fit and steps to generalise, lies what Power et al. 2022 (arXiv 2201.02177) call grokking.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.files import read_json, read_lines
from allometry.runs.record import BY_POSITION, RunRecord, check_format, curve_rows, is_number, is_numbers

SINGLE = 64
"""Positions up to here have a number each."""

BINS_PER_OCTAVE = 8
"""Beyond them so many bins for each doubling of the position."""

POSITION_COLUMNS = ("run", "step", "position", "loss")
"""Columns of the long table of losses by position."""

_DIGITS = 5

_LONGEST = 2**32
"""The longest context of which positions are read."""


def bins(n_ctx: int) -> list[tuple[int, int]]:
    """Return the first and last position of every bin of a context, both included; a pure function of `n_ctx`."""
    octaves = max(0.0, math.log2(n_ctx / SINGLE))
    edges = [
        round(SINGLE * 2 ** (k / BINS_PER_OCTAVE)) for k in range(math.ceil(octaves * BINS_PER_OCTAVE) + 1)
    ]
    singles = [(position, position) for position in range(1, min(SINGLE, n_ctx) + 1)]
    return singles + [(a + 1, min(b, n_ctx)) for a, b in pairwise(edges)]


def middles(n_ctx: int) -> npt.NDArray[np.float64]:
    """Return the position that stands for each bin, from 1: the geometric mean of its first and last."""
    return np.array([math.sqrt(first * last) for first, last in bins(n_ctx)])


def by_position(losses: npt.NDArray[np.floating]) -> list[float]:
    """Return the mean over the sequences of `losses` (sequences, n_ctx), by bin, to five significant digits."""
    means = losses.mean(axis=0, dtype=np.float64)
    return [float(f"{means[a - 1 : b].mean():.{_DIGITS}g}") for a, b in bins(losses.shape[1])]


def read_positions(record: RunRecord) -> pd.DataFrame:
    """Return the losses by position that a run recorded: POSITION_COLUMNS, a row for each bin of each evaluation.

    Empty for runs that were recorded without them. A step recorded twice counts once, the last time.
    """
    rows, _ = curve_rows(record.path)
    newest = {row["step"]: row[BY_POSITION] for row in rows if row.get(BY_POSITION)}
    n_ctx = record.config.get("model", {}).get("n_ctx")
    if not newest or type(n_ctx) is not int or not 0 < n_ctx <= _LONGEST:
        return pd.DataFrame(columns=list(POSITION_COLUMNS))
    return pd.concat([_long(record.id, step, newest[step], n_ctx) for step in sorted(newest)])


def _long(run: str, step: int, losses: Sequence[float], n_ctx: int) -> pd.DataFrame:
    count = min(len(losses), len(bins(n_ctx)))  # a row that another program wrote may hold fewer
    return pd.DataFrame(
        {"run": run, "step": step, "position": middles(n_ctx)[:count], "loss": losses[:count]},
        columns=list(POSITION_COLUMNS),
    )


PROBES_FORMAT = 1

_AGAIN = "remove the run (allometry runs rm) and train it again"

PROBES_LINES = "probes.jsonl"

PROBE_TABLE = ("probe", "kind", "repeats", "prompt", "tokens", "entropy", "text", "steps")
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
    table = pd.DataFrame({key: about.get(key) for key in PROBE_TABLE})
    lines, _ = read_lines(record.path / PROBES_LINES)
    newest = {line["step"]: line for line in lines if _are_whole_probes(line, len(table))}
    frames = [_at(record.id, table, newest[step]) for step in sorted(newest)]
    if not frames:
        return pd.DataFrame(columns=list(PROBE_COLUMNS))
    return pd.concat(frames, ignore_index=True)


def _problem(about: dict[str, Any]) -> str | None:
    """Return what is wrong with the description of probes, or None."""
    count = len(about["probe"]) if isinstance(about.get("probe"), list) else -1
    for key in PROBE_TABLE:
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


def _are_whole_probes(line: dict[str, Any], count: int) -> bool:
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


NOVELTY_FORMAT = 1

NOVELTY_FILE = "novelty.json"

SOURCES = ("generated", "human")

NOVELTY_COLUMNS = ("run", "step", "source", "prompt", "n", "duplicated", "grams")
"""Columns of the long table: of the `grams` n-grams of length `n` in the continuation of prompt number
`prompt`, "generated" or "human", so many occur in the training tokens (`duplicated`)."""


def read_novelty(record: RunRecord) -> pd.DataFrame:
    """Return what a run recorded at its end: NOVELTY_COLUMNS, a row for each continuation and n; empty without.

    AllometryError where a newer release wrote it, or it is damaged.
    """
    found = read_json(record.path / NOVELTY_FILE)
    if found is None:
        return pd.DataFrame(columns=list(NOVELTY_COLUMNS))
    check_format(found, record.path / NOVELTY_FILE)
    if not _is_whole_novelty(found):
        raise AllometryError(
            f"{record.path / NOVELTY_FILE} is damaged",
            hint=f"remove the run (allometry runs rm {record.id}) and train it again",
        )
    return pd.concat([_continuations(record.id, found, source) for source in SOURCES], ignore_index=True)


def _is_whole_novelty(found: dict[str, Any]) -> bool:
    """Return whether a file holds tables of counts, of one width each."""
    tables = [found.get(source) for source in SOURCES]
    return all(is_number(found.get(key)) for key in ("step", "length")) and all(
        isinstance(table, list)
        and all(is_numbers(row) for row in table)
        and len({len(row) for row in table}) <= 1
        for table in tables
    )


def _continuations(run: str, found: dict[str, object], source: str) -> pd.DataFrame:
    counts = np.asarray(found[source], dtype=np.int64)
    counts = counts.reshape(len(counts), -1)
    prompts, n = (axis.ravel() for axis in np.indices(counts.shape))
    columns = {
        "run": run, "step": found["step"], "source": source, "prompt": prompts, "n": n + 1,
        "duplicated": counts.ravel(), "grams": np.asarray(found["length"], dtype=np.int64) - n,
    }  # fmt: skip
    return pd.DataFrame(columns)[list(NOVELTY_COLUMNS)]


LEARNT = 0.99
"""Accuracy from which a split counts as learnt."""

MILESTONES = {"memorised": "train_accuracy", "generalised": "accuracy"}
"""Columns of the run table, and the column of the curve that each is read from."""


def milestones(curve: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the step at which each split was learnt, None where that was not seen; empty without accuracies."""
    if not curve or "accuracy" not in curve[-1]:
        return {}
    steps = [row["step"] for row in curve]
    return {name: reached(steps, [row[c] for row in curve], LEARNT) for name, c in MILESTONES.items()}


def reached(steps: Sequence[float], values: Sequence[float], level: float) -> float | None:
    """Return the step at which `values` first reach `level`, interpolated in the logarithm of the step between
    evaluations; None if they do not.
    """
    for place, (step, value) in enumerate(zip(steps, values, strict=True)):
        if not value >= level:
            continue
        if place == 0:
            return float(step)
        part = (level - values[place - 1]) / (value - values[place - 1])
        return float(math.exp((1 - part) * math.log(steps[place - 1]) + part * math.log(step)))
    return None
