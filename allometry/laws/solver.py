"""What a fit minimises, and how: all starts, or all bootstrap resamples, advance together.

Every objective is a Huber loss H_t(r) = r^2/2 for |r| < t, t(|r| - t/2) beyond, summed over the points, of the
residual r = g(prediction) - g(measured), with g the logarithm or the identity: t infinite gives least squares,
t near zero least absolute deviation.

Each member of the batch makes Gauss-Newton steps of its own, damped as Levenberg and Marquardt do; the damping
matrix is that of iteratively reweighted least squares, so that a heavily damped step is the safe
majorise-minimise step and a lightly damped one is Newton's on the points within the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from allometry.core.errors import AllometryError, unknown

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One objective. `above` weighs points whose measured value lies above the law (1 = symmetric).

    `free_scale` means that the threshold is `threshold` times a scale that is estimated along with the
    parameters by maximum likelihood (a Huber density), so that nearly all residuals count by their absolute
    value.
    """

    name: str
    meaning: str
    log: bool = True
    threshold: float = math.inf
    free_scale: bool = False
    absolute: bool = False
    above: float = 1.0

    def loss(self, residual: Array, threshold: float | Array) -> Array:
        """Return the loss of each residual (prediction minus measured), same shape."""
        size = np.abs(residual)
        with np.errstate(invalid="ignore", over="ignore"):
            value = np.where(size < threshold, 0.5 * residual**2, threshold * (size - 0.5 * threshold))
        return value if self.above == 1.0 else value * self.side(residual)

    def reported(self, value: float) -> float:
        """Return a minimised value as it is reported: the absolute deviation as a sum of residuals."""
        return value / self.threshold if self.absolute else value

    def side(self, residual: Array) -> Array:
        """Return the weight of each point by the side of the law it lies on."""
        return np.where(residual < 0, self.above, 1.0)

    def absorbed(self, spread: float) -> float:
        """Return how much of the residuals' sum of squares, in units of their variance, each fitted parameter
        takes away.

        For normal noise of standard deviation `spread` and a Huber threshold t the sum of squares expects
        n - p (2 - v), where v is the asymptotic variance of the estimate over that of least squares (Huber
        1964): 1 parameter's worth for least squares (v = 1), 0.43 for absolute deviations (v = pi/2), which
        leave larger residuals behind.
        """
        if self.above != 1.0 or spread <= 0:
            return 1.0
        k = self.threshold if self.free_scale else self.threshold / spread
        if not k < 40:
            return 1.0
        normal = NormalDist()
        inside = 2 * normal.cdf(k) - 1
        square = 2 * (k**2 * (1 - normal.cdf(k)) + normal.cdf(k) - 0.5 - k * normal.pdf(k))
        return 2 - square / inside**2 if inside > 1e-6 else 2 - math.pi / 2

    def transform(self, value: Array) -> Array:
        """Map values to the scale that residuals are taken on (g)."""
        return np.log(value) if self.log else value


OBJECTIVES: dict[str, Objective] = {
    o.name: o
    for o in (
        Objective(
            name="huber-log",
            meaning="sum of Huber losses (delta = 1e-3) of the log residuals: Hoffmann et al. 2022",
            threshold=1e-3,
        ),
        Objective(
            name="huber-log-scale",
            meaning="Huber likelihood of the log residuals with a free scale (delta = 1e-3 of it): "
            "Besiroglu et al. 2024",
            threshold=1e-3,
            free_scale=True,
        ),
        Objective(
            name="huber-linear",
            meaning="sum of Huber losses (delta = 1e-3) of the residuals themselves",
            log=False,
            threshold=1e-3,
        ),
        Objective(name="lad-log", meaning="sum of the absolute log residuals", threshold=1e-9, absolute=True),
        Objective(
            name="lad", meaning="sum of the absolute residuals", log=False, threshold=1e-9, absolute=True
        ),
        Objective(name="lsq-log", meaning="half the sum of the squared log residuals"),
        Objective(name="lsq", meaning="half the sum of the squared residuals", log=False),
        Objective(
            name="lower-envelope",
            meaning="asymmetric Huber (delta = 1e-3) of the log residuals: points above the law weigh 1/9 of "
            "those below, so that about 10 % of the points lie below it",
            threshold=1e-3,
            above=1 / 9,
        ),
    )
}
"""Name -> objective."""


