"""How compute is best spent, by measurement and by theory: size, batch and steps against C_min.

Kaplan et al. 2020, section 6 and appendix B (figures 3, 12, 14 right). Where B_crit was not measured
there is no C_min, and none of this can be said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.core.units import PF_DAY
from allometry.figures.several import several
from allometry.laws.uncertainty import Array, percentile_interval
from allometry.planner.allocate import Efficient, excess_compute
from allometry.report.content import Section, Table
from allometry.studies.compute_optimal.adjusted import ENDS, Frontiers
from allometry.studies.compute_optimal.learning_curves import TimeLaw, arrivals
from allometry.studies.core.sections import KAPLAN, LEVEL, StudySection, TooFewRuns, constant

if TYPE_CHECKING:
    from allometry.laws.envelope import EnvelopeFit
    from allometry.studies.shared.batches import BatchLaw, Critical

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
    why = (
        "B is B_crit at the frontier's loss, extrapolated where the batch scan did not reach; the frontier "
        "spans a "
        f"factor of {high / low:.0f} in compute"
    )
    rows = tuple(
        constant(f"{NAMES[name]} along the frontier", name, {KAPLAN: PAPER[name]}, value, why)
        for name, value in exponents.items()
        if name != "p_N"
    )
    said = ", ".join(f"{n} = {v[0]:.2f} [{v[1]:.2f}, {v[2]:.2f}]" for n, v in exponents.items())
    text = (
        f"With B = B_crit(L) and S_min = C_min/(6 N B): {said}. Kaplan et al. have 0.73, 0.24 and 0.03: "
        "nearly all "
        "growth goes into size, and training takes hardly more steps."
    )
    return StudySection(
        section=Section(title="How to spend more compute", text=text, evidence=(figure,)),
        constants=rows, fits={"exponents": exponents},
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
        near = slice(max(0, best - 2), best + 3)
        bend, slope, level = np.polyfit(x[near], y[near], 2)
        if bend <= 0:
            continue
        vertex = -slope / (2 * bend)
        least = level - slope**2 / (4 * bend)
        frame = {"N": np.exp(x), "ratio": np.exp(x - vertex), "excess": np.exp(y - least)}
        parts.append(pd.DataFrame(frame).assign(loss=float(part["loss"].iloc[0])))
    empty = pd.DataFrame(columns=["N", "ratio", "excess", "loss"])
    return pd.concat(parts, ignore_index=True) if parts else empty
