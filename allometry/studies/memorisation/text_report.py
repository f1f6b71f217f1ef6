"""What the sets of text show, in sentences: seen, or not seen at this scale and why.

Analysis: figures of text that is memorised: bits against the set, the test loss beside it, and membership.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from allometry.core.units import format_count
from allometry.figures.several import several
from allometry.studies.memorisation.probed import size_name
from allometry.studies.shared.repeats import CLEAR

if TYPE_CHECKING:
    from allometry.figures.theme import Figure
    from allometry.studies.shared.repeats import Descent


def said(
    windows: pd.DataFrame,
    table: pd.DataFrame,
    peaks: pd.DataFrame,
    lines: dict[float, Descent | None],
    whose: str,
) -> str:
    """Return what the windows show: how they were measured, then each size's peak and its test loss."""
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


RAW_BITS = 8.0
"""Bits of a byte before any model, in which the membership law counts a set."""


def memorised_bits(table: pd.DataFrame, held: float, whose: str) -> Figure:
    """Draw mem_U against the set's information, with the capacity of each size."""
    points = _named(table).assign(low=table["low"].clip(lower=1), high=table["high"].clip(lower=1))
    points = points[points["memorised"] >= 1]  # the axis is logarithmic
    lines = []
    for total, part in table.groupby("N_total"):
        span = np.geomspace(part["bits"].min(), part["bits"].max(), 40)
        at = np.minimum(span, held * float(str(total)))
        lines.append(pd.DataFrame({"series": size_name(float(str(total))), "bits": span, "memorised": at}))
    return several(
        points[["series", "bits", "memorised", "low", "high", "chance", "ratio", "passes"]],
        pd.concat(lines, ignore_index=True), x="bits", y="memorised",
        x_title="Information of the set (bits with the reference)", y_title="Bits memorised beyond it",
        name="text-memorised", title="Unintended memorisation against the set's information",
        caption=(
            "Points with intervals from windows drawn again; lines: everything, up to the capacity, for "
            f"which {whose} are taken. Sets of less than a bit are not drawn."
        ),
    )  # fmt: skip


def tested(table: pd.DataFrame) -> Figure:
    """Draw test loss against the set's information over the capacity: where a second descent would begin."""
    points = _named(table).rename(columns={"test": "loss"})
    shown = points[["series", "ratio", "loss", "set", "passes", "seeds"]]
    return several(
        shown, shown, x="ratio", y="loss", x_title="Information of the set over the capacity",
        name="text-descent", title="Test loss of models that were not stopped",
        caption="Equal tokens for every set of a size. A double descent is a rise and fall along a line.",
    )  # fmt: skip


def membership(table: pd.DataFrame) -> Figure:
    """Draw best F1 of telling trained windows by their loss, against raw bits of the set per parameter."""
    points = _named(table).assign(per=RAW_BITS * table["set"] / table["N_total"])
    span = np.geomspace(points["per"].min(), points["per"].max(), 60)
    law = 0.5 * (1 + 1.34 / (1 + np.exp(0.034 * (span - 33.14))))
    line = pd.DataFrame({"series": "law of Morris 2025", "per": span, "f1": np.minimum(law, 1.0)})
    return several(
        points[["series", "per", "f1", "auc", "set"]], line, x="per", y="f1", y_scale="plain",
        x_title="Raw bits of the set per parameter (8 a token)", y_title="F1 of membership",
        name="text-membership", title="Telling what was trained on by its loss",
        caption=(
            "Best threshold on the loss of a window, with as much weight on either kind; saying yes always "
            "has two thirds. The law is read with its ratio as the paper's own table needs it."
        ),
    )  # fmt: skip


def _named(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(series=[size_name(n) for n in table["N_total"]])
