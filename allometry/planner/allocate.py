"""Allocation: a request and a law to N, D, C and loss, for all draws of the constants at once, and what another size
than the best would cost.

The closed forms of compute-efficient training are those of Kaplan et al. 2020, appendix B: C in PF-days, S in
steps, B in tokens. There C, S and B are "adjusted": C is C_min, S is S_min and B is B_crit(L), so that
C = 6 N B S. Arguments may be arrays of one shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from allometry.core.errors import AllometryError
from allometry.core.units import PF_DAY, format_count, format_flops
from allometry.laws.uncertainty import Array
from allometry.laws.zoo import get
from allometry.planner.source import FLOPS_PER_PARAMETER_TOKEN, Source, best_size, least_compute, tokens_for

Number = float | Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Efficient:
    """Constants of L(N, S) = (N_c/N)^alpha_N + (S_c/S)^alpha_S (B.1) and B(L) = B_star/L^(1/alpha_B)
    (B.2).
    """

    alpha_N: Number
    alpha_S: Number
    N_c: Number
    S_c: Number
    alpha_B: Number
    B_star: Number

    @property
    def alpha_C(self) -> Array:
        """1/(1/alpha_S + 1/alpha_B + 1/alpha_N) (B.7); compute it, the text rounds it three ways."""
        return np.asarray(1 / (1 / self._a("S") + 1 / self._a("B") + 1 / self._a("N")))

    @property
    def C_c(self) -> Array:
        """Scale of L(C) = (C_c/C)^alpha_C in PF-days (B.8)."""
        n, s = self._a("N"), self._a("S")
        factor = (1 + n / s) ** (1 / s + 1 / n) * (s / n) ** (1 / s)
        return np.asarray(6 * np.asarray(self.N_c) * self.B_star * self.S_c * factor / PF_DAY)

    def loss(self, C: ArrayLike) -> Array:
        """Return the loss of the best allocation (B.6)."""
        return np.asarray((self.C_c / np.asarray(C, float)) ** self.alpha_C)

    def size(self, C: ArrayLike) -> Array:
        """Return the parameters N(C) (B.9)."""
        n, s = self._a("N"), self._a("S")
        share = (np.asarray(C, float) / self.C_c) ** (self.alpha_C / n)
        return np.asarray(np.asarray(self.N_c) * share * (1 + n / s) ** (1 / n))

    def steps(self, C: ArrayLike) -> Array:
        """Return the steps S(C) (B.10)."""
        n, s = self._a("N"), self._a("S")
        scale = self.C_c * PF_DAY / (6 * np.asarray(self.N_c) * self.B_star) * (1 + n / s) ** (-1 / n)
        return np.asarray(scale * (np.asarray(C, float) / self.C_c) ** (self.alpha_C / s))

    def batch(self, C: ArrayLike) -> Array:
        """Return the batch in tokens: the critical one at the loss reached (B.2)."""
        return np.asarray(np.asarray(self.B_star) / self.loss(C) ** (1 / self._a("B")))

    def compute_for(self, loss: ArrayLike) -> Array:
        """Return the PF-days of the best allocation that reaches a loss (B.6 solved for C)."""
        return np.asarray(self.C_c / np.asarray(loss, float) ** (1 / self.alpha_C))

    def compute_at(self, N: ArrayLike, loss: ArrayLike) -> Array:
        """Return the PF-days that a model of size N needs to reach a loss (B.15); infinite where it cannot."""
        size, target = np.asarray(N, float), np.asarray(loss, float)
        rest = target - (np.asarray(self.N_c) / size) ** self._a("N")
        scale = 6 * np.asarray(self.B_star) * self.S_c * size * target ** (-1 / self._a("B")) / PF_DAY
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(rest > 0, scale * rest ** (-1 / self._a("S")), np.inf))

    def _a(self, which: str) -> Array:
        return np.asarray(getattr(self, f"alpha_{which}"), float)


def excess_compute(ratio: ArrayLike, alpha_N: float = 0.077, alpha_S: float = 0.76) -> Array:
    """Compute against the best, to the same loss, of a model `ratio` = N/N_eff times the best size
    (B.16).
    """
    return np.asarray(np.asarray(ratio, float) * excess_steps(ratio, alpha_N, alpha_S))


def excess_steps(ratio: ArrayLike, alpha_N: float = 0.077, alpha_S: float = 0.76) -> Array:
    """Return steps relative to the best, to the same loss, at `ratio` = N/N_eff (B.17); infinite for sizes
    too small.
    """
    bracket = 1 + alpha_S / alpha_N * (1 - np.asarray(ratio, float) ** -alpha_N)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(bracket > 0, bracket ** (-1 / alpha_S), np.inf))


def convergence_trade(f: float, f_other: float, alpha_N: float, alpha_S: float) -> tuple[float, float, float]:
    """Return the ratios (N, S, C) at equal loss of stopping a share `f` above the converged loss against
    `f_other` (B.12-14).
    """
    size = ((1 + f) / (1 + f_other)) ** (1 / alpha_N)
    steps = ((1 + 1 / f) / (1 + 1 / f_other)) ** (1 / alpha_S)
    return size, steps, size * steps


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked: a budget in FLOPs or a target loss, and what is fixed. `ratio` is D/N.

    N and D may both be fixed where the budget is what they cost. With `inference`, the tokens that the model will read
    and write when it is used, a budget is that of training and use, 6ND + 2N times these tokens, and a target loss is
    reached at the least of it (Sardana et al. 2024, arXiv 2401.00448). Raises AllometryError where more than one of
    N, D and D/N is fixed otherwise.
    """

    budget: float | None
    loss: float | None
    N: float | None = None
    D: float | None = None
    ratio: float | None = None
    unique: float | None = None
    inference: float | None = None

    def __post_init__(self) -> None:
        fixed = {"N": self.N, "D": self.D, "D/N": self.ratio}
        given = [name for name, value in fixed.items() if value is not None]
        if len(given) > 1 and not self._whole_run:
            raise AllometryError(
                f"{' and '.join(given)} cannot all be fixed: the budget or the target decides the rest",
                hint="fix one of them; or give N and D alone, for the loss of that run",
                cli_hint="give one of -N, -D and --ratio; or -N and -D without a budget, for the loss of that run",
            )
        if self.inference is not None and given:
            raise AllometryError(
                f"{' and '.join(given)} cannot be fixed while tokens of inference choose the size",
                hint="leave out one of them",
            )
        for name, value in {**fixed, "unique": self.unique, "inference": self.inference}.items():
            if value is not None and not value > 0:
                raise AllometryError(f"{name} must be positive, not {value}", hint="write it like 10M or 20")

    @property
    def _whole_run(self) -> bool:
        """Whether N and D are given and the budget is their cost."""
        if self.N is None or self.D is None or self.ratio is not None or self.budget is None:
            return False
        return bool(np.isclose(self.budget, FLOPS_PER_PARAMETER_TOKEN * self.N * self.D, rtol=1e-3))

    @property
    def rule(self) -> str:
        """The request in words."""
        what = (
            f"{format_flops(self.budget)} FLOPs" if self.budget is not None else f"a loss of {self.loss:.4g}"
        )
        how = "compute-optimal"
        if self._whole_run:
            how = f"N fixed at {format_count(self.N or 0)} and D at {format_count(self.D or 0)}"
        elif self.N is not None:
            how = f"N fixed at {format_count(self.N)}"
        elif self.D is not None:
            how = f"D fixed at {format_count(self.D)}"
        elif self.ratio is not None:
            how = f"{self.ratio:.3g} tokens per parameter"
        if self.inference is not None:
            how = f"cheapest to train and to use for {format_count(self.inference)} tokens"
        limit = f", {format_count(self.unique)} unique tokens" if self.unique is not None else ""
        return f"{what}, {how}{limit}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Allocation:
    """N, D, C, loss (and the batch, where the law decides it), each (R,); NaN or infinite where
    impossible.
    """

    N: Array
    D: Array
    C: Array
    loss: Array
    batch: Array | None = None


