"""Figures of text that is memorised: bits against the set, the test loss beside it, and membership."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.studies.readings.probed import size_name

if TYPE_CHECKING:
    from allometry.report.content import Figure

RAW_BITS = 8.0
"""Bits of a byte before any model, in which the membership law counts a set."""


def memorised_bits(table: pd.DataFrame, held: float, whose: str) -> Figure:
    """mem_U against the set's information, with the capacity of each size drawn in."""
    from allometry.figures.several import several

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
    """Test loss against the set's information over the capacity: where a second descent would begin."""
    from allometry.figures.several import several

    points = _named(table).rename(columns={"test": "loss"})
    shown = points[["series", "ratio", "loss", "set", "passes", "seeds"]]
    return several(
        shown, shown, x="ratio", y="loss", x_title="Information of the set over the capacity",
        name="text-descent", title="Test loss of models that were not stopped",
        caption="Equal tokens for every set of a size. A double descent is a rise and fall along a line.",
    )  # fmt: skip


def membership(table: pd.DataFrame) -> Figure:
    """Best F1 of telling trained windows by their loss, against raw bits of the set per parameter."""
    from allometry.figures.several import several

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
