"""Shape: does it matter how a fixed number of parameters is laid out?

Runs: models of one size and many shapes: the feed-forward width, the depth and the heads, one at a time.

Analysis: shapes at one size: the loss of each over what L(N) gives at its own N, in percent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from scipy.stats import t

from allometry.figures.several import several
from allometry.figures.theme import Figure
from allometry.models.transformer import TransformerConfig
from allometry.report.build import Analysis, Constant, Section, Table
from allometry.studies.core.sections import (
    KAPLAN,
    LEVEL,
    StudySection,
    TooFewRuns,
    chapter,
    constant,
    percent,
    scope,
    section_or_reason,
    usable_runs,
)
from allometry.studies.core.study import (
    BATCH_TOKENS,
    CONTEXT,
    Study,
    heads,
    register,
    run_set,
    small_run,
    too_little,
    vocabulary,
)

if TYPE_CHECKING:
    from allometry.studies.core.study import StudyData
    from allometry.train.config import DataConfig, RunConfig


@register
class Shape(Study):
    """Varies the feed-forward width, the depth and the heads of one model, one at a time, at fixed N.

    If shape mattered as much as size, L(N) would be a law of whoever chose the shapes. Kaplan et al. 2020
    (section 3.1, figures 5 and 24) find that over wide ranges it moves the loss by a few per cent. The runs
    here are read as theirs: the loss over that of the law L(N) at each model's own N, since widths are whole
    numbers and N cannot be held exactly.
    """

    name: ClassVar[str] = "shape"
    question: ClassVar[str] = (
        "At a fixed number of parameters, how much does the loss depend on the feed-forward width, the depth "
        "and the heads?"
    )
    expected: ClassVar[str] = (
        "A few per cent over a factor of ten in each dial, as in figure 5 of the paper; at this size heads "
        "of 8 to 16 should beat wider ones, and a third layer should buy nothing."
    )
    run_sets: ClassVar[dict[str, float]] = {"shapes": 1.0}

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report the excess loss of each shape, with intervals from the seeds of the baseline."""
        usable, excluded = usable_runs(study_data)
        sections = {"shapes": section_or_reason("Shape at fixed N", lambda: shapes_section(usable))}
        seen = sections["shapes"].fits.get("summary", "The runs do not show how much shape matters.")
        return chapter(
            self,
            study_data,
            sections,
            answer=seen,
            next=_NEXT,
            excluded=excluded,
            warnings=scope(usable, study_data),
        )


N_AT_REFERENCE = 1e5
"""Parameters of every shape at REFERENCE compute; both N and D grow with its square root."""

REFERENCE = 3e13

SMALLEST = 4e3
"""N below which widths are too coarse to hold N fixed."""

FEWEST_UPDATES = 100

LAYERS = 2
"""Depth of the baseline, that of the recipe."""

RATIOS = (0.5, 1.0, 2.0, 8.0, 16.0)
"""d_ff / d_model beside the baseline's 4 (Kaplan et al. 2020, figure 5a)."""

DEPTHS = (1, 3, 4, 6, 8)
"""Layers beside the baseline's 2, at the same N: aspect ratios over a factor of about 20 (figure 5b)."""

SIZES = (0.5, 2.0)
"""Baseline shapes of other sizes, whose losses say what a difference in N is worth."""

SEEDS = 4
"""Seeds of the baseline: the noise that the differences are held against."""