def allocate(source: Source, request: Request, params: Mapping[str, Array]) -> Allocation:
    """Allocate what a request asks for, with each set of constants.

    Raises AllometryError where the first set cannot meet it.
    """
    if source.law.name == "kaplan-ns":
        return _efficient(request, params)
    count = len(next(iter(params.values())))
    if request.inference is not None:
        N, D = _with_use(source, request, params, count)
        C = FLOPS_PER_PARAMETER_TOKEN * N * D
        if len(N) == 1 and not np.isfinite(N[0]):
            raise AllometryError(*_impossible(source, request))
        return Allocation(N=N, D=D, C=C, loss=source.loss(params, N, D, request.unique))
    if request.budget is not None:
        N = _size(source, request, params, np.full(count, request.budget))
        C = np.full(count, request.budget)
    else:
        N, C = _for_target(source, request, params, count)
    D = C / (FLOPS_PER_PARAMETER_TOKEN * N)
    loss = source.loss(params, N, D, request.unique)
    if len(N) == 1 and not (np.isfinite(N[0]) and np.isfinite(C[0])):
        raise AllometryError(*_impossible(source, request))
    return Allocation(N=N, D=D, C=C, loss=loss)


def _size(source: Source, request: Request, params: Mapping[str, Array], C: Array) -> Array:
    if request.N is not None:
        return np.full(len(C), request.N)
    if request.D is not None:
        return np.asarray(C / (FLOPS_PER_PARAMETER_TOKEN * request.D))
    if request.ratio is not None:
        return np.asarray(np.sqrt(C / (FLOPS_PER_PARAMETER_TOKEN * request.ratio)))
    return best_size(source, params, C, request.unique)[0]


