"""The parts of the live page as they are now, with its figures: JSON by name, made again only where something has
changed.
"""

from __future__ import annotations

import heapq
import threading
import time
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.files import read_tail
from allometry.core.units import format_count, format_duration
from allometry.figures import theme
from allometry.figures.curves import learning_curves
from allometry.figures.fits import power_law, predictions
from allometry.figures.surface import surface
from allometry.figures.theme import Figure
from allometry.laws.fit import fit
from allometry.laws.result import FitResult
from allometry.report import page as fmt
from allometry.report.page import asset, chart_json, table_of, template
from allometry.runs.store import Membership, Store
from allometry.studies.core.predictions import ledger, registered
from allometry.watch.reader import Clock, Progress, Reader, Underway, progress, work_of

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


FAILURES = 50
"""Failed runs that are shown with their logs."""

_TAIL = 12
"""Lines of a log that are shown."""

_RUNNING = 16
"""Runs being trained that have a bar of their own."""

_REST = 4.0
"""After a fit, the next waits this many times its duration: training needs the cores more."""

Parts = dict[str, str]


@dataclass
class _View:
    """What is kept of one study between two updates."""

    clock: Clock = field(default_factory=Clock)
    parts: Parts = field(default_factory=dict)
    made_from: dict[str, object] = field(default_factory=dict)
    frame: pd.DataFrame = field(default_factory=pd.DataFrame)
    work: dict[str, float] = field(default_factory=dict)
    ended: tuple[tuple[str, float], ...] = ()
    chosen: list[str] = field(default_factory=list)
    fitting: Future[Fits] | None = None
    began: float = 0.0
    rest_until: float = 0.0


