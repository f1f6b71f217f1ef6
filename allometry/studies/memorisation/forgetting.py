"""One batch of passages that is trained on once, and how it is forgotten (Tirumala et al. 2022).

Analysis: a batch that was trained on once, and what is left of it later.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.figures.several import several
from allometry.figures.theme import Figure
from allometry.report.build import Section, Table
from allometry.studies.core.sections import NotRecorded, StudySection, TooFewRuns
from allometry.studies.core.study import (
    BATCH_TOKENS,
    CONTEXT,
    run_set,
    small_model,
    small_run,
    too_little,
    vocabulary,
)
from allometry.studies.memorisation.probed import LEVEL, of_kind, size_name
from allometry.train.plant import Plant

if TYPE_CHECKING:
    from allometry.studies.core.study import StudyData
    from allometry.train.config import DataConfig, RunConfig

REFERENCE = 5e12
"""FLOPs at which the largest model has N_AT_REFERENCE parameters; N and D grow with the root of compute."""

N_AT_REFERENCE = 2e5

STEPS_DOWN = (16, 4, 1)
"""The largest model over each of the sizes."""

SEEDS = 2

FEWEST_UPDATES = 120


@run_set
def injected(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return three sizes at a constant rate (a decay would remember on its own account); halfway through, one
    batch consists of passages from held-out text and of nothing else. As many others are never trained on.
    """
    n_vocab = vocabulary(data)
    largest = N_AT_REFERENCE * math.sqrt(compute / REFERENCE)
    models = [small_model(max(1, round(largest / down)), n_vocab=n_vocab) for down in STEPS_DOWN]
    models = list(dict.fromkeys(models))
    flops = SEEDS * sum(model.counts().flops_per_token("attention") for model in models)
    steps = math.floor(compute / flops / BATCH_TOKENS)
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "injection of a batch")
    runs = []
    for model in models:
        for seed in range(SEEDS):
            plant = Plant(
                repeats=(0, 1),
                canaries=0,
                passages=BATCH_TOKENS // CONTEXT,
                prompts=(),
                seed=seed,
                at=steps // 2,
            )
            run = small_run(
                model, tokens=steps * BATCH_TOKENS, data=data.replace(plant=plant, probe="planted"),
                seed=seed, schedule="constant",
            )  # fmt: skip
            runs.append(run.replace(data=run.data.replace(eval_tokens=16_384)))
    return tuple(runs)


_REACH = 1.645
"""Standard errors of an interval at LEVEL."""


def forgetting_section(runs: pd.DataFrame, study_data: StudyData) -> StudySection:
    """Return what the batch gained at once, and the least that was left of that, against size."""
    table = retained(injected_passages(runs, study_data.probes))
    ends = baselines(table)
    return StudySection(
        section=Section(
            title="Forgetting of a batch", text=_text(ends), evidence=(_figure(table), _table(ends))
        ),
        fits={"retained": table, "baselines": ends, "summary": _summary(ends)},
    )


def injected_passages(runs: pd.DataFrame, probes: pd.DataFrame | None) -> pd.DataFrame:
    """Return passages of runs in which some were trained on once and none more often, with `injection`, the
    step at which that was. AllometryError without such runs.
    """
    found = of_kind(probes, runs, "passage")
    found = found[found.groupby("run")["repeats"].transform("max") == 1]
    first = found[(found["repeats"] == 1) & (found["seen"] == 1)].groupby("run")["step"].min()
    found = found[found["run"].isin(first.index)]
    if not len(found):
        raise TooFewRuns("no finished run trained on a batch once")
    return found.assign(injection=found["run"].map(first), value=found["loss"] / found["tokens"])


def retained(found: pd.DataFrame) -> pd.DataFrame:
    """Return, by size and steps since the injection, what the injected passages have gained over their loss
    just before it, beyond what passages that were never trained on gained by then; nats per token with
    interval.
    """
    before = found[found["step"] == found["injection"] - 1].set_index(["run", "probe"])["value"]
    keys = pd.MultiIndex.from_frame(found[["run", "probe"]])
    gained = found.assign(gain=before.reindex(keys).to_numpy() - found["value"].to_numpy())
    gained = gained[np.isfinite(gained["gain"]) & (gained["step"] >= gained["injection"])]
    gained = gained.assign(since=gained["step"] - gained["injection"])
    rows = []
    for (N, since), part in gained.groupby(["N", "since"]):
        own, never = (part.loc[part["repeats"] == r, "gain"] for r in (1, 0))
        if len(own) < 2 or len(never) < 2:
            continue
        error = float(np.sqrt(own.var(ddof=1) / len(own) + never.var(ddof=1) / len(never)))
        left = float(own.mean() - never.mean())
        rows.append(
            {
                "N": N, "since": since, "left": left, "error": error, "low": left - _REACH * error,
                "high": left + _REACH * error, "passages": len(own),
            }
        )  # fmt: skip
    if not rows:
        raise NotRecorded("the runs were not measured just before their injection")
    return pd.DataFrame(rows)


def baselines(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a size: `gained` at once, the `least` that was left afterwards (Tirumala et al. 2022
    call that the forgetting baseline), and what was left at the `end`.
    """
    rows = []
    for N, part in table.sort_values("since").groupby("N"):
        least, last = part.sort_values("left").iloc[0], part.iloc[-1]
        rows.append(
            {
                "N": N, "gained": part["left"].iloc[0], "least": least["left"], "after": least["since"],
                "end": last["left"], "low": last["low"], "high": last["high"], "steps": last["since"],
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _figure(table: pd.DataFrame) -> Figure:

    shown = table.assign(since=table["since"].clip(lower=0.5), series=[size_name(n) for n in table["N"]])
    span = [float(shown["since"].min()), float(shown["since"].max())]
    zero = pd.DataFrame({"series": "nothing left", "since": span, "left": 0.0})
    return several(
        shown, pd.concat([shown[["series", "since", "left"]], zero], ignore_index=True), x="since", y="left",
        y_scale="plain", x_title="Updates since the injection", y_title="Left of it (nats per token)",
        name="forgetting", title="What is left of a batch that was trained on once",
        caption=(
            "Loss just before the injection less the loss now, beyond the same for passages never seen; "
            f"bars are {LEVEL:.0%} intervals over passages. The moment right after it is drawn at one half."
        ),
    )  # fmt: skip


def _table(ends: pd.DataFrame) -> Table:
    caption = (
        "Nats per token: gained at once, the least left afterwards and when, and at the end with interval."
    )
    return Table(name="forgetting", title="Forgetting by size", caption=caption, frame=ends)


def _summary(ends: pd.DataFrame) -> str:
    largest = ends.sort_values("N").iloc[-1]
    return (
        f"Of {largest['gained']:.3f} nats per token gained from seeing a batch once, "
        f"{largest['end']:.3f} [{largest['low']:.3f}, {largest['high']:.3f}] are left after "
        f"{largest['steps']:.0f} further updates in the largest model."
    )


def _text(ends: pd.DataFrame) -> str:
    kept = ends[ends["low"] > 0]
    where = f"at {len(kept)} of {len(ends)} sizes" if len(kept) else "at no size"
    ordered = bool((np.diff(ends.sort_values("N")["least"]) > 0).all()) and len(ends) > 2
    return (
        "Halfway through training at a constant rate one batch consists of held-out passages; it is never "
        f"shown again. What is left of it at the end is above zero {where}. "
        f"The least that is left {'rises' if ordered else 'does not rise steadily'} with size; Tirumala et "
        "al. 2022 find that it does, for models a thousand times larger."
    )