def _for_target(
    source: Source, request: Request, params: Mapping[str, Array], count: int
) -> tuple[Array, Array]:
    """Return (N, C) that reach the target loss: the least compute for it, under what is fixed."""
    target = request.loss
    assert target is not None
    if request.N is not None:
        N = np.full(count, request.N)
        return N, FLOPS_PER_PARAMETER_TOKEN * N * tokens_for(source, params, N, target, request.unique)
    if request.D is not None or request.ratio is not None:
        return _scaled(source, request, params, count)
    C = least_compute(source, params, target, request.unique)
    N, _ = best_size(source, params, np.where(np.isfinite(C), C, 1e20), request.unique)
    return np.where(np.isfinite(C), N, np.nan), C


def _scaled(source: Source, request: Request, params: Mapping[str, Array], count: int) -> tuple[Array, Array]:
    """Find (N, C) that reach the target loss by bisection in N with D fixed, or D = ratio · N."""
    low, high = np.zeros(count), np.full(count, np.log(1e20))

    def tokens(N: Array) -> Array:
        return np.full(count, request.D) if request.D is not None else (request.ratio or 1.0) * N

    target = request.loss or 0.0
    reachable = source.loss(params, np.exp(high), tokens(np.exp(high)), request.unique) <= target
    for _ in range(60):
        middle = np.exp((low + high) / 2)
        below = source.loss(params, middle, tokens(middle), request.unique) <= target
        high, low = np.where(below, np.log(middle), high), np.where(below, low, np.log(middle))
    N = np.where(reachable, np.exp(high), np.nan)
    return N, FLOPS_PER_PARAMETER_TOKEN * N * tokens(N)


FLOPS_PER_PARAMETER_USED = 2.0
"""A forward pass (Sardana et al. 2024, section 2)."""


