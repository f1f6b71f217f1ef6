"""How often n-grams of a model's text occur in its training data, and how often those of human text do.

novelty.json   {"step", "prompt", "length": tokens, "generated" and "human": [[occurrences by n] by prompt]}

"human" is the held-out text that follows the same prompts: a model copies where it finds more of its n-grams
in the training text than people do. n-grams lie within a continuation, of which there are length - n + 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.files import read_json
from allometry.runs.record import RunRecord, check_format, is_number, is_numbers

FORMAT = 1

FILE = "novelty.json"

SOURCES = ("generated", "human")

NOVELTY_COLUMNS = ("run", "step", "source", "prompt", "n", "duplicated", "grams")
"""Columns of the long table: of the `grams` n-grams of length `n` in the continuation of prompt number
`prompt`, "generated" or "human", so many occur in the training tokens (`duplicated`)."""


def read_novelty(record: RunRecord) -> pd.DataFrame:
    """Return what a run recorded at its end: NOVELTY_COLUMNS, a row for each continuation and n; empty without.

    AllometryError where a newer release wrote it, or it is damaged.
    """
    found = read_json(record.path / FILE)
    if found is None:
        return pd.DataFrame(columns=list(NOVELTY_COLUMNS))
    check_format(found, record.path / FILE)
    if not _is_whole(found):
        raise AllometryError(
            f"{record.path / FILE} is damaged",
            hint=f"remove the run (allometry runs rm {record.id}) and train it again",
        )
    return pd.concat([_of(record.id, found, source) for source in SOURCES], ignore_index=True)


def _is_whole(found: dict[str, Any]) -> bool:
    """Return whether a file holds tables of counts, of one width each."""
    tables = [found.get(source) for source in SOURCES]
    return all(is_number(found.get(key)) for key in ("step", "length")) and all(
        isinstance(table, list)
        and all(is_numbers(row) for row in table)
        and len({len(row) for row in table}) <= 1
        for table in tables
    )


def _of(run: str, found: dict[str, object], source: str) -> pd.DataFrame:
    counts = np.asarray(found[source], dtype=np.int64)
    counts = counts.reshape(len(counts), -1)
    prompts, n = (axis.ravel() for axis in np.indices(counts.shape))
    columns = {
        "run": run, "step": found["step"], "source": source, "prompt": prompts, "n": n + 1,
        "duplicated": counts.ravel(), "grams": np.asarray(found["length"], dtype=np.int64) - n,
    }  # fmt: skip
    return pd.DataFrame(columns)[list(NOVELTY_COLUMNS)]
