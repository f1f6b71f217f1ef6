"""Novelty: how much of what a model writes is copied from its training text, beside people's text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from allometry.core.units import format_count
from allometry.figures.several import several
from allometry.figures.theme import Figure
from allometry.report.build import Constant, Section, Table
from allometry.runs.measurements import SOURCES
from allometry.studies.core.sections import NotRecorded, StudySection, claim, constant
from allometry.studies.memorisation.probed import LEVEL, size_name

if TYPE_CHECKING:
    from allometry.studies.core.study import StudyData

NOVELTY_TITLE = "Novelty of generated text"

RAVEN = "McCoy 2021"

TRUNCATED = 32
"""Where scores are cut off, in tokens: five or six words of bytes, as the paper's five of its tokens."""

SHORT, LONG = 4, 16
"""The n-grams of which the paper's claims are asked: less than a word, and about three words of bytes."""

RESAMPLES = 500

_UNVERIFIED = "the paper's claim as remembered, of larger models and words, sampled from the 40 likeliest"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What one run's model wrote and what people wrote after the same prompts: duplicated n-grams, (prompts,
    n) by source, of `grams` (n,) in each text.
    """

    counts: dict[str, npt.NDArray[np.int64]]
    grams: npt.NDArray[np.int64]

    def share(self, source: str) -> Floats:
        """Return the share of all n-grams that occur in the training text, (n,)."""
        return self.counts[source].mean(axis=0) / self.grams

    @cached_property
    def _weights(self) -> Floats:
        """How often each prompt is drawn in each resample, over their number: the same for both sources."""
        prompts = len(self.counts[SOURCES[0]])
        drawn = np.random.default_rng(0).multinomial(prompts, np.full(prompts, 1 / prompts), RESAMPLES)
        return drawn / prompts

    def resampled(self, source: str) -> Floats:
        """Return `share` of prompts drawn again, (RESAMPLES, n)."""
        return self._weights @ self.counts[source] / self.grams

    def longest(self, source: str) -> float:
        """Return the median over prompts of the longest n-gram that occurs in the training text."""
        return float(np.median((self.counts[source] > 0).sum(axis=1)))


def novelty_section(runs: pd.DataFrame, study_data: StudyData) -> StudySection:
    """Report duplicated n-grams and truncated scores against passes over the training text, beside
    people's.
    """
    found = copied(runs, study_data.novelty)
    table = measured(runs, found)
    return StudySection(
        section=Section(
            title=NOVELTY_TITLE,
            text=_text(table),
            evidence=(_curves(table, found), _excess(table), _table(table)),
        ),
        constants=_constants(table, found),
        fits={"table": table, "summary": _summary(table)},
    )


def copied(runs: pd.DataFrame, novelty: pd.DataFrame | None) -> dict[str, Copied]:
    """Return what each run copied, by its name. AllometryError where none recorded it."""
    own = None if novelty is None else novelty[novelty["run"].isin(set(runs["run"]))]
    if own is None or not len(own):
        raise NotRecorded("no finished run recorded what it copied")
    found = {}
    for run, part in own.groupby("run"):
        wide = part.pivot(index=["source", "prompt"], columns="n", values="duplicated")
        grams = part.groupby("n")["grams"].first().to_numpy()
        found[str(run)] = Copied(
            counts={source: wide.loc[source].to_numpy(dtype=np.int64) for source in SOURCES}, grams=grams
        )
    return found


def score(share: Floats) -> Floats:
    """Return the mean pointwise duplication score, truncated at TRUNCATED tokens, of duplicated shares (...,
    n).

    A token's score is the length of the smallest n-gram that ends with it and is new: above n as often as an
    n-gram is duplicated, and so its mean is 1 + the sum of the shares of n < TRUNCATED.
    """
    return np.asarray(1 + share[..., : TRUNCATED - 1].sum(axis=-1))


def half_new(share: Floats) -> Floats:
    """Return the n at which half of the n-grams are new, (...) of shares (..., n); NaN where all n have
    fewer.
    """
    padded = np.concatenate([np.ones((*share.shape[:-1], 1)), share], axis=-1)
    below = padded < 0.5
    n = below.argmax(axis=-1)
    before = np.take_along_axis(padded, np.maximum(n - 1, 0)[..., None], -1)[..., 0]
    after = np.take_along_axis(padded, n[..., None], -1)[..., 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below.any(axis=-1), n - 1 + (before - 0.5) / (before - after), np.nan)


def _interval(values: Floats) -> tuple[float, float]:
    """Return the interval at LEVEL of resampled values that are known."""
    kept = values[np.isfinite(values)]
    if not len(kept):
        return np.nan, np.nan
    low, high = np.quantile(kept, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(low), float(high)


def measured(runs: pd.DataFrame, found: dict[str, Copied]) -> pd.DataFrame:
    """Return a row a run, by size and passes: mean truncated scores of the model and of people, their
    difference with its interval, the n at which half is new, and the longest copies.
    """
    rows = []
    known = runs.drop_duplicates("run").set_index("run")
    for run, each in found.items():
        about = known.loc[run]
        model, people = (each.share(source) for source in SOURCES)
        low, high = _interval(score(each.resampled(SOURCES[0])) - score(each.resampled(SOURCES[1])))
        rows.append(
            {
                "run": run, "N": about["N"], "unique": about["unique"],
                "passes": about["D"] / about["unique"], "loss": about["loss"],
                "score": float(score(model)), "human": float(score(people)),
                "excess": float(score(model) - score(people)), "low": low, "high": high,
                "half new": float(half_new(model)), "human half new": float(half_new(people)),
                "longest": each.longest(SOURCES[0]), "human longest": each.longest(SOURCES[1]),
            }
        )  # fmt: skip
    return pd.DataFrame(rows).sort_values(["N", "passes", "run"]).reset_index(drop=True)


def _plainest(table: pd.DataFrame) -> pd.Series:
    """Return the run that repeats its text least, and the largest of those: the one that has no need to
    copy.
    """
    return table.sort_values(["passes", "N"], ascending=[True, False]).iloc[0]


def _most(table: pd.DataFrame) -> pd.Series:
    """Return the run that copies most beyond what people repeat."""
    return table.sort_values("excess").iloc[-1]


def _constants(table: pd.DataFrame, found: dict[str, Copied]) -> tuple[Constant, ...]:
    run = _plainest(table)
    each = found[run["run"]]
    of = f"{size_name(run['N'])}, {format_count(run['passes'])} passes, plain sampling; {_UNVERIFIED}"
    rows = []
    for n, above, what in ((SHORT, True, "short"), (LONG, False, "long")):
        drawn = each.resampled(SOURCES[0])[:, n - 1] - each.resampled(SOURCES[1])[:, n - 1]
        value = float(each.share(SOURCES[0])[n - 1] - each.share(SOURCES[1])[n - 1])
        name = f"duplicated {what} n-grams beyond people's, n = {n}"
        rows.append(claim(name, f"Δp({n})", (value, *_interval(drawn)), of, above=above, paper=RAVEN))
    value = float(run["half new"])
    if np.isfinite(value) and np.isfinite(run["human half new"]):
        estimate = (value, *_interval(half_new(each.resampled(SOURCES[0]))))
        published = {"held-out text": float(run["human half new"])}
        why = f"tokens; {size_name(run['N'])}, {format_count(run['passes'])} passes; against people's text"
        rows.append(constant("n at which half of what is written is new", "n½", published, estimate, why))
    return tuple(replace(row, level=LEVEL) for row in rows)


def _curves(table: pd.DataFrame, found: dict[str, Copied]) -> Figure:
    """Draw the duplicated share against n for the run that copies most and the one that repeats least."""
    most, least = _most(table), _plainest(table)
    lines = []
    for row in {row["run"]: row for row in (most, least)}.values():
        each = found[row["run"]]
        for source, name in zip(SOURCES, ("model", "people"), strict=True):
            low, high = np.quantile(each.resampled(source), [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], axis=0)
            series = f"{name}: {size_name(row['N'])}, {format_count(row['passes'])} passes"
            n = np.arange(1, len(each.grams) + 1)
            columns = {"series": series, "n": n, "duplicated": each.share(source), "low": low, "high": high}
            lines.append(pd.DataFrame(columns))
    return several(
        None, pd.concat(lines, ignore_index=True), x="n", y="duplicated", y_scale="plain",
        x_title="n (tokens)", y_title="Share of n-grams that occur in the training text",
        name="novelty", title="Duplicated n-grams of generated and of held-out text",
        caption=(
            f"The run that copies most and the one that repeats its text least, with {LEVEL:.0%} intervals "
            "(bootstrap over prompts). Sampled at temperature 1 after the same held-out prompts that the "
            "people's text follows; each is looked up in the text that this run was trained on."
        ),
    )  # fmt: skip


def _excess(table: pd.DataFrame) -> Figure:

    points = table.assign(series=[size_name(n) for n in table["N"]])
    columns = ["series", "passes", "excess", "low", "high", "score", "human", "unique"]
    lines = points[["series", "passes", "excess"]]
    return several(
        points[columns], lines[lines.groupby("series")["passes"].transform("size") > 1],
        x="passes", y="excess", y_scale="plain",
        x_title="Passes over the training text", y_title="Copied beyond people (tokens of mean score)",
        name="copying", title="Copying against passes over the training text",
        caption=(
            f"Mean duplication score truncated at {TRUNCATED} tokens of what the model writes, less that of "
            f"the held-out text after the same prompts, with {LEVEL:.0%} intervals (bootstrap over prompts)."
        ),
    )  # fmt: skip


def _table(table: pd.DataFrame) -> Table:
    caption = (
        f"`score`: mean length (tokens) of the smallest new n-gram that ends with a token, truncated at "
        f"{TRUNCATED}, of the model and of people; `excess`: their difference with its {LEVEL:.0%} interval. "
        "`half new`: n at which half of the n-grams are new. `longest`: the median of the longest copy."
    )
    return Table(name="copied", title="Novelty by size and set", caption=caption, frame=table)


def _counts(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the runs that copy more than people do, and those that copy less, beyond their intervals."""
    return table[table["low"] > 0], table[table["high"] < 0]


