"""Sets of text that pass what a model can hold, and a larger model that has read everything else (Morris et
al. 2025, section 4).

Analysis: unintended memorisation of text: what a model spares on its training set beyond a larger model that
has not seen it, against the size of the set, and the test loss beside it (Morris et al. 2025, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.units import format_count
from allometry.data.tokens import manifest_of
from allometry.figures.several import several
from allometry.report.build import Section, Table
from allometry.studies.core.sections import StudySection, TooFewRuns, constant
from allometry.studies.core.study import BATCH_TOKENS, run_set, small_model, small_run, too_little
from allometry.studies.memorisation.probed import LEVEL, at_end, mean_interval, of_kind, size_name
from allometry.studies.shared.repeats import CLEAR, NOISE, Descent, second_descent
from allometry.train.probes import REACH

if TYPE_CHECKING:
    from allometry.data.tokens import Manifest
    from allometry.figures.theme import Figure
    from allometry.laws.uncertainty import Array
    from allometry.models.base import ModelConfig
    from allometry.report.build import Constant
    from allometry.studies.core.study import StudyData
    from allometry.train.config import DataConfig, RunConfig


SHAPES = ((2, 16), (2, 24), (2, 32))
"""Layers and width: 1.1e4 to 3.5e4 parameters with bytes, embeddings included. At width 8 not even two blocks
are learnt by heart in hundreds of passes."""

BLOCK = 520
"""Tokens of the blocks that sets are made of: eight windows of the recipe's context, which are probed."""

BITS_PER_PARAMETER, BITS_PER_BYTE = 3.6, 2.5
"""The paper's capacity, and about what text costs a model of this scale: the measures of a set."""

FILLINGS, FEW_FILLINGS = (0.0625, 0.125, 0.25, 0.5, 1.0, 4.0), (0.0625, 0.25, 4.0)
"""Bits of a set over the paper's capacity. Sets are the nearest power of two of blocks."""

FEWEST_BLOCKS = 16
"""Blocks of a corpus below which there is no series of sets and no text beside them."""

REFERENCE_SHARE, N_AT_REFERENCE, REFERENCE = 0.3, 1e5, 2.4e13
"""Share of the compute for the model that knows the language, and its size at so many FLOPs of the run
set.
"""

SMALLEST_REFERENCE = 5e4
"""N of that model at any compute: twice the largest of the others."""

ENOUGH = 3e12
"""FLOPs from which all sets, and several seeds of all sizes but the largest, are affordable."""

SEEDS = 2

FEWEST_UPDATES = 20
"""Updates of the smallest model; larger ones get more, in proportion to their parameters."""

EVAL_TOKENS = 32_768

PROMPTS, FEW_PROMPTS = 64, 8
"""Held-out texts that the first seed of every model continues at its end, for what it copies."""


