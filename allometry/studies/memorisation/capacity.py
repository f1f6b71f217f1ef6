"""Uniform random sequences in sets that pass what a model can hold (Morris et al. 2025, section 3).

Analysis: how many bits of uniform random data a model of N parameters comes to hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.data.generated import Uniform
from allometry.figures.several import several
from allometry.figures.theme import Figure
from allometry.models.transformer import TransformerConfig
from allometry.report.build import Constant, Section, Table
from allometry.studies.core.sections import (
    StudySection,
    TooFewRuns,
    constant,
    undecided,
)
from allometry.studies.core.study import heads, learning_rate, run_set, small_run, too_little
from allometry.studies.memorisation.probed import LEVEL, mean_interval, of_kind, size_name, straight
from allometry.train.config import DataConfig

if TYPE_CHECKING:
    from allometry.studies.core.study import StudyData
    from allometry.train.config import RunConfig

SYMBOLS, LENGTH = 512, 65
"""Alphabet and length of a sequence: 64 predicted symbols of 9 bits. The paper finds the capacity to depend
on neither, but what a short training reaches does: of 64 symbols in sequences of 17 the same updates fix
a fifth less per parameter (`docs/log.md`)."""

SHAPES = ((1, 8), (1, 16), (2, 16), (1, 24))
"""Layers and width: 5e3 to 2e4 parameters, embeddings included, which the paper counts too."""

BITS_PER_PARAMETER = 3.6
"""The paper's capacity, in which the sizes of the sets are measured."""

FILLINGS = (0.5, 1.0, 2.0)
"""Bits of a training set over the capacity that the paper would give the model."""

HORIZONS = (1 / 16, 1 / 4, 4.0, 16.0)
"""Further horizons of the smallest model on the set of filling 1, over its own: how bits grow with it."""

RATE, BATCH, DECAY = 2.0, 2048, 0.5
"""The rate over the recipe's, tokens of a batch, and the share of the updates at which the rate falls."""

FEWEST_UPDATES = 8
"""Updates of the smallest model; larger ones get more, in proportion to their parameters."""