def get_objective(name: str) -> Objective:
    """Return the objective of that name; "huber-log@0.01" has another threshold delta than the named one.

    Raises AllometryError for unknown names (with the nearest), thresholds that are not positive, and thresholds for an
    objective without one.
    """
    plain, at, delta = name.partition("@")
    if plain not in OBJECTIVES:
        raise unknown("objective", plain, OBJECTIVES)
    chosen = OBJECTIVES[plain]
    if not at:
        return chosen
    if chosen.absolute or math.isinf(chosen.threshold):
        able = ", ".join(o.name for o in OBJECTIVES.values() if not o.absolute and math.isfinite(o.threshold))
        raise AllometryError(
            f"the objective {plain!r} has no delta", hint=f"leave it out, or take one of {able}"
        )
    try:
        threshold = float(delta)
    except ValueError:
        threshold = math.nan
    if not (0 < threshold < math.inf):
        raise AllometryError(
            f"delta must be a positive number, not {delta!r}",
            hint=f"objective='{plain}@0.01'",
            cli_hint="--delta 0.01",
        )
    meaning = chosen.meaning.replace("delta = 1e-3", f"delta = {threshold:g}")
    return replace(chosen, name=f"{plain}@{threshold!r}", threshold=threshold, meaning=meaning)


Residuals = Callable[[Array], tuple[Array, Array]]
"""Coordinates (K, p) -> residuals (K, n) and their derivatives (K, p, n)."""

_CHUNK = 16384
"""Residuals of the members that advance together: their arrays should stay in the second-level cache."""


@dataclass(frozen=True)
class Minimum:
    """Where each member of a batch ended: coordinates (K, p), objective (K,), whether it converged,
    iterations.
    """

    z: Array
    objective: Array
    converged: NDArray[np.bool_]
    iterations: NDArray[np.int_]


@dataclass(frozen=True)
class Box:
    """Bounds of the coordinates, and the longest step to take along each: all of shape (p,)."""

    low: Array
    high: Array
    reach: Array


def minimise(
    residuals: Residuals,
    start: Array,
    weights: Array,
    objective: Objective,
    box: Box,
    *,
    shift: Array | None = None,
    max_iterations: int = 200,
    tolerance: float = 1e-12,
) -> Minimum:
    """Minimise the weighted objective from each row of `start` (K, p), with `weights` of shape (n,) or (K,
    n).

    `shift` (K, n) is added to the residuals of each member: data that differ from member to member.

    `tolerance` is the relative decrease that the next step promises when a member counts as converged. A
    start at which the law is not finite ends at once, not converged, with an infinite objective.
    """
    size = together(weights.shape[-1])
    parts = []
    for i in range(0, len(start), size):
        part = slice(i, i + size)
        moved = np.zeros((1, 1)) if shift is None else shift[part]
        own = weights if weights.ndim == 1 else weights[part]
        parts.append(_reach(residuals, start[part], moved, own, objective, box, max_iterations, tolerance))
    return Minimum(
        z=np.concatenate([m.z for m in parts]),
        objective=np.concatenate([m.objective for m in parts]),
        converged=np.concatenate([m.converged for m in parts]),
        iterations=np.concatenate([m.iterations for m in parts]),
    )


def together(points: int) -> int:
    """Return how many members of a batch advance together, for tables of so many points. The last bits of a
    member may depend on the others that it advances with.
    """
    return max(_CHUNK // points, 1)


def _reach(
    residuals: Residuals,
    start: Array,
    shift: Array,
    weights: Array,
    objective: Objective,
    box: Box,
    max_iterations: int,
    tolerance: float,
) -> Minimum:
    if np.isinf(objective.threshold):
        return _descend(residuals, start, shift, weights, objective, box, np.inf, max_iterations, tolerance)
    target = objective.threshold
    result: Minimum | None = None
    z = start
    for threshold in _continuation(target):
        result = _descend(residuals, z, shift, weights, objective, box, threshold, max_iterations, tolerance)
        z = result.z
    if not objective.free_scale:
        assert result is not None
        return result
    return _free_scale(residuals, z, shift, weights, objective, box, max_iterations, tolerance)


def _continuation(target: float) -> list[float]:
    """Return the thresholds to pass through: absolute deviation is reached through ever sharper Huber losses."""
    steps = [t for t in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8) if t > target * 1.5]
    return [*steps, target]


def _free_scale(
    residuals: Residuals,
    z: Array,
    shift: Array,
    weights: Array,
    objective: Objective,
    box: Box,
    max_iterations: int,
    tolerance: float,
) -> Minimum:
    """Alternate between the parameters at a given scale and the scale's own maximum-likelihood value."""
    r = residuals(z)[0] + shift
    w = np.broadcast_to(weights, r.shape)
    scale = huber_scale(r, w, objective.threshold)
    for _ in range(3):
        threshold = objective.threshold * scale[:, None]
        result = _descend(residuals, z, shift, weights, objective, box, threshold, max_iterations, tolerance)
        z = result.z
        r = residuals(z)[0] + shift
        scale = huber_scale(r, w, objective.threshold)
    size = r / scale[:, None]
    likelihood = (w * (objective.loss(size, objective.threshold) + np.log(scale)[:, None])).sum(axis=1)
    return Minimum(z=z, objective=likelihood, converged=result.converged, iterations=result.iterations)