@run_set
def shapes(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return variants of one model at fixed N, with the protocol of Kaplan et al. 2020, section 3.1: heads
    vary alone; depth and feed-forward width vary together with d_model.
    """
    n_vocab = vocabulary(data)
    N = max(SMALLEST, N_AT_REFERENCE * math.sqrt(compute / REFERENCE))
    models = variants(N, n_vocab)
    baseline = models[0]
    flops = sum(model.counts().flops_per_token("attention") for model in models)
    flops += (SEEDS - 1) * baseline.counts().flops_per_token("attention")
    steps = math.floor(compute / flops / BATCH_TOKENS)
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "shapes at one size")
    tokens = steps * BATCH_TOKENS
    runs = [small_run(model, tokens=tokens, data=data) for model in models]
    runs += [small_run(baseline, tokens=tokens, data=data, seed=seed) for seed in range(1, SEEDS)]
    return tuple({run.id: run for run in runs}.values())


def variants(N: float, n_vocab: int) -> list[TransformerConfig]:
    """Return every shape, the baseline first: all of about N parameters but the two of SIZES."""
    found = [shape(N, n_vocab)]
    found += [shape(N, n_vocab, ratio=ratio) for ratio in RATIOS]
    found += [shape(N, n_vocab, layers=layers) for layers in DEPTHS]
    found += [found[0].replace(n_head=n_head) for n_head in head_counts(found[0].d_model)]
    found += [shape(N * factor, n_vocab) for factor in SIZES]
    return list(dict.fromkeys(found))


def shape(N: float, n_vocab: int, *, layers: int = LAYERS, ratio: float = 4.0) -> TransformerConfig:
    """Return the model of `layers` layers with d_ff / d_model near `ratio`: d_model is a multiple of 8, and
    d_ff makes N = 2 d_model layers (2 d_model + d_ff) come out as nearly as it can.
    """
    width = 8 * max(1, round(math.sqrt(N / (2 * layers * (2 + ratio))) / 8))
    d_ff = 8 * max(1, round((N / (2 * width * layers) - 2 * width) / 8))
    return TransformerConfig(
        n_layer=layers, d_model=width, n_head=heads(width), d_ff=d_ff, n_ctx=CONTEXT, n_vocab=n_vocab
    )


def head_counts(d_model: int) -> list[int]:
    """Return numbers of heads of a width: heads of 8, 16, 32, … up to d_model."""
    widths = [8 * 2**k for k in range(8) if d_model % (8 * 2**k) == 0]
    return sorted({d_model // width for width in widths} | {1})


KAPLAN_SLOPE = 0.076
"""alpha_N of Kaplan et al. 2020, for the correction of N where our own sizes are missing."""

SMALL = 3.0
"""Per cent that the paper calls a few."""

_DIALS = {
    "feed-forward": ("ratio", "d_ff / d_model", "the feed-forward ratio d_ff / d_model (figure 5a)"),
    "depth": ("aspect", "d_model / n_layer", "the aspect ratio d_model / n_layer (figure 5b)"),
    "heads": ("head width", "d_model / n_head", "the width of a head, d_model / n_head (figure 5c)"),
}
"""Each dial's column, the title of its axis, and its name in a sentence."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The shape that everything is compared with: its row, the slope of log L in log N through its sizes,
    the standard error of that slope, and the standard deviation of log L between its seeds."""

    row: pd.Series
    mean: float
    seeds: int
    noise: float
    slope: float
    slope_error: float

    @property
    def reach(self) -> float:
        """Student's t at LEVEL for the freedom that the seeds leave."""
        return float(t.ppf(0.5 + LEVEL / 2, max(1, self.seeds - 1)))


_NEXT = (
    "Whether the best shape moves with N: the same dials at ten times the size, and with a learning rate "
    "tuned for each shape instead of a rule in d_model alone."
)


def shapes_section(runs: pd.DataFrame) -> StudySection:
    """Report the three panels of Kaplan et al. 2020, figure 5."""
    base = baseline(runs)
    table = excess(runs, base)
    worst = {dial: _extremes(table, dial) for dial in _DIALS if (table["dial"] == dial).any()}
    figures: list[Figure | Table] = [_panel(table, dial) for dial in worst]
    figures.append(_wide(table))
    summary = _summary(worst, base)
    return StudySection(
        section=Section(title="Shape at fixed N", text=_text(base, worst), evidence=tuple(figures)),
        constants=_constants(table, base),
        fits={"summary": summary, "baseline": base},
    )


def baseline(runs: pd.DataFrame) -> Baseline:
    """Return the shape with several seeds. Raises AllometryError if it has fewer than two."""
    keys = ["n_layer", "d_model", "d_ff", "n_head"]
    repeats = runs.groupby(keys).agg(seeds=("seed", "nunique")).reset_index()
    if not len(repeats) or repeats["seeds"].max() < 2:
        raise TooFewRuns("no shape was trained with several seeds")
    chosen = repeats.sort_values("seeds").iloc[-1][keys]
    same = runs[(runs[keys] == chosen).all(axis=1)]
    logs = np.log(same["loss"])
    slope, error = _slope(runs, same)
    return Baseline(
        row=same.iloc[0], mean=float(logs.mean()), seeds=len(same), noise=float(logs.std(ddof=1)),
        slope=slope, slope_error=error,
    )  # fmt: skip


def _is_size(runs: pd.DataFrame, base: pd.Series) -> pd.Series:
    """Return runs of the baseline's proportions and depth at another N."""
    ratio, usual = runs["d_ff"] / runs["d_model"], base["d_ff"] / base["d_model"]
    near = (ratio / usual).between(1 / 1.3, 1.3)
    far = ~(runs["N"] / base["N"]).between(1 / 1.3, 1.3)
    return near & far & (runs["n_layer"] == base["n_layer"])


def _slope(runs: pd.DataFrame, same: pd.DataFrame) -> tuple[float, float]:
    """Return d log L / d log N over the sizes of the baseline's shape, and its standard error."""
    sizes = pd.concat([same, runs[_is_size(runs, same.iloc[0])]])
    if sizes["N"].nunique() < 3:
        return -KAPLAN_SLOPE, KAPLAN_SLOPE
    (slope, _), covariance = np.polyfit(np.log(sizes["N"]), np.log(sizes["loss"]), 1, cov=True)
    return float(slope), float(np.sqrt(covariance[0, 0]))


def excess(runs: pd.DataFrame, base: Baseline) -> pd.DataFrame:
    """Return every shape with its dial, its `excess` loss in percent over L(N) through the baseline, and the
    interval (`low`, `high`) that the noise of a run and of the baseline's mean leave.

    The baseline stands in every dial.
    """
    row = base.row
    own = runs[~_is_size(runs, row)].copy()
    shift = np.log(own["N"] / row["N"])
    logs = np.log(own["loss"]) - base.mean - base.slope * shift
    spread = np.sqrt(base.noise**2 * (1 + 1 / base.seeds) + (base.slope_error * shift) ** 2) * base.reach
    own = own.assign(
        ratio=own["d_ff"] / own["d_model"],
        aspect=own["d_model"] / own["n_layer"],
        excess=100 * np.expm1(logs),
        low=100 * np.expm1(logs - spread),
        high=100 * np.expm1(logs + spread),
    )
    own["head width"] = own["d_model"] / own["n_head"]
    own["dial"] = [_dial(each, row) for _, each in own.iterrows()]
    mean = own[own["dial"] == "baseline"].iloc[:1].assign(run="mean of the baseline's seeds", excess=0.0)
    half = 100 * np.expm1(base.reach * base.noise / np.sqrt(base.seeds))
    mean = mean.assign(low=-half, high=half, n=base.seeds)
    tables = [own[own["dial"] != "baseline"], *(mean.assign(dial=dial) for dial in _DIALS)]
    return pd.concat(tables, ignore_index=True)


def _dial(run: pd.Series, base: pd.Series) -> str:
    """Return which dial a run turns."""
    if run["n_layer"] != base["n_layer"]:
        return "depth"
    if (run["d_model"], run["d_ff"]) != (base["d_model"], base["d_ff"]):
        return "feed-forward"
    return "heads" if run["n_head"] != base["n_head"] else "baseline"


def _extremes(table: pd.DataFrame, dial: str) -> tuple[pd.Series, pd.Series]:
    rows = table[table["dial"] == dial].sort_values("excess")
    return rows.iloc[0], rows.iloc[-1]


_COLUMNS = ["n_layer", "d_model", "d_ff", "n_head", "N", "loss", "excess", "low", "high"]


def _panel(table: pd.DataFrame, dial: str) -> Figure:

    column, axis, what = _DIALS[dial]
    rows = table[table["dial"] == dial].sort_values(column).assign(series=f"{dial} of each shape")
    return several(
        rows[["series", column, *_COLUMNS]],
        rows[["series", column, "excess"]],
        x=column, y="excess", y_scale="percent", x_title=axis, y_title="Loss over L(N), less one",
        name=f"shape-{dial}", title=f"Loss against {what}",
        caption=(
            f"{len(rows)} shapes of about {rows['N'].median():,.0f} parameters. Zero is the mean of the "
            f"baseline's seeds; bars are {LEVEL:.0%} intervals of a single run from their spread. Kaplan et "
            "al. find all of a wide range within a few per cent."
        ),
    )  # fmt: skip


def _wide(table: pd.DataFrame) -> Table:
    return Table(
        name="shapes",
        title="Every shape",
        caption="Excess in percent over the law L(N) through the baseline at the model's own N.",
        frame=table[["dial", *_COLUMNS]].sort_values(["dial", "excess"]),
    )


def _constants(table: pd.DataFrame, base: Baseline) -> tuple[Constant, ...]:
    """Return what a factor of 40 in the aspect ratio costs."""
    rows = []
    depth = table[table["dial"] == "depth"].sort_values("excess")
    if len(depth) > 2:
        span = depth["aspect"].max() / depth["aspect"].min()
        best, worst = depth.iloc[0], depth.iloc[-1]
        value = worst["excess"] - best["excess"]
        half = np.hypot(worst["high"] - worst["excess"], best["excess"] - best["low"])
        why = f"ours is the spread over a factor of {span:.0f} in models a thousand times smaller"
        estimate = (value / 100, (value - half) / 100, (value + half) / 100)
        rows.append(constant("loss over a factor of 40 in aspect", "ΔL/L", {KAPLAN: 0.03}, estimate, why))
    return tuple(rows)


def _summary(worst: dict[str, tuple[pd.Series, pd.Series]], base: Baseline) -> str:
    parts = []
    for dial, (low, high) in worst.items():
        column, axis, _ = _DIALS[dial]
        parts.append(
            f"{axis}: best at {low[column]:.3g} ({low['excess']:+.1f} %), worst at {high[column]:.3g} "
            f"({high['excess']:+.1f} % [{high['low']:+.1f}, {high['high']:+.1f}])"
        )
    most = max(high["excess"] - low["excess"] for low, high in worst.values())
    verdict = "as the paper finds" if most < SMALL else "more than the few per cent that the paper finds"
    return (
        f"At {base.row['N']:,.0f} parameters shape moves the loss by up to {most:.1f} %, {verdict}. "
        f"{'; '.join(parts)}. Seeds differ by {percent(base.noise)}."
    )


def _text(base: Baseline, worst: dict[str, tuple[pd.Series, pd.Series]]) -> str:
    row = base.row
    clear = [_DIALS[dial][1] for dial, (low, high) in worst.items() if high["low"] > low["high"]]
    seen = f"Best and worst are apart by more than chance for {', '.join(clear)}. " if clear else (
        "No dial has a best and a worst shape that lie further apart than chance would put them. "
    )  # fmt: skip
    return (
        f"The baseline has {row['n_layer']:.0f} layers of width {row['d_model']:.0f}, {row['n_head']:.0f} "
        f"heads and d_ff = {row['d_ff']:.0f}; all shapes saw {row['D']:,.0f} tokens. Differences in N are "
        f"taken out with the slope of our own sizes, {base.slope:.3f} ± {base.slope_error:.3f}. Each shape "
        f"is one run, and runs of {base.seeds} seeds of the baseline differ by {percent(base.noise)} of the "
        f"loss. {seen}"
        "Peak learning rates follow the rule in d_model, so narrow and deep models get higher ones."
    )
