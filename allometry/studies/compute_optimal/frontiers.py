"""L(C) and N_opt(C) at the fixed batch and adjusted to the best one, from finished runs and learning curves.

Kaplan et al. 2020, sections 3.3 and 6, and appendix B (figures 1 left, 2, 3, 12, 13, 14). Where B_crit was not
measured there is no C_min, and only what is at the fixed batch can be said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.units import PF_DAY
from allometry.figures.curves import learning_curves
from allometry.figures.several import several
from allometry.figures.theme import Figure
from allometry.laws.envelope import EnvelopeFit, fit_envelope
from allometry.laws.subgrids import slope_range
from allometry.laws.uncertainty import Array, percentile_interval
from allometry.planner.allocate import Efficient, excess_compute
from allometry.report.build import Constant, Section, Table
from allometry.studies.compute_optimal.learning_curves import TimeLaw, arrivals
from allometry.studies.core.sections import (
    KAPLAN,
    LEVEL,
    MARGIN_A,
    StudySection,
    TooFewRuns,
    constant,
    undecided,
)
from allometry.studies.shared.batches import Critical

if TYPE_CHECKING:
    from allometry.laws.power_lines import PowerLine
    from allometry.laws.uncertainty import Estimate
    from allometry.studies.shared.batches import BatchLaw


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
    shared = None if ends is None else _gap(hull.points, ends.points)
    lower = "" if shared is None else _gap_text(*shared)
    text = (
        "Larger models reach a loss in fewer tokens (left figure of the paper's pair), and at each compute "
        "one size is "
        f"best. {lower}Along the hull L ∝ C^{hull.loss.exponent.text(LEVEL)}."
    )
    return StudySection(
        section=Section(title="Learning curves and their lower hull", text=text, evidence=figures),
        warnings=tuple(f"hull of learning curves: {w.meaning}" for w in hull.warnings),
    )


def _gap(one: pd.DataFrame, other: pd.DataFrame) -> tuple[float, float] | None:
    """Return how far the losses of one frontier (columns C, loss) lie above another's, relative, on average
    over the log of the compute that both have points at, and the middle of it; None where they share none.

    Points are interpolated: the power laws through them are of different ranges, and losses bend.
    """
    low, high = max(t["C"].min() for t in (one, other)), min(t["C"].max() for t in (one, other))
    if not low < high:
        return None
    grid = np.linspace(np.log(low), np.log(high), 50)
    logs = [np.interp(grid, np.log(t["C"]), np.log(t["loss"])) for t in (one, other)]
    return float(np.expm1(np.mean(logs[0] - logs[1]))), float(np.exp(grid.mean()))


def _gap_text(gap: float, at: float) -> str:
    """Say how far the hull of learning curves lies above the frontier of finished horizons."""
    side = "above" if gap >= 0 else "below"
    why = "that is what the final decay of the rate gains, and why the two are read apart"
    return (
        f"The hull of the curves lies {100 * abs(gap):.1f} % {side} the frontier of finished horizons about "
        f"C = {at:.1e}{': ' + why if gap > 0 else ''}. "
    )


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
    points = found.get(ENDS, kind).points
    lowest, highest = slope_range(points["C"], points["loss"])
    exponent = three(found.get(ENDS, kind).loss.exponent, -1)
    return _of_kind(
        kind,
        constant(
            f"loss along the frontier of {kind}",
            symbol,
            published[kind],
            exponent,
            why,
            design=(-highest, -lowest),
        ),
    )


def _of_kind(kind: str, row: Constant) -> Constant:
    """Return the row; undecided for C, which here is no other measurement than C_min."""
    if kind != "C":
        return row
    return undecided(
        row,
        "the paper's fixed batch lies above B_crit for small losses and ours far below it, so C and C_min are one "
        "measurement here and this row is not comparable",
        "a grid at a fixed batch above B_crit, as large as this one",
    )


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
            _of_kind(
                kind,
                constant(
                    f"N_opt ∝ {kind}^p",
                    "p_N",
                    {KAPLAN: published[kind]},
                    three(fitted.a),
                    _WHY_SIZE,
                    design=slope_range(table["C"], table["N_opt"]),
                    margin=MARGIN_A,
                ),
            )
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


PAPER = {"p_N": 0.73, "p_B": 0.24, "p_S": 0.03}
NAMES = {"p_N": "model size N", "p_B": "batch B", "p_S": "serial steps S"}


def spending(found: Frontiers) -> StudySection:
    """Report exponents of N, B and S along the frontier of C_min, and what a growth of compute goes into
    (figure 3).
    """
    law, fitted = adjusted_frontier(found)
    exponents = allocation(fitted, law)
    low, high = fitted.loss.x_range
    grid = np.geomspace(1, max(10.0, high / low), 40)
    figure = several(
        None, _stacked(exponents, grid), x="compute", y="factor",
        x_title="Compute over the smallest on the frontier", y_title="Growth, contributions multiplied",
        name="how-to-spend-compute",
        title="Where more compute goes",
        caption=f"The frontier of {fitted.runs} curves' points: N, then N times B, then N times B times S = "
        "C; dashed "
        "beside them the paper's table 6.",
    )  # fmt: skip
    said = ", ".join(f"{n} = {v[0]:.2f} [{v[1]:.2f}, {v[2]:.2f}]" for n, v in exponents.items())
    text = (
        f"With B = B_crit(L) and S_min = C_min/(6 N B): {said}, over a factor of {high / low:.0f} in compute. They "
        "follow from the rows of α_B and p_N, and say nothing new. Kaplan et al. have 0.73, 0.24 and 0.03: "
        "nearly all "
        "growth goes into size, and training takes hardly more steps."
    )
    return StudySection(
        section=Section(title="How to spend more compute", text=text, evidence=(figure,)),
        fits={"exponents": exponents},
    )  # fmt: skip


def adjusted_frontier(found: Frontiers) -> tuple[BatchLaw, EnvelopeFit]:
    """Return B_crit(L) and the frontier of finished horizons against C_min; raise AllometryError where there
    is none.
    """
    if found.critical.law is None:
        raise TooFewRuns(f"C_min needs B_crit, which could not be had: {found.critical.reason}")
    return found.critical.law, found.get(ENDS, "C_min")


def allocation(fitted: EnvelopeFit, law: BatchLaw) -> dict[str, tuple[float, float, float]]:
    """Return p_N, p_B, p_S of N, B_crit and S_min against C_min, with intervals; they sum to one."""
    rng = np.random.default_rng(0)

    def drawn(samples: Array) -> Array:
        return np.asarray(rng.choice(samples[np.isfinite(samples)], 2000))

    values = {"p_N": fitted.a.value, "p_B": law.line.slope * fitted.loss.exponent.value}
    draws = {"p_N": drawn(fitted.a.samples)}
    draws["p_B"] = drawn(law.line.draws[:, 0]) * drawn(fitted.loss.exponent.samples)
    values["p_S"], draws["p_S"] = 1 - values["p_N"] - values["p_B"], 1 - draws["p_N"] - draws["p_B"]
    return {name: (values[name], *percentile_interval(draws[name], LEVEL)) for name in values}


def _stacked(exponents: dict[str, tuple[float, float, float]], grid: Array) -> pd.DataFrame:
    parts = []
    for who, powers in (("ours", {n: v[0] for n, v in exponents.items()}), (KAPLAN, PAPER)):
        total, label = 0.0, []
        for name in ("p_N", "p_B", "p_S"):
            total += powers[name]
            label.append({"p_N": "N", "p_B": "B", "p_S": "S"}[name])
            if who == "ours" or name != "p_S":
                series = f"{' × '.join(label)}, {who}"
                parts.append(pd.DataFrame({"series": series, "compute": grid, "factor": grid**total}))
    return pd.concat(parts, ignore_index=True)


def theory(found: Frontiers, laws: dict[str, TimeLaw]) -> StudySection:
    """Return what L(N, S_min) and B_crit(L) say of the frontier (appendix B), beside the frontier itself."""
    law, fitted = adjusted_frontier(found)
    measured = {"α_C": (-fitted.loss.exponent.value, fitted.loss.exponent), "p_N": (fitted.a.value, fitted.a)}
    rows = [{"from": "measured frontier"}]
    for name, (value, e) in measured.items():
        rows[0][name] = f"{value:.3f} [{_bounds(e.samples, -1 if name == 'α_C' else 1)}]"
    lines = []
    low, high = fitted.loss.x_range
    grid = np.geomspace(low / 1.5, high * 1.5, 40)
    for name, time in laws.items():
        form, drawn = _efficient(time, law)
        rows.append({"from": f"theory, L(N, S_min) {name}"} | _predicted(form, drawn))
        lines.append(pd.DataFrame({"series": f"theory, L(N, S_min) {name}", "C": grid,
                                   "loss": form.loss(grid / PF_DAY)}))  # fmt: skip
    figure = several(
        fitted.points[["C", "loss"]].assign(series="measured frontier"), pd.concat(lines), x="C",
        x_title="Minimum compute C_min (FLOPs)", name="theory-beside-frontier", title="L(C_min), measured "
        "and by theory",
        caption=f"{len(fitted.points)} points of the frontier of finished horizons; lines: equation B.6 with "
        "the "
        "constants of the learning curves (at a constant rate) and of B_crit.",
    )  # fmt: skip
    caption = "α_C = 1/(1/α_S + 1/α_B + 1/α_N) and N ∝ C^(α_C/α_N) (equations B.6 to B.9)."
    table = Table(name="theory", title="The frontier by theory", frame=pd.DataFrame(rows), caption=caption)
    text = (
        "If every model trains at its critical batch, L(N, S_min) and B_crit(L) fix the frontier with "
        "nothing left to "
        "fit. The paper found its theory and its frontier close together (0.054 against 0.050 for α_C). Ours "
        "are in "
        "the table; the theory takes its L(N, S) from curves at a constant rate, so its losses lie above the "
        "decayed "
        "ends of the frontier."
    )
    return StudySection(
        section=Section(title="Theory beside the frontier (appendix B)", text=text, evidence=(figure, table)),
        fits={"theory": rows},
    )


def _efficient(time: TimeLaw, law: BatchLaw) -> tuple[Efficient, Efficient]:
    """Return the closed forms at the estimates, and at draws (independent between the two fits)."""
    p, s = time.result.parameters, time.result.samples
    point = Efficient(
        alpha_N=p["alpha_N"], alpha_S=p["alpha_S"], N_c=p["N_c"], S_c=p["S_c"],
        alpha_B=law.alpha_B.value, B_star=law.B_star.value,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    which = rng.integers(len(law.line.draws), size=len(s))
    drawn = Efficient(
        alpha_N=s["alpha_N"].to_numpy(), alpha_S=s["alpha_S"].to_numpy(), N_c=s["N_c"].to_numpy(),
        S_c=s["S_c"].to_numpy(), alpha_B=law.alpha_B.samples[which], B_star=law.B_star.samples[which],
    )  # fmt: skip
    return point, drawn


def _predicted(form: Efficient, drawn: Efficient) -> dict[str, str]:
    size = drawn.alpha_C / np.asarray(drawn.alpha_N)
    return {
        "α_C": f"{float(form.alpha_C):.3f} [{_bounds(drawn.alpha_C)}]",
        "p_N": f"{float(form.alpha_C / form.alpha_N):.3f} [{_bounds(size)}]",
    }


def _bounds(samples: Array, sign: int = 1) -> str:
    low, high = sorted(sign * x for x in percentile_interval(np.asarray(samples), LEVEL))
    return f"{low:.3f}, {high:.3f}"


def wrong_size(points: pd.DataFrame, critical: Critical, laws: dict[str, TimeLaw]) -> StudySection:
    """Compute to reach a loss with sizes that are not the best (figure 12)."""
    table = _excess(arrivals(points, critical, count=8), critical.compute)
    if not len(table):
        raise TooFewRuns("no loss has its best size between the smallest and the largest")
    ratio = np.geomspace(table["ratio"].min(), table["ratio"].max(), 60)
    exponents = {"Kaplan's constants": (0.077, 0.76)}
    for name, law in laws.items():
        p = law.result.parameters
        exponents[f"ours {name}"] = (p["alpha_N"], p["alpha_S"])
    lines = [
        pd.DataFrame(
            {"series": f"equation B.16, {name}", "ratio": ratio, "excess": excess_compute(ratio, *own)}
        )
        for name, own in exponents.items()
    ]
    drawn = pd.concat(lines)
    figure = several(
        table.assign(series="measured"), drawn[drawn["excess"] < 2 * table["excess"].max()],
        x="ratio", y="excess", x_title="N / N_eff", y_title="Compute / least compute", name="wrong-size",
        title="What a model of the wrong size costs",
        caption=f"{len(table)} points: compute with which each trunk reaches one of "
        f"{table['loss'].nunique()} losses, "
        "over that of the best size (vertex of a parabola in log N).",
    )  # fmt: skip
    near = table[table["ratio"].between(0.5, 2.5)]
    text = (
        "Kaplan et al.: models of 0.6 to 2.2 times the best size cost at most 20 % more compute. "
        "Ours between half and two and a half times the best size cost up to "
        f"{100 * (near['excess'].max() - 1):.0f} % "
        f"more, {100 * (near['excess'].mean() - 1):.0f} % on average."
        if len(near)
        else "Sizes here are too far apart to look between half and twice the best one."
    )
    return StudySection(section=Section(title="Models of the wrong size", text=text, evidence=(figure,)))


def _excess(reached: pd.DataFrame, compute: str) -> pd.DataFrame:
    """Compute over the least, and N over the best, at losses whose best size lies inside: loss, N, ratio,
    excess.
    """
    parts = []
    for _, part in reached.groupby("loss"):
        mean = part.groupby("N")[compute].apply(lambda c: float(np.exp(np.log(c).mean())))
        x, y = np.log(mean.index.to_numpy(float)), np.log(mean.to_numpy(float))
        best = int(y.argmin())
        if len(y) < 4 or best in (0, len(y) - 1):
            continue
        near = slice(best - 1, best + 2)
        bend, slope, level = np.polyfit(x[near], y[near], 2)
        if bend <= 0:
            continue
        vertex = -slope / (2 * bend)
        least = level - slope**2 / (4 * bend)
        frame = {"N": np.exp(x), "ratio": np.exp(x - vertex), "excess": np.exp(y - least)}
        parts.append(pd.DataFrame(frame).assign(loss=float(part["loss"].iloc[0])))
    empty = pd.DataFrame(columns=["N", "ratio", "excess", "loss"])
    return pd.concat(parts, ignore_index=True) if parts else empty
