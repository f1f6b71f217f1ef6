"""Allocation: a request and a law's constants to N, D, C and loss, for all draws at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from allometry.core.errors import AllometryError
from allometry.core.units import PF_DAY, format_count, format_flops
from allometry.laws.estimate import Array
from allometry.laws.zoo import get
from allometry.planner.kaplan import Efficient
from allometry.planner.optimum import FLOPS_PER_PARAMETER_TOKEN, best_size, least_compute, tokens_for
from allometry.planner.source import Source


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked: a budget in FLOPs or a target loss, and what is fixed. `ratio` is D/N.

    N and D may both be fixed where the budget is what they cost. Raises AllometryError where more than one of
    N, D and D/N is fixed otherwise.
    """

    budget: float | None
    loss: float | None
    N: float | None = None
    D: float | None = None
    ratio: float | None = None
    unique: float | None = None

    def __post_init__(self) -> None:
        fixed = {"N": self.N, "D": self.D, "D/N": self.ratio}
        given = [name for name, value in fixed.items() if value is not None]
        if len(given) > 1 and not self._whole_run:
            raise AllometryError(
                f"{' and '.join(given)} cannot all be fixed: the budget or the target decides the rest",
                hint="fix one of them; or give N and D alone, for the loss of that run",
                cli_hint="give one of -N, -D and --ratio; or -N and -D without a budget, for the loss of that run",
            )
        for name, value in {**fixed, "unique": self.unique}.items():
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


def _efficient(request: Request, params: Mapping[str, Array]) -> Allocation:
    """Return Kaplan's compute-efficient allocation with his B_crit(L); C is C_min."""
    if (
        request.N is not None
        or request.D is not None
        or request.ratio is not None
        or request.unique is not None
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
