"""How often n-grams of what a run's model writes occur in what it was trained on, and those of people's text.

novelty.json   {"step", "prompt", "length": tokens, "generated" and "human": [[occurrences by n] by prompt]}

"human" is the held-out text that follows the same prompts: a model copies where it finds more of its n-grams
in the training text than people do. n-grams lie within a continuation, of which there are length - n + 1.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from allometry.runs.files import read_json
from allometry.runs.record import RunRecord, check_format

FORMAT = 1

FILE = "novelty.json"

SOURCES = ("generated", "human")

NOVELTY_COLUMNS = ("run", "step", "source", "prompt", "n", "duplicated", "grams")
"""Columns of the long table: of the `grams` n-grams of length `n` in the continuation of prompt number
`prompt`, "generated" or "human", so many occur in the training tokens (`duplicated`)."""


def read_novelty(record: RunRecord) -> pd.DataFrame:
    """What a run recorded at its end: NOVELTY_COLUMNS, a row for each continuation and n; empty without.

    AllometryError where a newer release wrote it.
    """
    found = read_json(record.path / FILE)
    if found is None:
        return pd.DataFrame(columns=list(NOVELTY_COLUMNS))
    check_format(found, record.path / FILE)
    return pd.concat([_of(record.id, found, source) for source in SOURCES], ignore_index=True)


def read_all_novelty(records: Iterable[RunRecord]) -> pd.DataFrame:
    """`read_novelty` of several runs under each other."""
    frames = [frame for record in records if len(frame := read_novelty(record))]
    if not frames:
        return pd.DataFrame(columns=list(NOVELTY_COLUMNS))
    return pd.concat(frames, ignore_index=True)


def _of(run: str, found: dict[str, object], source: str) -> pd.DataFrame:
    counts = np.asarray(found[source], dtype=np.int64)
    prompts, n = (axis.ravel() for axis in np.indices(counts.shape))
    columns = {
        "run": run, "step": found["step"], "source": source, "prompt": prompts, "n": n + 1,
        "duplicated": counts.ravel(), "grams": np.asarray(found["length"], dtype=np.int64) - n,
    }  # fmt: skip
    return pd.DataFrame(columns)[list(NOVELTY_COLUMNS)]
