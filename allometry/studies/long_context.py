"""Long contexts: where in them does a recurrent network fall behind a transformer?

Runs: LSTMs and transformers of equal N on equal tokens, at contexts of 256 and 1,024.

Analysis: losses by position in pairs of equal N and seed (Kaplan et al. 2020, figure 7, right).

Made for a GPU and for tokens of several bytes; on cores, and with bytes, it answers for models that are too small to
use so long a context. No GPU has trained it yet.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from allometry.figures.several import several
from allometry.report.build import Analysis, Section, Table
from allometry.studies.architectures import (
    LATE,
    final_positions,
    lstm_like,
    named,
    ratios_by_position,
)
from allometry.studies.core.sections import (
    KAPLAN,
    NotRecorded,
    StudySection,
    chapter,
    claim,
    constant,
    mean_estimate,
    scope,
    section_or_reason,
    summary_of,
    usable_runs,
)
from allometry.studies.core.study import (
    Study,
    register,
    run_set,
    small_model,
    small_run,
    too_little,
    vocabulary,
)

if TYPE_CHECKING:
    from allometry.models.base import ModelConfig
    from allometry.studies.core.study import StudyData
    from allometry.train.config import DataConfig, RunConfig


@register
class LongContext(Study):
    """Trains LSTMs beside transformers of the same N on the same tokens, with contexts in which an LSTM's memory is
    said to end.

    Kaplan et al. 2020, figure 7 (right): up to about a hundred tokens both improve; from there on the LSTM is
    flat, while the transformer improves through the whole context, the more the larger it is.
    """

    name: ClassVar[str] = "long_context"
    question: ClassVar[str] = (
        "In contexts of hundreds of tokens, where does an LSTM fall behind a transformer of its size, and what do "
        "both still gain after a hundred tokens?"
    )
    expected: ClassVar[str] = (
        "The LSTM as good as the transformer on the first tokens and worse in the last quarter of the context; "
        "flat after about a hundred tokens, where the transformer still improves. With little data or small "
        "models the transformer has not begun to use its context, and the two look alike."
    )
    budget: ClassVar[str] = "15m"
    run_sets: ClassVar[dict[str, float]] = {"long_recurrent": 1.0}

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report where the LSTM falls behind, and what each family gains late in the context."""
        usable, excluded = usable_runs(study_data)
        positions = final_positions(study_data.positions, named(usable))
        sections = {
            "behind": section_or_reason("Where the LSTM falls behind", lambda: behind(positions)),
            "use": section_or_reason("What is gained after a hundred tokens", lambda: gained(positions)),
        }
        return chapter(
            self,
            study_data,
            sections,
            answer=summary_of(sections),
            next=_NEXT,
            excluded=excluded,
            warnings=scope(usable, study_data),
        )


N_AT_REFERENCE = 3e7
"""Parameters of the largest models at REFERENCE compute."""

REFERENCE = 2e16

POWER = 0.7
"""N grows with compute to this power: with its square root, what does not grow with N (positions, the head) would
leave small studies too few updates."""

LARGEST, SMALLEST = 3e7, 6e3
"""Limits of the largest models' N: more compute than REFERENCE goes into tokens."""

SIZES, STEP = 3, 6.0
"""Sizes, and the factor in N between them."""

CONTEXTS = (256, 1024)
"""Tokens of context; the largest size, which costs most, only has the longer one."""

SEEDS = 2
"""Seeds of the smaller sizes at the longer context."""

BATCH, SMALL_BATCH = 8192, 2048
"""Tokens of a batch: eight sequences of the longer context, and two in small studies, which have few tokens. The
recipe's rates were measured at smaller batches."""

SMALL = 1e15
"""Compute below which a study is small."""

FEWEST_UPDATES = 100


