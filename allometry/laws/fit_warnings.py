"""Named warnings about a fit: what each means, and what is identified nevertheless."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from allometry.laws.identifiability import conditioning
from allometry.laws.problem import Problem
from allometry.laws.result import FitWarning
from allometry.units import format_count

Array = NDArray[np.float64]

_INSIDE = "the law in the range of the data"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A fit as the checks see it: estimates `z` (p,), resamples of them, and what the search found.

    The checks add to `warnings`, and to `doubts` what makes the whole fit doubtful.
    """

    problem: Problem
    z: Array
    z_samples: Array
    samples: Mapping[str, Array]
    starts: int
    agreeing: int
    noise: float | None
    warnings: list[FitWarning] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def warn(self, name: str, meaning: str, identified: str) -> None:
        """Add a warning."""
        self.warnings.append(FitWarning(name=name, meaning=meaning, identified=identified))

    def one_side(self, name: str, side: str) -> str:
        """What the resamples say about a parameter that is open to one side ("upper" or "lower")."""
        if side == "upper":
            return f"that {name} is at least {np.quantile(self.samples[name], 0.05):.3g} (95 %)"
        return f"that {name} is at most {np.quantile(self.samples[name], 0.95):.3g} (95 %)"


def examine(evidence: Evidence) -> None:
    """Run every check."""
    if evidence.agreeing < 2:
        evidence.doubts.append(f"only one of {evidence.starts} starts reached the lowest objective")
    for check in (_size, _levels, _floors, _bounds, _spread, _conditioning, _outliers, _lack_of_fit):
        check(evidence)


def _size(e: Evidence) -> None:
    n, p = len(e.problem.output), len(e.problem.free)
    if n == p:
        meaning = f"{n} points for {p} parameters: the law passes through every point, which is no test of it"
        e.warn("no-spare-points", meaning, "nothing can be said about the uncertainty")
        e.doubts.append("as many parameters as points")
    elif n - p < 5:
        meaning = (
            f"{n} points for {p} parameters leave {n - p} to judge the law by: intervals are wide and rough"
        )
        e.warn("few-points", meaning, _INSIDE)


def _levels(e: Evidence) -> None:
    for name, x in zip(e.problem.inputs, e.problem.offsets, strict=True):
        if name in e.problem.law.linear:
            continue
        levels = len(np.unique(np.round(x, 9)))
        span = float(np.exp(x.max() - x.min()))
        if levels <= 3:
            values = "1 value" if levels == 1 else f"{levels} values"
            meaning = f"{name} takes {values} only, too few to see the shape of its term"
            e.warn(
                "few-levels", meaning, f"how {e.problem.law.output} differs between these values of {name}"
            )
        elif span < 10 and name != "L":
            low, high = (format_count(e.problem.centre[name] * np.exp(v)) for v in (x.min(), x.max()))
            meaning = (
                f"{name} spans a factor of {span:.3g} only: an exponent read off it is a guess far outside"
            )
            e.warn("narrow-range", meaning, f"the law for {name} from {low} to {high}")


def _floors(e: Evidence) -> None:
    """A floor at zero, or one that reaches zero in some resamples."""
    tiny = 1e-3 * float(np.median(e.problem.output))
    for i, name in enumerate(e.problem.free):
        if not e.problem.law.parameter(name).floor:
            continue
        share = float(np.mean(e.samples[name] <= tiny)) if len(e.samples[name]) else 0.0
        known = e.one_side(name, "lower") if share else _INSIDE
        if e.z[i] <= tiny:
            e.doubts.append(f"{name} = 0: the floor is not identified")
            meaning = f"{name} went to 0: no floor is visible, and the exponents are those without one"
            e.warn("floor-at-zero", meaning, known)
        elif share > 0.025:
            meaning = (
                f"{name} is 0 in {100 * share:.0f} % of the resamples: a law without a floor is not excluded"
            )
            e.warn("floor-not-identified", meaning, known)


