"""Readings of L(N, S_min): the learning curves of all sizes under one law (Kaplan et al. 2020, section 5).

Analysis: what L(N, S_min) says at fixed steps, at fixed compute and at fixed loss (Kaplan et al. 2020,
figures 11, 19).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from allometry.figures.surface import isoflop, surface
from allometry.figures.theme import Figure
from allometry.laws.critical_batch import targets_from_curves
from allometry.laws.fit import fit
from allometry.laws.subgrids import design_range
from allometry.report.build import Section, Table
from allometry.studies.core.sections import (
    ENOUGH_UPDATES,
    KAPLAN,
    StudySection,
    TooFewRuns,
    caveats,
    constant,
    estimate,
    percent,
    undecided,
)
from allometry.studies.shared.batches import Critical, solve_loss

if TYPE_CHECKING:
    from collections.abc import Callable

    from allometry.laws.result import FitResult

PAPER_SHARE = 3000 / 250_000
"""Where the paper's points start: after the warm-up, as a share of its runs."""

STARTS = (200, 500, 1000, ENOUGH_UPDATES, 4000)
"""Steps from which points are fitted, in turn. ENOUGH_UPDATES is the rule, set before any fit."""

DRAWS = 16
"""Draws of B_crit with which a law is fitted again, for what it leaves uncertain of the exponents."""

FEWEST_POINTS, FEWEST_SIZES = 12, 4

REUSED = {KAPLAN: 0.76, "Shehper 2024": 0.59}


@dataclass(frozen=True, kw_only=True)
class TimeLaw:
    """L(N, S_min) as fitted: `result`, its points (with S_min), the step it starts from, and B_crit."""

    result: FitResult
    points: pd.DataFrame
    start: int
    critical: Critical

    def at_steps(self, N: Any, S: Any, B: float) -> Any:
        """Return loss of size N after S steps of batch B (arrays of one shape)."""
        size = np.asarray(N, float)

        def loss(steps: Any) -> Any:
            return self.result.law.predict(self.result.parameters, N=size, S=steps)

        return solve_loss(self.critical.law, loss, np.asarray(S, float), B)


def time_law(points: pd.DataFrame, critical: Critical, *, start: float | None = None) -> TimeLaw:
    """Fit L(N, S_min) = (N_c/N)^α_N + (S_c/S_min)^α_S to trunk points from a step on.

    Without `start`, from ENOUGH_UPDATES on; where too few points lie past it, from the latest of STARTS with
    enough. The bootstrap moves whole runs: points of one curve are not independent. Raises AllometryError for
    too few.
    """
    earlier = (*(s for s in reversed(STARTS) if s <= ENOUGH_UPDATES), 0)
    for first in earlier if start is None else (start,):
        kept = points[points["S"] >= first]
        if _enough(kept):
            kept = critical.adjusted(kept).reset_index(drop=True)
            return TimeLaw(result=_fit(kept, critical), points=kept, start=int(first), critical=critical)
    raise TooFewRuns(f"{len(points)} evaluations at the constant rate are too few for a law of two variables")


def paper_start(points: pd.DataFrame) -> float:
    """Return the step from which the paper would take points: after a warm-up of 1.2 % of the longest run."""
    return float(PAPER_SHARE * points["S"].max())


def _enough(points: pd.DataFrame) -> bool:
    counted = points.groupby("N").size()
    return len(points) >= FEWEST_POINTS and int((counted >= 2).sum()) >= FEWEST_SIZES


def _fit(points: pd.DataFrame, critical: Critical, bootstrap: int = 400) -> FitResult:
    columns = {"N": "N", "S": critical.steps, "L": "loss"}
    return fit(
        points, law="kaplan-ns", columns=columns, objective="huber-log", bootstrap=bootstrap,
        test=bootstrap > 0,
    )  # fmt: skip


