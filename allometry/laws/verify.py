"""Derive again the constants that papers printed, from the tables that they published: printed, ours, verdict.

Each source has a function that returns what its constants come to here, by part and name. It follows the paper: the
same rows, law and objective; what differs is the search for the minimum and how uncertainty is found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.registry import Registry
from allometry.laws.curves import NAMES, PRINTED, fit_curves
from allometry.laws.fit import fit
from allometry.laws.isoflop import isoflop
from allometry.laws.result import FitResult
from allometry.laws.zoo import get
from allometry.sources import readers
from allometry.sources.fetch import content
from allometry.sources.source import Constant, Source

Found = tuple[float, float, float]
"""A value and its 95 % interval; nan for an end that is not known."""

Tables = Mapping[str, pd.DataFrame]
Derivation = Callable[[Tables], Mapping[tuple[str, str], Found]]

INSIDE, DIGITS, COVERED, LOWER, OPEN, DIFFERS = (
    "inside the printed interval", "same digits", "inside our interval", "a lower objective", "not determined",
    "differs",
)  # fmt: skip
"""Verdicts: our value lies in the printed interval; it rounds to the printed one; the printed one lies in our interval;
our minimum is lower than the printed one; the printed one lies in an interval so wide that it says nothing; none."""

AGREEING = (INSIDE, DIGITS, COVERED, LOWER)
_OPEN_FACTOR, _OPEN_WIDTH = 30.0, 3.0
"""An interval says nothing that spans this factor or, through zero, this many times the printed value."""

DERIVATIONS: Registry[Derivation] = Registry("derivation")
"""Source -> what derives its constants."""

_RESAMPLES = 200
_NONE = (math.nan, math.nan)


@dataclass(frozen=True, kw_only=True, eq=False)
class Verified:
    """What a source's constants come to.

    `table` has one row a constant: source, part, name, published, published_low, published_high, ours, low and high
    (95 %), verdict, reason (why they differ, where that is known), where (it is printed).
    """

    source: Source
    table: pd.DataFrame

    @property
    def agreeing(self) -> int:
        """How many constants agree."""
        return int(self.table["verdict"].isin(AGREEING).sum())


def verify(source: Source, cache: Path | None = None) -> Verified:
    """Derive the constants of a source from its files, which must have been fetched.

    Raises AllometryError where they were not, and for a source of which no constants are kept.
    """
    if not source.constants:
        raise AllometryError(
            f"no constants are kept of {source.id}", hint=f"allometry atlas show {source.id}"
        )
    derive = DERIVATIONS[source.id]
    rows = readers.table(source, content(source, cache))
    ours = derive({part: rows[rows["part"] == part].reset_index(drop=True) for part in source.parts})
    found = []
    for constant in source.constants:
        value, low, high = ours[constant.part, constant.name]
        verdict = judge(constant, value, low, high)
        found.append(
            {
                "source": source.id, "part": constant.part, "name": constant.name, "published": constant.number,
                "published_low": constant.low, "published_high": constant.high, "ours": value, "low": low,
                "high": high, "verdict": verdict, "reason": "" if verdict in AGREEING else constant.reason,
                "where": constant.where,
            }
        )  # fmt: skip
    table = pd.DataFrame(found).astype({"published_low": float, "published_high": float})
    return Verified(source=source, table=table)


def judge(constant: Constant, value: float, low: float, high: float) -> str:
    """Return the verdict on one constant."""
    if constant.name.endswith("objective"):
        if abs(value - constant.number) <= constant.digit:
            return DIGITS
        return LOWER if value < constant.number else DIFFERS
    if constant.low is not None and constant.high is not None and constant.low <= value <= constant.high:
        return INSIDE
    if abs(value - constant.number) <= 0.501 * constant.digit:
        return DIGITS
    if not low <= constant.number <= high:
        return DIFFERS
    if low * high > 0:
        said = max(abs(low), abs(high)) <= _OPEN_FACTOR * min(abs(low), abs(high))
    else:
        said = high - low <= _OPEN_WIDTH * abs(constant.number)
    return COVERED if said else OPEN


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `Verified.table` as they are shown: numbers of four digits, intervals in one column."""

    def span(low: float, high: float) -> str:
        return f"[{low:.3g}, {high:.3g}]" if np.isfinite([low, high]).all() else "–"

    return pd.DataFrame(
        {
            "source": table["source"], "part": table["part"], "constant": table["name"],
            "printed": [f"{value:.4g}" for value in table["published"]],
            "ours": [f"{value:.4g}" for value in table["ours"]],
            "95 %": [span(low, high) for low, high in zip(table["low"], table["high"], strict=True)],
            "verdict": table["verdict"],
        }
    )  # fmt: skip


def _of(result: FitResult, name: str) -> Found:
    """Return an estimate and its interval."""
    return (result.parameters[name], *(result.interval(name) if len(result.samples) else _NONE))


def _log_of(result: FitResult, name: str) -> Found:
    value, low, high = _of(result, name)
    return math.log(value), math.log(max(low, 1e-300)), math.log(high)


