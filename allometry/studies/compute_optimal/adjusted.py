"""L(C) and N_opt(C) at the fixed batch and adjusted to the best one, from finished runs and learning curves.

Kaplan et al. 2020, sections 3.3 and 6 (figures 1 left, 2, 13, 14)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.figures.curves import learning_curves
from allometry.figures.several import several
from allometry.figures.theme import Figure
from allometry.laws.envelope import EnvelopeFit, fit_envelope
from allometry.report.content import Section, Table
from allometry.studies.core.sections import KAPLAN, LEVEL, StudySection, TooFewRuns, constant
from allometry.studies.shared.batches import Critical

if TYPE_CHECKING:
    from allometry.laws.power_lines import PowerLine
    from allometry.laws.uncertainty import Estimate

ENDS, CURVES = "finished horizons", "learning curves"


@dataclass(frozen=True, kw_only=True)
class Frontiers:
    """Envelopes by where points come from and what compute is ("C" or "C_min"), with the points behind "
    "them."""

    fits: dict[tuple[str, str], EnvelopeFit]
    points: dict[str, pd.DataFrame]
    critical: Critical
    problems: tuple[str, ...] = ()

    def get(self, source: str, compute: str) -> EnvelopeFit:
        """Return one envelope; AllometryError with the reason if it could not be had."""
        if (source, compute) not in self.fits:
            raise TooFewRuns(
                f"no frontier of {source} against {compute}: {'; '.join(self.problems) or 'not measured'}"
            )
        return self.fits[source, compute]


def frontiers(runs: pd.DataFrame, points: pd.DataFrame, critical: Critical) -> Frontiers:
    """Return envelopes of the finished horizons and of the trunks' points, at C and, where B_crit is known,
    C_min.
    """
    tables = {ENDS: critical.adjusted(runs), CURVES: critical.adjusted(points)}
    fits, problems = {}, []
    for source, table in tables.items():
        for compute in dict.fromkeys(["C", critical.compute]):
            try:
                fits[source, compute] = fit_envelope(_as_compute(table, compute))
            except AllometryError as error:
                problems.append(f"{source}, {compute}: {error.message}")
    return Frontiers(fits=fits, points=tables, critical=critical, problems=tuple(problems))


def _as_compute(table: pd.DataFrame, compute: str) -> pd.DataFrame:
    return pd.DataFrame(
        {"run": table["run"], "N": table["N"], "D": table["D"], "C": table[compute], "loss": table["loss"]}
    )


def three(estimate: Estimate, sign: float = 1.0) -> tuple[float, float, float]:
    """Return value, low and high of an estimate at LEVEL, with another sign if asked."""
    low, high = estimate.interval(LEVEL)
    value, low, high = sign * estimate.value, sign * low, sign * high
    return value, min(low, high), max(low, high)


def curves_reading(
    found: Frontiers, runs: pd.DataFrame, points: pd.DataFrame, curves: pd.DataFrame
) -> StudySection:
    """Report figure 2 and figure 1 (left): learning curves against tokens and compute, with their lower
    hull.
    """
    hull = found.get(CURVES, "C")
    measured = curves[["run", "step", "tokens", "C", "loss"]].dropna()
    own = measured[measured["run"].isin(set(points["run"]))]
    figures: tuple[Figure, ...] = (
        learning_curves(own, runs, x="tokens", name="curves-against-tokens",
                        title="Test loss against tokens processed"),
        learning_curves(own, runs, frontier=hull.points, fit=hull.loss, name="curves-against-compute",
                        title="Test loss against compute, with its lower hull"),
    )  # fmt: skip
    ends = found.fits.get((ENDS, "C"))
    lower = ""
    if ends is not None:
        at = _common(hull.loss, ends.loss)
        gap = float(hull.loss.predict([at])[0] / ends.loss.predict([at])[0] - 1)
        lower = (
            f"The hull of the curves lies {100 * gap:.1f} % above the frontier of finished horizons at C = "
            f"{at:.1e}: "
            "that is what the final decay of the rate gains, and why the two are read apart. "
        )
    text = (
        "Larger models reach a loss in fewer tokens (left figure of the paper's pair), and at each compute "
        "one size is "
        f"best. {lower}Along the hull L ∝ C^{hull.loss.exponent.text(LEVEL)}."
    )
    return StudySection(
        section=Section(title="Learning curves and their lower hull", text=text, evidence=figures),
        warnings=tuple(f"hull of learning curves: {w.meaning}" for w in hull.warnings),
    )


def _common(one: PowerLine, other: PowerLine) -> float:
    """Return the middle of the range of x that two lines share, or lies between them."""
    low = max(one.x_range[0], other.x_range[0])
    high = min(one.x_range[1], other.x_range[1])
    return float(np.sqrt(low * high))


