"""Extraction: which training passages greedy decoding gives back from their first tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.errors import AllometryError
from allometry.report.content import Constant, Figure, Section, Table
from allometry.studies.core.sections import Reading, claim
from allometry.studies.readings.probed import LEVEL, at_end, of_kind, proportion, size_name, straight

if TYPE_CHECKING:
    from allometry.studies.core.study import Evidence

CARLINI = "Carlini 2022"


def reading(runs: pd.DataFrame, evidence: Evidence) -> Reading:
    """Extractable shares against repeats, size and prompt, above the baseline of passages never seen."""
    end = extracted(at_end(of_kind(evidence.probes, runs, "extract")))
    table = shares(end)
    laws = log_linear(table)
    return Reading(
        section=Section(
            title="Extraction from prompts",
            text=_text(end, laws),
            evidence=(_figure(table), *_partial(table), _table(table), _laws(laws)),
        ),
        constants=_constants(laws),
        fits={"table": table, "laws": laws, "summary": _summary(table, laws)},
    )


def extracted(end: pd.DataFrame) -> pd.DataFrame:
    """The probes with `whole`, whether all tokens asked for come back, and `right`, the share that does.

    Where the most probable token is right after every true beginning, greedy decoding never leaves the
    passage: it yields the passage from the prompt alone.
    """
    return end.assign(whole=end["hits"] == end["tokens"], right=end["hits"] / end["tokens"])


def shares(end: pd.DataFrame) -> pd.DataFrame:
    """Extractable `share` of the passages by size, prompt and repeats with Wilson's interval, and `above` the
    share of passages that were never trained on (r = 0), in the same models from the same prompts.
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
    """For each dial the slope of the share above the baseline in its logarithm (base 2), interval and R².

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


def _constants(laws: pd.DataFrame) -> tuple[Constant, ...]:
    rows = []
    for _, law in laws[np.isfinite(laws["low"])].iterrows():  # equal shares have no slope to judge
        exact = law["what"] == "exact"
        what = "passages given back whole" if exact else "tokens given back"
        name = f"{what}, against {_NAMES[law['dial']]}"
        why = f"share for each doubling, the other dials at their largest; R² = {law['R2']:.2f}"
        estimate = (law["slope"], law["low"], law["high"])
        symbol = f"d {'share' if exact else 'right'} / d log2 {law['dial']}"
        rows.append(claim(name, symbol, estimate, why, above=True, paper=CARLINI))
    return tuple(replace(row, level=LEVEL) for row in rows)


def _figure(table: pd.DataFrame) -> Figure:
    from allometry.figures.several import several

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
    """Tokens given back, which say more than whole passages where few are given back whole."""
    from allometry.figures.several import several

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


def _table(table: pd.DataFrame) -> Table:
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


def _summary(table: pd.DataFrame, laws: pd.DataFrame) -> str:
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


def _text(end: pd.DataFrame, laws: pd.DataFrame) -> str:
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
