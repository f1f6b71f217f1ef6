"""Small transformers on equations of a finite arithmetic: when do they generalise, and how long after they
have learnt their examples by heart?

Analysis: runs on equations: what each was asked, when it knew its examples and when it had understood the
table.

A run that ended without generalising says only that its time is longer; all regressions here count it so.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.data.arithmetic import Equations
from allometry.laws.power_lines import Censored, censored_fit
from allometry.models.transformer import TransformerConfig
from allometry.runs.measurements import reached
from allometry.studies.core.sections import TooFewRuns
from allometry.studies.core.study import heads, run_set, too_little
from allometry.train.config import DataConfig, RunConfig, TrainConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

DIVISION = "modular:59:div"
"""Power et al. 2022 divide modulo 97, with a model eight times as large; 59 is what fits a laptop."""

PERMUTATIONS = "s5:xy"

WIDTH = 64
"""Width of the one layer that everything but the sizes is asked of (N = 49,152)."""

EQUATIONS = 128
"""Equations a batch, a quarter of Power et al.'s most: as many updates for a quarter of the compute."""

RATE_TIMES_WIDTH = 0.128
"""Learning rate x width: 0.002 at width 64. At twice that a model hardly memorises before it understands:
with weight decay 1 both take the same number of updates."""

LEARNT = 0.995
"""Held-out accuracy at which a run ends: what was asked is known then."""

EVALS_PER_OCTAVE = 6

EVAL_EQUATIONS = 1024
"""Of each split, at an evaluation."""

SHARES, FEW_SHARES = (0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8), (0.3, 0.5, 0.8)
DECAYS, FEW_DECAYS = (0.0, 0.1, 0.3, 3.0), (0.0,)
WIDTHS, FEW_WIDTHS = (24, 32, 48, 96, 128), (32,)
CROSSED = (
    (32, 0.35, 0.3), (32, 0.7, 0.3), (96, 0.35, 0.3), (96, 0.7, 0.3), (32, 0.35, 1.0), (96, 0.7, 1.0),
    (128, 0.35, 1.0), (128, 0.7, 0.3),
)  # fmt: skip
"""(width, share, weight decay) beside the lines through the centre, so that a law of all three is tried."""

S5_SHARES, S5_WIDTH = (0.3, 0.5, 0.7), 96

PATIENCE = 3
"""Horizons that runs without weight decay get, and those on permutations, of which there are four times as
many equations."""

SEEDS = 2
"""Each draws weights, order and which equations are trained on."""

ENOUGH = 2e12
"""FLOPs from which every line is affordable; less buys the few."""

FEWEST_UPDATES = 30

LARGEST = 128
"""Width of the models whose time to generalise is predicted before they are trained."""