def _summary(table: pd.DataFrame) -> str:
    more, less = _counts(table)
    run, most = _plainest(table), _most(table)
    parts = [
        f"Of {len(table)} models that write, {len(more)} copy more of their training text than people repeat "
        f"of it, and {len(less)} less",
        f"at {format_count(run['passes'])} passes the difference is {_value(run)} tokens of mean duplication "
        f"score, at most it is {_value(most)} ({size_name(most['N'])}, {format_count(most['passes'])} "
        "passes)",
    ]
    return "; ".join(parts) + "."


def _value(row: pd.Series) -> str:
    return f"{row['excess']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _text(table: pd.DataFrame) -> str:
    more, less = _counts(table)
    passes = "none do" if more.empty else f"those have made {_range(more['passes'])} passes"
    fewer = "" if less.empty else f"; the {len(less)} that copy less, {_range(less['passes'])}"
    longest, by_people = table["longest"].max(), table["human longest"].max()
    return (
        "An n-gram is new if it does not occur in what the run was trained on; the score of a token is the "
        "length of the smallest new n-gram that ends with it (McCoy et al. 2021). Small sets hold few "
        "n-grams and large ones many, so a score means something only beside that of people's text after the "
        f"same prompts. {len(more)} of {len(table)} models copy more than that: {passes}{fewer}. The longest "
        f"copies (median over prompts) are of {longest:.0f} tokens, in people's text of {by_people:.0f}. "
        "Sampling is plain; at a lower temperature models copy more."
    )


def _range(values: pd.Series) -> str:
    low, high = format_count(values.min()), format_count(values.max())
    return low if low == high else f"{low} to {high}"
