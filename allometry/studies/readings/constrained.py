"""The data-constrained law of Muennighoff et al. 2023 (arXiv 2305.16264): what repeats, and parameters beyond
what the data deserve, are worth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.errors import AllometryError
from allometry.laws.fit import fit
from allometry.report.content import Section
from allometry.studies.core.sections import Reading, caveats, constant, estimate, percent
from allometry.units import format_count

if TYPE_CHECKING:
    from allometry.laws.result import FitResult
    from allometry.report.content import Constant, Figure

MUENNIGHOFF = "Muennighoff 2023"
PUBLISHED = {"R_D": 15.387756, "R_N": 5.309743}

LATER = 8
"""Points of a curve count from its horizon over LATER on: before, a model is in its plateau."""

WIDEST = 10.0
"""High over low end of an interval from which a number of repeats is said not to be identified."""

_TITLE = "What repeats are worth"


def constrained(table: pd.DataFrame, curves: pd.DataFrame) -> Reading:
    """The law fitted to points along the curves until their best test loss: it knows no loss that rises.

    Raises AllometryError for fewer than three sizes or sets.
    """
    points = along(table, curves)
    sizes, sets = points["N"].nunique(), points["U"].nunique()
    if sizes < 3 or sets < 4:
        raise AllometryError(
            f"{sizes} sizes on {sets} sets do not determine seven parameters", hint="train the missing runs"
        )
    law = fit(points, law="muennighoff", columns={"D": "tokens", "L": "loss"}, group="run", bootstrap=120)
    rows, told = _worth(law)
    text = (
        f"{len(points)} points of {points['run'].nunique()} runs at constant rates, up to the best test "
        f"loss of "
        f"each: the law has no term for losses that rise. Most repeats: {points['R'].max():.0f}. A point "
        f"lies "
        f"{percent(law.rms)} from the law. {told}"
    )
    return Reading(
        section=Section(title=_TITLE, text=text, evidence=(_figure(points, law),)),
        constants=rows,
        fits={"law": law, "summary": told},
        warnings=caveats(law, "the data-constrained law"),
    )


def along(table: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Points of the usual runs' curves between a share of the horizon and the best test loss: run, N, U, R,
    tokens, loss.
    """
    own = table[table["usual"]][["run", "N", "U", "D", "best_step"]]
    points = curves[["run", "step", "tokens", "loss"]].dropna().merge(own, on="run")
    kept = (points["tokens"] >= points["D"] / LATER) & (points["step"] <= points["best_step"])
    points = points[kept].reset_index(drop=True)
    return points.assign(R=np.maximum(points["tokens"] / points["U"] - 1, 0.0))


def _worth(law: FitResult) -> tuple[tuple[Constant, ...], str]:
    """The two constants, and a sentence on whether they are identified."""
    names = {"R_D": "repeats of data that are worth having", "R_N": "the same for parameters in excess"}
    rows, said = [], []
    for name, what in names.items():
        value, low, high = estimate(law, name)
        known = np.isfinite(high) and low > 0 and high / low < WIDEST
        why = "models on bytes at a constant rate, far from convergence" + (
            "" if known else "; not identified"
        )
        symbol = name.replace("_", "_") + "*"
        rows.append(
            constant(what, symbol, {MUENNIGHOFF: PUBLISHED[name]}, (value, low, high), why, widest=4.0)
        )
        said.append(
            f"{symbol} = {value:.3g} [{low:.3g}, {high:.3g}]"
            if known
            else f"{symbol} is not identified ([{low:.2g}, {high:.2g}])"
        )
    return tuple(
        rows
    ), f"Of the data-constrained law (Muennighoff et al.: 15.4 and 5.3), {' and '.join(said)}."


def _figure(points: pd.DataFrame, law: FitResult) -> Figure:
    """The largest size's points against tokens, a line of the law for each set."""
    from allometry.figures.several import several

    largest = points[points["N"] == points["N"].max()].sort_values(["U", "tokens"])
    names = [f"U = {format_count(u)}" for u in largest["U"]]
    drawn = largest.assign(series=names)
    predicted = law.law.predict(
        law.parameters, N=drawn["N"].to_numpy(), D=drawn["tokens"].to_numpy(), U=drawn["U"].to_numpy()
    )
    lines = drawn[["series", "tokens"]].assign(loss=predicted)
    return several(
        drawn[["series", "tokens", "loss", "U", "R", "run"]], lines, x="tokens", y="loss", name="repeats",
        title="Loss while sets are repeated, and the law",
        caption="The largest size on each set, until its best test loss; lines: the data-constrained law.",
    )  # fmt: skip
