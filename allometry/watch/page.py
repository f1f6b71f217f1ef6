"""The parts of the live page as they are now: JSON by name, made again only where something has changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.files import read_tail
from allometry.core.units import format_duration
from allometry.figures.predictions import predictions
from allometry.report import format as fmt
from allometry.report.content import Figure
from allometry.report.page import asset, chart_json, table_of, template
from allometry.runs.store import Membership, Store
from allometry.studies.core.predictions import ledger
from allometry.watch import charts
from allometry.watch.progress import Clock, Progress, progress, work_of
from allometry.watch.reader import Reader, Underway

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
    fitting: Future[charts.Fits] | None = None
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
        view.frame = (
            table[[run in own for run in table["run"]]] if (own := set(member.runs)) else table.head(0)
        )
        view.work = work_of(self.reader, member.runs, plan)
        done = view.frame["status"] == "done"
        view.ended = tuple(zip(view.frame.loc[done, "run"], view.frame.loc[done, "loss"], strict=True))

    def _put(self, view: _View, name: str, content: Mapping[str, Any]) -> None:
        view.parts[name] = str(fmt.script_json({"name": name, **content}))

    def _studies(self, chosen: str) -> str:
        names = ["", *sorted(self.store.studies())]
        return str(template(_OPTIONS).render(names=names, chosen=chosen))

    def _curves(self, view: _View, state: Progress) -> None:
        """Draw the chart of the curves, if any of those that it shows has changed."""
        growing = [run.run for run in state.running]
        if view.made_from.get("chosen") != (source := (view.made_from["frame"], growing)):
            view.made_from["chosen"] = source
            view.chosen = charts.chosen(view.frame["run"].tolist(), growing)
        stamps = [(run, self.reader.stamp(run)) for run in view.chosen], growing
        if view.made_from.get("curves") == stamps:
            return
        view.made_from["curves"] = stamps
        frame, total = view.frame[view.frame["run"].isin(view.chosen)], len(view.frame)
        self._draw(
            view, "curves", lambda: charts.curves(self.reader.curves(view.chosen), frame, growing, total)
        )

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
            view.fitting = self._fitter.submit(charts.laws, view.frame)

    def _fitted(self, view: _View, fits: charts.Fits) -> None:
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
        from allometry.studies.core.predictions import registered

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
