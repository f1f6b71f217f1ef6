"""Conducting a study: plan it, train what is missing, register the prediction in between, read the runs,
write the report.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from allometry.env import cores, snapshot
from allometry.errors import AllometryError, unknown
from allometry.runs.store import Store
from allometry.studies import plan as planning
from allometry.studies.base import Evidence, Study, study
from allometry.studies.collection import dated
from allometry.studies.plan import held_back
from allometry.studies.registration import ledger, register_prediction, registered
from allometry.units import compact_duration, format_duration

if TYPE_CHECKING:
    import pandas as pd

    from allometry.report.content import Analysis
    from allometry.studies.plan import StudyPlan
    from allometry.sweeps.cost import CostModel
    from allometry.sweeps.execute import Event
    from allometry.sweeps.pool import Pool
    from allometry.sweeps.sweep import Sweep
    from allometry.train.config import DataConfig

STUDIES = "studies"
REPORT = "report.html"

_GUESS = 3e10
"""FLOPs per second and core that are assumed before anything was measured, to choose which shapes to measure.
"""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for: a study, a budget in seconds, where the runs live, and on what data.

    `compute` (FLOPs) fixes the size of the study whatever the machine's speed; 0 asks for the smallest one.
    `on` names the workers: None for this machine, "ray" or "ray://host:port" for a cluster.
    """

    study: str
    budget: float
    store: Path
    data: DataConfig
    command: str
    compute: float | None = None
    workers: int | None = None
    on: str | None = None
    fail_fast: bool = False

    @property
    def key(self) -> str:
        """The study's name in the store: the same study at another budget or on other data is another one."""
        data = "" if self.data.corpus == "sotu" else "-" + _slug(self.data.corpus)
        tokens = "" if self.data.tokenizer == "bytes" else "-" + _slug(self.data.tokenizer)
        size = compact_duration(self.budget) if self.compute is None else f"{self.compute:.3g}-flops"
        return f"{self.study}-{size}{data}{tokens}"


class Display(Protocol):
    """Where a conductor's messages go: the terminal, or a test."""

    def say(self, text: str) -> None:
        """A line for the user."""

    def plan(self, plan: StudyPlan, store: Store | None, cost: CostModel) -> None:
        """The plan, before anything is trained."""

    def calibrating(self, done: int, total: int) -> None:
        """Progress of the calibration: shapes timed, of how many."""

    def event(self, event: Event) -> None:
        """Progress of the sweep."""

    def answer(self, analysis: Analysis, path: Path, seconds: float) -> None:
        """What came out, and where the report is."""


def conduct(request: Request, display: Display, *, dry_run: bool = False) -> Path | None:
    """Run a study from plan to report; returns the report's path, or None for a dry run.

    Raises AllometryError where the user can mend something; an interruption leaves everything to be
    continued.
    """
    from allometry.sweeps.pool import open_pool

    question = study(request.study)
    began = time.monotonic()
    store = Store(request.store, create=not dry_run) if not dry_run or request.store.exists() else None
    with open_pool(request.on, request.workers) as pool:  # the workers load torch while the data are prepared
        _prepare_data(request, display)
        plan, cost = _plan(request, question, pool, store, display, began)
        display.plan(plan, store, cost)
        if dry_run or store is None:
            return None
        store.enroll(request.key, plan.sweep.ids, question=question.question, command=request.command)
        prediction = _train(request, question, plan, cost, pool, store, display)
    analysis = read(question, plan, store, request.key, request.command, prediction)
    path = _write(analysis, _folder(store, request.key))
    display.answer(analysis, path, time.monotonic() - began)
    return path


def _folder(store: Store, key: str) -> Path:
    folder = store.path / STUDIES / key
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text).strip("_")[:40]


def _prepare_data(request: Request, display: Display) -> None:
    """Tokenise once, before the workers ask for it."""
    from allometry.data.tokens import prepare

    data = request.data
    display.say(f"data: {data.corpus}, tokenizer {data.tokenizer}")
    prepare(data.corpus, data.tokenizer)


def _plan(
    request: Request, question: Study, pool: Pool, store: Store | None, display: Display, began: float
) -> tuple[StudyPlan, CostModel]:
    """The plan that the store holds for this request, or a new one for what is left of the budget."""
    from allometry.sweeps.cost import calibrate

    existing = planning.load(_folder(store, request.key)) if store else None
    guess = existing.sweep if existing else _rough(question, request)
    display.say("calibrating: a few steps of each shape on this machine (kept for next time)")
    cost = calibrate(guess, pool=pool, on_shape=display.calibrating)
    if existing is not None:
        return existing, cost
    if request.compute is None:
        spent = time.monotonic() - began
        plan = planning.within_budget(question, request.budget, request.data, cost, pool.workers, spent=spent)
    else:
        plan = planning.of_compute(question, request.compute, request.data, cost, pool.workers)
    if store:
        planning.save(plan, _folder(store, request.key))
    return plan, cost


def _rough(question: Study, request: Request) -> Sweep:
    """Roughly the sweep that will be planned, to know which shapes to time; larger if the guess is too
    little.
    """
    if request.compute is not None:
        return planning.of_compute(question, request.compute, request.data).sweep
    compute = max(request.budget, 10.0) * (request.workers or cores()) * _GUESS
    for _ in range(40):
        try:
            return question.sweep(compute, request.data)
        except AllometryError:
            compute *= 2
    return question.sweep(compute, request.data)