@run_set
def grokking(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return lines through one centre (half of the table, width WIDTH, weight decay 1) along the share of the
    table that is trained on, weight decay, and size; and permutations. `data` is not read: the texts are
    equations.
    """
    plans = _plans(compute >= ENOUGH)
    steps = math.floor(compute / sum(_cost(*plan) for plan in plans))
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "times to generalise")
    runs = [_planned(steps, *plan) for plan in plans]
    return tuple({run.id: run for run in runs}.values())


Plan = tuple[str, float, int, float, int]
"""Operation, share, width, weight decay, seed."""


def _plans(plenty: bool) -> list[Plan]:
    shares, decays, widths = (SHARES, DECAYS, WIDTHS) if plenty else (FEW_SHARES, FEW_DECAYS, FEW_WIDTHS)
    lines = [(DIVISION, share, WIDTH, 1.0) for share in shares]
    lines += [(DIVISION, 0.5, WIDTH, decay) for decay in decays]
    lines += [(DIVISION, 0.5, width, 1.0) for width in widths]
    if plenty:
        lines += [(DIVISION, share, width, decay) for width, share, decay in CROSSED]
    seeds = range(SEEDS if plenty else 1)
    plans = [(*line, seed) for line in lines for seed in seeds]
    return plans + [(PERMUTATIONS, share, S5_WIDTH, 1.0, 0) for share in S5_SHARES if plenty]


def _horizons(operation: str, decay: float) -> int:
    return PATIENCE if operation == PERMUTATIONS or decay == 0 else 1


def _cost(operation: str, share: float, width: int, decay: float, seed: int) -> float:
    """Return the FLOPs of one horizon of one update, if the run is not over sooner."""
    run = equations_run(operation, share, steps=1, width=width, decay=decay, seed=seed)
    per_step = run.model.counts().flops_per_token("attention") * run.train.batch_tokens
    return _horizons(operation, decay) * per_step


def _planned(steps: int, operation: str, share: float, width: int, decay: float, seed: int) -> RunConfig:
    horizon = steps * _horizons(operation, decay)
    return equations_run(operation, share, steps=horizon, width=width, decay=decay, seed=seed)


def equations_run(
    operation: str,
    share: float,
    *,
    steps: int,
    width: int = WIDTH,
    depth: int = 1,
    decay: float = 1.0,
    seed: int = 0,
    rate: float = 1.0,
    equations: int = EQUATIONS,
    dropout: float = 0.0,
    init: str = "fan_in",
    noise: float = 0.0,
) -> RunConfig:
    """Return one run on `share` of the equations of `operation` ("modular:59:div", "s5:xy"): the loss is on
    answers alone, the rate constant (`rate` times the rule's) after ten updates of warm-up (Power et al.
    2022).

    `noise` is the share of wrong answers among the training equations.
    """
    wrong = f":{noise:g}" if noise else ""
    model = TransformerConfig.model_validate(
        {
            "n_layer": depth, "d_model": width, "n_head": heads(width), "d_ff": 4 * width, "n_ctx": 4,
            "n_vocab": _vocabulary(operation), "dropout": dropout, "init": init,
        }
    )  # fmt: skip
    data = DataConfig(
        corpus=f"synthetic:{operation}:{share:g}:{seed}{wrong}", tokenizer="symbols", loss_on="answer",
        eval_tokens=4 * EVAL_EQUATIONS,
    )  # fmt: skip
    train = TrainConfig(
        tokens=4 * equations * steps, batch_tokens=4 * equations,
        lr=float(f"{rate * RATE_TIMES_WIDTH / width:.3g}"), schedule="constant", warmup=10, beta2=0.98,
        weight_decay=decay, seed=seed,
        evals_per_octave=EVALS_PER_OCTAVE, stop_accuracy=LEARNT,
    )  # fmt: skip
    return RunConfig(model=model, data=data, train=train)


def _vocabulary(operation: str) -> int:
    """Return symbols of the table, and the separator."""
    return len(Equations.of(operation).symbols) + 1


def widest(run: RunConfig) -> bool:
    """Return whether a run on equations is of the largest size, which is predicted before it is trained."""
    return run.data.loss_on == "answer" and getattr(run.model, "d_model", 0) >= LARGEST


EQUATION_DIVISION, EQUATION_PERMUTATIONS = "division", "permutations"


def equations(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs on equations with what their corpora say: `task`, `share`, `noise`; `time`, the update
    at which the held-out equations were answered, or the last one where they were not (`understood` says
    which).

    Raises AllometryError if there are none.
    """
    own = runs[runs["tokenizer"] == "symbols"].reset_index(drop=True)
    if not len(own):
        raise TooFewRuns("no run on equations has finished")
    tables = [Equations.of(corpus.removeprefix("synthetic:")) for corpus in own["corpus"]]
    for column in ("memorised", "generalised"):
        known = own[column] if column in own else pd.Series(np.nan, index=own.index)
        own[column] = known.astype(float)
    understood = own["generalised"].notna()
    return own.assign(
        task=[
            f"{EQUATION_PERMUTATIONS} of five" if t.modulus is None else f"{t.operation} mod {t.modulus}"
            for t in tables
        ],
        share=[t.train for t in tables],
        noise=[t.noise for t in tables],
        equations=[round(t.train * len(t.table())) for t in tables],
        understood=understood,
        time=own["generalised"].where(understood, own["S"].astype(float)),
    )


def division(table: pd.DataFrame) -> pd.DataFrame:
    """Return the runs on division, without wrong answers. Raises AllometryError if there are none."""
    own = table[table["task"].str.startswith("div") & (table["noise"] == 0)].reset_index(drop=True)
    if not len(own):
        raise TooFewRuns("no run on modular division has finished")
    return own


def times(runs: pd.DataFrame, curves: pd.DataFrame, level: float) -> pd.DataFrame:
    """Return `time` and `understood` of `equations` for another accuracy than 99 %, from the curves."""
    found = []
    for run, end in zip(runs["run"], runs["S"], strict=True):
        curve = curves[(curves["run"] == run) & curves["accuracy"].notna()].sort_values("step")
        step = reached(curve["step"].tolist(), curve["accuracy"].tolist(), level)
        found.append((float(end) if step is None else step, step is not None))
    return runs.assign(time=[f[0] for f in found], understood=[f[1] for f in found])


def usual(table: pd.DataFrame, *free: str) -> pd.DataFrame:
    """Return the runs of the most frequent width, share and weight decay, but for those of them that are
    `free`.
    """
    kept = table
    for column in ("d_model", "share", "weight_decay"):
        if column not in free:
            kept = kept[kept[column] == table[column].mode().max()]
    return kept.sort_values(list(free) or ["seed"]).reset_index(drop=True)


def shares_of_time(form: str, share: pd.Series, critical: float = 0.0) -> Mapping[str, np.ndarray]:
    """Return the predictor of log time that a form makes of the share f: log f, f, or log(f - f_c)."""
    f = share.to_numpy(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"share": {"power": np.log(f), "exponential": f, "critical": np.log(f - critical)}[form]}


def fit_time(table: pd.DataFrame, form: str) -> tuple[Censored, float]:
    """Return the censored regression of log time on size, weight decay and share in that form, and the
    critical share (0 but for the form "critical"). Settings that do not vary are left out.

    Raises AllometryError where too few runs generalised.
    """
    if form != "critical":
        return _fitted(table, form, 0.0), 0.0
    top = table.loc[table["understood"], "share"].min()
    if not np.isfinite(top):
        raise TooFewRuns("no run generalised")
    tried = []
    for critical in np.linspace(0.02, 0.98, 25) * top:
        tried.append((_fitted(table[table["share"] > critical], form, critical), float(critical)))
    return max(tried, key=lambda each: each[0].likelihood)


def _fitted(table: pd.DataFrame, form: str, critical: float) -> Censored:
    if not len(table):
        raise TooFewRuns("no run with weight decay on division has finished")
    columns = predictors(table, form, critical)
    varying = {name: column for name, column in columns.items() if name == "1" or np.ptp(column) > 1e-9}
    return censored_fit(varying, table["time"], table["understood"])


def predictors(table: pd.DataFrame, form: str, critical: float = 0.0) -> dict[str, np.ndarray]:
    """Return the regression's columns: constant, log N and log weight decay about their middle, the share."""
    found: dict[str, np.ndarray] = {"1": np.ones(len(table))}
    for name, column, middle in (("N", "N", 5e4), ("weight decay", "weight_decay", 1.0)):
        found[name] = np.log(table[column].to_numpy(float) / middle)
    found |= shares_of_time(form, table["share"], critical)
    return found