def learning(points: pd.DataFrame, critical: Critical) -> StudySection:
    """Report the fit from the paper's start and from the plateau's end on, with figure 4 (right) of Kaplan et
    al. 2020.
    """
    paper, late = time_law(points, critical, start=paper_start(points)), time_law(points, critical)
    laws = {"paper": paper, "late": late}
    spreads = {name: _batch_spread(law.points, critical) for name, law in laws.items()}
    figure = surface(
        paper.points, {_from(law): law.result for law in (paper, late)}, x=critical.steps, colour="N",
        name="loss-against-steps", title="Learning curves under one law",
        caption=f"{len(paper.points)} evaluations of {paper.points['run'].nunique()} trunks at the constant "
        "rate; "
        "lines: (N_c/N)^α_N + (S_c/S_min)^α_S, fitted to the points from each step on.",
    )  # fmt: skip
    return StudySection(
        section=Section(title="L(N, S_min): learning curves under one law", text=_text(laws, spreads),
                        evidence=(figure,)),
        constants=(*_constants(paper, spreads["paper"]), *_constants(late, spreads["late"])),
        fits={name: law.result for name, law in laws.items()} | {"start": late.start},
        warnings=caveats(late.result, f"L(N, S_min) {_from(late)}"),
    )  # fmt: skip


def _from(law: TimeLaw) -> str:
    return f"from update {law.start} on"


def _batch_spread(
    points: pd.DataFrame,
    critical: Critical,
    refit: Callable[..., FitResult] = _fit,
    names: tuple[str, ...] = ("alpha_N", "alpha_S"),
) -> dict[str, float]:
    """Return the standard deviation of each parameter (exponents) of a law of S_min under draws of B_crit;
    zero where it is not known. `refit` fits adjusted points, as `_fit` and `above_floor` do.
    """
    copies = critical.drawn(points, DRAWS)
    refits = [refit(copy.adjusted(points), copy, bootstrap=0).parameters for copy in copies]
    return {name: float(np.std([p[name] for p in refits], ddof=1)) if refits else 0.0 for name in names}


def widened(result: FitResult, name: str, spread: float) -> tuple[float, float, float]:
    """Return a parameter with its interval, widened in quadrature by what B_crit leaves uncertain."""
    value, low, high = estimate(result, name)
    more = 1.96 * spread
    return value, value - np.hypot(value - low, more), value + np.hypot(high - value, more)


def _constants(law: TimeLaw, spread: dict[str, float]) -> tuple[Any, ...]:
    rate = (
        "our points are at a constant learning rate, Kaplan's along a cosine that falls to zero over 250,000 "
        "steps; "
        "the two terms of the form can change places, see where points start"
    )
    small = "the form has no floor, so over two orders of magnitude of small N one of its terms must bend"
    a_n, a_s = (widened(law.result, name, spread[name]) for name in ("alpha_N", "alpha_S"))
    rows = (
        constant(f"learning curves {_from(law)}, size", "α_N", {KAPLAN: 0.077}, a_n, small),
        constant(f"learning curves {_from(law)}, steps", "α_S", REUSED, a_s, rate),
    )
    return tuple(
        undecided(
            row,
            "points at a constant rate lie above the loss that a decay would bring there, by more the hotter the rate: "
            "they are no learning curve of the paper's kind",
            "short decays that branch off at six to eight points of each trunk, 60 % more than the trunks cost",
        )
        for row in rows
    )