def _with_use(
    source: Source, request: Request, params: Mapping[str, Array], count: int
) -> tuple[Array, Array]:
    """Return (N, D), each (R,), of least loss for a budget of training and use, or of least such budget for a loss.

    A search in log N that narrows five times; nan where the best size lies at the edge of what is possible.
    """
    used = FLOPS_PER_PARAMETER_USED * (request.inference or 0.0)

    def tokens(N: Array) -> Array:
        """Return D (R, n) of sizes (R, n)."""
        if request.budget is not None:
            return np.asarray((request.budget / N - used) / FLOPS_PER_PARAMETER_TOKEN)
        wide = {k: np.repeat(v, N.shape[1]) for k, v in params.items()}
        return tokens_for(source, wide, N.ravel(), request.loss or 0.0, request.unique).reshape(N.shape)

    def cost(N: Array) -> Array:
        D = tokens(N)
        if request.budget is None:
            return np.asarray(N * (FLOPS_PER_PARAMETER_TOKEN * D + used))
        return np.where(D > 0, source.loss(params, N, np.maximum(D, 1.0), request.unique), np.inf)

    low = np.full(count, np.log(1e3))
    high = np.full(count, np.log(1e16 if request.budget is None else max(request.budget / used, 2e3)))
    edge = np.zeros(count, dtype=bool)
    share = np.linspace(0, 1, 33)
    for step in range(5):
        log_n = low[:, None] + (high - low)[:, None] * share
        values = cost(np.exp(log_n))
        values = np.where(np.isfinite(values), values, np.inf)
        best = values.argmin(axis=1)
        if step == 0:
            edge = (best == 0) | (best == len(share) - 1) | ~np.isfinite(values.min(axis=1))
        width = (high - low) / (len(share) - 1)
        centre = log_n[np.arange(count), best]
        low, high = centre - width, centre + width
    N = np.where(edge, np.nan, np.exp(centre))
    return N, np.where(edge, np.nan, tokens(np.exp(centre)[:, None])[:, 0])


def _efficient(request: Request, params: Mapping[str, Array]) -> Allocation:
    """Return Kaplan's compute-efficient allocation with his B_crit(L); C is C_min."""
    if (
        request.N is not None
        or request.D is not None
        or request.ratio is not None
        or request.unique is not None
        or request.inference is not None
    ):
        raise AllometryError(
            "the law 'kaplan-ns' plans compute-efficient training only",
            hint="for fixed N, D or D/N, or repeated data, plan with 'chinchilla', 'kaplan' or a fit",
        )
    batch = get("b-crit").published["kaplan2020-table5"]
    efficient = Efficient(
        **{k: params[k] for k in ("alpha_N", "alpha_S", "N_c", "S_c")}, **dict(batch.values)
    )
    C = np.full(len(params["N_c"]), request.budget or 0.0) / PF_DAY
    if request.loss is not None:
        C = efficient.compute_for(request.loss)
    N, B = efficient.size(C), efficient.batch(C)
    return Allocation(N=N, D=B * efficient.steps(C), C=C * PF_DAY, loss=efficient.loss(C), batch=B)


def _impossible(source: Source, request: Request) -> tuple[str]:
    if request.loss is None:
        return (f"under {source.label} no size is best for this budget: the loss falls to the very edge",)
    floor = source.parameters.get("E")
    why = f"; its irreducible loss E is {float(floor[0]):.4g}" if floor is not None else ""
    return (f"{source.label} never reaches a loss of {request.loss:.4g} with what is fixed{why}",)


RATIOS = (0.25, 0.5, 0.7, 1.4, 2.0, 4.0)


def wrong_sizes(source: Source, best: Allocation, unique: float | None = None) -> pd.DataFrame:
    """Compare sizes at `RATIOS` times the planned one: columns ratio, N, loss_change, compute_ratio.

    `loss_change` is relative, at the same compute; `compute_ratio` is the compute for the same loss,
    infinite where a size never reaches it. For Kaplan's L(N, S) the closed form B.16 gives the latter,
    and the former is left out.
    """
    ratio = np.array(RATIOS)
    N, C, target = float(best.N[0]) * ratio, float(best.C[0]), float(best.loss[0])
    if source.law.name == "kaplan-ns":
        alphas = (float(source.parameters["alpha_N"][0]), float(source.parameters["alpha_S"][0]))
        compute, change = excess_compute(ratio, *alphas), np.full(len(ratio), np.nan)
    else:
        params = {k: np.repeat(v, len(ratio)) for k, v in source.parameters.items()}
        tokens = tokens_for(source, params, N, target, unique)
        compute = FLOPS_PER_PARAMETER_TOKEN * N * tokens / C
        change = source.loss(params, N, C / (FLOPS_PER_PARAMETER_TOKEN * N), unique) / target - 1
    return pd.DataFrame({"ratio": ratio, "N": N, "loss_change": change, "compute_ratio": compute})