@run_set
def long_recurrent(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return pairs of a transformer and an LSTM of two layers at every size and context, at equal tokens."""
    planned, batch = _planned(compute, vocabulary(data)), SMALL_BATCH if compute < SMALL else BATCH
    flops = sum(model.counts().flops_per_token("attention") for model, _ in planned)
    steps = math.floor(compute / flops / batch)
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "comparison of long contexts")
    runs = [
        small_run(model, tokens=steps * batch, data=data, seed=seed, batch_tokens=batch)
        for model, seed in planned
    ]
    return tuple({run.id: run for run in runs}.values())


def _planned(compute: float, n_vocab: int) -> list[tuple[ModelConfig, int]]:
    """Return models with their seeds, smallest first."""
    largest = min(LARGEST, max(SMALLEST, N_AT_REFERENCE * (compute / REFERENCE) ** POWER))
    targets = [largest / STEP**k for k in reversed(range(SIZES))]
    planned = []
    for n_ctx in CONTEXTS:
        models = [small_model(max(1500, round(n)), n_vocab=n_vocab, n_ctx=n_ctx) for n in targets]
        seeds = SEEDS if n_ctx == max(CONTEXTS) else 1
        smaller, last = models[:-1], models[-1:] if n_ctx == max(CONTEXTS) else []
        planned += [(model, seed) for model in smaller for seed in range(seeds)]
        planned += [(model, 0) for model in last]
    return [(each, seed) for model, seed in planned for each in (model, lstm_like(model, 2))]


EARLY = 16
"""Positions up to here are early."""

MIDDLE = (100, 150)
"""Positions about a hundred, from which on the published LSTMs are flat."""

_NEXT = (
    "The same with more data, until the transformer has learned to copy from its context, and with LSTMs of one and "
    "four layers."
)


def _means(part: pd.DataFrame, column: str) -> dict[str, float]:
    """Return the mean of a column at early positions, about a hundred, and in the last quarter of the context."""
    position, n_ctx = part["position"], part["n_ctx"].iloc[0]
    chosen = {
        "early": position <= EARLY,
        "about 100": position.between(*MIDDLE),
        "late": position > LATE * n_ctx,
    }
    return {name: float(part.loc[rows, column].mean()) for name, rows in chosen.items()}


def _table(rows: pd.DataFrame, by: str, column: str, keep: tuple[str, ...]) -> pd.DataFrame:
    """Return a row for each group: the fields that it has in common, and `_means` of the column."""
    groups = [part for _, part in rows.groupby(by, sort=False)]
    return pd.DataFrame(
        [{name: part[name].iloc[0] for name in keep} | _means(part, column) for part in groups]
    )


def behind(positions: pd.DataFrame) -> StudySection:
    """Report how far the LSTM's loss lies above the transformer's along the context, in pairs."""
    if not len(positions):
        raise NotRecorded("no run recorded its loss by position")
    ratios = ratios_by_position(positions)
    every = _table(ratios, "pair", "excess", ("pair", "N", "seed", "n_ctx"))
    longest = int(every["n_ctx"].max())
    pairs = every[every["n_ctx"] == longest]
    early, late = mean_estimate(pairs["early"]), mean_estimate(pairs["late"])
    growth = mean_estimate(pairs["late"] - pairs["early"])
    summary = (
        f"At a context of {longest:,} the LSTM is {early[0]:+.1f} % [{early[1]:+.1f}, {early[2]:+.1f}] from the "
        f"transformer's loss on the first {EARLY} tokens, and {late[0]:+.1f} % [{late[1]:+.1f}, {late[2]:+.1f}] in "
        "the last quarter."
    )
    why = f"{len(pairs)} pairs of equal N and seed, {pairs['N'].nunique()} sizes, at equal tokens"
    shown = binned(ratios, "excess", _pair_name(ratios))
    figure = several(
        None, shown, x="position", y="excess", y_scale="percent", name="lstm-excess-in-long-contexts",
        x_title="position in the context (tokens)", y_title="LSTM over transformer, less one",
        title="Where in the context the LSTM falls behind",
        caption="Pairs of equal N, means over seeds and over neighbouring positions.",
    )  # fmt: skip
    table = Table(
        name="pairs", title="Every pair",
        caption=f"Per cent of the transformer's loss: positions up to {EARLY}, {MIDDLE[0]} to {MIDDLE[1]}, and the "
        "last quarter.",
        frame=every,
    )  # fmt: skip
    return StudySection(
        section=Section(title="Where the LSTM falls behind", text=summary, evidence=(figure, table)),
        constants=(
            claim("LSTM over transformer late in a long context, %", "ΔL/L", late, why, above=True),
            claim("the same, late less early, %", "ΔΔL/L", growth, why, above=True),
        ),
        fits={"summary": summary},
    )


def gained(positions: pd.DataFrame) -> StudySection:
    """Report what the loss falls by between about a hundred tokens and the last quarter, by family and size."""
    if not len(positions):
        raise NotRecorded("no run recorded its loss by position")
    longest = positions[positions["n_ctx"] == positions["n_ctx"].max()]
    table = _table(longest, "run", "loss", ("run", "series", "N", "seed", "n_ctx"))
    table["gain"] = 100 * (1 - table["late"] / table["about 100"])
    gains = {str(series): mean_estimate(part["gain"]) for series, part in table.groupby("series")}
    words = "; ".join(f"{name} {g[0]:+.1f} % [{g[1]:+.1f}, {g[2]:+.1f}]" for name, g in gains.items())
    summary = f"From position 100 to the last quarter the loss falls by: {words}."
    why = f"{table['N'].nunique()} sizes at a context of {longest['n_ctx'].iloc[0]:,}; positive is a gain"
    largest = longest[longest["N"] == longest["series"].map(longest.groupby("series")["N"].max())]
    shown = binned(largest, "loss", largest["series"] + ", N = " + largest["N"].map("{:,.0f}".format))
    figure = several(
        None, shown, x="position", y="loss", name="loss-in-a-long-context",
        x_title="position in the context (tokens)", title="Loss against position, largest models",
        caption="Held-out loss, means over neighbouring positions (figure 7, right).",
    )  # fmt: skip
    evidence = (
        figure,
        Table(name="gains", title="Every run", caption="Losses in nats, gain in %.", frame=table),
    )
    rows = [
        claim(f"gain after 100 tokens, {name}, %", "ΔL/L", gain, why, above=True)
        if name == "transformer"
        else constant(f"gain after 100 tokens, {name}, %", "ΔL/L", {KAPLAN: 0.0}, gain, why, widest=math.inf)
        for name, gain in gains.items()
    ]
    return StudySection(
        section=Section(title="What is gained after a hundred tokens", text=summary, evidence=evidence),
        constants=tuple(rows),
        fits={"summary": summary},
    )


def _pair_name(ratios: pd.DataFrame) -> pd.Series:
    return "N = " + ratios["N"].map("{:,.0f}".format) + ", context " + ratios["n_ctx"].astype(int).astype(str)


BINS = 24
"""Groups of neighbouring positions in a figure, of equal width in their logarithm."""


def binned(table: pd.DataFrame, column: str, series: pd.Series) -> pd.DataFrame:
    """Return means of a column over seeds and neighbouring positions, by series; columns series, position, and it."""
    edges = np.geomspace(1, table["position"].max(), BINS)
    group = np.searchsorted(edges, table["position"].to_numpy() * (1 + 1e-9))
    means = table.assign(series=series, group=group).groupby(["series", "group"], sort=False)
    return means.agg({"position": "mean", column: "mean"}).reset_index().drop(columns="group")