def _bounds(e: Evidence) -> None:
    """Parameters at an end of the range that is searched, in the estimate or in some resamples."""
    box = e.problem.box
    for i, name in enumerate(e.problem.free):
        near = 1e-6 * (box.high[i] - box.low[i])
        ends = {"lower": (1, box.low[i]), "upper": (-1, box.high[i])}
        if e.problem.law.parameter(name).floor:
            del ends["lower"]
        for side, (sign, end) in ends.items():
            share = float(np.mean(sign * (e.z_samples[:, i] - end) <= near)) if len(e.z_samples) else 0.0
            if sign * (e.z[i] - end) <= near:
                e.doubts.append(f"{name} is at the {side} end of its range")
                meaning = (
                    f"{name} ran to the {side} end of its range: the data ask for a limit, not for a value"
                )
                e.warn("bound-hit", meaning, _INSIDE)
            elif share > 0.025:
                meaning = (
                    f"{name} runs to the {side} end of its range in {100 * share:.0f} % of the resamples"
                )
                e.warn("bound-hit-in-resamples", meaning, e.one_side(name, side))


def _spread(e: Evidence) -> None:
    """Positive parameters that are known to no better than a factor of ten to one side."""
    estimate = e.problem.natural(e.z)
    for name in e.problem.free:
        p, values = e.problem.law.parameter(name), e.samples[name]
        if not p.logarithmic or not len(values):
            continue
        low, high = (float(v) for v in np.quantile(values, [0.025, 0.975]))
        above, below = high / float(estimate[name]), float(estimate[name]) / max(low, 1e-300)
        if max(above, below) <= 10:
            continue
        known = f"(95 %: {low:.3g} to {high:.3g})"
        if p.anchor:
            meaning = f"{name} is a value far outside the data {known}; do not compare it between tables"
            e.warn("scale-not-identified", meaning, f"the size of {name}'s term within the range of the data")
            continue
        side, where = ("upper", "above") if above > below else ("lower", "below")
        meaning = f"the objective is flat in {name}: not identified from {where} {known}"
        e.warn("flat-profile", meaning, e.one_side(name, side))
        e.doubts.append(f"{name} is not identified from {where}")


def _conditioning(e: Evidence) -> None:
    state = conditioning(e.problem, e.z, dict(e.samples))
    if state.condition > 1e5:
        e.doubts.append(
            f"the parameters are not separately determined (condition number {state.condition:.0e})"
        )
    if state.condition > 1e3:
        meaning = (
            f"condition number {state.condition:.2g}: a combination of the parameters is hardly determined"
        )
        e.warn("ill-conditioned", meaning, "predictions near the data")
    strong = [f"{a} and {b} ({r:+.3f})" for a, b, r in state.correlations if abs(r) > 0.95]
    if strong:
        meaning = f"{', '.join(strong[:3])} trade off: their separate intervals overstate what is unknown"
        e.warn("correlation", meaning, "predictions, and the terms' sizes at the centre of the data")


def _outliers(e: Evidence) -> None:
    size = np.abs(e.problem.residuals(e.z[None])[0][0])
    spread = 1.4826 * float(np.median(size))
    far = int(np.sum(size > 6 * spread)) if spread > 1e-12 else 0
    if 0 < far <= 0.1 * len(size):
        points = "1 point lies" if far == 1 else f"{far} points lie"
        meaning = f"{points} more than 6 robust standard deviations off the law (see the farthest rows)"
        e.warn("outliers", meaning, "exclude= leaves rows out, with a reason; the Huber objectives bear them")


def _lack_of_fit(e: Evidence) -> None:
    residuals = e.problem.residuals(e.z[None])[0][0]
    rms = float(np.sqrt(np.average(residuals**2, weights=e.problem.weights)))
    if e.noise is not None and rms > 2 * e.noise and len(residuals) > len(e.z):
        ratio = f"{rms / e.noise:.1f} times the noise between repeats ({e.noise:.2g})"
        e.warn("lack-of-fit", f"residuals ({rms:.2g}) are {ratio}: the law's form does not fit", _INSIDE)


def about_scale(output: Array, name: str, column: str) -> list[FitWarning]:
    """A loss that is hardly in nats per token: bits, or a perplexity."""
    lower, median = column.lower(), float(np.median(output))
    if name != "L":
        return []
    if any(word in lower for word in ("bit", "bpb", "bpc", "bpt")):
        what, remedy = f"column {column!r} is named like bits", f"columns={{'L': '`{column}`*log(2)'}}"
    elif "ppl" in lower or "perplex" in lower or median > 12:
        what = (
            f"column {column!r} (median {median:.3g}) exceeds any loss in nats per token, like a perplexity"
        )
        remedy = f"columns={{'L': 'log(`{column}`)'}}"
    else:
        return []
    meaning = f"{what}; floors and published constants are in nats per token. To convert: {remedy}"
    return [FitWarning(name="loss-scale", meaning=meaning, identified="exponents, if it is in bits")]