def _text(laws: dict[str, TimeLaw], spreads: dict[str, dict[str, float]]) -> str:
    said = []
    for name, law in laws.items():
        a_n, a_s = (widened(law.result, x, spreads[name][x]) for x in ("alpha_N", "alpha_S"))
        s_c = estimate(law.result, "S_c")
        said.append(
            f"{_from(law)}: α_N = {a_n[0]:.3f} [{a_n[1]:.3f}, {a_n[2]:.3f}], α_S = {a_s[0]:.2f} "
            f"[{a_s[1]:.2f}, "
            f"{a_s[2]:.2f}], S_c = {s_c[0]:.3g} steps, {percent(law.result.rms)} from the law"
        )
    late = laws["late"]
    text = (
        f"{late.critical.sentence(late.points)} The paper takes all points after a warm-up of 1.2 % of its "
        "runs; the "
        f"same share of ours, and {ENOUGH_UPDATES} updates where our plateau ends, give: {'; '.join(said)}. "
        "Kaplan's "
        "constants are 0.077, 0.76 and 2,100, of points along cosine schedules, whose falling rate lowers "
        "the loss "
        "late in a run; ours are at a constant rate. Intervals resample whole runs, and hold the uncertainty "
        "of "
        "B_crit."
    )
    if late.result.parameters["alpha_S"] < late.result.parameters["alpha_N"]:
        text += (
            " Past the plateau the two terms have changed places: the term in S falls so slowly that it "
            "stands in for "
            "a floor, and that in N falls fast. Without a floor of its own the form is not identified by "
            "such curves."
        )
    return text


def _decayed(finals: pd.DataFrame, critical: Critical) -> FitResult | None:
    """Return the same law through the decayed ends of all horizons, where there are enough."""
    if not _enough(finals):
        return None
    return _fit(critical.adjusted(finals), critical)


_ENDS = "decayed ends of all horizons"


def starts(points: pd.DataFrame, finals: pd.DataFrame, critical: Critical) -> StudySection:
    """Return how early points must be dropped, and what that does to the constants; the decayed ends beside
    it.
    """
    rows = []
    for start in STARTS:
        kept = points[points["S"] >= start]
        if _enough(kept):
            kept = critical.adjusted(kept)
            rows.append(_start_row(f"update {start} on", _fit(kept, critical), kept, critical))
    ends = _decayed(finals, critical)
    if ends is not None:
        rows.append(_start_row(_ENDS, ends, critical.adjusted(finals), critical))
    if not rows:
        raise TooFewRuns("too few evaluations for any start")
    table = pd.DataFrame(rows)
    caption = (
        "The law through points from different steps on, and through horizons that ended in a decay; beside "
        "it the same two terms above a floor, which is not the paper's form. Intervals resample whole runs "
        "at one B_crit: what that leaves uncertain comes on top."
    )
    return StudySection(
        section=Section(
            title="Effect of the first fitted step and of an irreducible loss", text=_starts_text(table),
            evidence=(Table(name="starts", title="What the start does", frame=table, caption=caption),),
        ),
        constants=_floored(finals, critical),
        fits={"starts": table},
    )  # fmt: skip


def above_floor(points: pd.DataFrame, critical: Critical, bootstrap: int = 400) -> FitResult:
    """Fit E + (N_c/N)^α_N + (S_c/S_min)^α_S: Chinchilla's form with steps in place of tokens."""
    columns = {"N": "N", "D": critical.steps, "L": "loss"}
    return fit(
        points, law="chinchilla", columns=columns, objective="huber-log", bootstrap=bootstrap,
        test=bootstrap > 0,
    )  # fmt: skip


def _floored(finals: pd.DataFrame, critical: Critical) -> tuple[Any, ...]:
    """Return the exponents above a floor, of horizons that ended in a decay, as the paper's runs did; their
    intervals hold the uncertainty of B_crit, as those of the learning curves do.
    """
    if not _enough(finals):
        return ()
    floor = above_floor(critical.adjusted(finals), critical)
    spread = _batch_spread(finals, critical, above_floor, ("alpha", "beta"))
    parts = design_range(floor)
    why = "the paper's form has no floor; with one, neither term has to stand in for it"
    a_n, a_s = (widened(floor, name, spread[name]) for name in ("alpha", "beta"))
    return (
        constant(
            "decayed ends above a floor, size",
            "α_N",
            {KAPLAN: 0.077},
            a_n,
            why,
            design=parts.interval("alpha"),
        ),
        constant("decayed ends above a floor, steps", "α_S", REUSED, a_s, why, design=parts.interval("beta")),
    )


