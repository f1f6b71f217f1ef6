"""Transfer test: what does a loss on one text say about the loss on another?

Runs: a ladder of sizes that are tested on other texts than they are trained on.

Analysis: losses on other distributions against the loss on the training distribution.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from scipy.stats import linregress, t

from allometry.core.errors import AllometryError
from allometry.data.cache import downloads_allowed
from allometry.data.tokens import downloads, prepare
from allometry.figures.several import several
from allometry.figures.theme import Figure
from allometry.report.build import Analysis, Constant, Section, Table, Verdict
from allometry.studies.core.sections import (
    KAPLAN,
    LEVEL,
    NotRecorded,
    StudySection,
    TooFewRuns,
    chapter,
    constant,
    mean_estimate,
    scope,
    section_or_reason,
    seed_noise,
    slope_of,
    summary_of,
    undecided,
    usable_runs,
)
from allometry.studies.core.study import (
    BATCH_TOKENS,
    Study,
    register,
    run_set,
    small_model,
    small_run,
    too_little,
    vocabulary,
)

if TYPE_CHECKING:
    from allometry.laws.uncertainty import Array
    from allometry.models.base import ModelConfig
    from allometry.studies.core.study import StudyData
    from allometry.train.config import DataConfig, RunConfig


@register
class TransferTest(Study):
    """Tests a ladder of sizes on texts that none of them was trained on, after and during training.

    Kaplan et al. 2020, section 3.2.2 (figure 8): the loss elsewhere falls along with the loss here, at an
    almost constant offset, and depends on the loss here alone, not on whether it was reached by a small model
    after training or by a large one in the midst of it.
    """

    name: ClassVar[str] = "transfer_test"
    question: ClassVar[str] = (
        "Is the loss on other distributions a function of the loss on the training distribution, whatever "
        "the "
        "model's size and however far it is trained?"
    )
    expected: ClassVar[str] = (
        "Nearly parallel lines for other English prose; dictionaries, markup and code off the line, since "
        "most "
        "of what makes them hard is never seen here."
    )
    run_sets: ClassVar[dict[str, float]] = {"distributions": 1.0}

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report loss-to-loss exponents, and training curves against finished models."""
        usable, excluded = usable_runs(study_data)
        sections = {
            "sizes": section_or_reason("Losses elsewhere against size", lambda: by_size(usable)),
            "loss": section_or_reason("Losses elsewhere against the loss here", lambda: loss_to_loss(usable)),
            "during": section_or_reason(
                "During training and after it", lambda: during(usable, study_data.curves)
            ),
            "noise": seed_noise(usable)[1],
        }
        return chapter(
            self,
            study_data,
            sections,
            answer=summary_of(sections),
            next=_NEXT,
            excluded=excluded,
            warnings=(*missing(usable), *scope(usable, study_data)),
        )


WANTED = ("web-bible", "shakespeare", "factbook", "milton", "django", "stdlib")
"""Other distributions, from prose of another kind to code; each needs one small download, but `stdlib`."""

AT_HAND = ("stdlib", "synthetic:zipf,bytes=300k")
"""What is tested on where a study is too small to be worth a download."""

WORTH_FETCHING = 2e12
"""FLOPs from which it is."""

N_AT_REFERENCE = 2e5
"""Parameters of the largest model at REFERENCE compute; N and D grow with its square root."""

REFERENCE = 2e13

SMALLEST = 6e3

SIZES, STEP = 6, 2.3

SEEDS = 3
"""Seeds of one size in the middle."""

EVAL_TOKENS = 32_768
"""Held-out tokens of each distribution: half the recipe's, since there are seven."""

OFTEN = 3
"""Evaluations an octave of the largest model, whose losses are followed while it trains."""

FEWEST_UPDATES = 100