def _train(
    request: Request,
    question: Study,
    plan: StudyPlan,
    cost: CostModel,
    pool: Pool,
    store: Store,
    display: Display,
) -> dict[str, Any] | None:
    """Train stage by stage; between the stages, predict the losses of the next one and write them down."""
    from allometry.sweeps.execute import execute

    stages = plan.stages()
    times = [cost.total(stage.runs, store=store, workers=pool.workers).seconds for stage in stages]
    prediction = None
    for number, stage in enumerate(stages):
        if number > 0:
            prediction = _register(request, question, plan, store, display)
        later = sum(times[number + 1 :])
        execute(
            stage,
            store,
            pool=pool,
            cost=cost,
            on_event=display.event,
            fail_fast=request.fail_fast,
            later=later,
        )
    return prediction


def _register(
    request: Request, question: Study, plan: StudyPlan, store: Store, display: Display
) -> dict[str, Any]:
    """Predict the held-back runs from the others, in writing, once."""
    folder = _folder(store, request.key)
    existing = registered(folder)
    if existing is not None:
        return existing
    held = set(plan.held_back)
    runs = _runs(store, [run for run in plan.sweep.ids if run not in held])
    finished = runs[runs["status"] == "done"]
    predicted, reasons = foretell(question, plan, finished)
    for name, reason in reasons.items():
        display.say(f"{name} could not predict its larger runs: {reason}")
    known = {run for run in held if store.status(run) in ("done", "diverged")}
    content = register_prediction(folder, finished, predicted, known)
    display.say(f"predicted {len(predicted)} larger runs before training them: {folder / 'prediction.json'}")
    return content


def foretell(question: Study, plan: StudyPlan, finished: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """The held-back runs predicted, each by the first study that holds it back, from that study's own
    finished runs; and the studies that could not, with the reason. Raises AllometryError if none could.
    """
    import pandas as pd

    wanted = plan.sweep.frame().set_index("run", drop=False)
    tables: list[pd.DataFrame] = []
    failures: dict[str, AllometryError] = {}
    taken: set[str] = set()
    for name, ids in plan.parts.items():
        member = question.member(name)
        own = [run for run in held_back(member, plan.part(name)) if run not in taken]
        if not own:
            continue
        mine = finished[finished["run"].isin(ids)].reset_index(drop=True)
        try:
            table = member.predict(mine, wanted.loc[own].reset_index(drop=True))
        except AllometryError as error:
            failures[name] = error
            continue
        tables.append(table.assign(study=name))
        taken |= set(own)
    if not tables:
        raise next(iter(failures.values()))
    return pd.concat(tables, ignore_index=True), {name: error.message for name, error in failures.items()}


def _runs(store: Store, ids: list[str]) -> pd.DataFrame:
    frame = store.frame()
    return frame[frame["run"].isin(ids)].reset_index(drop=True)


def read(
    question: Study, plan: StudyPlan, store: Store, key: str, command: str, prediction: dict[str, Any] | None
) -> Analysis:
    """The analysis of a study's runs as they stand in the store; needs no torch and trains nothing."""
    ids = list(plan.sweep.ids)
    runs = _runs(store, ids)
    if not (runs["status"] == "done").any():
        raise AllometryError(
            f"the study {key!r} has no finished run in {store.path}", hint=f"train it first: {command}"
        )
    present = [run for run in ids if run in set(runs["run"])]
    environment = {
        **snapshot(),
        "budget": format_duration(plan.budget),
        "planned seconds": round(plan.seconds),
    }
    evidence = Evidence(
        runs=runs,
        curves=store.curves(present),
        positions=store.positions(present),
        parts=plan.parts,
        planned=tuple(ids),
        prediction=prediction or registered(_folder(store, key)),
        command=command,
        environment=environment,
        ledger=ledger(store.path / STUDIES, store.frame()),
    )
    return dated(question.analyse(evidence), runs)


def report(store_path: Path, name: str | None, output: Path | None) -> tuple[Analysis, Path]:
    """Write the report of a study in the store again, from its runs alone.

    `name` is the study's name in the store or the beginning of it; without it, the study that was planned
    last.
    """
    store = Store(store_path)
    key = _find(store, name)
    folder = _folder(store, key)
    plan = planning.load(folder)
    if plan is None:
        raise AllometryError(f"{folder} holds no plan", hint="allometry run quickstart")
    member = store.studies().get(key)
    analysis = read(study(plan.study), plan, store, key, member.command if member else "", None)
    return analysis, _write(analysis, folder, output)


def _find(store: Store, name: str | None) -> str:
    """The key of a study in the store: the given name or beginning, else the newest."""
    plans = sorted(store.path.glob(f"{STUDIES}/*/{planning.FILE}"), key=lambda p: p.stat().st_mtime)
    keys = [path.parent.name for path in plans]
    if not keys:
        raise AllometryError(f"{store.path} holds no study", hint="allometry run quickstart")
    if name is None:
        return keys[-1]
    found = [key for key in keys if key == name] or [key for key in keys if key.startswith(name)]
    if not found:
        raise unknown("study in this store", name, keys)
    return found[-1]


def _write(analysis: Analysis, folder: Path, output: Path | None = None) -> Path:
    """The report as one HTML file, and the registered numbers beside it as JSON."""
    from allometry.report.build import write

    return write(analysis, output or folder / REPORT)
