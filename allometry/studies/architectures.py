"""Architectures: are the laws those of the transformer, or of learning from text by whatever means?

Runs: three architectures at matched sizes: the transformer, the LSTM and the Universal Transformer.

Analysis: architectures against each other: pairs of runs of equal N, equal data and equal seed.

Analysis: LSTMs against transformers by the position in the context, in pairs of equal N and seed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from allometry.core.units import format_count
from allometry.figures.several import several
from allometry.figures.theme import Figure
from allometry.models.lstm import LSTMConfig
from allometry.models.universal import UniversalConfig
from allometry.report.build import Analysis, Constant, Section, Table
from allometry.studies.core.sections import (
    LEVEL,
    NotRecorded,
    StudySection,
    TooFewRuns,
    chapter,
    claim,
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
    from allometry.models.base import ModelConfig
    from allometry.studies.core.study import StudyData
    from allometry.train.config import DataConfig, RunConfig


@register
class Architectures(Study):
    """Trains LSTMs and Universal Transformers at the sizes of a ladder of transformers, on the same tokens.

    Kaplan et al. 2020 compare the three in section 3.2.1 (figure 7) and appendix D.2 (figure 17): an LSTM
    keeps up with the transformer on the first tokens of a context and falls behind later, and re-using a
    transformer's blocks gains a little at equal N and loses a little at equal compute. Runs are paired by N,
    so that a difference has an interval.
    """

    name: ClassVar[str] = "architectures"
    question: ClassVar[str] = (
        "At equal N and equal data, how do an LSTM and a Universal Transformer compare with the transformer, "
        "early and late in the context?"
    )
    expected: ClassVar[str] = (
        "The LSTM as good as the transformer on early tokens and worse on late ones; the Universal "
        "Transformer "
        "slightly better at equal N and worse at equal compute. A context of 64 bytes is about a dozen "
        "words, "
        "so the LSTM's deficit may only begin to show, and more in the pair with 256."
    )
    run_sets: ClassVar[dict[str, float]] = {"recurrent": 1.0}

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report paired differences with intervals, by size and by position."""
        usable, excluded = usable_runs(study_data)
        runs = named(usable)
        usual = runs[runs["n_ctx"] == runs["n_ctx"].min()] if len(runs) else runs
        positions = final_positions(study_data.positions, runs)
        sections = {
            "lstm": section_or_reason("LSTM against transformer, by size", lambda: lstm_by_size(usual)),
            "places": section_or_reason(
                "LSTM against transformer, by position", lambda: by_position(positions)
            ),
            "universal": section_or_reason("Re-using the blocks", lambda: universal(usual)),
            "noise": _noise(usual),
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


N_AT_REFERENCE = 1.1e5
"""Parameters of the largest transformer at REFERENCE compute; N and D grow with its square root."""

REFERENCE = 6e13

SMALLEST = 6e3
"""N of the largest transformer below which its ladder has no room."""

SIZES, STEP = 5, 2.0
"""Transformers along the ladder, and the factor in N between them."""

REUSES = (2, 4)
"""How often a Universal Transformer applies its two distinct blocks; each costs that much more compute."""

LSTM_LAYERS = (1, 2, 4)
"""Layers of the LSTMs, those of Kaplan et al. 2020, figure 7; the ladder of two layers is complete."""

SEEDS = 3
"""Seeds of one matched pair."""

LONG_CONTEXT = 256
"""Context of the pair in which an LSTM's memory can be seen to end: four times the recipe's."""

FEWEST_UPDATES = 100


@run_set
def recurrent(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return every family at the same N and the same D, so that only the architecture differs; Universal
    Transformers have exactly the N of the transformer of their width, and `reuse` times its compute.
    """
    n_vocab = vocabulary(data)
    largest = max(SMALLEST, N_AT_REFERENCE * math.sqrt(compute / REFERENCE))
    ladder = _ladder(largest, n_vocab)
    models = [*ladder, *_universal(ladder), *_lstms(ladder)]
    pair, long = _pair(ladder), [_longer(model) for model in _pair(ladder)]
    every = [*models, *(model for model in pair for _ in range(SEEDS - 1)), *long]
    flops = sum(model.counts().flops_per_token("attention") for model in every)
    # A multiple of the long context's batch, so that all see the same number of tokens.
    steps = 2 * math.floor(compute / flops / (2 * BATCH_TOKENS))
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "comparison of architectures")
    tokens = steps * BATCH_TOKENS
    runs = [small_run(model, tokens=tokens, data=data) for model in models]
    runs += [
        small_run(model, tokens=tokens, data=data, seed=seed) for model in pair for seed in range(1, SEEDS)
    ]
    # Two sequences of 256 are too few for a batch: the long pair has four.
    runs += [small_run(model, tokens=tokens, data=data, batch_tokens=2 * BATCH_TOKENS) for model in long]
    return tuple({run.id: run for run in runs}.values())


def _ladder(largest: float, n_vocab: int) -> list[ModelConfig]:
    """Return transformers of the recipe, smallest first."""
    targets = [largest / STEP**k for k in reversed(range(SIZES))]
    return list(dict.fromkeys(small_model(max(1, round(n)), n_vocab=n_vocab) for n in targets))


def _universal(ladder: list[ModelConfig]) -> list[ModelConfig]:
    """Return, for each width, the Universal Transformers with the same distinct blocks; the largest width,
    which would cost the most, only at the fewest repetitions.
    """
    made: list[ModelConfig] = []
    for reuse in REUSES:
        for model in ladder if reuse == min(REUSES) else ladder[:-1]:
            shape = model.model_dump(exclude={"family", "n_layer", "init"})
            made.append(UniversalConfig(**shape, n_layer=model.n_layer * reuse, reuse=reuse))  # type: ignore[attr-defined]
    return made


def _lstms(ladder: list[ModelConfig]) -> list[ModelConfig]:
    """Return LSTMs at the transformers' N: two layers at every size, one and four at three sizes."""
    return [
        lstm_like(model, layers)
        for layers in LSTM_LAYERS
        for model in (ladder if layers == 2 else ladder[-1::-2])
    ]


def lstm_like(model: ModelConfig, layers: int) -> ModelConfig:
    """Return the LSTM of so many layers with N = 8 layers d_model^2 nearest to a transformer's."""
    width = 4 * max(1, round(math.sqrt(model.counts().N / (8 * layers)) / 4))
    return LSTMConfig(n_layer=layers, d_model=width, n_ctx=model.n_ctx, n_vocab=model.n_vocab)


def _pair(ladder: list[ModelConfig]) -> list[ModelConfig]:
    """Return the transformer in the middle of the ladder, and its LSTM."""
    middle = ladder[len(ladder) // 2]
    return [middle, lstm_like(middle, 2)]


def _longer(model: ModelConfig) -> ModelConfig:
    return model.replace(n_ctx=LONG_CONTEXT)


_PAIRED = ("series", "N", "seed", "n_ctx", "loss", "loss of the transformer", "log ratio", "run")


_NEXT = (
    "The same pairs at contexts of 256 and more for every size, and each family at its own best batch and "
    "rate: here all have the transformer's batch, and the LSTM a rate rule measured at two sizes."
)


def _noise(runs: pd.DataFrame) -> StudySection:
    transformers = runs[runs["family"] == "transformer"]
    return seed_noise(transformers)[1]


def named(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with a `series` that tells families, LSTM depths and reuses apart, and `N_reuse`, the
    parameters counted as often as they are used (figure 17, left).
    """
    reuse = runs["reuse"].fillna(1).astype(int)
    layers = runs["n_layer"].fillna(0).astype(int)
    series = [
        {"lstm": f"LSTM, {depth} layer{'s' * (depth > 1)}", "universal": f"blocks used {times} times"}.get(
            family, "transformer"
        )
        for family, depth, times in zip(runs["family"], layers, reuse, strict=True)
    ]
    return runs.assign(series=series, N_reuse=runs["C"] / (6 * runs["D"]))


def final_positions(positions: pd.DataFrame | None, runs: pd.DataFrame) -> pd.DataFrame:
    """Return losses by position at the end of each run, with the run's series, N, seed and context."""
    if positions is None or not len(positions):
        return pd.DataFrame(columns=["run", "position", "loss", "series", "N", "seed", "n_ctx"])
    last = positions["step"] == positions.groupby("run")["step"].transform("max")
    return positions[last].merge(runs[["run", "series", "N", "seed", "n_ctx", "D"]], on="run")


def at_size(transformers: pd.DataFrame, N: pd.Series, column: str = "N") -> np.ndarray:
    """Return the transformer's loss at other sizes, log-linear between its own (seeds averaged); NaN
    outside.
    """
    means = transformers.groupby(column)["loss"].mean()
    if len(means) < 2:
        raise TooFewRuns("fewer than two sizes of the transformer are done")
    logs = np.log(N.to_numpy(dtype=float))
    known = np.log(means.index.to_numpy(dtype=float))
    margin = np.log(LIKE)
    inside = (logs >= known[0] - margin) & (logs <= known[-1] + margin)
    values = np.interp(logs, known, np.log(means.to_numpy()))
    return np.where(inside, np.exp(values), np.nan)


def against(runs: pd.DataFrame, series: str, column: str = "N") -> pd.DataFrame:
    """Return the runs of a series beside the transformer's loss at the same `column`: log ratio of the
    losses.
    """
    own = runs[runs["series"] == series]
    if not len(own):
        raise TooFewRuns(f"no run of {series!r} is done")
    other = at_size(runs[runs["series"] == "transformer"], own[column], column)
    table = own.assign(**{"loss of the transformer": other})
    table["log ratio"] = np.log(table["loss"] / table["loss of the transformer"])
    return table[table["log ratio"].notna()].reset_index(drop=True)


def _ladder_figure(runs: pd.DataFrame, x: str, what: str, name: str, families: tuple[str, ...]) -> Figure:

    shown = runs[runs["family"].isin(families)]
    means = shown.groupby(["series", x], as_index=False, sort=True).agg(
        loss=("loss", "mean"), n=("run", "size"), low=("loss", "min"), high=("loss", "max")
    )
    order = sorted(means["series"].unique(), key=lambda s: (s != "transformer", s))
    means = means.sort_values("series", key=lambda s: s.map(order.index), kind="stable")
    return several(
        means, means[["series", x, "loss"]], x=x, y="loss", x_title=what, name=name,
        title=f"Loss against {what}",
        caption="Points are means over seeds, bars reach from the lowest to the highest; all runs saw the "
        "same number of tokens.",
    )  # fmt: skip


_CROSSING = (
    "three sizes, each to horizons up to eight times this one in three seeds, about 2e14 FLOPs: an LSTM that leads "
    "early can be passed, and the answer is the horizon at which it is"
)
_REUSE = "rates tuned for each number of uses, two horizons, about 1.2e14 FLOPs"


def _at_one_horizon(row: Constant, runs: pd.DataFrame, decides: str) -> Constant:
    """Return the row undecided where all runs end at one horizon: who leads there may change with more data."""
    if "D" not in runs or runs["D"].nunique() > 1:
        return row
    horizon = format_count(float(runs["D"].iloc[0]))
    return undecided(row, f"all runs end at one short horizon of {horizon} tokens", decides)


def lstm_by_size(runs: pd.DataFrame) -> StudySection:
    """Report losses of LSTMs and transformers against N (Kaplan et al. 2020, figure 7, left)."""
    pairs = against(runs, "LSTM, 2 layers")
    ratio = mean_estimate(100 * np.expm1(pairs["log ratio"]))
    figure = _ladder_figure(
        runs, "N", "parameters N (non-embedding)", "lstm-against-size", ("transformer", "lstm")
    )
    summary = (
        f"Over {pairs['N'].nunique()} sizes an LSTM of two layers ends {ratio[0]:+.1f} % "
        f"[{ratio[1]:+.1f}, {ratio[2]:+.1f}] from the transformer's loss at the same N."
    )
    slopes = _slopes(runs, [s for s in runs["series"].unique() if s.startswith("LSTM") or s == "transformer"])
    text = f"{summary} Each pair saw the same tokens; the transformer's loss is read between its own sizes."
    row = _at_one_horizon(claim(
        "LSTM over transformer at equal N, %", "ΔL/L", ratio,
        "the paper's LSTMs have contexts of 1,024 tokens and up to 3e8 parameters", above=True,
    ), runs, _CROSSING)  # fmt: skip
    return StudySection(
        section=Section(title="LSTM against transformer, by size", text=text, evidence=(figure, slopes)),
        constants=(row,),
        fits={"summary": summary},
    )


def _slopes(runs: pd.DataFrame, series: list[str]) -> Table:
    """Return the slope of log L in log N of each series, with the interval of a straight line."""
    rows = []
    for name in series:
        means = runs[runs["series"] == name].groupby("N")["loss"].mean()
        row = {"series": name, "sizes": len(means)}
        if len(means) > 2:
            row |= slope_of(means)
        rows.append(row)
    caption = f"Straight lines of log L in log N at one horizon; {LEVEL:.0%} intervals from their residuals."
    return Table(name="slopes", title="Slopes against size", caption=caption, frame=pd.DataFrame(rows))


def universal(runs: pd.DataFrame) -> StudySection:
    """Compare re-used blocks at equal N and at equal compute (Kaplan et al. 2020, figure 17)."""
    names = sorted(s for s in runs["series"].unique() if s.startswith("blocks used"))
    if not names:
        raise TooFewRuns("no Universal Transformer is done")
    equal_n = pd.concat([against(runs, name) for name in names])
    equal_c = pd.concat([against(runs, name, "N_reuse") for name in names])
    better = mean_estimate(100 * np.expm1(equal_n["log ratio"]))
    worse = mean_estimate(100 * np.expm1(equal_c["log ratio"]))
    summary = (
        f"Re-using blocks changes the loss by {better[0]:+.1f} % [{better[1]:+.1f}, {better[2]:+.1f}] at "
        "equal "
        f"N, and by {worse[0]:+.1f} % [{worse[1]:+.1f}, {worse[2]:+.1f}] at equal parameters counted with "
        "re-use, which is equal compute."
    )
    why = (
        "two distinct blocks applied 2 and 4 times, at the transformer's rates, which need not be their "
        "best; the paper does not say which layers it shared"
    )
    families = ("transformer", "universal")
    figures = (
        _ladder_figure(runs, "N_reuse", "parameters, including reuse", "reuse-against-compute", families),
        _ladder_figure(runs, "N", "parameters N (non-embedding)", "reuse-against-size", families),
    )
    frame = pd.concat([equal_n.assign(at="equal N"), equal_c.assign(at="equal compute")])
    table = Table(
        name="reuse-pairs", title="Every pair", caption="log ratio: ln of loss over the transformer's loss.",
        frame=frame[["at", *_PAIRED]].reset_index(drop=True),
    )  # fmt: skip
    return StudySection(
        section=Section(title="Re-using the blocks", text=summary, evidence=(*figures, table)),
        constants=(
            _at_one_horizon(
                claim("Universal over plain at equal N, %", "ΔL/L", better, why, above=False), runs, _REUSE
            ),
            claim("Universal over plain at equal compute, its sign, %", "ΔL/L", worse, why, above=True),
        ),
        fits={"summary": summary},
    )


EARLY = 4
"""Positions up to here are early: four bytes, less than a word."""

FLAT = 100
"""Tokens of context after which the paper finds an LSTM's loss flat."""

LATE = 0.75
"""Positions from this share of the context on are late."""

LIKE = 1.25
"""Factor in N within which an LSTM and a transformer are a pair."""


def by_position(positions: pd.DataFrame) -> StudySection:
    """Report losses by position of matched pairs (figure 7, right): is the LSTM worse late, and not early?"""
    if not len(positions):
        raise NotRecorded("no run recorded its loss by position")
    table = ratios_by_position(positions)
    ends = pd.DataFrame([_ends(pair, part) for pair, part in table.groupby("pair", sort=False)])
    usual = ends[ends["n_ctx"] == ends["n_ctx"].min()]
    early, late = mean_estimate(usual["early"]), mean_estimate(usual["late"])
    growth = mean_estimate(usual["late"] - usual["early"])
    summary = (
        f"At positions 1 to {EARLY} the LSTM is {early[0]:+.1f} % [{early[1]:+.1f}, {early[2]:+.1f}] from "
        f"the transformer's loss, in the last quarter of the context {late[0]:+.1f} % [{late[1]:+.1f}, "
        f"{late[2]:+.1f}]."
    )
    why = (
        f"{len(usual)} pairs of equal N and seed at a context of {usual['n_ctx'].iloc[0]:.0f} bytes, a dozen "
        "words, of which early is less than one; at these horizons LSTMs still learn faster"
    )
    rows: tuple[Constant, ...] = (
        claim("LSTM over transformer late in the context, %", "ΔL/L", late, why, above=True),
        claim("the same, late less early, %", "ΔΔL/L", growth, why, above=True),
    )
    if usual["n_ctx"].iloc[0] < FLAT:
        because = f"the paper's claim is of what lies past {FLAT} tokens of context"
        rows = tuple(undecided(row, because, _CROSSING) for row in rows)
    figures = (_places_figure(positions), _ratio_figure(table))
    return StudySection(
        section=Section(
            title="LSTM against transformer, by position",
            text=f"{summary} Kaplan et al. find LSTMs as good early in the context and flat after about 100 "
            f"tokens, while transformers improve through all of it. {_pair_longer(ends, positions)}",
            evidence=(*figures, Table(name="pairs-by-position", title="Every pair, early and late",
                                      caption="Per cent of the transformer's loss.", frame=ends)),
        ),
        constants=rows,
        fits={"summary": summary},
    )  # fmt: skip


def _pair_longer(ends: pd.DataFrame, positions: pd.DataFrame) -> str:
    """Return what the pair with a longer context shows; a transformer that does not use it yet is said to."""
    long = ends[ends["n_ctx"] > ends["n_ctx"].min()]
    if not len(long):
        return ""
    first = long.iloc[0]
    own = positions[(positions["series"] == "transformer") & (positions["n_ctx"] == first["n_ctx"])]
    half = own["position"] > EARLY
    late = own["position"] >= LATE * first["n_ctx"]
    gain = 1 - own.loc[late, "loss"].mean() / own.loc[half & ~late, "loss"].mean()
    plateau = (
        " This transformer has not begun to use its context: it is as good after five bytes as after two "
        "hundred."
        if gain < 0.01
        else ""
    )
    return (
        f"The pair with a context of {first['n_ctx']:.0f} is not among them: there the LSTM has "
        f"{first['early']:+.1f} % early and {first['late']:+.1f} % late.{plateau}"
    )


def ratios_by_position(positions: pd.DataFrame) -> pd.DataFrame:
    """Return, for each LSTM of two layers and the transformer of the nearest N, same seed and context, the log
    ratio of their losses at each position. Raises AllometryError if there is no pair.
    """
    lstm = positions[positions["series"] == "LSTM, 2 layers"]
    other = positions[positions["series"] == "transformer"]
    parts = []
    for run, own in lstm.groupby("run"):
        first = own.iloc[0]
        N, seed, n_ctx = float(first["N"]), int(first["seed"]), int(first["n_ctx"])
        near = other[(other["seed"] == seed) & (other["n_ctx"] == n_ctx)]
        near = near[(near["N"] / N).between(1 / LIKE, LIKE)]
        if not len(near):
            continue
        partner = near.loc[(np.log(near["N"] / N)).abs().idxmin(), "run"]
        both = own.merge(near[near["run"] == partner], on="position", suffixes=("", "_t"))
        both["excess"] = 100 * np.expm1(np.log(both["loss"] / both["loss_t"]))
        parts.append(both.assign(pair=f"{run} / {partner}", n_ctx=n_ctx, N=N))
    if not parts:
        raise TooFewRuns("no LSTM has a transformer of its size beside it")
    columns = ["pair", "N", "seed", "n_ctx", "position", "loss", "loss_t", "excess"]
    return pd.concat(parts, ignore_index=True)[columns]


def _ends(pair: object, part: pd.DataFrame) -> dict[str, object]:
    first = part.iloc[0]
    late = part["position"] >= LATE * first["n_ctx"]
    return {
        "pair": pair, "N": first["N"], "seed": first["seed"], "n_ctx": first["n_ctx"],
        "early": part.loc[part["position"] <= EARLY, "excess"].mean(),
        "late": part.loc[late, "excess"].mean(),
    }  # fmt: skip


def _places_figure(positions: pd.DataFrame) -> Figure:

    two = positions[positions["series"].isin(["LSTM, 2 layers", "transformer"])]
    sizes = two.groupby("series")["N"].max()
    rows = two[two["N"] == two["series"].map(sizes)]
    longest = two[two["n_ctx"] == two["n_ctx"].max()]
    shown = (
        rows
        if two["n_ctx"].nunique() == 1
        else pd.concat([rows[rows["n_ctx"] < longest["n_ctx"].max()], longest])
    )
    named_ = shown.assign(
        series=shown["series"] + ", N = " + shown["N"].map("{:,.0f}".format) + ", context "
        + shown["n_ctx"].astype(int).astype(str)
    )  # fmt: skip
    means = named_.groupby(["series", "position"], sort=False)["loss"].mean().reset_index()
    return several(
        None, means, x="position", y="loss", x_title="position in the context (bytes)",
        name="loss-by-position", title="Loss against position in the context",
        caption="Held-out loss of the token predicted from that many before it: the largest pair at the "
        "usual context, and the pair with a longer one.",
    )  # fmt: skip


def _ratio_figure(table: pd.DataFrame) -> Figure:

    usual = table[table["n_ctx"] == table["n_ctx"].min()]
    grouped = usual.groupby("position")["excess"]
    count = grouped.size().iloc[0]
    bands = grouped.agg(excess="mean", spread="std").reset_index().assign(series="mean over pairs")
    half = 2 * bands["spread"] / np.sqrt(count)
    longer = table[table["n_ctx"] > table["n_ctx"].min()].assign(series="the pair with a longer context")
    lines = pd.concat([bands.assign(low=bands["excess"] - half, high=bands["excess"] + half), longer])
    return several(
        None, lines[["series", "position", "excess", "low", "high"]], x="position", y="excess",
        y_scale="percent", x_title="position in the context (bytes)",
        y_title="LSTM over transformer, less one",
        name="lstm-excess-by-position", title="Where in the context the LSTM falls behind",
        caption=f"Two layers, {count} pairs of equal N and seed; the band is two standard errors of their "
        "mean.",
    )  # fmt: skip