class Page:
    """The page about a store: `update` looks at the store and returns the parts for one of its studies."""

    def __init__(self, store: Store, *, fits: bool = True) -> None:
        """Read the runs of `store`; without `fits` no laws are fitted, which is most of the work."""
        self.store = store
        self.reader = Reader(store)
        self._views: dict[str, _View] = {}
        self._lock = threading.Lock()
        self.fits = fits
        self._fitter = ThreadPoolExecutor(1, "fits")

    def close(self) -> None:
        """Begin no further fit."""
        self._fitter.shutdown(wait=False, cancel_futures=True)

    def settle(self) -> None:
        """Wait for the fits that are being made; the next update has them."""
        for view in self._views.values():
            if view.fitting is not None:
                view.fitting.result()

    def newest(self) -> str:
        """Return the study that was started last; "" (all runs) in a store without studies."""
        folder = self.store.path / "studies"
        return max(self.store.studies(), key=lambda name: _changed(folder / f"{name}.json"), default="")

    def knows(self, study: str) -> bool:
        """Return whether the store has a study of that name, or it is "" (all runs)."""
        return study == "" or study in self.store.studies()

    def update(self, study: str = "") -> Parts:
        """Return the parts as they are now, by name, each a JSON object; "" asks for all runs of the store."""
        with self._lock:
            self.reader.refresh()
            studies = self.store.studies()
            study = study if study in studies else ""
            for gone in self._views.keys() - {"", *studies}:
                del self._views[gone]
            view = self._views.setdefault(study, _View())
            member = studies.get(study) or Membership(
                study="", runs=tuple(self.reader.rows), question=f"All runs of {self.store.place.location}"
            )
            plan = self.reader.plan(study)
            self._look(view, member, plan)
            now, seconds = time.monotonic(), float(plan.get("seconds") or 0.0)
            state = progress(self.reader, member.runs, view.work, seconds, view.clock, now)
            self._put(view, "studies", {"html": self._studies(study)})
            self._put(view, "progress", _progress(state, member, view.frame))
            self._curves(view, state)
            self._fits(view)
            self._ledger(view)
            self._failures(view)
            return dict(view.parts)

    def _look(self, view: _View, member: Membership, plan: Mapping[str, Any]) -> None:
        """Bring the view's table up to date, if the store's has changed or other runs are planned."""
        source = (self.reader.version, member.runs, id(plan))
        if view.made_from.get("frame") == source:
            return
        view.made_from["frame"] = source
        table = self.reader.frame
        view.frame = table[table["run"].isin(member.runs)]
        view.work = work_of(self.reader, member.runs, plan)
        done = view.frame["status"] == "done"
        view.ended = tuple(zip(view.frame.loc[done, "run"], view.frame.loc[done, "loss"], strict=True))

    def _put(self, view: _View, name: str, content: Mapping[str, Any]) -> None:
        view.parts[name] = str(theme.script_json({"name": name, **content}))

    def _studies(self, chosen: str) -> str:
        names = ["", *sorted(self.store.studies())]
        return str(template(_OPTIONS).render(names=names, chosen=chosen))

    def _curves(self, view: _View, state: Progress) -> None:
        """Draw the chart of the curves, if any of those that it shows has changed."""
        growing = [run.run for run in state.running]
        if view.made_from.get("chosen") != (source := (view.made_from["frame"], growing)):
            view.made_from["chosen"] = source
            view.chosen = chosen(view.frame["run"].tolist(), growing)
        stamps = [(run, self.reader.stamp(run)) for run in view.chosen], growing
        if view.made_from.get("curves") == stamps:
            return
        view.made_from["curves"] = stamps
        frame, total = view.frame[view.frame["run"].isin(view.chosen)], len(view.frame)
        self._draw(view, "curves", lambda: curves(self.reader.curves(view.chosen), frame, growing, total))

    def _draw(self, view: _View, name: str, make: Any) -> None:
        """Add a figure as a part, or what stands in its place if it cannot be drawn yet."""
        try:
            self._put(view, name, _figure(make()))
        except AllometryError as error:
            self._put(view, name, {"html": str(fmt.inline(error.message))})

    def _fits(self, view: _View) -> None:
        """Take what was fitted, and have the laws fitted again if further runs have ended."""
        if view.fitting is not None and view.fitting.done():
            made, view.fitting = view.fitting, None
            view.rest_until = time.monotonic() + _REST * (time.monotonic() - view.began)
            self._fitted(view, made.result())
        idle = self.fits and view.fitting is None and time.monotonic() >= view.rest_until
        if idle and view.made_from.get("fits") != view.ended:
            view.made_from["fits"] = view.ended
            view.began = time.monotonic()
            view.fitting = self._fitter.submit(laws, view.frame)

    def _fitted(self, view: _View, fits: Fits) -> None:
        for figure in fits.figures:
            self._put(view, figure.name, _figure(figure))
        table = table_of(fits.table, "laws", limit=None)
        self._put(view, "laws", {"html": str(_template("laws.html").render(table=table, notes=fits.notes))})

    def _ledger(self, view: _View) -> None:
        """Add the predictions of all studies of the store that were made beforehand, with what came of them."""
        written = [
            (str(path), _changed(path)) for path in sorted((self.store.path / "studies").glob("*/*.json"))
        ]
        source = written, self.reader.version
        if view.made_from.get("ledger") == source:
            return
        view.made_from["ledger"] = source
        damaged: list[str] = []
        scored = ledger(self.store.path / "studies", self.reader.frame, damaged)
        shown = _ledger_table(scored)
        table = table_of(shown, "ledger", limit=100)
        hits = int(scored.loc[scored["scored"], "inside"].sum()) if len(scored) else 0
        count = int(scored["scored"].sum()) if len(scored) else 0
        waiting = self._open_predictions(scored)
        html = _template("ledger.html").render(
            table=table, hits=hits, count=count, waiting=waiting, notes=damaged
        )
        self._put(view, "ledger", {"html": str(html)})
        if len(scored):
            self._draw(view, "predictions", lambda: predictions(scored, name="predictions"))

    def _open_predictions(self, scored: pd.DataFrame) -> int:
        """Count predicted runs that have not been trained yet."""
        folders = {path.parent for path in (self.store.path / "studies").glob("*/prediction.json")}
        made = 0
        for folder in folders:
            with suppress(AllometryError):  # the ledger says so
                made += len((registered(folder) or {}).get("predictions", ()))
        return made - len(scored)

    def _failures(self, view: _View) -> None:
        """Add the runs that failed or diverged, with the end of their logs, and what could not be read."""
        source = view.made_from["frame"], tuple(self.reader.notes)
        if view.made_from.get("failures") == source:
            return
        view.made_from["failures"] = source
        failed = view.frame.loc[view.frame["status"].isin(["failed", "diverged"]), "run"].tolist()
        shown = [self._failure(run) for run in failed[:FAILURES]]
        html = _template("failures.html").render(
            failures=shown, more=len(failed) - len(shown), notes=self.reader.notes[:FAILURES]
        )
        self._put(view, "failures", {"html": str(html)})

    def _failure(self, run: str) -> dict[str, str]:
        folder = self.store.directory(run)
        logs = ((name, _tail(folder / name)) for name in ("error.txt", "log.txt"))
        text = "\n".join(f"{name}:\n{lines}" for name, lines in logs if lines)
        return {"run": run, "status": self.reader.rows[run]["status"], "log": text or "No log file."}


