"""Runs on equations: what each was asked, when it knew its examples and when it had understood the table.

A run that ended without generalising says only that its time is longer; all regressions here count it so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.data.arithmetic import Equations
from allometry.errors import AllometryError
from allometry.laws.censored import Censored, censored_fit
from allometry.runs.milestones import reached

if TYPE_CHECKING:
    from collections.abc import Mapping

DIVISION, PERMUTATIONS = "division", "permutations"

_HINT = "train them: allometry run least_data"


def equations(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs on equations with what their corpora say: `task`, `share`, `noise`; `time`, the update at
    which the held-out equations were answered, or the last one where they were not (`understood` says which).

    Raises AllometryError if there are none.
    """
    own = runs[runs["tokenizer"] == "symbols"].reset_index(drop=True)
    if not len(own):
        raise AllometryError("no run on equations has finished", hint=_HINT)
    tables = [Equations.of(corpus.removeprefix("synthetic:")) for corpus in own["corpus"]]
    for column in ("memorised", "generalised"):
        known = own[column] if column in own else pd.Series(np.nan, index=own.index)
        own[column] = known.astype(float)
    understood = own["generalised"].notna()
    return own.assign(
        task=[
            f"{PERMUTATIONS} of five" if t.modulus is None else f"{t.operation} mod {t.modulus}"
            for t in tables
        ],
        share=[t.train for t in tables],
        noise=[t.noise for t in tables],
        equations=[round(t.train * len(t.table())) for t in tables],
        understood=understood,
        time=own["generalised"].where(understood, own["S"].astype(float)),
    )


def division(table: pd.DataFrame) -> pd.DataFrame:
    """The runs on division, without wrong answers. Raises AllometryError if there are none."""
    own = table[table["task"].str.startswith("div") & (table["noise"] == 0)].reset_index(drop=True)
    if not len(own):
        raise AllometryError("no run on modular division has finished", hint=_HINT)
    return own


def times(runs: pd.DataFrame, curves: pd.DataFrame, level: float) -> pd.DataFrame:
    """`time` and `understood` of `equations` for another accuracy than 99 %, from the curves."""
    found = []
    for run, end in zip(runs["run"], runs["S"], strict=True):
        curve = curves[(curves["run"] == run) & curves["accuracy"].notna()].sort_values("step")
        step = reached(curve["step"].tolist(), curve["accuracy"].tolist(), level)
        found.append((float(end) if step is None else step, step is not None))
    return runs.assign(time=[f[0] for f in found], understood=[f[1] for f in found])


def usual(table: pd.DataFrame, *free: str) -> pd.DataFrame:
    """The runs of the most frequent width, share and weight decay, but for those of them that are `free`."""
    kept = table
    for column in ("d_model", "share", "weight_decay"):
        if column not in free:
            kept = kept[kept[column] == table[column].mode().max()]
    return kept.sort_values(list(free) or ["seed"]).reset_index(drop=True)


def shares_of_time(form: str, share: pd.Series, critical: float = 0.0) -> Mapping[str, np.ndarray]:
    """The predictor of log time that a form makes of the share f: log f, f, or log(f - f_c)."""
    f = share.to_numpy(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"share": {"power": np.log(f), "exponential": f, "critical": np.log(f - critical)}[form]}


def fit_time(table: pd.DataFrame, form: str) -> tuple[Censored, float]:
    """The censored regression of log time on size, weight decay and share in that form, and the critical
    share (0 but for the form "critical"). Settings that do not vary are left out.

    Raises AllometryError where too few runs generalised.
    """
    if form != "critical":
        return _fitted(table, form, 0.0), 0.0
    top = table.loc[table["understood"], "share"].min()
    if not np.isfinite(top):
        raise AllometryError("no run generalised", hint="train longer")
    tried = []
    for critical in np.linspace(0.02, 0.98, 25) * top:
        tried.append((_fitted(table[table["share"] > critical], form, critical), float(critical)))
    return max(tried, key=lambda each: each[0].likelihood)


def _fitted(table: pd.DataFrame, form: str, critical: float) -> Censored:
    if not len(table):
        raise AllometryError("no run with weight decay on division has finished", hint=_HINT)
    columns = predictors(table, form, critical)
    varying = {name: column for name, column in columns.items() if name == "1" or np.ptp(column) > 1e-9}
    return censored_fit(varying, table["time"], table["understood"])


def predictors(table: pd.DataFrame, form: str, critical: float = 0.0) -> dict[str, np.ndarray]:
    """The regression's columns: constant, log N and log weight decay about their middle, the share."""
    found: dict[str, np.ndarray] = {"1": np.ones(len(table))}
    for name, column, middle in (("N", "N", 5e4), ("weight decay", "weight_decay", 1.0)):
        found[name] = np.log(table[column].to_numpy(float) / middle)
    found |= shares_of_time(form, table["share"], critical)
    return found
