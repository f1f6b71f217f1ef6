"""Ladders of small models that differ in how they are trained: from the practice of 2020 to that of today.

Analysis: Porian et al. 2024's ladder on our own runs: how the exponent of N_opt ∝ C^a moves, one correction
at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.figures.several import steps
from allometry.laws.isoflop import IsoflopResult, isoflop
from allometry.laws.slices import grid_budgets
from allometry.report.build import Section, Table
from allometry.studies.core.sections import LEVEL, StudySection, TooFewRuns, constant
from allometry.studies.core.study import (
    BATCH_TOKENS,
    learning_rate,
    run_set,
    small_model,
    small_run,
    too_little,
    vocabulary,
)
from allometry.studies.shared.grid import along, recipe_runs
from allometry.train.config import TrainConfig

if TYPE_CHECKING:
    from allometry.models.base import ModelConfig
    from allometry.report.build import Constant
    from allometry.train.config import DataConfig, RunConfig

SIZES, STEP = 7, 1.5
"""Sizes of a ladder at most, and N of each over the next smaller one, but for rounding to real shapes."""

SMALLEST, LEAST_LARGEST = 1536, 13_824
"""N of d_model = 8, below which there is no shape, and of d_model = 24, which leaves three sizes."""

TOKENS_PER_PARAMETER = 80
"""The long horizon over N of the largest model. Best sizes of this range take 30 to 60 tokens a parameter,
and must lie inside the ladder: at 30, the smallest size that was measured at a budget was always the best."""

HORIZONS: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
"""Budgets, over the long horizon, to which rates decay once decay is matched to the budget."""

LONG_WARMUP = 1 / 8
"""The long warm-up over the long horizon, the same for all sizes. Kaplan et al. 2020 warmed up for 3,000
steps, as many as the compute-optimal runs of their smaller models take in all."""

FEWEST_UPDATES = 240
"""Updates of the long horizon without which its shortest part is all warm-up."""

CURVE_EVALS = 3


@run_set
def ladders(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return one ladder of sizes under four ways of training, after Porian et al. 2024: one long cosine with
    a long warm-up and one rate for all; a warm-up in proportion to N; a cosine for each budget; and the
    recipe, whose rate goes with width and whose decay goes with the budget.
    """
    models = _models(compute, vocabulary(data))
    steps = _steps(compute, models)
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "ladders of sizes")
    long = round(LONG_WARMUP * steps)
    middle = learning_rate(models[len(models) // 2])

    def run(model: ModelConfig, share: float, warmup: int, schedule: str, lr: float) -> RunConfig:
        tokens = round(share * steps) * BATCH_TOKENS
        return small_run(
            model, tokens=tokens, data=data, schedule=schedule, warmup=warmup, lr=lr,
            evals_per_octave=CURVE_EVALS,
        )  # fmt: skip

    runs = []
    for model in models:
        short = short_warmup(model.counts().N, long)
        runs.append(run(model, 1.0, long, "cosine", middle))
        runs += [run(model, share, short, "cosine", middle) for share in HORIZONS]
        runs += [run(model, share, short, "wsd", learning_rate(model)) for share in HORIZONS]
    return tuple(runs)


def short_warmup(n: int, long: int) -> int:
    """Return steps of a warm-up of N tokens (Porian et al. 2024), and never half of the long one; not the
    recipe's own number, by which its runs are known.
    """
    steps = max(1, min(round(n / BATCH_TOKENS), long // 2))
    return steps - 1 if steps == TrainConfig.model_fields["warmup"].default else steps


def _models(compute: float, n_vocab: int) -> list[ModelConfig]:
    """Return sizes in equal steps of log N; the largest grows with the square root of the compute."""

    # compute = cost · flops per token · tokens, with 20 N FLOPs a token for all sizes together
    largest = math.sqrt(compute / (20 * TOKENS_PER_PARAMETER * _cost()))
    targets = [max(largest, LEAST_LARGEST) / STEP**i for i in range(SIZES)]
    kept = [small_model(round(n), n_vocab=n_vocab) for n in reversed(targets) if n > 0.7 * SMALLEST]
    return list(dict.fromkeys(kept))


def _steps(compute: float, models: list[ModelConfig]) -> int:
    """Return updates of the long horizon with which all ladders cost `compute`."""
    flops = sum(model.counts().flops_per_token("attention") for model in models)
    return round(compute / (flops * _cost() * BATCH_TOKENS))


def _cost() -> float:
    """Return tokens that a size is trained on, over the long horizon: cosines apart, horizons of a trunk
    together.
    """
    decay = TrainConfig.model_fields["decay"].default
    return 1 + sum(HORIZONS) + HORIZONS[0] + decay * sum(HORIZONS[1:])


BLOCKS, HEAD, EVERYTHING = ("N", "C"), ("N_head", "C_head"), ("N_total", "C_attention")

PUBLISHED: dict[str, float | None] = {
    "long warm-up, one rate, one long cosine; blocks only": 0.835,
    "+ FLOPs and parameters of the output matrix": 0.707,
    "+ warm-up in proportion to N": 0.602,
    "+ decay matched to the budget": 0.572,
    "+ rate by size (the recipe)": 0.497,
    "the recipe, blocks only": None,
    "the recipe on the grid, with the output matrix": None,
    "the recipe on the grid, blocks only": None,
    "the recipe on the grid, everything counted": None,
}
"""Steps in order, and the exponent of Porian et al. 2024 on RefinedWeb."""

FROM = 0.1
"""Share of the long horizon from which points of its curves are read."""

DEFAULT_NOISE = 0.005


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One step: its exponent with interval, or why there is none, and the slices behind it."""

    name: str
    result: IsoflopResult | None
    problem: str = ""
    sizes: int = 0

    @property
    def a(self) -> tuple[float, float, float] | None:
        """The exponent with its interval at LEVEL."""
        return None if self.result is None else (self.result.a.value, *self.result.a.interval(LEVEL))


def ladder_runs(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the ladders among finished runs, by what defines them: "long" and "short" (cosines by warm-up)
    and "wsd".

    The long warm-up is one number for all sizes; short ones grow with N. Raises AllometryError where there is
    no long cosine.
    """
    known = runs[(runs["family"] == "transformer") & (runs["B"] == BATCH_TOKENS)]
    cosine = known[known["schedule"] == "cosine"]
    shared = cosine.groupby("warmup")["N"].nunique()
    if not len(shared) or shared.max() < 3:
        raise TooFewRuns("fewer than three sizes were trained along one long cosine")
    long = float(shared[shared == shared.max()].index.max())
    shorts = cosine[cosine["warmup"] < long]
    pairs = shorts[["N", "warmup"]].drop_duplicates()
    wsd = known[known["schedule"] == "wsd"].merge(pairs, on=["N", "warmup"])
    return {
        "long": cosine[cosine["warmup"] == long].reset_index(drop=True),
        "short": shorts.reset_index(drop=True),
        "wsd": wsd.reset_index(drop=True),
    }


def rungs(runs: pd.DataFrame, curves: pd.DataFrame, noise: float | None) -> list[Rung]:
    """Return every step of the ladder that the runs can answer; the others carry the reason."""
    noise = noise or DEFAULT_NOISE
    parts = cache(lambda: ladder_runs(runs))

    def read_along(which: str) -> pd.DataFrame:
        part = parts()[which]
        last = part[part["D"] == part.groupby("N")["D"].transform("max")]
        points = along(last, curves)
        return points[points["D"] >= FROM * last["D"].max()]

    tables: dict[str, tuple[Callable[[], pd.DataFrame], tuple[str, str]]] = {
        "long warm-up, one rate, one long cosine; blocks only": (lambda: read_along("long"), BLOCKS),
        "+ FLOPs and parameters of the output matrix": (lambda: read_along("long"), HEAD),
        "+ warm-up in proportion to N": (lambda: read_along("short"), HEAD),
        "+ decay matched to the budget": (lambda: parts()["short"], HEAD),
        "+ rate by size (the recipe)": (lambda: parts()["wsd"], HEAD),
        "the recipe, blocks only": (lambda: parts()["wsd"], BLOCKS),
        "the recipe on the grid, with the output matrix": (lambda: recipe_runs(runs), HEAD),
        "the recipe on the grid, blocks only": (lambda: recipe_runs(runs), BLOCKS),
        "the recipe on the grid, everything counted": (lambda: recipe_runs(runs), EVERYTHING),
    }
    return [_rung(name, made, counted, noise) for name, (made, counted) in tables.items()]


def _rung(name: str, made: Callable[[], pd.DataFrame], counted: tuple[str, str], noise: float) -> Rung:
    n, c = counted
    try:
        table = made()
        read = pd.DataFrame(
            {"run": table["run"], "N": table[n], "D": table["D"], "C": table[c], "loss": table["loss"]}
        )
        columns = {"N": "N", "D": "D", "C": "C", "loss": "loss"}
        result = isoflop(read, columns=columns, budgets=grid_budgets(read), noise=noise)
    except AllometryError as error:
        return Rung(name=name, result=None, problem=error.message)
    return Rung(name=name, result=result, sizes=int(read["N"].nunique()))


def table(found: list[Rung]) -> pd.DataFrame:
    """Return one row a step: a with its interval, the budgets that carry it, and the published a."""
    rows = []
    for rung in found:
        row: dict[str, Any] = {"step": rung.name, "a, Porian et al. 2024": PUBLISHED[rung.name]}
        if rung.result is not None and rung.a is not None:
            used = rung.result.table[rung.result.table["used"]]
            row |= {
                "a": rung.a[0], "low (95 %)": rung.a[1], "high (95 %)": rung.a[2], "sizes": rung.sizes,
                "budgets": len(used), "C from": used["C"].min(), "C to": used["C"].max(),
                "tokens per parameter": float(np.median(used["D_opt"] / used["N_opt"])),
            }  # fmt: skip
        rows.append(row | {"problem": rung.problem})
    return pd.DataFrame(rows)


def ladder(found: list[Rung]) -> StudySection:
    """Report the exponent step by step, beside Porian et al.'s."""
    rows = table(found)
    if rows.get("a") is None or rows["a"].notna().sum() < 2:
        why = "; ".join(f"{r.name}: {r.problem}" for r in found if r.problem)
        raise TooFewRuns(f"fewer than two steps have an exponent ({why})")
    figure = steps(
        rows.dropna(subset=["a"]), label="step", value="a", low="low (95 %)", high="high (95 %)",
        published="a, Porian et al. 2024", reference=[0.88, 0.5],
        name="ladder", title="How the exponent moves, one correction at a time",
        caption="Points: a in N_opt ∝ C^a with its 95 % interval, each row with one correction more; open "
        "diamonds: "
        "Porian et al. 2024 on RefinedWeb. The last rows are other counts and the grid's larger sizes.",
    )  # fmt: skip
    caption = "Each step keeps the corrections before it. Loss is interpolated (Akima) at each budget."
    numbers = Table(name="steps", title="The ladder in numbers", frame=rows, caption=caption)
    evidence = (figure, numbers)
    return StudySection(
        section=Section(title="The ladder", text=_text(rows), evidence=evidence),
        constants=tuple(_constants(found)),
        fits={"rows": rows, "rungs": found},
        warnings=tuple(f"{r.name}: {r.problem}" for r in found if r.problem),
    )


def _constants(found: list[Rung]) -> list[Constant]:
    why = "budgets a million times below theirs; bytes in place of 50,000 tokens make the output matrix light"
    return [
        constant(f"N_opt ∝ C^a, {rung.name}", "a", {"Porian 2024": published}, rung.a, why, widest=0.8)
        for rung in found
        if rung.a is not None and (published := PUBLISHED[rung.name]) is not None
    ]


def _text(rows: pd.DataFrame) -> str:
    own = rows.dropna(subset=["a", "a, Porian et al. 2024"])
    text = (
        "Kaplan et al. found N_opt ∝ C^0.88, Hoffmann et al. C^0.50. Porian et al. took the difference "
        "apart: counting the output matrix, a shorter warm-up, decay to the budget, and tuning each size "
        "bring 0.84 to 0.50. "
    )
    if len(own) < 2:
        return text + "Of these steps our runs give fewer than two; the rest of the table is other counts."
    first, last = own.iloc[0], own.iloc[-1]
    moves = zip(own["step"].iloc[1:], own["a"].diff().iloc[1:], strict=True)
    said = "; ".join(f"{step.removeprefix('+ ')} {move:+.2f}" for step, move in moves)
    overlap = first["low (95 %)"] <= last["high (95 %)"] and last["low (95 %)"] <= first["high (95 %)"]
    return (
        f"{text}The same steps on our ladder: from {first['a']:.2f} [{first['low (95 %)']:.2f}, "
        f"{first['high (95 %)']:.2f}] to {last['a']:.2f} [{last['low (95 %)']:.2f}, "
        f"{last['high (95 %)']:.2f}] ({said}). "
        + (
            "The intervals of the two ends overlap, so this ladder does not show that the exponent moves."
            if overlap
            else "The intervals of the two ends do not overlap: training and counting move the exponent."
        )
    )
