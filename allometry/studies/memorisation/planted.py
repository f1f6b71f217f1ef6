"""Canaries and passages in the training text, each a known number of times: what is extracted again.

Analysis: how far a canary that was inserted r times stands out from others that never were.

Analysis: which training passages greedy decoding gives back from their first tokens.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import norm, skew, skewnorm

from allometry.core.errors import AllometryError
from allometry.figures.several import several
from allometry.figures.theme import Figure
from allometry.report.build import Constant, Section, Table
from allometry.studies.core.sections import (
    StudySection,
    claim,
    constant,
    undecided,
)
from allometry.studies.core.study import (
    BATCH_TOKENS,
    CONTEXT,
    run_set,
    small_model,
    small_run,
    too_little,
    vocabulary,
)
from allometry.studies.memorisation.probed import (
    LEVEL,
    at_end,
    mean_interval,
    of_kind,
    proportion,
    size_name,
    straight,
)
from allometry.train.plant import Plant

if TYPE_CHECKING:
    import numpy.typing as npt
    from numpy.typing import ArrayLike

    from allometry.studies.core.study import StudyData
    from allometry.train.config import DataConfig, RunConfig

REFERENCE = 2e13
"""FLOPs at which the largest model has N_AT_REFERENCE parameters; N and D grow with the root of compute."""

N_AT_REFERENCE = 1.5e5

STEPS_DOWN = (27, 9, 3, 1)
"""The largest model over each of the sizes."""

SEEDS = 2
"""Runs of each size: other digits, other places, and each passage inserted another number of times."""

CANARIES, PASSAGES = 3, 5
"""Of each number of repeats."""

SHARE = 0.15
"""Largest share of the training windows that begin with something planted: the rest is ordinary text. With
0.06, and so at most 256 repeats, models of 150 k parameters gave no passage back whole."""

MOST_REPEATS = 1024

FEWEST_UPDATES = 200


@run_set
def planted(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return sizes over a factor of 27 on the same tokens, with r = 0, 1, 2, 4, … insertions as far as they
    fit.
    """
    n_vocab = vocabulary(data)
    largest = N_AT_REFERENCE * math.sqrt(compute / REFERENCE)
    models = [small_model(max(1, round(largest / down)), n_vocab=n_vocab) for down in STEPS_DOWN]
    models = list(dict.fromkeys(models))
    flops = SEEDS * sum(model.counts().flops_per_token("attention") for model in models)
    steps = math.floor(compute / flops / BATCH_TOKENS)
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "canaries and passages")
    windows = steps * BATCH_TOKENS // CONTEXT
    return tuple(
        small_run(
            model,
            tokens=steps * BATCH_TOKENS,
            data=data.replace(plant=_plant(windows, seed), probe="planted"),
            seed=seed,
        )
        for model in models
        for seed in range(SEEDS)
    )


def _plant(windows: int, seed: int) -> Plant:

    doublings = math.floor(math.log2(SHARE * windows / (CANARIES + PASSAGES) + 1)) - 1
    highest = min(round(math.log2(MOST_REPEATS)), max(0, doublings))
    return Plant(
        repeats=(0, *(2**k for k in range(highest + 1))),
        canaries=CANARIES,
        passages=PASSAGES,
        prompts=(16, 32, 48),
        seed=seed,
    )


CARLINI = "Carlini 2019"
CHANCE = 1 / np.log(2)
"""Mean exposure of a canary that was never inserted: its rank is uniform."""

FEWEST = 50
"""References below which a rank says little and a skew-normal cannot be fitted."""

_TAIL = 1e-8
"""Probability below which a cumulative distribution is taken from its tail, since it loses its digits."""


def exposure_section(runs: pd.DataFrame, study_data: StudyData) -> StudySection:
    """Report exposure against repeats, size and time, and what could be extracted."""
    found = of_kind(study_data.probes, runs, "canary", "reference")
    end = canaries(at_end(found), extrapolate=True)
    table = by_repeats(end)
    rising = _rising(end)
    return StudySection(
        section=Section(
            title="Exposure of canaries",
            text=_text(end, table),
            evidence=(_figure(table, end), *_over_time(found), _table(table)),
        ),
        constants=_constants(end, rising),
        fits={"table": table, "canaries": end, "summary": _summary(table, rising)},
    )


