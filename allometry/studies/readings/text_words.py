"""What the sets of text show, in sentences: seen, or not seen at this scale and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from allometry.studies.readings.descents import CLEAR
from allometry.studies.readings.probed import size_name
from allometry.units import format_count

if TYPE_CHECKING:
    import pandas as pd

    from allometry.studies.readings.descents import Descent


def said(
    windows: pd.DataFrame,
    table: pd.DataFrame,
    peaks: pd.DataFrame,
    lines: dict[float, Descent | None],
    whose: str,
) -> str:
    """What the windows show: how they were measured, then each size's peak and its test loss."""
    each = windows.groupby("run")["trained"].sum()
    told = [
        "Nested sets of blocks from all over the text, trained on for equally long and not stopped. The "
        "reference is larger and has read all the text but the blocks that are probed; on each window the "
        f"better of the two models counts. {each.min()} to {each.max()} windows stand for a set. Sets are "
        f"measured in {whose}.",
        *(_of_size(row) for row in peaks.to_dict("records")),
    ]
    for total, line in lines.items():
        told.append(f"Double descent of the test loss at {size_name(total)}: {_descent(line, table, total)}")
    return " ".join(told)


def _of_size(row: Mapping[Any, Any]) -> str:
    name = size_name(row["N_total"])
    if row["rises"] and row["falls"]:
        return (
            f"{name}: seen to rise and fall, with {format_count(row['most'])} bits at {row['at']:.2g} "
            f"[{row['low']:.2g}, {row['high']:.2g}] times the capacity, {row['last']:.0%} of it at the end."
        )
    missing = "no fall is seen within these sets" if row["rises"] else "the smallest set holds the most"
    return f"{name}: a peak is not seen at this scale, because {missing}."


def _descent(line: Descent | None, table: pd.DataFrame, total: float) -> str:
    if line is not None:
        return (
            f"seen, with a peak at {line.at:.2g} times the capacity (a rise of {line.rise:.0%} of it before, "
            f"a fall of {line.fall:.0%} after)."
        )
    part = table[table["N_total"] == total]
    if len(part) >= 3 and (np.diff(part["test"]) <= 0).all():
        return "not seen at this scale, because every larger set lowers it."
    return f"not seen at this scale, because no rise and fall passes {CLEAR:.0f} standard deviations."