@DERIVATIONS.register("kaplan2020")
def _kaplan2020(tables: Tables) -> dict[tuple[str, str], Found]:
    options: dict[str, Any] = {"columns": {"L": "loss"}, "objective": "lsq-log", "bootstrap": _RESAMPLES}
    both = fit(tables["size-and-data"], law="kaplan", **options)
    size = fit(tables["size"], law="kaplan-n", **options)
    names = ("alpha_N", "alpha_D", "N_c", "D_c")
    return {("size-and-data", name): _of(both, name) for name in names} | {
        ("size", name): _of(size, name) for name in ("alpha_N", "N_c")
    }


@DERIVATIONS.register("hoffmann2022")
def _hoffmann2022(tables: Tables) -> dict[tuple[str, str], Found]:
    """Fit with the free scale that the refit's table comes from; Hoffmann's own numbers by their objective."""
    rows = tables["figure-4"]
    rows = rows[rows["split"] == "fitted"]
    options: dict[str, Any] = {"law": "chinchilla", "columns": {"L": "loss"}, "bootstrap": _RESAMPLES}
    refit = fit(rows, objective="huber-log-scale", **options)
    own = fit(rows, objective="huber-log", **options)
    found = {("figure-4", name): _of(refit, name) for name in ("E", "A", "B", "alpha", "beta")}
    found["figure-4", "a"] = refit.derived("beta/(alpha+beta)")
    return found | {("figure-4", f"{name}_hoffmann"): _of(own, name) for name in ("E", "alpha", "beta")}


@DERIVATIONS.register("clark2022")
def _clark2022(tables: Tables) -> dict[tuple[str, str], Found]:
    dense = tables["dense"]
    line = fit(
        dense[dense["flop_increase"] == 1], law="kaplan-n", columns={"L": "loss"}, objective="lsq-log",
        bootstrap=_RESAMPLES,
    )  # fmt: skip
    return {("dense", "slope"): _of(line, "alpha_N")}


@DERIVATIONS.register("caballero2022")
def _caballero2022(tables: Tables) -> dict[tuple[str, str], Found]:
    rows = tables["addition"]
    result = fit(rows, law="broken-1", columns={"L": "loss"}, objective="lsq-log", bootstrap=_RESAMPLES)
    return {("addition", name): _of(result, name) for name in ("E", "A", "c_0", "c_1", "d_1", "f_1")}


@DERIVATIONS.register("muennighoff2023")
def _muennighoff2023(tables: Tables) -> dict[tuple[str, str], Found]:
    """Fit the two constants of repetition, the others held at those that the authors fitted to C4's frontier."""
    held = dict(get("muennighoff").published["muennighoff2023"].values)
    free = ("R_D", "R_N")
    result = fit(
        tables["fitted"], law="muennighoff", columns={"L": "loss", "U": "unique"}, bootstrap=_RESAMPLES,
        fixed={name: value for name, value in held.items() if name not in free},
    )  # fmt: skip
    return {("fitted", name): _of(result, name) for name in free}


@DERIVATIONS.register("porian2024")
def _porian2024(tables: Tables) -> dict[tuple[str, str], Found]:
    found: dict[tuple[str, str], Found] = {}
    for part, rows in tables.items():
        exponent = isoflop(
            rows[["N", "C", "loss"]], columns={"N": "N", "C": "C", "loss": "loss"}, bootstrap=_RESAMPLES
        ).a
        found[part, "exponent"] = (exponent.value, *exponent.interval(0.95))
    return found


@DERIVATIONS.register("gadre2024")
def _gadre2024(tables: Tables) -> dict[tuple[str, str], Found]:
    """Fit the five small runs of the paper's table 1, and predict the longest run of 1.4B and the run of 7B."""
    found: dict[tuple[str, str], Found] = {}
    for part, rows in tables.items():
        times = rows["multiplier"]
        size = rows["N"]
        known = rows[((times == 1) & (size < 5e8)) | ((times == 16) & (size < 2e7))]
        result = fit(
            known, law="gadre", columns={"L": "loss", "M": "D/N"}, objective="lsq", bootstrap=0, test=False
        )
        for name, of_size in (("1b", rows[(size > 1e9) & (size < 5e9)]), ("7b", rows[size > 5e9])):
            longest = of_size.nlargest(1, "D")
            ahead = result.predict(N=longest["N"], M=longest["D"] / longest["N"])
            found[part, f"error_{name}"] = (float(100 * abs(ahead / longest["loss"] - 1).iloc[0]), *_NONE)
    return found


@DERIVATIONS.register("misfitting2025")
def _misfitting2025(tables: Tables) -> dict[tuple[str, str], Found]:
    options: dict[str, Any] = {"columns": {"L": "loss"}, "bootstrap": _RESAMPLES}
    rows = tables["final"].drop(columns="run")
    result = fit(rows, law="chinchilla", **options)
    tied = fit(rows, law="chinchilla-tied", columns={"L": "loss"}, bootstrap=0)
    found = {("final", f"log_{name}"): _log_of(result, name) for name in ("A", "B", "E")}
    found |= {("final", name): _of(result, name) for name in ("alpha", "beta")}
    found["final", "objective"] = (result.objective_value, *_NONE)
    return found | {("final", "tied_objective"): (tied.objective_value, *_NONE)}