def by_rank(loss: float, references: ArrayLike) -> float:
    """Return log2 n - log2 rank among n references, where the rank counts those that are at least as
    probable, and the canary itself (Carlini et al. 2019, section 4.3: estimation by sampling). At most log2
    n.
    """
    known = np.asarray(references, dtype=float)
    rank = 1 + int((known <= loss).sum())
    return float(np.log2(len(known)) - np.log2(rank))


def by_distribution(losses: ArrayLike, references: ArrayLike) -> list[float]:
    """Return -log2 of the probability that a skew-normal fitted to the references gives to losses as low (by
    extrapolation, ibid.): not limited by how many references there are.
    """
    known = np.asarray(references, dtype=float)
    centre, width = known.mean(), known.std()
    standard = (known - centre) / width
    shape, place, scale = _moments(standard)
    shape, place, scale = skewnorm.fit(standard, shape, loc=place, scale=scale)
    return [_surprise((loss - centre) / width, shape, place, scale) for loss in np.asarray(losses, float)]


def _moments(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Return shape, place and scale of the skew-normal with the moments of standardised values: where a fit
    of it starts (Azzalini 1985).
    """
    g = float(np.clip(skew(values), -0.9, 0.9))
    ratio = abs(g) ** (2 / 3)
    delta = np.sign(g) * np.sqrt(np.pi / 2 * ratio / (ratio + ((4 - np.pi) / 2) ** (2 / 3)))
    scale = 1 / np.sqrt(1 - 2 * delta**2 / np.pi)
    return float(delta / np.sqrt(1 - delta**2)), float(-scale * delta * np.sqrt(2 / np.pi)), float(scale)


def _surprise(x: float, shape: float, place: float, scale: float) -> float:
    """Return -log2 P(X <= x) of a skew-normal; far out from the slope of its density, f / (ln f)'."""
    below = float(skewnorm.cdf(x, shape, place, scale))
    if below > _TAIL:
        return float(-np.log2(below))
    step = 1e-4 * scale
    here, near = (_log_density((x + d - place) / scale, shape) for d in (0.0, step))
    slope = max((near - here) / step, 1e-12)
    return float(-(here - np.log(scale) - np.log(slope)) / np.log(2))


def _log_density(z: float, shape: float) -> float:
    return float(np.log(2) + norm.logpdf(z) + norm.logcdf(shape * z))


def canaries(probes: pd.DataFrame, *, extrapolate: bool) -> pd.DataFrame:
    """Return one row a canary and evaluation: `sampled` exposure and, if asked for, `extrapolated`; `most` is
    that of the most probable of all fillings, log2 |R|, from which a canary can be extracted by search.

    Raises AllometryError with too few references.
    """
    rows = []
    for _, part in probes.groupby(["run", "step"]):
        known = part.loc[part["kind"] == "reference", "loss"].to_numpy(dtype=float)
        own = part[part["kind"] == "canary"]
        if len(known) < FEWEST:
            raise AllometryError(
                f"{len(known)} references are too few to rank canaries among", hint=f"use at least {FEWEST}"
            )
        sampled = [by_rank(loss, known) for loss in own["loss"]]
        further = by_distribution(own["loss"], known) if extrapolate else np.nan
        rows.append(own.assign(sampled=sampled, extrapolated=further, most=own["tokens"] * np.log2(10)))
    return pd.concat(rows, ignore_index=True)


def by_repeats(table: pd.DataFrame) -> pd.DataFrame:
    """Return means over canaries and seeds for each size and number of repeats, with intervals."""
    rows = []
    for (N, r), part in table.groupby(["N", "repeats"]):
        sampled, extrapolated = mean_interval(part["sampled"]), mean_interval(part["extrapolated"])
        out = int((part["extrapolated"] >= part["most"]).sum())
        share = proportion(out, len(part))
        rows.append(
            {
                "N": N, "repeats": r, "canaries": len(part),
                "sampled": sampled[0], "sampled low": sampled[1], "sampled high": sampled[2],
                "exposure": extrapolated[0], "low": extrapolated[1], "high": extrapolated[2],
                "extractable": share[0], "extractable low": share[1], "extractable high": share[2],
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _rising(end: pd.DataFrame) -> tuple[float, float, float] | None:
    """Return bits of exposure for each doubling of the repeats, over all sizes."""
    seen = end[end["repeats"] > 0]
    try:
        return straight(np.log2(seen["repeats"]), seen["extrapolated"])[0]
    except AllometryError:
        return None


NOTICED = 0.5
"""Bits of exposure that a canary seen once would have to gain for it to matter: chance is judged within these."""


def _constants(end: pd.DataFrame, rising: tuple[float, float, float] | None) -> tuple[Constant, ...]:
    rows = []
    smallest = end[(end["N"] == end["N"].min()) & (end["repeats"] == 1)]
    if len(smallest) > 1:
        why = f"{len(smallest)} canaries in the smallest models; chance: the mean of what was never seen"
        estimate = mean_interval(smallest["sampled"])
        row = constant("exposure of canaries seen once", "e(1)", {"chance": CHANCE}, estimate, why)
        half = (row.high - row.low) / 2
        if half > NOTICED:
            row = undecided(
                row,
                f"± {half:.2g} bits could hide an effect of {NOTICED:.2g} bits, which is what one reading would add",
                f"{math.ceil(len(smallest) * (half / NOTICED) ** 2)} canaries in place of {len(smallest)}",
            )
        rows.append(row)
    if rising is not None:
        why = "bits for each doubling of the repeats, over all sizes"
        rows.append(claim("exposure against repeats", "de/d log2 r", rising, why, above=True, paper=CARLINI))
    return tuple(replace(row, level=LEVEL) for row in rows)


def _figure(table: pd.DataFrame, end: pd.DataFrame) -> Figure:

    seen = table[table["repeats"] > 0]
    points = seen.assign(series=[size_name(n) for n in seen["N"]])
    span = [float(seen["repeats"].min()), float(seen["repeats"].max())]
    most = float(end["most"].iloc[0])
    lines = [points[["series", "repeats", "exposure"]]]
    lines += [
        pd.DataFrame({"series": name, "repeats": span, "exposure": level})
        for name, level in (("never seen", CHANCE), ("extractable: log2 of all fillings", most))
    ]
    return several(
        points, pd.concat(lines, ignore_index=True), x="repeats", y="exposure", y_scale="plain",
        x_title="Times inserted", y_title="Exposure (bits, extrapolated)",
        name="exposure", title="Exposure against repeats",
        caption=(
            f"Mean over canaries and seeds with {LEVEL:.0%} intervals; skew-normal fitted to the references. "
            "By sampling alone exposure could not pass log2 of their number (see the table)."
        ),
    )  # fmt: skip


def _over_time(found: pd.DataFrame) -> tuple[Figure, ...]:
    """Return the exposure by sampling of the canaries that were inserted most, as training goes on."""
    most = found.loc[found["kind"] == "canary", "repeats"].max()
    kept = found[(found["kind"] == "reference") | (found["repeats"] == most)]
    table = canaries(kept, extrapolate=False)
    means = table.groupby(["N", "step"])["sampled"].mean().reset_index()
    if means["step"].nunique() < 2:
        return ()
    lines = means.assign(series=[size_name(n) for n in means["N"]])
    figure = several(
        None, lines, x="step", y="sampled", y_scale="plain", y_title="Exposure (bits, by sampling)",
        name="exposure-time", title=f"Exposure of canaries inserted {most:.0f} times, during training",
        caption="Mean over canaries and seeds. Insertions are spread evenly over the whole of training.",
    )  # fmt: skip
    return (figure,)


def _table(table: pd.DataFrame) -> Table:
    caption = (
        f"Means with {LEVEL:.0%} intervals (Student's over canaries; Wilson's for shares). A canary is "
        "extractable where its extrapolated exposure reaches log2 of all fillings of its format."
    )
    return Table(name="exposure", title="Exposure by size and repeats", caption=caption, frame=table)


def _summary(table: pd.DataFrame, rising: tuple[float, float, float] | None) -> str:
    once, most = table[table["repeats"] == 1], table[table["repeats"] == table["repeats"].max()]
    parts = []
    if len(once):
        parts.append(f"canaries seen once have an exposure of {_span(once['sampled'])} bits (chance: 1.44)")
    largest = most.sort_values("N").iloc[-1]
    parts.append(
        f"seen {largest['repeats']:.0f} times, in the largest model, {largest['exposure']:.1f} "
        f"[{largest['low']:.1f}, {largest['high']:.1f}]"
    )
    if rising is not None:
        parts.append(f"each doubling adds {rising[0]:.2f} [{rising[1]:.2f}, {rising[2]:.2f}] bits")
    return _sentence("; ".join(parts))


def _span(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low:.1f}" if high - low < 0.05 else f"{low:.1f} to {high:.1f}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _text(end: pd.DataFrame, table: pd.DataFrame) -> str:
    largest = table[table["N"] == table["N"].max()].sort_values("repeats")
    ordered = bool((np.diff(largest["exposure"]) >= 0).all())
    return (
        "A canary is a sentence with random digits, inserted r times; its exposure says how much more "
        "probable its digits have become than those of other fillings of the same sentence (Carlini et al. "
        f"2019). There are {end['run'].nunique()} runs with {len(end)} canaries, r = "
        f"{', '.join(f'{r:.0f}' for r in sorted(end['repeats'].unique()))}. In the largest models exposure "
        f"{'rises with every doubling' if ordered else 'does not rise at every doubling'}; intervals are in "
        "the table. All canaries share one format: the most frequent crowd out the others at the first digit."
    )


EXTRACTION_CARLINI = "Carlini 2022"


def extraction_section(runs: pd.DataFrame, study_data: StudyData) -> StudySection:
    """Report extractable shares against repeats, size and prompt, above the baseline of passages never
    seen.
    """
    end = extracted(at_end(of_kind(study_data.probes, runs, "extract")))
    table = shares(end)
    laws = log_linear(table)
    return StudySection(
        section=Section(
            title="Extraction from prompts",
            text=_extraction_text(end, laws),
            evidence=(_extraction_figure(table), *_partial(table), _extraction_table(table), _laws(laws)),
        ),
        constants=_extraction_constants(laws),
        fits={"table": table, "laws": laws, "summary": _extraction_summary(table, laws)},
    )


def extracted(end: pd.DataFrame) -> pd.DataFrame:
    """Return the probes with `whole`, whether all tokens asked for come back, and `right`, the share that
    does.

    Where the most probable token is right after every true beginning, greedy decoding never leaves the
    passage: it yields the passage from the prompt alone.
    """
    return end.assign(whole=end["hits"] == end["tokens"], right=end["hits"] / end["tokens"])


def shares(end: pd.DataFrame) -> pd.DataFrame:
    """Return the extractable `share` of the passages by size, prompt and repeats with Wilson's interval, and
    `above` the share of passages that were never trained on (r = 0), in the same models from the same
    prompts.
    """
    rows = []
    for (N, prompt), part in end.groupby(["N", "prompt"]):
        never = part[part["repeats"] == 0]
        for r, own in part.groupby("repeats"):
            share, low, high = proportion(int(own["whole"].sum()), len(own))
            base = float(never["whole"].mean()) if len(never) else np.nan
            rows.append(
                {
                    "N": N, "prompt": prompt, "repeats": r, "passages": len(own), "share": share,
                    "low": low, "high": high, "above": share - base,
                    "right": float(own["right"].mean()),
                    "right above": float(own["right"].mean() - never["right"].mean()),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def log_linear(table: pd.DataFrame) -> pd.DataFrame:
    """Return, for each dial, the slope of the share above the baseline in its logarithm (base 2), interval and
    R².

    The other dials are held at their largest, as in Carlini et al. 2022, figure 1; `what` "exact" counts
    whole suffixes, "tokens" the tokens of the suffix that are right.
    """
    rows = []
    for dial in ("repeats", "N", "prompt"):
        part = table[table["repeats"] > 0]
        for other in {"repeats", "N", "prompt"} - {dial}:
            part = part[part[other] == part[other].max()]
        for what, column in (("exact", "above"), ("tokens", "right above")):
            kept = part[np.isfinite(part[column])]
            try:
                slope, _, square = straight(np.log2(kept[dial]), kept[column])
            except AllometryError:
                continue
            rows.append(
                {
                    "dial": dial, "what": what, "slope": slope[0], "low": slope[1], "high": slope[2],
                    "R2": square, "points": len(kept),
                }
            )  # fmt: skip
    columns = ["dial", "what", "slope", "low", "high", "R2", "points"]
    return pd.DataFrame(rows, columns=columns)


_NAMES = {"repeats": "repeats", "N": "parameters", "prompt": "length of the prompt"}


def _extraction_constants(laws: pd.DataFrame) -> tuple[Constant, ...]:
    rows = []
    for _, law in laws[np.isfinite(laws["low"])].iterrows():  # equal shares have no slope to judge
        exact = law["what"] == "exact"
        what = "passages given back whole" if exact else "tokens given back"
        name = f"{what}, against {_NAMES[law['dial']]}"
        why = (
            "the sign only, as no line fits: share for each doubling, the other dials at their largest;"
            f" R² = {law['R2']:.2f}"
        )
        estimate = (law["slope"], law["low"], law["high"])
        symbol = f"d {'share' if exact else 'right'} / d log2 {law['dial']}"
        rows.append(claim(name, symbol, estimate, why, above=True, paper=EXTRACTION_CARLINI))
    return tuple(replace(row, level=LEVEL) for row in rows)


def _extraction_figure(table: pd.DataFrame) -> Figure:

    longest = table[(table["prompt"] == table["prompt"].max()) & (table["repeats"] > 0)]
    points = longest.assign(series=[size_name(n) for n in longest["N"]])
    points = points.assign(**{key: 100 * points[key] for key in ("share", "low", "high")})
    return several(
        points, points[["series", "repeats", "share"]], x="repeats", y="share", y_scale="percent",
        x_title="Times in the training data", y_title="Passages given back whole",
        name="extraction", title="Extraction against duplication",
        caption=(
            f"Share of the planted passages whose end is given back exactly by greedy decoding after "
            f"{longest['prompt'].iloc[0]:.0f} tokens, with {LEVEL:.0%} intervals (Wilson)."
        ),
    )  # fmt: skip


def _partial(table: pd.DataFrame) -> tuple[Figure, ...]:
    """Return tokens given back, which say more than whole passages where few are given back whole."""
    largest = table[(table["N"] == table["N"].max()) & (table["repeats"] > 0)]
    lines = largest.assign(
        series=[f"after {prompt:.0f} tokens" for prompt in largest["prompt"]],
        right=100 * largest["right above"],
    )
    figure = several(
        None, lines[["series", "repeats", "right"]], x="repeats", y="right", y_scale="percent",
        x_title="Times in the training data", y_title="Tokens right, above passages never seen",
        name="extraction-prompts", title="Tokens given back, by length of the prompt",
        caption="The largest model; zero is the share of right tokens in passages never trained on.",
    )  # fmt: skip
    return (figure,)


def _extraction_table(table: pd.DataFrame) -> Table:
    caption = (
        f"Exact extraction with {LEVEL:.0%} intervals; above: less the share among passages never seen; "
        "right: mean share of the suffix's tokens that the model would say."
    )
    return Table(name="extraction", title="Extraction by size, prompt, repeats", caption=caption, frame=table)


def _laws(laws: pd.DataFrame) -> Table:
    caption = (
        "Straight lines in the logarithm (base 2) of each dial, the others at their largest: share for each "
        "doubling. A share ends at 0 and 1, so a line can hold in between only."
    )
    return Table(name="extraction-laws", title="Log-linear laws", caption=caption, frame=laws)


def _extraction_summary(table: pd.DataFrame, laws: pd.DataFrame) -> str:
    most = table[(table["repeats"] == table["repeats"].max()) & (table["prompt"] == table["prompt"].max())]
    large = most.sort_values("N").iloc[-1]
    text = (
        f"Of passages seen {large['repeats']:.0f} times the largest model gives back "
        f"{100 * large['share']:.0f} % [{100 * large['low']:.0f}, {100 * large['high']:.0f}] whole "
        f"after {large['prompt']:.0f} tokens"
    )
    for what, said in (("exact", ""), ("tokens", "single tokens ")):
        law = laws[(laws["dial"] == "repeats") & (laws["what"] == what)]
        if len(law) and law["slope"].iloc[0] != 0:
            slope, square = 100 * law["slope"].iloc[0], law["R2"].iloc[0]
            text += f" ({said}{slope:+.1f} points a doubling of repeats, R² = {square:.2f})"
    return f"{text}."


def _extraction_text(end: pd.DataFrame, laws: pd.DataFrame) -> str:
    never = end[end["repeats"] == 0]
    base = f"{int(never['whole'].sum())} of {len(never)} times" if len(never) else "not known how often"
    told = (
        "Passages of held-out text are inserted r times into training, and the model is asked for their last "
        f"{end['tokens'].max():.0f} tokens after prompts of {_listed(end['prompt'])} tokens. The same "
        "passages are inserted another number of times under another seed, so that sets of r do not differ "
        f"in how guessable they are. Ends of passages that were never seen are given back {base}."
    )
    exact = laws[(laws["what"] == "exact") & (laws["dial"] == "repeats")]
    if len(exact) and exact["slope"].iloc[0] == 0:
        told += " No passage is given back whole more often than that; the tokens that are right say more."
    return told


def _listed(values: pd.Series) -> str:
    return ", ".join(f"{value:.0f}" for value in sorted(values.unique()))
