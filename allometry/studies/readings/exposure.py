"""Exposure: how far a canary that was inserted r times stands out from others that never were."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.errors import AllometryError
from allometry.report.content import Constant, Figure, Section, Table
from allometry.studies.core.sections import Reading, claim, constant
from allometry.studies.readings.probed import (
    LEVEL,
    at_end,
    mean_interval,
    of_kind,
    proportion,
    size_name,
    straight,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    from numpy.typing import ArrayLike

    from allometry.studies.core.study import Evidence

CARLINI = "Carlini 2019"
CHANCE = 1 / np.log(2)
"""Mean exposure of a canary that was never inserted: its rank is uniform."""

FEWEST = 50
"""References below which a rank says little and a skew-normal cannot be fitted."""

_TAIL = 1e-8
"""Probability below which a cumulative distribution is taken from its tail, since it loses its digits."""


def reading(runs: pd.DataFrame, evidence: Evidence) -> Reading:
    """Exposure against repeats, size and time, and what could be extracted."""
    found = of_kind(evidence.probes, runs, "canary", "reference")
    end = canaries(at_end(found), extrapolate=True)
    table = by_repeats(end)
    rising = _rising(end)
    return Reading(
        section=Section(
            title="Exposure of canaries",
            text=_text(end, table),
            evidence=(_figure(table, end), *_over_time(found), _table(table)),
        ),
        constants=_constants(end, rising),
        fits={"table": table, "canaries": end, "summary": _summary(table, rising)},
    )


def by_rank(loss: float, references: ArrayLike) -> float:
    """log2 n - log2 rank among n references, where the rank counts those that are at least as probable, and
    the canary itself (Carlini et al. 2019, section 4.3: estimation by sampling). At most log2 n.
    """
    known = np.asarray(references, dtype=float)
    rank = 1 + int((known <= loss).sum())
    return float(np.log2(len(known)) - np.log2(rank))


def by_distribution(losses: ArrayLike, references: ArrayLike) -> list[float]:
    """-log2 of the probability that a skew-normal fitted to the references gives to losses as low (by
    extrapolation, ibid.): not limited by how many references there are.
    """
    from scipy.stats import skewnorm

    known = np.asarray(references, dtype=float)
    centre, width = known.mean(), known.std()
    standard = (known - centre) / width
    shape, place, scale = _moments(standard)
    shape, place, scale = skewnorm.fit(standard, shape, loc=place, scale=scale)
    return [_surprise((loss - centre) / width, shape, place, scale) for loss in np.asarray(losses, float)]


def _moments(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Shape, place and scale of the skew-normal with the moments of standardised values: where a fit of it
    starts (Azzalini 1985).
    """
    from scipy.stats import skew

    g = float(np.clip(skew(values), -0.9, 0.9))
    ratio = abs(g) ** (2 / 3)
    delta = np.sign(g) * np.sqrt(np.pi / 2 * ratio / (ratio + ((4 - np.pi) / 2) ** (2 / 3)))
    scale = 1 / np.sqrt(1 - 2 * delta**2 / np.pi)
    return float(delta / np.sqrt(1 - delta**2)), float(-scale * delta * np.sqrt(2 / np.pi)), float(scale)


def _surprise(x: float, shape: float, place: float, scale: float) -> float:
    """-log2 P(X <= x) of a skew-normal; far out from the slope of its density, f / (ln f)'."""
    from scipy.stats import skewnorm

    below = float(skewnorm.cdf(x, shape, place, scale))
    if below > _TAIL:
        return float(-np.log2(below))
    step = 1e-4 * scale
    here, near = (_log_density((x + d - place) / scale, shape) for d in (0.0, step))
    slope = max((near - here) / step, 1e-12)
    return float(-(here - np.log(scale) - np.log(slope)) / np.log(2))


def _log_density(z: float, shape: float) -> float:
    from scipy.stats import norm

    return float(np.log(2) + norm.logpdf(z) + norm.logcdf(shape * z))


def canaries(probes: pd.DataFrame, *, extrapolate: bool) -> pd.DataFrame:
    """One row a canary and evaluation: `sampled` exposure and, if asked for, `extrapolated`; `most` is that
    of the most probable of all fillings, log2 |R|, from which a canary can be extracted by search.

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
    """Means over canaries and seeds for each size and number of repeats, with intervals."""
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
    """Bits of exposure for each doubling of the repeats, over all sizes."""
    seen = end[end["repeats"] > 0]
    try:
        return straight(np.log2(seen["repeats"]), seen["extrapolated"])[0]
    except AllometryError:
        return None


def _constants(end: pd.DataFrame, rising: tuple[float, float, float] | None) -> tuple[Constant, ...]:
    rows = []
    smallest = end[(end["N"] == end["N"].min()) & (end["repeats"] == 1)]
    if len(smallest) > 1:
        why = f"{len(smallest)} canaries in the smallest models; chance: the mean of what was never seen"
        estimate = mean_interval(smallest["sampled"])
        rows.append(
            constant("exposure of canaries seen once", "e(1)", {"chance": CHANCE}, estimate, why, widest=3.0)
        )
    if rising is not None:
        why = "bits for each doubling of the repeats, over all sizes"
        rows.append(claim("exposure against repeats", "de/d log2 r", rising, why, above=True, paper=CARLINI))
    return tuple(replace(row, level=LEVEL) for row in rows)


def _figure(table: pd.DataFrame, end: pd.DataFrame) -> Figure:
    from allometry.figures.several import several

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
    """Exposure by sampling of the canaries that were inserted most, as training goes on."""
    from allometry.figures.several import several

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
