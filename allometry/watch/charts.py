"""The figures of the live page: curves as they grow, and laws through the runs that have ended so far."""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.units import format_count
from allometry.figures.curves import learning_curves
from allometry.figures.fits import power_law
from allometry.figures.surface import surface
from allometry.laws.fit import fit
from allometry.laws.result import FitResult
from allometry.report import format as fmt
from allometry.report.content import Figure

CURVES = 240
"""Curves that one chart shows at most."""

_POINTS = 4800
"""Points of all curves of the chart together."""

_TABLE = 600
"""Runs that a chart of the laws shows, and that the laws are fitted to; more add nothing that can be seen."""

_KIND = ["family", "corpus", "tokenizer"]
"""Runs that differ in these are not compared."""

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Fits:
    """The laws through the finished runs: figures, a table of parameters, and why a law is missing."""

    figures: tuple[Figure, ...] = ()
    table: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()


def chosen(runs: Sequence[str], growing: Sequence[str]) -> list[str]:
    """Choose the runs whose curves are drawn: those that are being trained, and the others, or a choice of
    them.

    The choice is by a checksum of the id: as runs are added, it changes by one at a time.
    """
    first = dict.fromkeys(growing[:CURVES])
    others = (run for run in runs if run not in first)
    ranked = heapq.nsmallest(CURVES - len(first), others, key=lambda run: zlib.crc32(run.encode()))
    return [*first, *sorted(ranked)]


def curves(curves: pd.DataFrame, frame: pd.DataFrame, growing: Collection[str], total: int) -> Figure:
    """Draw the chosen curves with the lowest loss that any of them reaches. Raises AllometryError if there is
    none.
    """
    number = max(1, curves["run"].nunique())
    best = _frontier(curves)
    figure = learning_curves(
        curves,
        frame,
        frontier=best,
        growing=growing,
        points=max(8, min(40, _POINTS // number)),
        title="Loss while training",
        caption=_caption(number, total, len(growing)),
    )
    return figure


def _frontier(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the points of any curve that are lower than all with less compute."""
    ordered = curves.sort_values("C")
    return ordered[ordered["loss"] <= ordered["loss"].cummin()]


def _caption(shown: int, total: int, growing: int) -> str:
    text = "One line a run" + (f", a random sample of {shown} of {total:,} runs" if shown < total else "")
    if growing:
        which = "the one that is" if growing == 1 else f"each of the {growing} that are"
        text += f"; a dot at the end of {which} being trained"
    return text + ". The line below them: the lowest loss that was reached with so much compute or less."


def laws(frame: pd.DataFrame) -> Fits:
    """Fit laws to the finished runs of the most frequent kind (family, corpus and tokenizer)."""
    done = frame[(frame["status"] == "done") & (frame["loss"] > 0)]
    if done.empty:
        return Fits(notes=("The first fit is made when a few runs have ended.",))
    counts = done.groupby(_KIND, dropna=False).size()
    kind = counts.idxmax()
    assert isinstance(kind, tuple)
    alike = done[(done[_KIND].astype(str) == [str(part) for part in kind]).all(axis=1)]
    notes = []
    if len(alike) < len(done):
        notes.append(
            f"Fitted to the {len(alike)} runs of {kind[0]} on {kind[1]} ({kind[2]}), out of {len(done)} that "
            "have ended: losses of different families, corpora or tokenizers are not compared."
        )
    made = [_attempt(name, act, alike, notes) for name, act in (("L(N)", _by_size), ("L(N, D)", _joint))]
    figures = tuple(figure for figure, _ in filter(None, made))
    rows = [
        row for _, fits in filter(None, made) for label, each in fits.items() for row in _rows(label, each)
    ]
    return Fits(figures=figures, table=pd.DataFrame(rows) if rows else None, notes=tuple(notes))


Made = tuple[Figure, dict[str, FitResult]]


def _attempt(
    name: str, act: Callable[[pd.DataFrame], Made], runs: pd.DataFrame, notes: list[str]
) -> Made | None:
    """Return what `act` makes of the runs, or None and a note that says what is missing."""
    try:
        return act(runs)
    except AllometryError as error:
        notes.append(f"{name}: {error.message}.")
        return None


def _by_size(runs: pd.DataFrame) -> Made:
    """Fit L(N) at the horizon that most sizes have been trained to, the longest of these (Kaplan et al. 2020,
    eq. 1.1).
    """
    sizes = runs.groupby("D")["N"].nunique()
    horizon = float(sizes[sizes == sizes.max()].index.max())
    table = runs[runs["D"] == horizon]
    if sizes.max() < 3:
        raise AllometryError("three sizes at one horizon are needed, and have not ended yet")
    result = fit(table, law="kaplan-n", columns={"N": "N", "L": "loss"}, bootstrap=200)
    what = f"Loss against size after {format_count(horizon)} tokens"
    slopes = {"Kaplan et al. 2020": -0.076}
    figure = power_law(table, result, x="N", slopes=slopes, name="size", title=what, level=LEVEL)
    return figure, {f"L(N) at D = {format_count(horizon)}": result}


def _joint(runs: pd.DataFrame) -> Made:
    """Fit L(N, D) in the forms of Kaplan et al. 2020 (eq. 1.5) and Hoffmann et al. 2022 (approach 3)."""
    if runs["N"].nunique() < 3 or runs["D"].nunique() < 3:
        raise AllometryError("three sizes and three horizons are needed, and have not ended yet")
    table, columns = _thinned(runs), {"N": "N", "D": "D", "L": "loss"}
    names = {"Chinchilla": "chinchilla", "Kaplan": "kaplan"}
    fits = {label: fit(table, law=law, columns=columns, bootstrap=100) for label, law in names.items()}
    figure = surface(table, fits, x="D", colour="N", name="joint", title="Loss against size and tokens")
    return figure, {f"L(N, D), {label}": result for label, result in fits.items()}


def _thinned(runs: pd.DataFrame) -> pd.DataFrame:
    ordered = runs.sort_values(["N", "D"], ignore_index=True)
    if len(ordered) <= _TABLE:
        return ordered
    return ordered.iloc[np.unique(np.linspace(0, len(ordered) - 1, _TABLE).astype(int))]


def _rows(label: str, result: FitResult) -> Sequence[dict[str, str]]:
    """Return a law's parameters with their intervals, and the residual of a run."""
    values = [
        f"{name} = {fmt.interval(value, *result.interval(name, LEVEL))}"
        for name, value in result.parameters.items()
    ]
    spread = f"{100 * result.rms:.2g} %"
    return [{"law": label, "parameters [95 % interval]": ",  ".join(values), "residual": spread}]
