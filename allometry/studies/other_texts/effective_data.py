"""Reading effective data transferred: what a first training is worth in data of the second.

D_F is the data of the further training, D_E what a model of the same size needs from scratch to end at the
same loss, D_T = D_E - D_F what was transferred (Hernandez et al. 2021). All in tokens: characters, for bytes.

Analysis: figures of effective data transferred.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator
from scipy.stats import linregress, t

from allometry.core.files import slug
from allometry.core.units import format_count
from allometry.figures.several import several
from allometry.laws.fit import fit
from allometry.report.build import Section, Table
from allometry.studies.core.sections import (
    LEVEL,
    StudySection,
    TooFewRuns,
    caveats,
    constant,
    mean_estimate,
    percent,
    undecided,
)
from allometry.studies.shared.subsets import stopped

if TYPE_CHECKING:
    from allometry.figures.theme import Figure
    from allometry.laws.result import FitResult
    from allometry.report.build import Constant

HERNANDEZ = "Hernandez 2021, text to code"
MIXED = "Hernandez 2021, half code to code"

LOW_DATA = 0.1
"""Share of D(N) up to which the law is said to hold; D(N) is the data that come within 1 % of all of it."""

WITHIN = 0.99

FEWEST_POINTS = 5

WIDEST = 1.5
"""Width of an interval over its exponent from which the exponent is not identified: 1.5 is ± 75 %."""


def arms(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return runs on a target: `arm` is "before" (they start from another run) or "scratch" (same corpus,
    from their own weights); `unique` is D, `infinite` all the text; added are `stop`, `turned`, `epochs`.

    AllometryError if no run starts from another.
    """
    tuned = runs["init_from"].notna()
    if not tuned.any():
        raise TooFewRuns("no run that starts from another is finished")
    scratch = ~tuned & runs["corpus"].isin(runs.loc[tuned, "corpus"]) & runs["early_stop"].notna()
    table = runs[tuned | scratch].reset_index(drop=True)
    arm = np.where(table["init_from"].notna(), "before", "scratch")
    return stopped(table.assign(arm=arm), curves)


def data_needed(sets: pd.Series, losses: pd.Series, wanted: np.ndarray) -> np.ndarray:
    """Return D at which a from-scratch curve has the losses `wanted`; NaN above and below its range.

    `sets` are D of the curve and `losses` its losses: interpolated monotonously in (log D, L), after leaving
    out points that do not lie below all smaller sets. AllometryError for fewer than two points.
    """
    return np.exp(np.asarray(_inverse(sets, losses)(wanted), dtype=float))


def _inverse(sets: pd.Series, losses: pd.Series) -> PchipInterpolator:
    """Return log D as a function of the loss; NaN outside."""
    order = np.argsort(sets.to_numpy(float))
    x, y = np.log(sets.to_numpy(float)[order]), losses.to_numpy(float)[order]
    falling = y < np.concatenate([[np.inf], np.minimum.accumulate(y)[:-1]])
    x, y = x[falling], y[falling]
    if len(x) < 2:
        raise TooFewRuns("a from-scratch curve needs two sets whose losses fall")
    return PchipInterpolator(y[::-1], x[::-1], extrapolate=False)