@run_set
def capacity(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return every shape on sets from half to twice the expected capacity, tokens in proportion to
    parameters; and the smallest one on one set to several horizons.

    `data` is not read: the sequences are drawn at random.
    """
    models = [_model(*shape) for shape in SHAPES]
    costs = [m.counts().N_total * m.counts().flops_per_token("attention") for m in models]
    per_parameter = compute / (len(FILLINGS) * sum(costs) + sum(HORIZONS) * costs[0])
    if per_parameter * models[0].counts().N_total < FEWEST_UPDATES * BATCH:
        raise too_little(compute, "capacity of models")
    runs = [_run(model, per_parameter, filling) for model in models for filling in FILLINGS]
    runs += [_run(models[0], per_parameter * horizon, 1.0) for horizon in HORIZONS]
    return tuple({run.id: run for run in runs}.values())


def _model(n_layer: int, d_model: int) -> TransformerConfig:
    return TransformerConfig(
        n_layer=n_layer, d_model=d_model, n_head=heads(d_model), d_ff=4 * d_model, n_ctx=LENGTH - 1,
        n_vocab=SYMBOLS + 1,
    )  # fmt: skip


def _run(model: TransformerConfig, per_parameter: float, filling: float) -> RunConfig:

    bits_each = (LENGTH - 1) * math.log2(SYMBOLS)
    total = model.counts().N_total
    wanted = round(filling * BITS_PER_PARAMETER * total / bits_each)
    sequences = max(wanted, Uniform(symbols=SYMBOLS, length=LENGTH).fewest)
    corpus = f"synthetic:uniform,symbols={SYMBOLS},length={LENGTH},sequences={sequences},seed=0"
    data = DataConfig(corpus=corpus, tokenizer="symbols", probe="trained")
    run = small_run(
        model, tokens=BATCH * max(1, round(per_parameter * total / BATCH)), data=data, batch_tokens=BATCH,
        lr=float(f"{RATE * learning_rate(model):.3g}"), decay=DECAY, weight_decay=0.0, evals_per_octave=2,
    )  # fmt: skip
    return run.replace(data={**run.data.model_dump(), "eval_tokens": 1024})


MORRIS = "Morris 2025"
SINGLE, HALF = 3.83, 3.51
"""Bits per parameter that the paper measures in fp32 and in bf16; its fit over sizes has 3.64."""

SLOPE = 3.64

STILL_RISING = 0.02
"""Growth of the memorised bits, over the last half octave of steps at the constant rate, from which a run was
stopped by its length and not by what it can hold."""

CLEARLY = 0.01
"""Growth of the memorised bits with each doubling of the training, at the lower end of its interval, from
which training has limited them."""

PAST = 1.2
"""A size was taken past saturation if its largest set has so many times the bits that it came to hold."""


def capacity_section(runs: pd.DataFrame, study_data: StudyData) -> StudySection:
    """Report memorised bits against the bits of the set, and their largest value against N."""
    table = memorised(runs, study_data.probes)
    alike = same_training(table)
    sizes, growth = saturated(alike), with_training(table)
    slope = _slope(sizes)
    longer = () if growth is None else (_against_training(growth.runs),)
    return StudySection(
        section=Section(
            title="Capacity: bits per parameter",
            text=_text(table, sizes, growth),
            evidence=(_against_set(alike), *longer, _against_size(sizes), _table(table)),
        ),
        constants=_constants(sizes, slope, growth),
        fits={"sizes": sizes, "summary": _summary(sizes, slope, growth)},
    )


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Runs that differ in their horizon alone, and by what share the memorised bits grow with each doubling
    of it, with its interval; over all of them, and from one to the next at the end.
    """

    runs: pd.DataFrame
    doubling: tuple[float, float, float]
    last: float

    @property
    def limits(self) -> bool:
        """Whether more training would have memorised more."""
        return self.doubling[1] > CLEARLY and self.last > CLEARLY


def same_training(table: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with the horizon that most runs of their size have."""
    usual = table.groupby("N_total")["S"].transform(lambda steps: steps.mode().max())
    return table[table["S"] == usual].reset_index(drop=True)


def with_training(table: pd.DataFrame) -> Growth | None:
    """Return how memorised bits grow with the training of one model on one set; None without three
    horizons.
    """
    groups = [part for _, part in table.groupby(["N_total", "set"]) if part["S"].nunique() >= 3]
    if not groups:
        return None
    runs = max(groups, key=len).sort_values("S")
    runs = runs[runs["memorised"] > 0]
    if runs["S"].nunique() < 3:
        return None
    doublings, bits = np.log2(runs["S"].to_numpy(float)), np.log(runs["memorised"].to_numpy(float))
    slope, low, high = (float(np.expm1(value)) for value in straight(doublings, bits)[0])
    last = float(np.expm1((bits[-1] - bits[-2]) / (doublings[-1] - doublings[-2])))
    return Growth(runs=runs, doubling=(slope, low, high), last=last)


def memorised(runs: pd.DataFrame, probes: pd.DataFrame | None) -> pd.DataFrame:
    """Return one row a run: bits of its training set, bits of it that the model has memorised at the end
    (what the sequences would cost without the model less what they cost with it), and how the latter still
    grew.
    """
    found = of_kind(probes, runs, "trained")
    found = found[found["entropy"].notna()]
    if not len(found):
        raise AllometryError("the runs' training sets have no known entropy", hint="use synthetic:uniform,…")
    sums = found.groupby(["run", "N", "N_total", "S", "step"])[["loss", "entropy"]].sum().reset_index()
    sums["bits"] = (sums["entropy"] - sums["loss"]) / np.log(2)
    falls = runs.set_index("run")["decay"].to_dict()
    rows = []
    for (run, N, total, S), part in sums.groupby(["run", "N", "N_total", "S"]):
        last = part.sort_values("step").iloc[-1]
        rows.append(
            {
                "run": run, "N": N, "N_total": total, "S": S,
                "set": last["entropy"] / np.log(2), "memorised": max(0.0, last["bits"]),
                "growth": _growth(part, 1 - falls[run]),
            }
        )  # fmt: skip
    table = pd.DataFrame(rows).sort_values(["N_total", "set"], ignore_index=True)
    return table.assign(**{"bits per parameter": table["memorised"] / table["N_total"]})


def _growth(part: pd.DataFrame, constant: float) -> float:
    """Return the relative growth of the memorised bits between the last two evaluations at the constant rate,
    which is the first share `constant` of the steps.
    """
    early = part[(part["step"] <= constant * part["S"]) & (part["bits"] > 0)].sort_values("step")["bits"]
    return float(early.iloc[-1] / early.iloc[-2] - 1) if len(early) > 1 else np.nan


def saturated(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a size: the most bits over its sets, per parameter too, whether the sets pass
    saturation, and whether the fullest run was still learning (a lower bound then).
    """
    rows = []
    for total, part in table.groupby("N_total"):
        best = part.sort_values("memorised").iloc[-1]
        growth = best["growth"]
        rows.append(
            {
                "N_total": total, "capacity": best["memorised"],
                "bits per parameter": best["memorised"] / total,
                "largest set": part["set"].max(),
                "past saturation": bool(part["set"].max() > PAST * best["memorised"]),
                "still rising": bool(not growth < STILL_RISING),
            }
        )  # fmt: skip
    sizes = pd.DataFrame(rows)
    if not (sizes["capacity"] > 0).any():
        raise TooFewRuns("no model has memorised anything beyond the alphabet")
    return sizes


def _slope(sizes: pd.DataFrame) -> tuple[float, float, float] | None:
    try:
        return straight(sizes["N_total"], sizes["capacity"])[0]
    except AllometryError:
        return None


def _limited(sizes: pd.DataFrame, growth: Growth | None) -> bool:
    """Return whether training and not capacity decided how much was memorised: the longer runs tell, or where
    there are none, the ends of the curves.
    """
    return bool(sizes["still rising"].any()) if growth is None else growth.limits


def _constants(
    sizes: pd.DataFrame, slope: tuple[float, float, float] | None, growth: Growth | None
) -> tuple[Constant, ...]:
    limited = _limited(sizes, growth)
    why = (
        "a lower bound: more training memorises more, so optimisation limits it"
        if limited
        else "all parameters are counted; fp32, sets taken past saturation"
    )
    rows = []
    if slope is not None:
        rows.append(constant("capacity, slope over N", "dM/dN", {MORRIS: SLOPE}, slope, why))
    each = mean_interval(sizes["bits per parameter"])
    published = {f"{MORRIS}, fp32": SINGLE, f"{MORRIS}, bf16": HALF}
    if np.isfinite(each[1]):
        rows.append(constant("capacity, bits per parameter", "M/N", published, each, why))
    return tuple(_judged(row, limited) for row in rows)


def _judged(row: Constant, limited: bool) -> Constant:
    """Judge a constant at this study's level; a lower bound that lies below the published values contradicts
    nothing.
    """
    bound = row.verdict == "agrees" or row.high < min(row.published.values())
    if not (limited and bound):
        return replace(row, level=LEVEL)
    return undecided(
        replace(row, level=LEVEL),
        "more training would have memorised more, so this is a lower bound",
        "the same sets at four and sixteen times the updates, in three seeds",
    )


def _against_set(table: pd.DataFrame) -> Figure:

    points = table.assign(series=[size_name(n) for n in table["N_total"]])
    span = np.geomspace(table["set"].min(), table["set"].max(), 40)
    whole = pd.DataFrame({"series": "everything memorised", "set": span, "memorised": span})
    lines = [whole]
    for total in table["N_total"].unique():
        part = table[table["N_total"] == total]
        own = np.geomspace(part["set"].min(), part["set"].max(), 40)
        at = np.minimum(own, SINGLE * total)
        lines.append(pd.DataFrame({"series": size_name(total), "set": own, "memorised": at}))
    return several(
        points[["series", "set", "memorised", "bits per parameter", "growth", "N_total", "S", "run"]],
        pd.concat(lines, ignore_index=True), x="set", y="memorised",
        x_title="Bits of the training set", y_title="Bits memorised",
        name="capacity-sets", title="Memorised bits against the bits of the set",
        caption=(
            "Random sequences: what the training set would cost without the model less what it costs "
            "with it. Lines: everything, and for each size what Morris et al. 2025 would expect in fp32."
        ),
    )  # fmt: skip


def _against_size(sizes: pd.DataFrame) -> Figure:

    named = ["lower bound: still rising" if rising else "saturated" for rising in sizes["still rising"]]
    span = np.geomspace(sizes["N_total"].min(), sizes["N_total"].max(), 40)
    lines = [
        pd.DataFrame(
            {"series": f"{bits} bits per parameter ({MORRIS})", "N_total": span, "capacity": bits * span}
        )
        for bits in (SINGLE, HALF)
    ]
    return several(
        sizes.assign(series=named), pd.concat(lines, ignore_index=True), x="N_total", y="capacity",
        y_title="Most bits memorised", name="capacity-sizes", title="Capacity against parameters",
        caption="The most that a model of each size has memorised over all sets. All parameters are counted.",
    )  # fmt: skip


def _against_training(runs: pd.DataFrame) -> Figure:

    total = float(runs["N_total"].iloc[0])
    span = np.array([runs["S"].min(), runs["S"].max()])
    line = pd.DataFrame({"series": f"{SINGLE} ({MORRIS}, fp32)", "S": span, "bits per parameter": SINGLE})
    columns = ["series", "S", "bits per parameter", "memorised", "set", "run"]
    return several(
        runs.assign(series=size_name(total))[columns], line, x="S", y="bits per parameter", y_scale="plain",
        name="capacity-training", title="Memorised bits against training",
        caption=(
            f"{total:,.0f} parameters on one set of {runs['set'].iloc[0]:,.0f} random bits, each "
            "point a run of its own whose rate has fallen to nothing: where longer runs still hold more, "
            "training limits what is memorised."
        ),
    )  # fmt: skip


def _table(table: pd.DataFrame) -> Table:
    caption = (
        "Bits of the set and bits memorised at the end; growth is that of the memorised bits over the last "
        "half octave of steps before the learning rate falls."
    )
    columns = ["N_total", "S", "set", "memorised", "bits per parameter", "growth"]
    title = "Every run on random sequences"
    return Table(name="capacity", title=title, caption=caption, frame=table[columns])


def _summary(sizes: pd.DataFrame, slope: tuple[float, float, float] | None, growth: Growth | None) -> str:
    best = sizes["bits per parameter"].max()
    rate = f"{len(sizes)} sizes are too few for a slope"
    if slope is not None:
        rate = f"a slope of {slope[0]:.2f} [{slope[1]:.2f}, {slope[2]:.2f}] over {len(sizes)} sizes"
    bound = "; a lower bound, since more training memorises more" if _limited(sizes, growth) else ""
    return f"Models hold up to {best:.2f} bits per parameter of random data ({rate}{bound})."


def _text(table: pd.DataFrame, sizes: pd.DataFrame, growth: Growth | None) -> str:
    rising, short = int(sizes["still rising"].sum()), int((~sizes["past saturation"]).sum())
    told = [
        f"{len(table)} runs on sequences that hold nothing to generalise; whatever a model knows of them it "
        "has stored. The first symbol of a sequence is given and not counted. Sets of one seed are nested."
    ]
    if rising:
        told.append(
            f"At {rising} of {len(sizes)} sizes the fullest run was still gaining more than "
            f"{100 * STILL_RISING:.0f} % in half an octave of steps before its rate fell."
        )
    told += [_of_training(growth)] if growth is not None else []
    if _limited(sizes, growth):
        told.append("What optimisation has reached is **not the capacity**, which is at least as large.")
    if short:
        told.append(f"At {short} sizes even the largest set was memorised nearly whole: no plateau is seen.")
    if not rising and not short and not _limited(sizes, growth):
        told.append("At every size bits stop rising with the set and with time: the plateau is the capacity.")
    return " ".join(told)


def _of_training(growth: Growth) -> str:
    """Return what longer training did to one model, as a sentence."""
    first, last = growth.runs.iloc[0], growth.runs.iloc[-1]
    value, low, high = (100 * share for share in growth.doubling)
    return (
        f"Trained {last['S'] / first['S']:,.0f} times as long, a model of {first['N_total']:,.0f} parameters "
        f"goes from {first['bits per parameter']:.2f} to {last['bits per parameter']:.2f} bits per parameter "
        f"on one set: {value:.1f} % [{low:.1f}, {high:.1f}] with each doubling, {100 * growth.last:.1f} % "
        "with the last ones."
    )