def _changed(path: Path) -> int:
    """Return when a file was last changed, in nanoseconds; 0 if it is gone."""
    try:
        return path.lstat().st_mtime_ns
    except OSError:
        return 0


def _tail(path: Path) -> str:
    """Return the last lines of a log, of its last 16 kB."""
    lines = read_tail(path, 16_384).decode("utf-8", "replace").splitlines()
    return "\n".join(lines[-_TAIL:])


_OPTIONS = """
{% for name in names %}
<option value="{{ name }}"{{ " selected" if name == chosen }}>{{ name or "all runs" }}</option>
{% endfor %}
"""


def _template(name: str) -> Any:
    return template(asset(name, "allometry.watch"))


def _figure(figure: Figure) -> dict[str, Any]:
    return {"title": figure.title, "caption": figure.caption, "chart": str(chart_json(figure))}


def _progress(state: Progress, member: Membership, frame: pd.DataFrame) -> dict[str, Any]:
    """Return the headline, the bar of the whole, and a bar for each run that is being trained."""
    spent = float(frame["seconds"].sum())
    html = _template("progress.html").render(
        state=state,
        question=member.question,
        command=member.command,
        words=_words(state),
        running=[_bar(run) for run in state.running[:_RUNNING]],
        more=max(0, len(state.running) - _RUNNING),
        spent=format_duration(spent) if spent > 0 else "",
    )
    share = f"{state.finished}/{state.planned}"
    return {"html": str(html), "title": f"{share} {member.question[:40]}"}


def _words(state: Progress) -> str:
    """Say when it will be finished, in a few words."""
    if state.planned and state.finished + state.failed == state.planned:
        return "finished" if not state.failed else f"finished, {state.failed} failed"
    if not state.running:
        return "nothing is being trained at the moment"
    if state.eta is None:
        return "time left: not known yet"
    return f"about {format_duration(state.eta)} left"


def _bar(run: Underway) -> dict[str, Any]:
    return {
        "run": run.run,
        "percent": round(100 * run.step / run.steps, 1),
        "steps": f"{run.step:,} of {run.steps:,}",
        "loss": "" if run.loss is None else f"{run.loss:.3f}",
    }


def _ledger_table(scored: pd.DataFrame) -> pd.DataFrame | None:
    """Format the ledger for a reader: newest first."""
    if scored.empty:
        return None
    columns = ["study", "run", "N", "D", "predicted", "low", "high", "measured"]
    table = scored[[name for name in columns if name in scored]].iloc[::-1].reset_index(drop=True)
    error = 100 * scored["error"].iloc[::-1].to_numpy()
    table["error %"] = error.round(2)
    words = scored["inside"].map({True: "inside", False: "outside"}).where(scored["scored"], "known before")
    table["interval"] = words.iloc[::-1].to_numpy()
    return table