def effective(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a run of further training on a set: D_F, D_E, D_T, `low` (in the low-data regime), `use`
    ("fitted", or why it has no place on the from-scratch curve) and `precision`, the change of log L over
    that of log D_T: where a curve is flat, a little noise of the loss is much data.

    `table` is that of `arms`. AllometryError if no size has a from-scratch curve.
    """
    parts = []
    for (corpus, N), group in table.groupby(["corpus", "N"]):
        scratch = group[(group["arm"] == "scratch") & ~group["infinite"]]
        curve = scratch.groupby("unique")["loss"].mean()
        before = group[(group["arm"] == "before") & ~group["infinite"]]
        if len(curve) < 2 or not len(before):
            continue
        whole = group.loc[(group["arm"] == "scratch") & group["infinite"], "loss"].mean()
        parts.append(_points(before, curve, whole).assign(corpus=str(corpus), N=float(N)))  # type: ignore[arg-type]
    if not parts:
        raise TooFewRuns("no size has a from-scratch curve and further training beside it")
    return pd.concat(parts, ignore_index=True)


def _points(before: pd.DataFrame, curve: pd.Series, whole: float) -> pd.DataFrame:
    """Return the rows of one size; `whole` is its loss from scratch on all the text (NaN if unknown)."""
    sets = pd.Series(curve.index, dtype=float)
    inverse, losses = _inverse(sets, curve), before["loss"].to_numpy(float)
    needed = np.exp(np.asarray(inverse(losses), dtype=float))
    knots = inverse.x
    secants = np.abs(np.diff(inverse(knots)) / np.diff(knots))
    flatness = losses * secants[np.clip(np.searchsorted(knots, losses) - 1, 0, len(secants) - 1)]
    own = before["unique"].to_numpy(float)
    enough = data_needed(sets, curve, np.array([whole / WITHIN]))[0] if np.isfinite(whole) else np.nan
    enough = enough if np.isfinite(enough) else float(sets.max())
    use = np.select(
        [before["loss"] < curve.min(), before["loss"] > curve.max(), ~(needed > own)],
        ["better than from scratch on the largest set", "worse than from scratch on the smallest set",
         "nothing transferred: D_E ≤ D_F"],
        "fitted",
    )  # fmt: skip
    return pd.DataFrame(
        {"run": before["run"].to_numpy(), "D_F": own, "loss": losses, "D_E": needed,
         "precision": np.clip((needed - own) / needed, 0, None) / flatness,
         "D_T": needed - own, "times": needed / own, "low": own <= LOW_DATA * enough, "use": use}
    )  # fmt: skip


def transferred(table: pd.DataFrame, corpus: str) -> StudySection:
    """Report alpha, beta and k of one target, with the points, the curves and what has no place on them."""
    points = effective(table[table["corpus"] == corpus])
    chosen, regime = _regime(points)
    law = fit(chosen.assign(weight=chosen["precision"] ** 2), law="transfer", objective="lsq-log",
              columns={"D_F": "D_F", "N": "N", "D_T": "D_T"}, weights="weight", group="run")  # fmt: skip
    rows = exponents(chosen, corpus)
    summary = _summary(corpus, rows, points, chosen, regime)
    evidence: tuple[Figure | Table, ...] = (
        worth(points, law, corpus),
        both_arms(table, corpus),
        _methods(law, rows, corpus),
    )
    lost = points[points["use"] != "fitted"]
    if len(lost):
        evidence = (*evidence, _lost(lost, corpus))
    held = [w for w in caveats(law, f"D_T on {corpus}") if "interval" not in w]
    return StudySection(
        section=Section(title=f"Transfer to {corpus}", text=summary, evidence=evidence),
        constants=rows,
        fits={"summary": summary, "law": law, "points": points},
        warnings=(*held, *_not_turned(table, corpus)),
    )


def _regime(points: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the points to fit: those of low data if they are enough of them, else all that could be
    placed.
    """
    placed = points[points["use"] == "fitted"]
    low = placed[placed["low"]]
    if len(low) >= FEWEST_POINTS and low["N"].nunique() >= 3 and low["D_F"].nunique() >= 3:
        return low, "in the low-data regime (D_F ≤ 10 % of D(N))"
    if len(placed) < FEWEST_POINTS or placed["N"].nunique() < 2 or placed["D_F"].nunique() < 2:
        raise TooFewRuns(
            f"only {len(placed)} of {len(points)} runs of further training have a place on the from-scratch "
            f"curves ({', '.join(f'{n} {use}' for use, n in points['use'].value_counts().items())})"
        )
    return placed, "on all points that have a place, too few of them being of low data"


ENOUGH_POINTS = 20
"""Points from which on the exponents of transfer are judged: two exponents and a scale of each corpus."""


def exponents(points: pd.DataFrame, corpus: str) -> tuple[Constant, ...]:
    """Return rows for alpha and beta, with sizes as the units: a from-scratch curve's error is shared by all
    points of its size, so points do not count as independent.

    alpha is the mean of the slopes of the sizes, beta the slope of what is left in log N.
    """
    log = pd.DataFrame({name: np.log(points[name].to_numpy(float)) for name in ("D_F", "N", "D_T")})
    log["w"] = points["precision"].to_numpy(float)
    several = [part for _, part in log.groupby("N") if part["D_F"].nunique() > 1]
    alpha = _mean([float(np.polyfit(part["D_F"], part["D_T"], 1, w=part["w"])[0]) for part in several])
    rest = log.assign(left=log["D_T"] - alpha[0] * log["D_F"])
    left = pd.Series({n: np.average(p["left"], weights=p["w"] ** 2) for n, p in rest.groupby("N")})
    beta = _slope(left) if np.isfinite(alpha[0]) else (float("nan"), -np.inf, np.inf)
    why = f"{len(left)} sizes, each one measurement of its from-scratch curve; tokens are bytes"
    rows = (
        constant(
            f"transfer to {corpus}, data", "α", {HERNANDEZ: 0.18, MIXED: 0.096}, alpha, why, widest=WIDEST
        ),
        constant(f"transfer to {corpus}, size", "β", {HERNANDEZ: 0.38}, beta, why, widest=WIDEST),
    )
    if len(points) >= ENOUGH_POINTS:
        return rows
    because = f"{len(points)} points are an exploration"
    return tuple(
        undecided(row, because, f"{ENOUGH_POINTS} points of low data, chosen beforehand") for row in rows
    )


def _mean(slopes: list[float]) -> tuple[float, float, float]:
    if len(slopes) < 2:
        return (float(slopes[0]) if slopes else float("nan"), -np.inf, np.inf)
    return mean_estimate(slopes)


def _slope(left: pd.Series) -> tuple[float, float, float]:
    """Return the slope over the index with Student's interval; unbounded with two points."""
    if len(left) < 3:
        slope = np.polyfit(left.index, left, 1)[0] if len(left) == 2 else np.nan
        return float(slope), -np.inf, np.inf
    line = linregress(left.index, left)
    half = float(t.ppf(0.5 + LEVEL / 2, len(left) - 2) * line.stderr)
    return float(line.slope), float(line.slope) - half, float(line.slope) + half


def _summary(
    corpus: str, rows: tuple[Constant, ...], points: pd.DataFrame, chosen: pd.DataFrame, regime: str
) -> str:
    parts = []
    for row in rows:
        if row.verdict == "cannot tell":
            reason = "" if np.isfinite(row.low) else ", with too few sizes for an interval"
            parts.append(f"{row.symbol} is not identified ({row.ours:.2f}{_within(row)}{reason})")
        else:
            parts.append(f"{row.symbol} = {row.ours:.2f}{_within(row)}")
    most = points.loc[points["use"] == "fitted"].sort_values("times").iloc[-1]
    return (
        f"To {corpus}: D_T = k · D_F^α · N^β with {' and '.join(parts)}, from {len(chosen)} of {len(points)} "
        f"runs {regime}. At most, training before made {most['D_F']:,.0f} tokens worth "
        f"{most['times']:.1f} times as many (N = {most['N']:,.0f})."
    )


def _within(row: Constant) -> str:
    return f" [{row.low:.2f}, {row.high:.2f}]" if np.isfinite(row.low) and np.isfinite(row.high) else ""


def _methods(law: FitResult, rows: tuple[Constant, ...], corpus: str) -> Table:
    k = (law.parameters["k"], *law.interval("k", LEVEL))
    found: list[dict[str, Any]] = [
        {
            "parameter": row.symbol,
            "how": "sizes as units",
            "estimate": row.ours,
            "low": row.low,
            "high": row.high,
        }
        for row in rows
    ]
    for symbol, name in (("α", "alpha"), ("β", "beta")):
        low, high = law.interval(name, LEVEL)
        found.append(
            {
                "parameter": symbol,
                "how": "joint fit",
                "estimate": law.parameters[name],
                "low": low,
                "high": high,
            }
        )
    found.append({"parameter": "k", "how": "joint fit", "estimate": k[0], "low": k[1], "high": k[2]})
    return Table(
        name=f"transfer-exponents-{slug(corpus, '-')}", title="Two ways to the exponents",
        caption=f"{LEVEL:.0%} intervals. The joint fit resamples points as if those of one size did not "
        f"share a from-scratch curve; it lies {percent(law.rms)} from a point (root mean square). k moves "
        "with α and β, and depends on what a token is.",
        frame=pd.DataFrame(found),
    )  # fmt: skip


def _lost(lost: pd.DataFrame, corpus: str) -> Table:
    return Table(
        name=f"not-placed-{slug(corpus, '-')}", title="Runs without a place on the from-scratch curve",
        caption="Left out of the fits. Where they are the best models with the most data, what is left "
        "understates both exponents.",
        frame=lost[["run", "N", "D_F", "loss", "use"]],
    )  # fmt: skip


def _not_turned(table: pd.DataFrame, corpus: str) -> tuple[str, ...]:
    scratch = table[(table["corpus"] == corpus) & (table["arm"] == "scratch") & ~table["infinite"]]
    still = scratch[~scratch["turned"]]
    if not len(still):
        return ()
    return (
        f"{len(still)} of {len(scratch)} from-scratch runs on sets of {corpus} had not turned where they "
        "ended: their losses are limited by training as well as by data, and D_E there is too large.",
    )


def worth(points: pd.DataFrame, law: FitResult, corpus: str) -> Figure:
    """Draw D_T against D_F by size, with the law (Hernandez et al. 2021, figure 2)."""
    placed = points[points["use"] == "fitted"].sort_values(["N", "D_F"])
    drawn = placed.assign(series=[_size(n) for n in placed["N"]])
    grid = np.geomspace(placed["D_F"].min(), placed["D_F"].max(), 24)
    lines = [
        pd.DataFrame({"series": _size(n), "D_F": grid, "D_T": law.predict(D_F=grid, N=np.full(24, float(n)))})
        for n in sorted(placed["N"].unique())
    ]
    return several(
        drawn[["series", "D_F", "D_T", "D_E", "times", "N", "low"]], pd.concat(lines, ignore_index=True),
        x="D_F", y="D_T", x_title="D_F: data of the further training (tokens)",
        y_title="D_T: data that the first training is worth (tokens)", name=f"transferred-{slug(corpus, '-')}",
        title=f"Effective data transferred to {corpus}",
        caption="Points: D_E on the from-scratch curve of the same size, less D_F. Lines: k · D_F^α · N^β.",
    )  # fmt: skip


def both_arms(table: pd.DataFrame, corpus: str) -> Figure:
    """Draw losses of both arms against the data, for the smallest and the largest size."""
    own = table[(table["corpus"] == corpus) & ~table["infinite"]]
    ends = own[own["N"].isin([own["N"].min(), own["N"].max()])].sort_values(["N", "arm", "unique"])
    names = {"before": "trained before", "scratch": "from scratch"}
    drawn = ends.assign(
        series=[f"{_size(n)}, {names[arm]}" for n, arm in zip(ends["N"], ends["arm"], strict=True)]
    )
    shown = drawn[["series", "unique", "loss", "N", "epochs", "turned"]]
    return several(
        shown, shown, x="unique", name=f"before-and-scratch-{slug(corpus, '-')}",
        title=f"Loss on {corpus} against its data",
        caption="Each point a run stopped at its best test loss. The horizontal distance between two lines "
        "of a size is D_E over D_F.",
    )  # fmt: skip


def _size(n: float) -> str:

    return f"N = {format_count(n)}"
