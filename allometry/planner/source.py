"""What a plan rests on: a fit, or constants that a paper printed, as one function of size and data, and the best
size for a budget under it, for every draw of the constants at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from allometry.core.errors import AllometryError, unknown
from allometry.core.units import counted
from allometry.laws.backtest import Backtest, held_out_square
from allometry.laws.fit import ABOVE
from allometry.laws.law import Law
from allometry.laws.result import FitResult
from allometry.laws.uncertainty import Array
from allometry.laws.zoo import all_laws, get
from allometry.runs.tables.columns import wrong_scale

R_D_STAR = 15.387756
"""Repeats of the data that are worth having (Muennighoff et al. 2023, arXiv 2305.16264, R_D*)."""

_SHAPES = ({"N", "D"}, {"N", "M"}, {"N", "D", "U"})


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A law with its constants: `parameters` are arrays of shape (1,), `draws` arrays of shape (R,), R
    may be 0.

    `ranges` holds the smallest and largest N, D and C of the data (of published constants as far as the
    paper says them), `scatter` the relative standard deviation of a run about the fit. `others` are the values of
    the law's inputs besides N, D and U.
    """

    law: Law
    label: str
    parameters: dict[str, Array]
    draws: dict[str, Array]
    ranges: dict[str, tuple[float, float]]
    notes: tuple[str, ...] = ()
    scatter: float | None = None
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of draws."""
        return len(next(iter(self.draws.values()), np.empty(0)))

    def loss(self, params: Mapping[str, Array], N: ArrayLike, D: ArrayLike, unique: float | None) -> Array:
        """Return the loss for parameters of shape (R,) at N and D of shape (R, …) or broadcastable; `unique`
        tokens or None.

        With fewer unique tokens than D the data repeat: the law's own account of that is used if it has
        one, else Muennighoff's effective data with the published R_D*.
        """
        N, D = np.asarray(N, float), np.asarray(D, float)
        inputs = {"N": N, "D": D}
        if "U" in self.law.inputs:
            inputs["U"] = np.minimum(D, np.inf if unique is None else unique)
        else:
            D = D if unique is None else effective_tokens(D, unique)
            inputs = {"N": N, "M": D / N} if "M" in self.law.inputs else {"N": N, "D": D}
        inputs |= {name: np.asarray(value, float) for name, value in self.others.items()}
        extra = max(np.ndim(N), np.ndim(D)) - 1
        shaped = {k: v.reshape(v.shape + (1,) * max(extra, 0)) for k, v in params.items()}
        return self.law.predict(shaped, **inputs)

    def beyond(self, name: str, value: float) -> float | None:
        """Return how many times N, D or C lies outside the data (1 inside); None where the data are not known."""
        if name not in self.ranges or not np.isfinite(value):
            return None
        low, high = self.ranges[name]
        return max(1.0, value / high, low / value)


def effective_tokens(D: ArrayLike, unique: float, R_D: float = R_D_STAR) -> Array:
    """Return how many fresh tokens D tokens drawn from `unique` ones are worth (Muennighoff et al. 2023, eq. 5)."""
    tokens = np.asarray(D, float)
    once = np.minimum(tokens, unique)
    repeats = np.maximum(tokens / unique - 1, 0)
    return np.asarray(once + unique * R_D * -np.expm1(-repeats / R_D))


def from_fit(result: FitResult, at: Mapping[str, float] | None = None) -> Source:
    """Use a fit as the source of a plan; `at` gives the law's inputs besides N, D and U.

    Raises AllometryError if the law has no N and D, the fit failed, or its limit lies above measured losses.
    """
    others = _others(result.law, at)
    above = next((reason for reason in result.reasons if ABOVE in reason), None)
    if above is not None:
        raise AllometryError(
            f"{above}: nothing can be planned with it",
            hint="take another law, or plan with several: allometry.plan(…, fit=allometry.backtest(runs))",
            cli_hint="take another --law, or several: --law mixture",
        )
    if result.status == "failed":
        raise AllometryError("a failed fit cannot be planned with", hint="; ".join(result.reasons) or None)
    data = result.data
    refuse_wrong_units(data, result.columns)
    tokens = data["D"] if "D" in data else data["M"] * data["N"] if "M" in data else None
    ranges = {"N": _range(data["N"])} if "N" in data else {}
    if tokens is not None:
        ranges |= {"D": _range(tokens), "C": _range(6 * data["N"] * tokens)}
    finite = result.samples[np.isfinite(result.samples).all(axis=1)]
    names = ", ".join(dict.fromkeys(w.name for w in result.warnings))
    notes = [f"the fit warns of: {names} (read its report)"] if names else []
    return Source(
        law=result.law,
        label=f"{result.law.title}, fitted to {counted(len(result.residuals), 'run')}",
        parameters={k: np.array([v]) for k, v in result.parameters.items()},
        draws={name: finite[name].to_numpy(float) for name in result.law.parameter_names},
        ranges=ranges,
        notes=tuple(notes),
        scatter=result.rms,
        others=others,
    )


def refuse_wrong_units(data: pd.DataFrame, columns: Mapping[str, str]) -> None:
    """Raise AllometryError where sizes N or tokens D (columns of `data`) are no counts but millions or
    billions; `columns` says what they were read from.

    A fit does not mind; compute, C = 6ND in FLOPs, does.
    """
    for name in ("N", "D"):
        found = wrong_scale(name, data[name]) if name in data else None
        if found is not None:
            what, scale = found
            column = columns.get(name, name)
            plain = re.fullmatch(r"[^\W\d]\w*", column)
            counts = f"{column if plain else f'`{column}`'}*{scale or 'FACTOR'}"
            raise AllometryError(
                f"{what}? No compute follows from it",
                hint=f"fit(…, columns={{{name!r}: {counts!r}}}) makes counts of it",
                cli_hint=f"--let '{name}={counts}' makes counts of it",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture(Source):
    """Several laws, weighted by a back-test. A "draw" is -1 for the weighted geometric mean of the fitted laws, else
    the number of one law's resample (`chosen`: law, `row`: resample) times a factor for what held-out runs were off by.
    """

    sources: tuple[Source, ...]
    weights: Array
    chosen: NDArray[np.int_]
    row: NDArray[np.int_]
    factor: Array

    def loss(self, params: Mapping[str, Array], N: ArrayLike, D: ArrayLike, unique: float | None) -> Array:
        """Return the loss of the draws (R,) at N and D of shape (R, …): see `Source.loss`."""
        draw = params["draw"].astype(int)
        shape = np.broadcast_shapes(np.shape(N), np.shape(D))
        shape = (len(draw), *shape[1:])
        size, tokens = (np.broadcast_to(np.asarray(x, float), shape) for x in (N, D))
        out = np.empty(shape)
        mean = np.flatnonzero(draw < 0)
        if len(mean):
            logs = [
                np.log(s.loss(_repeated(s.parameters, len(mean)), size[mean], tokens[mean], unique))
                for s in self.sources
            ]
            out[mean] = np.exp(np.tensordot(self.weights, logs, 1))
        for i, source in enumerate(self.sources):
            at = np.flatnonzero((draw >= 0) & (self.chosen[draw] == i))
            if len(at):
                own = {k: v[self.row[draw[at]]] for k, v in source.draws.items()}
                factor = self.factor[draw[at]].reshape(-1, *(1,) * (len(shape) - 1))
                out[at] = source.loss(own, size[at], tokens[at], unique) * factor
        return out


def _repeated(params: Mapping[str, Array], count: int) -> dict[str, Array]:
    return {name: np.repeat(value, count) for name, value in params.items()}


_DRAWS = 400
"""Draws of a mixture."""


def from_backtest(tested: Backtest, seed: int = 0) -> Mixture:
    """Use the laws of a back-test, by their weights, as the source of a plan.

    Raises AllometryError where the laws are not laws of N and D, or no law of weight has resamples.
    """
    pairs = zip(tested.scores["law"], tested.scores["weight"].astype(float), strict=True)
    weights = {str(name): float(weight) for name, weight in pairs if weight > 1e-4}
    usable = {
        n: w for n, w in weights.items() if not any(ABOVE in reason for reason in tested.fits[n].reasons)
    }
    if not usable:
        raise AllometryError(
            "every law of the back-test has its limit above measured losses: nothing can be planned with them",
            hint="look at the rows that `fit` names",
        )
    sources = tuple(from_fit(tested.fits[name]) for name in usable)
    share = np.array(list(usable.values()))
    share = share / share.sum()
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(sources), size=_DRAWS, p=share)
    counts = np.array([s.count for s in sources])
    row = (rng.random(_DRAWS) * np.maximum(counts[chosen], 1)).astype(int)
    off = np.sqrt(held_out_square(tested.predictions, dict(zip(usable, share, strict=True))))
    drawn = bool((counts > 0).all())
    first = sources[0]
    shown = ", ".join(f"{name} {w:.2f}" for name, w in zip(usable, share, strict=True))
    notes = tuple(f"{name}: {note}" for name, s in zip(usable, sources, strict=True) for note in s.notes)
    return Mixture(
        law=replace(first.law, name="mixture", title="Laws weighted by a back-test"),
        label=f"{counted(len(sources), 'law')}, weighted by a back-test ({shown})",
        parameters={"draw": np.array([-1.0])}, draws={"draw": np.arange(_DRAWS if drawn else 0, dtype=float)},
        ranges=first.ranges, notes=notes,
        scatter=max(s.scatter or 0.0 for s in sources), sources=sources, weights=share, chosen=chosen, row=row,
        factor=np.exp(off * rng.standard_normal(_DRAWS)),
    )  # fmt: skip


def from_published(law: str, name: str | None = None, at: Mapping[str, float] | None = None) -> Source:
    """Use printed constants as the source of a plan: the set `name` of a law, or its first one. No intervals.

    `at` gives the law's inputs besides N, D and U.

    Raises AllometryError for a law without N and D, or without published constants.
    """
    chosen = get(law)
    others = _others(chosen, at)
    if not chosen.published:
        able = [n for n, entry in all_laws().items() if entry.published and _plannable(entry)]
        raise AllometryError(
            f"no paper's constants are kept for the law {law!r}",
            hint=f"fit it to runs, or use {', '.join(able)}",
        )
    if name is not None and name not in chosen.published:
        raise unknown(f"set of constants of the law {law!r}", name, chosen.published)
    constants = chosen.published[name or next(iter(chosen.published))]
    units = ", ".join(f"{k} in {v}" for k, v in constants.units.items())
    notes = [f"constants as printed, without uncertainty: {constants.source}", f"units: {units}"]
    if constants.note:
        notes.append(constants.note)
    if law == "kaplan":
        notes.append(
            "eq. 1.5 describes early-stopped training on limited data; the paper's own compute-efficient"
            " allocation (App. B, N ∝ C^0.73) is the law 'kaplan-ns'"
        )
    if law == "kaplan-ns":
        notes.append("C, S and B are adjusted as in App. B: C = 6 N B S at B = B_crit(L)")
    return Source(
        law=chosen,
        label=f"{chosen.title}, constants {constants.name}",
        parameters={k: np.array([float(v)]) for k, v in constants.values.items()},
        draws={},
        ranges=dict(constants.ranges),
        notes=tuple(notes),
        others=others,
    )


def _plannable(law: Law) -> bool:
    own = set(law.inputs) & {"N", "D", "M", "U"}
    return (own in _SHAPES and law.output == "L") or law.name == "kaplan-ns"


def _others(law: Law, at: Mapping[str, float] | None) -> dict[str, float]:
    """Return the values of a law's inputs besides N, D and U. Raises AllometryError for laws without N and D, and for
    inputs that are missing, unknown or not positive.
    """
    if not _plannable(law):
        able = [n for n, entry in all_laws().items() if _plannable(entry)]
        raise AllometryError(
            f"the law {law.name!r} gives no loss from N and D, so nothing can be allocated with it",
            hint=f"plan with one of {', '.join(able)}",
        )
    given = {name: float(value) for name, value in (at or {}).items()}
    wanted = [] if law.name == "kaplan-ns" else [n for n in law.inputs if n not in ("N", "D", "M", "U")]
    for name, value in given.items():
        if name not in wanted:
            what = f"its other inputs are {', '.join(wanted)}" if wanted else "it has only N and D"
            raise AllometryError(f"{name} is no input to hold for the law {law.name!r}", hint=what)
        if name not in law.linear and not value > 0:
            raise AllometryError(f"{name} = {value:g}: it must be positive", hint=f"{name}=8")
    missing = [name for name in wanted if name not in given]
    if missing:
        raise AllometryError(
            f"the law {law.name!r} needs {' and '.join(missing)} too",
            hint=f"at={{{', '.join(f'{n!r}: …' for n in missing)}}}",
            cli_hint=f"--at {','.join(f'{n}=…' for n in missing)}",
        )
    return given


def _range(values: pd.Series) -> tuple[float, float]:
    return float(values.min()), float(values.max())


FLOPS_PER_PARAMETER_TOKEN = 6.0
"""C = 6ND (Kaplan et al. 2020, section 2.1)."""


def chinchilla_optimum(C: ArrayLike, A: float, B: float, alpha: float, beta: float) -> tuple[Array, Array]:
    """Return N_opt = G (C/6)^a and D_opt = (C/6)^b / G, a = beta/(alpha+beta), b = alpha/(alpha+beta).

    C in FLOPs. G = (alpha A/(beta B))^(1/(alpha+beta)) (Hoffmann et al. 2022, eq. 4).
    """
    scale = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    half = np.asarray(C, float) / FLOPS_PER_PARAMETER_TOKEN
    return scale * half ** (beta / (alpha + beta)), half ** (alpha / (alpha + beta)) / scale


def best_size(
    source: Source, params: Mapping[str, Array], C: ArrayLike, unique: float | None = None
) -> tuple[Array, Array]:
    """Find (N, loss), each (R,), of least loss at 6ND = C: a search in log N that narrows five times.

    `params` are arrays of shape (R,), C is a number or of shape (R,). Laws of the kind that the zoo
    holds have one minimum in log N. Draws without a minimum between 1 parameter and C/6 give NaN.
    """
    count = len(next(iter(params.values())))
    half = np.log(np.broadcast_to(np.asarray(C, float), (count,)) / FLOPS_PER_PARAMETER_TOKEN)
    low, high = np.zeros(count), np.maximum(half, 1e-3)
    edge = np.zeros(count, dtype=bool)
    share = np.linspace(0, 1, 49)
    for step in range(5):
        log_n = low[:, None] + (high - low)[:, None] * share
        losses = source.loss(params, np.exp(log_n), np.exp(half[:, None] - log_n), unique)
        losses = np.where(np.isfinite(losses), losses, np.inf)
        best = losses.argmin(1)
        if step == 0:
            edge = (best == 0) | (best == len(share) - 1) | ~np.isfinite(losses.min(1))
        width = (high - low) / (len(share) - 1)
        center = log_n[np.arange(count), best]
        low, high = np.maximum(center - width, 0), np.minimum(center + width, half)
    return np.where(edge, np.nan, np.exp(center)), np.where(edge, np.nan, losses.min(1))


def least_compute(
    source: Source, params: Mapping[str, Array], target: float, unique: float | None = None
) -> Array:
    """Compute (R,) at which the best size reaches a target loss; infinite where the law never does."""

    def loss(log_c: Array) -> Array:
        return best_size(source, params, np.exp(log_c), unique)[1]

    return _solve(loss, target, len(next(iter(params.values()))), low=np.log(1e6), high=np.log(1e45))


def tokens_for(
    source: Source,
    params: Mapping[str, Array],
    N: ArrayLike,
    target: float | Array,
    unique: float | None = None,
) -> Array:
    """Return the tokens D (R,) at which a model of size N reaches a target loss; infinite where it never does."""
    count = len(next(iter(params.values())))
    sizes = np.broadcast_to(np.asarray(N, float), (count,))
    return _solve(
        lambda log_d: source.loss(params, sizes, np.exp(log_d), unique),
        target,
        count,
        low=0.0,
        high=np.log(1e35),
    )


def _solve(
    loss: Callable[[Array], Array], target: float | Array, count: int, *, low: float, high: float
) -> Array:
    """Find exp(x) where a falling function of x, shape (R,), meets its target: bisection for all rows together."""
    a, b = np.full(count, low), np.full(count, high)
    reachable = np.asarray(loss(b) <= target)
    for _ in range(60):
        middle = (a + b) / 2
        below = loss(middle) <= target
        b, a = np.where(below, middle, b), np.where(below, a, middle)
    return np.where(reachable, np.exp((a + b) / 2), np.inf)