def huber_scale(residual: Array, weights: Array, delta: float) -> Array:
    """Return the scale s (K,) that maximises prod_i (1/s) exp(-H_delta(r_i/s)): the root of sum w psi(r/s)
    r/s = sum w.
    """
    total = weights.sum(axis=1)
    scale = np.sqrt((weights * residual**2).sum(axis=1) / total)
    for _ in range(200):
        u = residual / np.maximum(scale, 1e-300)[:, None]
        ratio = (weights * np.clip(u, -delta, delta) * u).sum(axis=1) / total
        scale = scale * ratio
        if np.all(np.abs(ratio - 1) < 1e-12):
            break
    return np.maximum(scale, 1e-300)


def _descend(
    residuals: Residuals,
    start: Array,
    shift: Array,
    weights: Array,
    objective: Objective,
    box: Box,
    threshold: float | Array,
    max_iterations: int,
    tolerance: float,
) -> Minimum:
    z = np.clip(start, box.low, box.high)
    members = len(z)
    w = np.broadcast_to(weights, (members, weights.shape[-1]))
    t = np.broadcast_to(np.asarray(threshold, dtype=float), (members, 1))
    shift = np.broadcast_to(shift, (members, weights.shape[-1]))
    r, jacobian = residuals(z)
    r = r + shift
    value = _value(objective, r, jacobian, w, t)
    damping = np.ones(members)
    converged = np.zeros(members, dtype=bool)
    iterations = np.zeros(members, dtype=int)
    active = np.flatnonzero(np.isfinite(value))
    for _ in range(max_iterations):
        if not len(active):
            break
        step, promise = _step(
            objective, z[active], r[active], jacobian[active], w[active], t[active], damping[active], box
        )
        done = promise <= tolerance * np.maximum(value[active], 1e-300)
        trial = np.clip(z[active] + step, box.low, box.high)
        r_new, jacobian_new = residuals(trial)
        r_new = r_new + shift[active]
        value_new = _value(objective, r_new, jacobian_new, w[active], t[active])
        better = value_new < value[active]
        moved = active[better]
        z[moved], r[moved], jacobian[moved], value[moved] = (
            trial[better],
            r_new[better],
            jacobian_new[better],
            value_new[better],
        )
        damping[active] = np.clip(np.where(better, damping[active] / 5, damping[active] * 5), 1e-10, 1e12)
        iterations[active] += 1
        done |= damping[active] >= 1e12
        converged[active[done]] = True
        active = active[~done]
    return Minimum(z=z, objective=value, converged=converged, iterations=iterations)


def _value(objective: Objective, r: Array, jacobian: Array, w: Array, t: Array) -> Array:
    """Return the objective of each member; infinite where the law or its gradient is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.einsum("kn,kn->k", w, objective.loss(r, t))
        usable = np.isfinite(total) & np.isfinite(jacobian.sum(axis=(1, 2)))
    return np.where(usable, total, np.inf)


def _step(
    objective: Objective, z: Array, r: Array, jacobian: Array, w: Array, t: Array, damping: Array, box: Box
) -> tuple[Array, Array]:
    """Return the damped step (K, p) of each member, and half the decrease that the quadratic model promises
    for it.
    """
    side = w if objective.above == 1.0 else w * objective.side(r)
    size = np.abs(r)
    with np.errstate(divide="ignore", invalid="ignore"):
        reweighted = side * np.where(size <= t, 1.0, t / size)
    inside = np.where(size <= t, side, 0.0)
    gradient = np.matmul(jacobian, (reweighted * r)[:, :, None])[:, :, 0]
    safe = np.matmul(jacobian * reweighted[:, None], jacobian.transpose(0, 2, 1))
    newton = (
        safe if np.all(np.isinf(t)) else np.matmul(jacobian * inside[:, None], jacobian.transpose(0, 2, 1))
    )
    matrix = newton + damping[:, None, None] * safe
    scale = 1 / np.sqrt(np.maximum(np.einsum("kpp->kp", safe), 1e-30))
    stuck = ((z <= box.low) & (gradient > 0)) | ((z >= box.high) & (gradient < 0))
    free = np.where(stuck, 0.0, scale)
    matrix = matrix * free[:, :, None] * free[:, None]
    diagonal = np.einsum("kpp->kp", matrix)
    diagonal += 1e-10 * damping[:, None] + np.where(stuck, 1.0, 0.0)
    values, vectors = np.linalg.eigh(matrix)
    values = np.maximum(values, 1e-12 * values[:, -1:])
    along = np.einsum("kpq,kp->kq", vectors, gradient * free)
    step = -np.einsum("kpq,kq->kp", vectors, along / values) * free
    longest = (np.abs(step) / box.reach).max(axis=1, keepdims=True, initial=0.0)
    step *= 1.0 / np.maximum(longest, 1.0)
    return step, 0.5 * (along**2 / values).sum(axis=1)