@run_set
def texts(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return every shape on nested sets of blocks for tokens in proportion to its parameters, never stopped,
    without weight decay; and a reference on all the text but the blocks that are probed. All probe the same
    windows, and the first seed of each writes.

    None where the corpus has fewer than FEWEST_BLOCKS blocks.
    """
    text = manifest_of(data.corpus, data.tokenizer)
    plenty = compute >= ENOUGH
    models = [_model(*shape, n_vocab=text.n_vocab) for shape in SHAPES]
    sizes = [model.counts().N_total for model in models]
    seeds = [SEEDS if plenty and model is not models[-1] else 1 for model in models]
    flops = [model.counts().flops_per_token("attention") for model in models]
    fillings = FILLINGS if plenty else FEW_FILLINGS
    spent = sum(f * n * s for f, n, s in zip(flops, sizes, seeds, strict=True)) * len(fillings)
    per_parameter = (1 - REFERENCE_SHARE) * compute / spent
    if per_parameter * sizes[0] < FEWEST_UPDATES * BATCH_TOKENS:
        raise too_little(compute, "sets of text")
    pool = _pool(text)
    if not pool:
        return ()
    data = data.replace(novelty=PROMPTS if plenty else FEW_PROMPTS)
    runs = [
        _run(model, per_parameter * n, data, seed, limit=BLOCK * blocks)
        for model, n, count in zip(models, sizes, seeds, strict=True)
        for blocks in _sets(n, text, fillings, pool)
        for seed in range(count)
    ]
    return (*runs, _reference(REFERENCE_SHARE * compute, compute, data, text, pool))


def _model(n_layer: int, d_model: int, *, n_vocab: int) -> ModelConfig:

    return small_model(1, n_vocab=n_vocab, n_layer=n_layer, d_model=d_model)


def _pool(text: Manifest) -> int:
    """Return blocks that the reference does without, a power of two: those that are probed, half of the text
    at most; 0 where it has too few.
    """
    blocks = text.train_tokens // BLOCK
    return min(REACH, 2 ** int(math.log2(blocks // 2))) if blocks >= FEWEST_BLOCKS else 0


def _sets(total: int, text: Manifest, fillings: tuple[float, ...], pool: int) -> list[int]:
    """Return blocks of the sets of a model of `total` parameters; half the pool stays untrained by all."""
    bits = BLOCK * text.bytes_per_token * BITS_PER_BYTE
    wanted = [max(1.0, filling * BITS_PER_PARAMETER * total / bits) for filling in fillings]
    powers = [2 ** round(math.log2(blocks)) for blocks in wanted]
    return sorted({blocks for blocks in powers if blocks <= pool // 2})


def _reference(compute: float, whole: float, data: DataConfig, text: Manifest, pool: int) -> RunConfig:

    size = max(SMALLEST_REFERENCE, N_AT_REFERENCE * math.sqrt(whole / REFERENCE))
    model = small_model(round(size), n_vocab=text.n_vocab)
    return _run(model, compute / model.counts().flops_per_token("attention"), data, 0, skip=BLOCK * pool)


def _run(
    model: ModelConfig, tokens: float, data: DataConfig, seed: int, *, limit: int | None = None, skip: int = 0
) -> RunConfig:

    run = small_run(
        model,
        tokens=max(1, round(tokens / BATCH_TOKENS)) * BATCH_TOKENS,
        data=data.replace(
            limit=limit, skip=skip, spread=BLOCK, probe="windows", novelty=0 if seed else data.novelty
        ),
        seed=seed,
        **({} if skip else {"weight_decay": 0.0}),
    )
    return run.replace(data=run.data.replace(eval_tokens=EVAL_TOKENS))


MORRIS, PUBLISHED = "Morris 2025", 3.64
"""Bits per parameter of the paper's fit, the measure of a set where random data gave none here."""

RESAMPLES = 400

FEWEST_SETS = 3

_KEY = ["N_total", "set"]


def texts_section(
    runs: pd.DataFrame, study_data: StudyData, capacity: pd.DataFrame | None = None
) -> StudySection:
    """Report memorised bits and test loss against the information of the set.

    `capacity` as from `capacity.saturated`: bits per parameter of random data that the same shapes hold.
    """
    windows = beside_reference(runs, study_data.probes)
    table, draws = memorised(windows)
    held, whose = _capacity(capacity)
    table = table.assign(ratio=table["bits"] / (held * table["N_total"]))
    peaks = located(table, draws)
    lines = descents(table, noise_between_seeds(windows))
    return StudySection(
        section=Section(
            title=TEXTS_TITLE,
            text=said(windows, table, peaks, lines, whose),
            evidence=(
                memorised_bits(table, held, whose), tested(table),
                membership(table), _table(table), _peaks(peaks),
            ),
        ),
        constants=_constants(peaks, held, whose),
        fits={"sets": table, "peaks": peaks, "descents": lines, "summary": _summary(peaks, lines)},
    )  # fmt: skip


TEXTS_TITLE = "Text: memorised beyond a reference, and double descent"


def beside_reference(runs: pd.DataFrame, probes: pd.DataFrame | None) -> pd.DataFrame:
    """Return a row for each probed window at the end of each run on a set: `loss` and the reference's `known`
    (nats), whether the window is `trained` on, the `octave` of its block, and `set` (tokens), `test` loss and
    N_total of the run. Windows that the reference was trained on are left out.

    AllometryError without a reference, or where no size has FEWEST_SETS sets.
    """
    try:
        end = at_end(of_kind(probes, runs, "window"))
    except AllometryError as error:
        raise TooFewRuns(
            "no finished run measured windows of text, which needs a corpus of tens of kilobytes",
            also="use a larger corpus",
        ) from error
    inside = end[(end["probe"] == "window 0.0") & (end["repeats"] > 0)]["run"]
    others = end[~end["run"].isin(inside)]
    if not len(others):
        raise TooFewRuns("the reference model is not finished")
    reference = others[others["N"] == others["N"].max()]
    reference = reference[(reference["run"] == reference["run"].iloc[0]) & (reference["repeats"] == 0)]
    known = reference.set_index("probe")["loss"].rename("known")
    own = end[end["run"].isin(inside)].join(known, on="probe", how="inner")
    own = own.merge(
        runs[["run", "unique", "loss", "D"]].rename(columns={"unique": "set", "loss": "test"}), on="run"
    )
    block = own["probe"].str.extract(r"window (\d+)\.")[0].astype(int)
    own = own.assign(trained=own["repeats"] > 0, octave=np.frexp(block)[1])
    if not len(own) or own.groupby("N_total")["set"].nunique().max() < FEWEST_SETS:
        raise TooFewRuns(f"no size was trained on {FEWEST_SETS} sets of text", also="use a larger corpus")
    return own


def memorised(windows: pd.DataFrame) -> tuple[pd.DataFrame, dict[tuple[float, float], Array]]:
    """Return one row a size and set, and draws of what is memorised of it.

    `bits`: what the set costs with the reference; `memorised`: what it costs less with the model or the
    reference, whichever is better on a window, with interval; `chance`: the same on as much text that was
    not trained on; `test` loss; `passes`; `auc` and `f1` of telling windows of the set by their loss.
    """
    rows, draws = [], {}
    for key, part in windows.groupby(_KEY):
        total, tokens = (float(str(value)) for value in key)
        drawn = _drawn(part[part["trained"]])
        draws[total, tokens] = drawn
        low, high = np.quantile(drawn, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
        runs = part.drop_duplicates("run")
        unseen = part[~part["trained"]]
        chance = _gain(unseen).mean() * tokens / part["tokens"].iloc[0] if len(unseen) else np.nan
        each = [_told_apart(one) for _, one in part.groupby("run")]
        seen = part[part["trained"]]
        rows.append(
            {
                "N_total": total, "set": tokens, "bits": _of_set(seen, seen["known"] / np.log(2)),
                "memorised": _of_set(seen, _gain(seen)), "low": low, "high": high, "chance": chance,
                "test": runs["test"].mean(), "passes": runs["D"].mean() / tokens, "seeds": len(runs),
                "auc": np.mean([a for a, _ in each]), "f1": np.mean([f for _, f in each]),
            }
        )  # fmt: skip
    return pd.DataFrame(rows).sort_values(_KEY, ignore_index=True), draws


def _gain(windows: pd.DataFrame) -> pd.Series:
    """Return bits by which the model describes each window shorter than the reference does, none where it
    does not: -log2 p_ref + log2 max(p, p_ref).
    """
    return (windows["known"] - windows["loss"]).clip(lower=0) / np.log(2)


def _weights(windows: pd.DataFrame) -> pd.Series:
    """Return, for each window, how much of its set it stands for: blocks of its octave over windows probed of
    it.
    """
    probed = windows.groupby(["run", "octave"])["probe"].transform("count")
    return 2.0 ** (windows["octave"] - 1).clip(lower=0) / probed


def _of_set(seen: pd.DataFrame, values: pd.Series) -> float:
    """Return the sum over all windows of a set, of which `seen` are the probed ones (of every seed)."""
    return float(np.average(values, weights=_weights(seen)) * seen["set"].iloc[0] / seen["tokens"].iloc[0])


def _drawn(seen: pd.DataFrame) -> Array:
    """Return the memorised bits of a set with its windows drawn again within octaves, each time of one of the
    seeds.
    """
    generator = np.random.default_rng(0)
    seen = seen.assign(gain=_gain(seen)).sort_values(["run", "octave", "probe"])
    gains = [part["gain"].to_numpy(float) for _, part in seen.groupby("run")]
    octave = next(iter(seen.groupby("run")))[1]["octave"].to_numpy(int)
    total = np.zeros(RESAMPLES)
    which = generator.integers(len(gains), size=RESAMPLES)
    blocks = 0.0
    for level in np.unique(octave):
        share = 2.0 ** max(0, level - 1)
        values = np.array([gain[octave == level] for gain in gains])
        places = generator.integers(values.shape[1], size=(RESAMPLES, values.shape[1]))
        total += share * values[which[:, None], places].mean(axis=1)
        blocks += share
    scaled: Array = total / blocks * seen["set"].iloc[0] / seen["tokens"].iloc[0]
    return scaled


def _told_apart(windows: pd.DataFrame) -> tuple[float, float]:
    """Return the area under the curve of telling trained windows from others by their loss, and the best F1 of a
    threshold with as many of either; NaN where one kind is missing.
    """
    inside = windows.loc[windows["trained"], "loss"].to_numpy(float)
    outside = windows.loc[~windows["trained"], "loss"].to_numpy(float)
    if not len(inside) or not len(outside):
        return np.nan, np.nan
    at = np.sort(np.concatenate([inside, outside]))
    true = np.searchsorted(np.sort(inside), at, side="right") / len(inside)
    false = np.searchsorted(np.sort(outside), at, side="right") / len(outside)
    area = float(np.trapezoid(np.r_[0.0, true], np.r_[0.0, false]))
    return area, float((2 * true / (1 + true + false)).max())


def located(table: pd.DataFrame, draws: dict[tuple[float, float], Array]) -> pd.DataFrame:
    """Return one row a size: the most bits memorised over its sets, `at` which information over capacity (the
    vertex of a parabola in the logarithm), with intervals of at least a step between sets; whether it `rises`
    to it and `falls` after it.
    """
    rows = []
    for total, part in table.groupby("N_total"):
        if len(part) < FEWEST_SETS:
            continue
        across, up = np.log2(part["ratio"].to_numpy(float)), part["memorised"].to_numpy(float)
        drawn = np.array([draws[float(str(total)), float(tokens)] for tokens in part["set"]])
        places = np.array([_vertex(across, one) for one in drawn.T])
        tops = drawn.max(axis=0)
        enough = 0.5 + LEVEL / 2
        rises, falls = (float((tops > drawn[end]).mean()) >= enough for end in (0, -1))
        step = np.diff(across).mean() / 2  # sets are no denser than that, however many windows are probed
        first, last = np.quantile(places, [1 - enough, enough])
        low, high = 2 ** (first - step), 2 ** (last + step)
        least, most = np.quantile(tops, [1 - enough, enough])
        best = int(up.argmax())
        rows.append(
            {
                "N_total": total, "most": up.max(), "most low": least, "most high": most,
                "at": 2 ** _vertex(across, up), "low": low, "high": high, "rises": rises, "falls": falls,
                "share of the set": up[best] / part["bits"].iloc[best],
                "last": up[-1] / up.max() if up.max() > 0 else np.nan,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _vertex(x: Array, y: Array) -> float:
    """Return where the parabola through the highest point and its neighbours peaks; an end point is its own
    peak.
    """
    best = int(y.argmax())
    if best in (0, len(y) - 1):
        return float(x[best])
    a, b, _ = np.polyfit(x[best - 1 : best + 2], y[best - 1 : best + 2], 2)
    return float(-b / (2 * a)) if a < 0 else float(x[best])


def noise_between_seeds(windows: pd.DataFrame) -> float:
    """Return the relative standard deviation of the test loss between seeds, pooled; NOISE at least, which two
    seeds would often miss.
    """
    runs = windows.drop_duplicates("run").assign(log=lambda t: np.log(t["test"]))
    groups = runs.groupby(_KEY)["log"]
    dof = groups.count() - 1
    if not (dof > 0).any():
        return NOISE
    return max(NOISE, float(np.sqrt((groups.var().fillna(0) * dof).sum() / dof.sum())))


def descents(table: pd.DataFrame, noise: float) -> dict[float, Descent | None]:
    """Return, for each size, whether the test loss rises and falls again along the sets, and at which ratio."""
    return {
        float(str(total)): second_descent(
            part["ratio"].to_numpy(float), part["test"].to_numpy(float), CLEAR * noise
        )
        for total, part in table.groupby("N_total")
    }


def _capacity(sizes: pd.DataFrame | None) -> tuple[float, str]:
    if sizes is None or not len(sizes):
        return PUBLISHED, f"the {PUBLISHED} bits per parameter of {MORRIS}"
    held = float(sizes["bits per parameter"].mean())
    bound = ", a lower bound" if sizes["still rising"].any() else ""
    return held, f"the {held:.2f} bits per parameter measured on random data{bound}"


def _constants(peaks: pd.DataFrame, held: float, whose: str) -> tuple[Constant, ...]:

    found = peaks[peaks["rises"] & peaks["falls"]]
    if len(found) < 2:
        return ()
    why = "sets were trained on for as many tokens, so larger ones in fewer passes"
    each = mean_interval(found["most"] / found["N_total"])
    value, low, high = np.exp(mean_interval(np.log(found["at"])))
    low, high = min(low, np.exp(np.log(found["low"]).mean())), max(high, np.exp(np.log(found["high"]).mean()))
    random = {} if held == PUBLISHED else {"random data, here": held}
    rows = (
        constant(
            "text memorised at most, bits per parameter", "mem_U/N", {MORRIS: PUBLISHED, **random}, each, why
        ),
        constant(
            "information over capacity at the most", "H(X)/M", {MORRIS: 1.0}, (value, low, high),
            f"the measure is {whose}", widest=2.0,
        ),
    )  # fmt: skip
    return tuple(replace(row, level=LEVEL) for row in rows)


def _table(table: pd.DataFrame) -> Table:
    caption = (
        "By size and set (tokens): bits of the set with the reference, bits memorised beyond it, the same on "
        "text not trained on (chance), the set's bits over the capacity (ratio), test loss, and how well the "
        "loss tells windows of the set from others."
    )
    return Table(name="text-sets", title="Every set of text", caption=caption, frame=table)


def _peaks(peaks: pd.DataFrame) -> Table:
    caption = f"The most bits memorised over the sets of a size, and where; intervals at {LEVEL:.0%}."
    return Table(name="text-peaks", title="Most memorised of text", caption=caption, frame=peaks)


def _summary(peaks: pd.DataFrame, lines: dict[float, Descent | None]) -> str:
    both = int((peaks["rises"] & peaks["falls"]).sum())
    twice = sum(line is not None for line in lines.values())
    most = (peaks["most"] / peaks["N_total"]).max()
    return (
        f"Of text, up to {most:.2f} bits per parameter are memorised beyond a reference; they rise and fall "
        f"with the set at {both} of {len(peaks)} sizes, and the test loss descends twice at {twice}."
    )


def said(
    windows: pd.DataFrame,
    table: pd.DataFrame,
    peaks: pd.DataFrame,
    lines: dict[float, Descent | None],
    whose: str,
) -> str:
    """Return what the windows show: how they were measured, then each size's peak and its test loss."""
    each = windows.groupby("run")["trained"].sum()
    told = [
        "Nested sets of blocks from all over the text, trained on for equally long and not stopped. The "
        "reference is larger and has read all the text but the blocks that are probed; on each window the "
        f"better of the two models counts. {each.min()} to {each.max()} windows stand for a set. Sets are "
        f"measured in {whose}.",
        *(_of_size(row) for row in peaks.to_dict("records")),
    ]
    for total, line in lines.items():
        told.append(f"Double descent of the test loss at {size_name(total)}: {_descent(line, table, total)}")
    return " ".join(told)


def _of_size(row: Mapping[Any, Any]) -> str:
    name = size_name(row["N_total"])
    if row["rises"] and row["falls"]:
        return (
            f"{name}: seen to rise and fall, with {format_count(row['most'])} bits at {row['at']:.2g} "
            f"[{row['low']:.2g}, {row['high']:.2g}] times the capacity, {row['last']:.0%} of it at the end."
        )
    missing = "no fall is seen within these sets" if row["rises"] else "the smallest set holds the most"
    return f"{name}: a peak is not seen at this scale, because {missing}."


def _descent(line: Descent | None, table: pd.DataFrame, total: float) -> str:
    if line is not None:
        return (
            f"seen, with a peak at {line.at:.2g} times the capacity (a rise of {line.rise:.0%} of it before, "
            f"a fall of {line.fall:.0%} after)."
        )
    part = table[table["N_total"] == total]
    if len(part) >= 3 and (np.diff(part["test"]) <= 0).all():
        return "not seen at this scale, because every larger set lowers it."
    return f"not seen at this scale, because no rise and fall passes {CLEAR:.0f} standard deviations."


RAW_BITS = 8.0
"""Bits of a byte before any model, in which the membership law counts a set."""


def memorised_bits(table: pd.DataFrame, held: float, whose: str) -> Figure:
    """Draw mem_U against the set's information, with the capacity of each size."""
    points = _named(table).assign(low=table["low"].clip(lower=1), high=table["high"].clip(lower=1))
    points = points[points["memorised"] >= 1]  # the axis is logarithmic
    lines = []
    for total, part in table.groupby("N_total"):
        span = np.geomspace(part["bits"].min(), part["bits"].max(), 40)
        at = np.minimum(span, held * float(str(total)))
        lines.append(pd.DataFrame({"series": size_name(float(str(total))), "bits": span, "memorised": at}))
    return several(
        points[["series", "bits", "memorised", "low", "high", "chance", "ratio", "passes"]],
        pd.concat(lines, ignore_index=True), x="bits", y="memorised",
        x_title="Information of the set (bits with the reference)", y_title="Bits memorised beyond it",
        name="text-memorised", title="Unintended memorisation against the set's information",
        caption=(
            "Points with intervals from windows drawn again; lines: everything, up to the capacity, for "
            f"which {whose} are taken. Sets of less than a bit are not drawn."
        ),
    )  # fmt: skip


def tested(table: pd.DataFrame) -> Figure:
    """Draw test loss against the set's information over the capacity: where a second descent would begin."""
    points = _named(table).rename(columns={"test": "loss"})
    shown = points[["series", "ratio", "loss", "set", "passes", "seeds"]]
    return several(
        shown, shown, x="ratio", y="loss", x_title="Information of the set over the capacity",
        name="text-descent", title="Test loss of models that were not stopped",
        caption="Equal tokens for every set of a size. A double descent is a rise and fall along a line.",
    )  # fmt: skip


def membership(table: pd.DataFrame) -> Figure:
    """Draw best F1 of telling trained windows by their loss, against raw bits of the set per parameter."""
    points = _named(table).assign(per=RAW_BITS * table["set"] / table["N_total"])
    span = np.geomspace(points["per"].min(), points["per"].max(), 60)
    law = 0.5 * (1 + 1.34 / (1 + np.exp(0.034 * (span - 33.14))))
    line = pd.DataFrame({"series": "law of Morris 2025", "per": span, "f1": np.minimum(law, 1.0)})
    return several(
        points[["series", "per", "f1", "auc", "set"]], line, x="per", y="f1", y_scale="plain",
        x_title="Raw bits of the set per parameter (8 a token)", y_title="F1 of membership",
        name="text-membership", title="Telling what was trained on by its loss",
        caption=(
            "Best threshold on the loss of a window, with as much weight on either kind; saying yes always "
            "has two thirds. The law is read with its ratio as the paper's own table needs it."
        ),
    )  # fmt: skip


def _named(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(series=[size_name(n) for n in table["N_total"]])