def _starts_text(table: pd.DataFrame) -> str:
    text = "Kaplan et al. fit all points after the warm-up. "
    curves = table[table["points from"] != _ENDS]
    if len(curves) > 1:
        first, last = curves.iloc[0], curves.iloc[-1]
        text += (
            "Early points of ours lie on the plateau before a model uses its context, which no power of S "
            "describes: "
            f"from {first['points from']} to {last['points from']} the residual goes from "
            f"{percent(first['residual'])} to {percent(last['residual'])} and α_S from {first['α_S']:.2f} to "
            f"{last['α_S']:.2f}, so α_S is known only together with its start. "
        )
    known = table[table["α_S high, floor"] - table["α_S low, floor"] < table["α_S, floor"]]
    if len(known):
        text += (
            "Above a floor, α_S is "
            + "; ".join(
                f"{row['α_S, floor']:.2f} [{row['α_S low, floor']:.2f}, {row['α_S high, floor']:.2f}] from "
                f"{row['points from']} ({percent(row['residual, floor'])} off)"
                for _, row in known.iterrows()
            )
            + " (at one B_crit)."
        )
    return text


def _start_row(name: str, result: FitResult, points: pd.DataFrame, critical: Critical) -> dict[str, Any]:
    a_n, a_s = estimate(result, "alpha_N"), estimate(result, "alpha_S")
    floor = above_floor(points, critical)
    b_n, b_s = estimate(floor, "alpha"), estimate(floor, "beta")
    return {
        "points from": name, "points": len(points), "residual": result.rms,
        "α_N": a_n[0], "α_N low": a_n[1], "α_N high": a_n[2],
        "α_S": a_s[0], "α_S low": a_s[1], "α_S high": a_s[2],
        "residual, floor": floor.rms, "α_N, floor": b_n[0], "α_S, floor": b_s[0], "α_S low, floor": b_s[1],
        "α_S high, floor": b_s[2],
    }  # fmt: skip


def fixed_amounts(law: TimeLaw, points: pd.DataFrame) -> StudySection:
    """Report loss against N at fixed steps, and at fixed compute (figure 11 of Kaplan et al. 2020)."""
    steps = _at_fixed(points, "S", [s for s in np.sort(points["S"].unique()) if s >= STARTS[1]])
    late = points[points["S"] >= law.start / 2]
    low, high = (float(late["C"].quantile(q)) for q in (0.2, 0.9))
    compute = _at_fixed(late, "C", list(np.geomspace(low, high, 6)))
    figures = tuple(
        isoflop(
            table, _drawn(law, table, what), x="N", budget=what, name=f"loss-at-fixed-{word}",
            title=f"Loss against size at fixed {word}",
            caption=f"{len(table)} points on trunks at equal {word}; lines: L(N, S_min) with the batch's "
            "correction "
            "undone.",
        )
        for what, word, table in (("C", "compute", compute), ("S", "steps", steps))
        if len(table)
    )  # fmt: skip
    if not figures:
        raise TooFewRuns("no steps or compute are common to three sizes")
    text = (
        "At fixed compute there is a best size; at fixed steps a larger model is always better, because it "
        "learns "
        "faster from the same batches. The law's lines part from the points at few steps, as in the paper, "
        "where "
        "learning curves are no power law yet."
    )
    return StudySection(
        section=Section(title="At fixed compute and at fixed steps", text=text, evidence=figures)
    )


def _at_fixed(points: pd.DataFrame, column: str, values: list[float]) -> pd.DataFrame:
    """Return loss of each trunk interpolated (in logarithms) at values of a column; those that three sizes
    reach.
    """
    rows = []
    for (n, run), curve in points.sort_values(column).groupby(["N", "run"]):
        x, y = np.log(curve[column].to_numpy(float)), np.log(curve["loss"].to_numpy(float))
        known = [v for v in values if x[0] - 1e-9 <= np.log(v) <= x[-1] + 1e-9]
        batch = curve["B"].iloc[0]
        flops = (curve["C"] / curve["S"]).iloc[0]
        rows += [(v, n, run, float(np.exp(np.interp(np.log(v), x, y))), batch, flops) for v in known]
    table = pd.DataFrame(rows, columns=[column, "N", "run", "loss", "B", "per_step"])
    sizes = table.groupby(column)["N"].transform("nunique")
    return table[sizes >= 3].reset_index(drop=True)