@DERIVATIONS.register("gemstones2025")
def _gemstones2025(tables: Tables) -> dict[tuple[str, str], Found]:
    found: dict[tuple[str, str], Found] = {}
    for part in ("to-100b", "all", "cooldown-end", "half-rate"):
        result = fit(tables[part], law="chinchilla", columns={"L": "loss"}, bootstrap=_RESAMPLES, group="run")
        found |= {(part, f"log_{name}"): _log_of(result, name) for name in ("E", "A", "B")}
        found |= {(part, name): _of(result, name) for name in ("alpha", "beta")}
        found[part, "objective"] = (result.objective_value, *_NONE)
    return found


@DERIVATIONS.register("parscale2025")
def _parscale2025(tables: Tables) -> dict[tuple[str, str], Found]:
    found: dict[tuple[str, str], Found] = {}
    for part, rows in tables.items():
        result = fit(rows, law="parallel", columns={"L": "loss"}, bootstrap=_RESAMPLES)
        found |= {(part, name): _of(result, name) for name in ("E", "A", "k", "alpha")}
    return found


@DERIVATIONS.register("steplaw2025")
def _steplaw2025(tables: Tables) -> dict[tuple[str, str], Found]:
    """Find the best rate and batch of each pair of N and D, on a smooth surface, and fit the two laws to them."""
    rows = [_best_setting(grid) for _, grid in tables["dense"].groupby(["N", "D"])]
    best = pd.DataFrame([row for row in rows if row is not None])
    rate = fit(best, law="learning-rate", columns={"lr": "rate"}, objective="lsq-log", bootstrap=_RESAMPLES)
    batch = fit(
        best, law="batch-size", columns={"B": "batch"}, objective="lsq-log", bootstrap=_RESAMPLES, fixed={"a": 0.0}
    )  # fmt: skip
    found = {("dense", f"rate_{name}"): _of(rate, name) for name in ("c", "a", "b")}
    return found | {("dense", f"batch_{name}"): _of(batch, name) for name in ("c", "b")}


_NEAR_BEST = 0.02
"""Runs whose loss is at most this share above the lowest one make the surface about an optimum."""


def _best_setting(grid: pd.DataFrame) -> dict[str, float] | None:
    """Return the minimum of a quadratic in log rate and log batch through the runs near the best; None without one."""
    near = grid[grid["loss"] < (1 + _NEAR_BEST) * grid["loss"].min()]
    x, y = np.log(near["rate"].to_numpy(float)), np.log(near["batch"].to_numpy(float))
    if len(near) < 10:
        return None
    u, v = x - x.mean(), y - y.mean()
    terms = np.column_stack([np.ones_like(u), u, v, u * u, u * v, v * v])
    c = np.linalg.lstsq(terms, np.log(near["loss"].to_numpy(float)), rcond=None)[0]
    curvature = np.array([[2 * c[3], c[4]], [c[4], 2 * c[5]]])
    if np.linalg.eigvalsh(curvature).min() <= 0:
        return None
    at = np.linalg.solve(curvature, -c[1:3])
    if not (u.min() <= at[0] <= u.max() and v.min() <= at[1] <= v.max()):
        return None
    return {
        "N": float(near["N"].iloc[0]), "D": float(near["D"].iloc[0]), "rate": float(np.exp(x.mean() + at[0])),
        "batch": float(np.exp(y.mean() + at[1])),
    }  # fmt: skip


@DERIVATIONS.register("multipowerlaw2025")
def _multipowerlaw2025(tables: Tables) -> dict[tuple[str, str], Found]:
    """Fit the three curves that the authors fitted; and find how far off the printed constants are on the others."""
    found: dict[tuple[str, str], Found] = {}
    for part, rows in tables.items():
        fitted = fit_curves(rows[rows["split"] == "fitted"].dropna(axis=1), warmup=_WARM_UP)
        found |= {(part, name): (fitted.parameters[name], *_NONE) for name in ("L_0", "A", "alpha")}
        said = replace(fitted, parameters=dict(zip(NAMES, PRINTED[part.upper()], strict=True)))
        errors = [
            float(
                np.mean(
                    np.abs(said.along(curve["step"], curve["lr"])["predicted"].to_numpy() / curve["loss"] - 1)
                )
            )
            for _, curve in rows[rows["split"] == "predicted"].groupby("run")
        ]
        found[part, "prediction_error"] = (float(np.mean(errors)), *_NONE)
    return found


_WARM_UP = 2160
"""Steps of the warm-up of the Multi-Power Law's curves, from the repository's configuration."""


@DERIVATIONS.register("farseer2025")
def _farseer2025(tables: Tables) -> dict[tuple[str, str], Found]:
    rows = tables["all"]
    known = rows[rows["split"] == "fitted"]
    result = fit(known, law="farseer", columns={"L": "loss"}, bootstrap=_RESAMPLES)
    return {("all", name): _of(result, name) for name in result.free}