def loss_reading(found: Frontiers) -> StudySection:
    """Report L(C) at the fixed batch and L(C_min) (figure 13)."""
    kinds = [c for c in ("C", "C_min") if (ENDS, c) in found.fits]
    if not kinds:
        found.get(ENDS, "C")
    names = {"C": "fixed batch, against C", "C_min": "adjusted, against C_min"}
    slopes = {"C": -0.057, "C_min": -0.050}
    points, lines = [], []
    for kind in kinds:
        fitted = found.get(ENDS, kind)
        points.append(fitted.points[["C", "loss"]].assign(series=names[kind]))
        lines.append(_line(fitted.loss, names[kind]))
        lines.append(
            _slope(fitted.loss, slopes[kind], f"slope of Kaplan et al. 2020, {kind}: {slopes[kind]}")
        )
    figure = several(
        pd.concat(points), pd.concat(lines), x="C", x_title="Compute (FLOPs), C or C_min",
        name="loss-against-compute", title="L(C) and L(C_min)",
        caption="Points: the best finished horizon at each compute, where neither the smallest nor the "
        "largest size "
        "wins. Lines: power laws through them; the paper's slopes go through the centre of ours.",
    )  # fmt: skip
    rows = pd.DataFrame([_summary(key, fit) for key, fit in found.fits.items()])
    table = Table(name="frontiers", title="Every frontier", frame=rows,
                  caption="Exponents of loss and size against compute, with 95 % intervals.")  # fmt: skip
    return StudySection(
        section=Section(title="L(C) and L(C_min)", text=_loss_text(found, kinds), evidence=(figure, table)),
        constants=tuple(_loss_constant(found, kind) for kind in kinds),
        fits={f"L({kind})": found.get(ENDS, kind) for kind in kinds},
        warnings=tuple(f"L({k}): {w.meaning}" for k in kinds for w in found.get(ENDS, k).warnings),
    )


def _line(line: PowerLine, series: str, beyond: float = 1.5) -> pd.DataFrame:
    low, high = line.x_range
    grid = np.geomspace(low / beyond, high * beyond, 60)
    return pd.DataFrame({"series": series, "C": grid, "loss": line.predict(grid)})


def _slope(line: PowerLine, slope: float, series: str) -> pd.DataFrame:
    """Return a line of a given slope through the centre of a frontier."""
    low, high = line.x_range
    grid = np.array([low / 1.5, high * 1.5])
    return pd.DataFrame(
        {"series": series, "C": grid, "loss": np.exp(line.level + slope * (np.log(grid) - line.center))}
    )


def _summary(key: tuple[str, str], fitted: EnvelopeFit) -> dict[str, Any]:
    low, high = fitted.loss.x_range
    return {
        "points from": key[0], "compute": key[1], "from": low, "to": high,
        "exponent of L": fitted.loss.exponent.text(LEVEL), "exponent of N_opt": fitted.a.text(LEVEL),
        "floor E": fitted.loss_offset.E.text(LEVEL), "above it": fitted.loss_offset.exponent.text(LEVEL),
    }  # fmt: skip


def _loss_constant(found: Frontiers, kind: str) -> Any:
    published = {"C": {KAPLAN: 0.057, "Shehper 2024": 0.074}, "C_min": {KAPLAN: 0.050, "Shehper 2024": 0.056}}
    symbol = {"C": "α_C", "C_min": "α_C^min"}[kind]
    why = (
        "our budgets lie ten orders of magnitude below the paper's and their loss still falls faster; bytes "
        "and a "
        "context of 64 set another floor"
    )
    exponent = three(found.get(ENDS, kind).loss.exponent, -1)
    return constant(f"loss along the frontier of {kind}", symbol, published[kind], exponent, why)


def _loss_text(found: Frontiers, kinds: list[str]) -> str:
    said = []
    for kind in kinds:
        value, low, high = three(found.get(ENDS, kind).loss.exponent, -1)
        said.append(f"L ∝ {kind}^-{value:.3f} [{low:.3f}, {high:.3f}]")
    return (
        f"{found.critical.sentence(found.points[ENDS])} {'; '.join(said)} (Kaplan: 0.057 at the fixed batch, "
        "0.050 "
        "adjusted). The frontier is that of finished horizons, each with its own decay; Kaplan's joins "
        "points of "
        "learning curves."
    )


def size_reading(found: Frontiers) -> StudySection:
    """Report N_opt, steps and batch against compute (figures 14 and 3)."""
    kinds = [c for c in ("C", "C_min") if (ENDS, c) in found.fits]
    if not kinds:
        found.get(ENDS, "C")
    published = {"C": 0.88, "C_min": 0.73}
    points, lines, constants = [], [], []
    for kind in kinds:
        fitted, name = found.get(ENDS, kind), f"N_opt against {kind}"
        table = fitted.points[["C", "N_opt"]]
        points.append(table.assign(series=name))
        lines.append(_line(fitted.N, name).rename(columns={"loss": "N_opt"}))
        paper = f"slope of Kaplan et al. 2020, {kind}: {published[kind]}"
        lines.append(_slope(fitted.N, published[kind], paper).rename(columns={"loss": "N_opt"}))
        constants.append(
            constant(f"N_opt ∝ {kind}^p", "p_N", {KAPLAN: published[kind]}, three(fitted.a), _WHY_SIZE)
        )
    figure = several(
        pd.concat(points), pd.concat(lines), x="C", y="N_opt", x_title="Compute (FLOPs), C or C_min",
        name="size-against-compute", title="The compute-optimal size",
        caption="Points: the vertex of the parabola through the best size and its neighbours at each "
        "compute, one "
        "frontier of runs each.",
    )  # fmt: skip
    text = "; ".join(f"N_opt ∝ {k}^{found.get(ENDS, k).a.text(LEVEL)}" for k in kinds) + (
        " (Kaplan: 0.88 and 0.73). This counts blocks only, as the paper does; the study `reconcile` shows "
        "what counting does."
    )
    return StudySection(
        section=Section(title="N_opt(C): the best size at each compute", text=text, evidence=(figure,)),
        constants=tuple(constants),
    )


_WHY_SIZE = (
    "the paper reads points along cosine schedules that are far longer than the budget, ours end in a decay "
    "of their "
    "own; the budgets here span little more than a decade"
)