def _drawn(law: TimeLaw, table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the law's lines through the sizes of each value of a column."""
    parts = []
    for value, part in table.groupby(column):
        grid = np.geomspace(part["N"].min(), part["N"].max(), 40)
        ratio = float((part["per_step"] / part["N"]).mean())
        S = np.full(40, float(str(value))) if column == "S" else float(str(value)) / (ratio * grid)
        batch = float(part["B"].iloc[0])
        parts.append(pd.DataFrame({column: value, "N": grid, "loss": law.at_steps(grid, S, batch)}))
    return pd.concat(parts, ignore_index=True)


def efficiency(critical: Critical, points: pd.DataFrame) -> StudySection:
    """Report steps and tokens to reach fixed losses, by size (figure 19 of Kaplan et al. 2020)."""
    reached = arrivals(points, critical)
    if reached["N"].nunique() < 3:
        raise TooFewRuns("fewer than three sizes reach a common loss")
    steps, tokens = critical.steps, "E_min" if critical.law else "D"
    named = reached.rename(columns={"loss": "loss_level"})
    middle = named.groupby(["loss_level", "N"], as_index=False)[list({steps, tokens})].mean()
    figures: list[Figure | Table] = [
        isoflop(
            named, middle, x="N", y=column, budget="loss_level",
            name=f"{word}-to-reach-a-loss", title=f"{word.capitalize()} to reach a loss, by size",
            caption=f"{len(reached)} points: where trunks first reach each loss, corrected to the best batch "
            "where "
            "B_crit is known.",
        )
        for column, word in ((steps, "steps"), (tokens, "tokens"))
    ]  # fmt: skip
    gain, span, level = _gain(reached, tokens)
    text = (
        f"At a loss of {level:.2f} the largest model that passes it needs {gain:.1f} times fewer tokens than "
        "the "
        f"smallest, {span:.0f} times its size. Kaplan et al. see about 100 times over six orders of "
        "magnitude of N."
    )
    return StudySection(section=Section(title="Larger models learn from fewer tokens", text=text,
                                   evidence=tuple(figures)), fits={"arrivals": reached})  # fmt: skip


def arrivals(points: pd.DataFrame, critical: Critical, count: int = 6) -> pd.DataFrame:
    """Return where each trunk first reaches losses, adjusted by B_crit: columns N, loss, S, D, B, C,
    S_min, …
    """
    low = points.groupby("N")["loss"].min()
    levels = np.geomspace(0.97 * low.max(), 1.01 * low.min(), count)
    parts = []
    for (n, _), curve in points.rename(columns={"S": "step"}).groupby(["N", "run"]):
        lowest = curve["loss"].min()
        own = [float(x) for x in levels if lowest <= x < curve["loss"].max()]
        if own:
            found = targets_from_curves(curve, own)
            parts.append(found.assign(N=float(str(n)), C=(curve["C"] / curve["step"]).iloc[0] * found["S"]))
    if not parts:
        raise TooFewRuns("no trunk passes any of the losses")
    table = pd.concat(parts, ignore_index=True).rename(columns={"E": "D"})
    return critical.adjusted(table)


def _gain(reached: pd.DataFrame, tokens: str) -> tuple[float, float, float]:
    """Return tokens of the smallest over those of the largest size at the loss that most sizes reach; their
    ratio of N.
    """
    counts = reached.groupby("loss")["N"].nunique()
    level = float(counts.index[int(counts.to_numpy().argmax())])
    at = reached[reached["loss"] == level].groupby("N")[tokens].mean()
    return float(at.iloc[0] / at.iloc[-1]), float(at.index[-1] / at.index[0]), level