@run_set
def distributions(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return sizes at one horizon, evaluated on every distribution; the largest often, while it trains
    (Kaplan et al. 2020, figure 8).
    """
    elsewhere = tuple(name for name in others(compute, data) if name != data.corpus)
    models = _models(compute, vocabulary(data))
    middle = models[len(models) // 2]
    every = [*models, *[middle] * (SEEDS - 1)]
    steps = _steps(compute, every, len(elsewhere) + 1)
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "test on other distributions")
    tested = data.replace(eval_on=elsewhere)
    tokens = steps * BATCH_TOKENS
    runs = [
        small_run(model, tokens=tokens, data=tested, evals_per_octave=OFTEN if model == models[-1] else 1)
        for model in models
    ]
    runs += [small_run(middle, tokens=tokens, data=tested, seed=seed) for seed in range(1, SEEDS)]
    return tuple(run.replace(data={**run.data.model_dump(), "eval_tokens": EVAL_TOKENS}) for run in runs)


def _models(compute: float, n_vocab: int) -> list[ModelConfig]:

    largest = max(SMALLEST, N_AT_REFERENCE * math.sqrt(compute / REFERENCE))
    targets = [max(1500, round(largest / STEP**k)) for k in reversed(range(SIZES))]
    return list(dict.fromkeys(small_model(n, n_vocab=n_vocab) for n in targets))


def _steps(compute: float, models: list[ModelConfig], sets: int) -> int:
    """Return updates that `compute` pays for; an evaluation costs a third of training on its tokens."""
    per_token = sum(model.counts().flops_per_token("attention") for model in models)
    tokens = compute / per_token
    evaluations = 1 + math.log2(max(2.0, tokens / BATCH_TOKENS))
    return math.floor((tokens - evaluations * sets * EVAL_TOKENS / 3) / BATCH_TOKENS)


def others(compute: float, data: DataConfig) -> tuple[str, ...]:
    """Return the distributions for `compute` FLOPs that can be had; `studies.other_texts.transfer_test` names
    those that could not.
    """
    if compute < WORTH_FETCHING:
        return AT_HAND
    return tuple(name for name in WANTED if to_be_had(name, data.tokenizer))


def to_be_had(corpus: str, tokenizer: str) -> bool:
    """Return whether a corpus is there or can be fetched; it is prepared if so.

    Where nothing may be downloaded, what would be counts as there.
    """
    wanted = tokenizer if "@" in tokenizer or not tokenizer.startswith("bpe:") else "bytes"
    if not downloads_allowed() and downloads(corpus, wanted):
        return True
    try:
        prepare(corpus, wanted)
    except AllometryError:
        return False
    return True


SAME = 2.0
"""Per cent of loss within which two ways to the same test loss count as one."""


_NEXT = (
    "Whether the offset stays constant where a corpus is mixed into the training data at a few per cent, and "
    "which distributions leave the line at larger N."
)


def elsewhere(runs: pd.DataFrame) -> list[str]:
    """Return the distributions that the runs were tested on beside their own."""
    columns = [c for c in runs.columns if c.startswith("loss_") and runs[c].notna().any()]
    return [column.removeprefix("loss_") for column in columns]


def missing(runs: pd.DataFrame) -> tuple[str, ...]:
    """Return a warning for the distributions that could not be had when the study was planned."""
    found = set(elsewhere(runs))
    if not found or found <= set(AT_HAND):
        return ()
    lost = [name for name in WANTED if name not in found and name not in set(runs["corpus"])]
    if not lost:
        return ()
    return (
        f"Not tested on {', '.join(lost)}, which could not be had when the study was planned: "
        f"`allometry data prepare {lost[0]}` fetches it.",
    )


def _long(runs: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return one row a run and distribution: series (the distribution, "here" for its own), N, here, loss."""
    parts = [runs.assign(series="here (test split)", elsewhere=runs["loss"])]
    parts += [runs.assign(series=name, elsewhere=runs[f"loss_{name}"]) for name in names]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(here=table["loss"])[["series", "run", "N", "seed", "here", "elsewhere"]].dropna()


def by_size(runs: pd.DataFrame) -> StudySection:
    """Report losses on every distribution against N (Kaplan et al. 2020, figure 8, left)."""
    names = elsewhere(runs)
    if not names:
        raise NotRecorded("no run was tested on another distribution")
    table = _long(runs, names)
    means = table.groupby(["series", "N"], sort=False)["elsewhere"].mean().reset_index()
    means = means.rename(columns={"elsewhere": "loss"}).sort_values(["series", "N"])
    if means["N"].nunique() < 3:
        raise TooFewRuns("fewer than three sizes are done")
    rows = [
        {"distribution": s, **slope_of(part.set_index("N")["loss"])} for s, part in means.groupby("series")
    ]
    figure = several(
        means, means, x="N", y="loss", name="loss-elsewhere-against-size",
        title="Loss on each distribution against size",
        caption="All models saw the same tokens of the training corpus and none of the others (figure 8, "
        "left).",
    )  # fmt: skip
    slopes = Table(
        name="slopes-elsewhere", title="Slope of log L in log N on each distribution",
        caption=f"{LEVEL:.0%} intervals of straight lines from their residuals.", frame=pd.DataFrame(rows),
    )  # fmt: skip
    text = "Parallel lines in log-log would mean that size buys the same share of the loss everywhere."
    return StudySection(
        section=Section(title="Losses elsewhere against size", text=text, evidence=(figure, slopes))
    )


_ANOTHER = (
    "the paper trains on a broad mix of web text; this is one genre tested on others, another experiment"
)
_MIXED = "training on a mix of seven corpora, held-out documents of each and two near texts, about 2e14 FLOPs"


def loss_to_loss(runs: pd.DataFrame) -> StudySection:
    """Report the slope of the loss elsewhere against the loss here, in nats against nats, over finished models of
    all sizes. A constant offset, as Kaplan et al. 2020 find (figure 8), is a slope of one.
    """
    names = elsewhere(runs)
    if runs["N"].nunique() < 3 or not names:
        raise TooFewRuns("fewer than three sizes are done")
    means = runs.groupby("N")[["loss", *(f"loss_{name}" for name in names)]].mean()
    lines = {name: in_nats(means["loss"], means[f"loss_{name}"]) for name in names}
    why = "finished models of all sizes at one horizon, in nats against nats; 1 is a constant offset"
    found = tuple(
        constant(
            f"loss on {name} against loss here",
            "dL/dL",
            {KAPLAN: 1.0},
            line[:3],
            why,
            widest=1 / abs(line[0]),
        )
        for name, line in lines.items()
    )
    rows = tuple(undecided(row, _ANOTHER, _MIXED) for row in found)
    frame = pd.DataFrame(
        [
            {"distribution": name, "slope": k, "low": low, "high": high, "rms residual": rms,
             "loss there over here, largest model": means[f"loss_{name}"].iloc[-1] / means["loss"].iloc[-1]}
            for name, (k, low, high, rms) in lines.items()
        ]
    )  # fmt: skip
    straight = [row.name.split()[2] for row in found if row.verdict == "agrees"]
    off = {row.name.split()[2]: row.ours for row in found if row.verdict == "differs"}
    parts = [f"{name} {k:.2f}" for name, k in off.items()]
    summary = (
        f"Of {len(lines)} other distributions, the loss falls as many nats as the loss here on {len(straight)}"
        + (f" ({', '.join(straight)})" if straight else "")
        + (f"; by another number for each nat on {', '.join(parts)}." if parts else ".")
    )
    table = Table(
        name="loss-to-loss",
        title="Loss elsewhere against loss here: slopes",
        caption=f"{LEVEL:.0%} intervals from the residuals of straight lines, nats against nats.",
        frame=frame,
    )
    return StudySection(
        section=Section(title="Losses elsewhere against the loss here", text=summary, evidence=(table,)),
        constants=rows,
        fits={"summary": summary},
    )


def kappa(here: pd.Series, there: pd.Series) -> tuple[float, float, float, float]:
    """Return the slope in log-log with its interval, and the root mean square residual."""
    return _line(np.log(here.to_numpy(dtype=float)), np.log(there.to_numpy(dtype=float)))


def in_nats(here: pd.Series, there: pd.Series) -> tuple[float, float, float, float]:
    """Return the slope of one loss in another, nats in nats, with its interval, and the root mean square residual."""
    return _line(here.to_numpy(dtype=float), there.to_numpy(dtype=float))


def _line(x: Array, y: Array) -> tuple[float, float, float, float]:
    line = linregress(x, y)
    half = float(t.ppf(0.5 + LEVEL / 2, len(x) - 2) * line.stderr)
    rms = float(np.sqrt(np.mean((y - line.intercept - line.slope * x) ** 2)))
    return float(line.slope), float(line.slope) - half, float(line.slope) + half, rms


def during(runs: pd.DataFrame, curves: pd.DataFrame) -> StudySection:
    """Report the largest model while it trains against finished models of all sizes (figure 8, right)."""
    names = elsewhere(runs)
    largest = runs.sort_values("N")["run"].iloc[-1]
    curve = curves[(curves["run"] == largest) & curves["loss"].notna()].sort_values("loss")
    if len(curve) < 3 or not names:
        raise NotRecorded("the largest model's losses elsewhere were not recorded")
    finished = runs[runs["run"] != largest]
    tables = [_beside(finished, curve, name) for name in names]
    table = pd.concat([t for t in tables if len(t)], ignore_index=True) if any(map(len, tables)) else None
    if table is None or len(table) < 3:
        raise TooFewRuns("too few finished models have a test loss that the largest one passed through")
    ours = mean_estimate(table.groupby("run")["excess"].mean())
    summary = (
        f"At the same test loss, finished models lie {ours[0]:+.1f} % [{ours[1]:+.1f}, {ours[2]:+.1f}] from "
        "the loss elsewhere that the largest has on its way."
    )
    return StudySection(
        section=Section(
            title="During training and after it",
            text=f"{summary} Kaplan et al. see no difference. The largest model's curve is at its constant "
            "rate but for its last part, the finished ones have their rate decayed to zero.",
            evidence=(_both(finished, curve, names), _shares(table)),
        ),
        constants=(_same("loss elsewhere at equal loss here, after over during, %", ours),),
        fits={"summary": summary},
    )


def _beside(finished: pd.DataFrame, curve: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the finished models' loss on a distribution over that of the curve at the same test loss, in
    percent.
    """
    known = curve.dropna(subset=[f"loss_{name}"])
    inside = finished[finished["loss"].between(known["loss"].min(), known["loss"].max())]
    on_curve = np.exp(np.interp(np.log(inside["loss"]), np.log(known["loss"]), np.log(known[f"loss_{name}"])))
    excess = 100 * (inside[f"loss_{name}"] / on_curve - 1)
    return inside[["run", "N", "loss"]].assign(distribution=name, excess=excess).dropna()


def _both(finished: pd.DataFrame, curve: pd.DataFrame, names: list[str]) -> Figure:

    points = _long(finished, names)
    lines = _long(curve.assign(N=0, seed=0), names)
    keep = [points["series"].isin(names), lines["series"].isin(names)]
    return several(
        points[keep[0]].rename(columns={"elsewhere": "loss"}),
        lines[keep[1]].rename(columns={"elsewhere": "loss"}).sort_values(["series", "here"]),
        x="here", y="loss", x_title="test loss on the training distribution (nats per token)",
        y_title="Loss on another distribution", name="loss-elsewhere-against-here",
        title="Loss elsewhere against loss here",
        caption="Points: finished models of all other sizes. Lines: the largest model while it trains "
        "(figure 8, "
        "right).",
    )  # fmt: skip


def _shares(table: pd.DataFrame) -> Table:
    frame = table.groupby("distribution", sort=False)["excess"].agg(["mean", "std", "size"]).reset_index()
    return Table(
        name="after-over-during", title="After training over during training, by distribution",
        caption="Per cent of the loss elsewhere, at equal loss here.", frame=frame,
    )  # fmt: skip


def _same(name: str, estimate: tuple[float, float, float]) -> Constant:
    """Return a row for a claim that there is no difference: agrees if the interval lies within ± SAME."""
    ours, low, high = estimate
    verdict: Verdict = "agrees" if max(-low, high) < SAME else "cannot tell"
    if low > 0 or high < 0:
        verdict = verdict if verdict == "agrees" else "differs"
    why = f"counted as the same if the whole interval is within ± {SAME:.0f} %; models share their test text"
    return Constant(
        name=name, symbol="ΔL/L", published={KAPLAN: 0.0}, ours=ours, low=low, high=high, level=LEVEL,
        verdict=verdict, why=why,
    )  # fmt: skip
