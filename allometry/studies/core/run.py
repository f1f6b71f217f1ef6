"""Run a study: plan it, train what is missing, register the prediction in between, read the runs,
write the report.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from allometry.core.env import cores
from allometry.core.errors import AllometryError
from allometry.core.files import slug
from allometry.core.locks import exclusive
from allometry.core.units import compact_duration, counted
from allometry.data.cache import downloads_allowed, no_downloads
from allometry.data.tokens import downloads, prepare
from allometry.runs.record import record_text, recorded_text
from allometry.runs.store import Store, require_room, store_exists
from allometry.studies.core import plan as planning
from allometry.studies.core.predictions import predict_held_back, register_prediction, registered
from allometry.studies.core.results import STUDIES, folder_of, read, runs_of, write_report
from allometry.studies.core.study import Study, study
from allometry.studies.core.texts import (
    analysis_seconds,
    is_of_other_text,
    keep_analysis_seconds,
    make_way,
    present_text,
)
from allometry.sweeps.calibrate import calibrate, choose_device
from allometry.sweeps.local import gpus, open_pool
from allometry.sweeps.placement import own_part, require_as_many, too_large, with_devices
from allometry.train.texts import compare, refuse_changed, settle

if TYPE_CHECKING:
    from allometry.report.build import Analysis
    from allometry.studies.core.plan import StudyPlan
    from allometry.sweeps import Sweep
    from allometry.sweeps.cost import CostModel
    from allometry.sweeps.placement import Shard
    from allometry.sweeps.pool import Pool
    from allometry.sweeps.progress import Event
    from allometry.train.config import DataConfig

_GUESS = 3e10
"""FLOPs per second and core that are assumed before anything was measured, to choose which shapes to measure.
"""


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """What the user asked for: a study, a budget in seconds, where the runs live, and on what data.

    `compute` (FLOPs) fixes the size of the study whatever the machine's speed; 0 asks for the smallest one.
    `on` names the workers: None for this machine, "ray" or "ray://host:port" for a cluster; `device` is
    "cuda", "cpu" or "auto", which is timed on machines with GPUs (`allometry.sweeps.calibrate`). `shard` is
    this process's part of a job array that shares the store. `devices` is how many may train a run that
    decides when the sweep ends; `per_gpu` workers share each GPU; `pack` is how many runs may be trained as a
    pack (`allometry.sweeps.pool.Pool`). `asked` is the study itself where it is made for this request, and `label`
    then its name in the store.
    """

    study: str
    budget: float
    store: Path
    data: DataConfig
    command: str
    compute: float | None = None
    workers: int | None = None
    on: str | None = None
    shard: Shard | None = None
    devices: int | None = None
    per_gpu: int = 1
    device: str | None = None
    pack: int | None = None
    fail_fast: bool = False
    asked: Study | None = None
    label: str = ""

    @property
    def key(self) -> str:
        """The study's name in the store: the same study at another budget or on other data is another one."""
        if self.label:
            return self.label
        data = "" if self.data.corpus == "sotu" else "-" + slug(self.data.corpus).strip("_")[:40]
        tokens = "" if self.data.tokenizer == "bytes" else "-" + slug(self.data.tokenizer).strip("_")[:40]
        size = (
            compact_duration(self.budget)
            if self.compute is None
            else f"{self.compute:.3g}-flops".replace("+", "")
        )
        return f"{self.study}-{size}{data}{tokens}"


class Display(Protocol):
    """Where the messages of `run_study` go: the terminal, or a test."""

    def say(self, text: str) -> None:
        """Show a line to the user."""

    def warn(self, text: str) -> None:
        """Show a warning, also to a user who wants no other lines."""

    def plan(self, plan: StudyPlan, store: Store | None, cost: CostModel) -> None:
        """Show the plan, before anything is trained."""

    def calibrating(self, done: int, total: int) -> None:
        """Show the progress of the calibration: shapes timed, of how many."""

    def event(self, event: Event) -> None:
        """Show the progress of the sweep."""

    def answer(self, analysis: Analysis, path: Path, seconds: float) -> None:
        """Show what came out, and where the report is."""


def run_study(request: StudyRequest, display: Display, *, dry_run: bool = False) -> Path | None:
    """Run a study from plan to report; return the report's path, or None for a dry run, which trains and
    downloads nothing.

    Raises AllometryError where the user can mend something; an interruption leaves everything to be
    continued.
    """
    with no_downloads() if dry_run else nullcontext():
        return _run_all(request, display, dry_run=dry_run)


def _run_all(request: StudyRequest, display: Display, *, dry_run: bool) -> Path | None:
    question = request.asked or study(request.study)
    began = time.monotonic()
    if store_exists(request.store):
        store: Store | None = Store(request.store, create=not dry_run)
    else:  # made when there is a plan: a study that is refused leaves nothing behind
        store = None
        require_room(request.store)
    # The workers load torch while the data are prepared.
    device = _device(request, question, display)
    with open_pool(
        request.on, request.workers, device=device, per_gpu=request.per_gpu, pack=request.pack
    ) as pool:
        require_as_many(request.devices, pool)
        if pool.device == "cuda":
            display.say("workers: " + ", ".join(f"{count} on {kind}" for kind, count in pool.kinds.items()))
        _prepare_data(request, display)
        existing = _existing(request, pool, store, display, dry_run=dry_run)
        plan, cost = _plan(request, question, pool, existing, display, began, dry_run=dry_run)
        if not dry_run:
            store = store or Store(request.store, create=True)
            plan = existing or _kept(plan, store, request)
        plan = _with_devices(plan, cost, pool, request.devices, display)
        _settle_texts(plan, pool, store, request, display, dry_run=dry_run)
        display.plan(plan, store, cost)
        if dry_run or store is None:
            return None
        store.enroll(request.key, plan.sweep.ids, question=question.question, command=request.command)
        prediction, predicting = _train(request, question, plan, cost, pool, store, display)
    read_from = time.monotonic()
    analysis = read(question, plan, store, request.key, request.command, prediction)
    path = write_report(analysis, folder_of(store, request.key))
    store.push(STUDIES)
    keep_analysis_seconds(question.name, len(plan.sweep), predicting + time.monotonic() - read_from)
    display.answer(analysis, path, time.monotonic() - began)
    return path


def _device(request: StudyRequest, question: Study, display: Display) -> str | None:
    """Return what was asked for; for "auto" on a machine with GPUs where the study is predicted to end
    sooner.
    """
    if request.device != "auto" or request.on not in (None, "local") or request.per_gpu > 1 or not gpus():
        return request.device

    def open_on(device: str) -> Pool:
        return open_pool(None, request.workers, device=device, pack=request.pack)

    display.say("calibrating: a few steps of each shape on the cores and on the GPUs (kept for next time)")
    runs = _rough(question, request, request.workers or cores()).runs
    device, why = choose_device(runs, open_on, display.calibrating)
    display.say(why)
    return device


def _prepare_data(request: StudyRequest, display: Display) -> None:
    """Tokenise once, before the workers ask for it."""
    data = request.data
    if not downloads_allowed() and downloads(data.corpus, data.tokenizer):
        return
    display.say(f"data: {data.corpus}, tokenizer {data.tokenizer}")
    prepare(data.corpus, data.tokenizer)


def _existing(
    request: StudyRequest, pool: Pool, store: Store | None, display: Display, *, dry_run: bool
) -> StudyPlan | None:
    """Return the plan that the store holds for this request on the text as it is now, if any."""
    if store is None:
        return None
    if dry_run:
        return _existing_for_dry_run(request, store.path / STUDIES / request.key)
    text, folder = present_text(request.data), folder_of(store, request.key)
    shared = _is_shared(request, pool, store)
    with nullcontext() if shared else exclusive(store.path):
        for sentence in make_way(store, request.key, text, shared=shared):
            display.say(sentence)
    if folder.exists() and recorded_text(folder) is None:
        record_text(folder, text)
    return planning.load(folder)


def _existing_for_dry_run(request: StudyRequest, folder: Path) -> StudyPlan | None:
    """Return the plan in a folder, unless its text is known to have changed."""
    if downloads(request.data.corpus, request.data.tokenizer):
        return planning.load(folder)
    return None if is_of_other_text(folder, present_text(request.data)) else planning.load(folder)


def _is_shared(request: StudyRequest, pool: Pool, store: Store) -> bool:
    """Return whether other processes may be using the store at the same time."""
    return store.remote or pool.shared or request.shard is not None


def _settle_texts(
    plan: StudyPlan,
    pool: Pool,
    store: Store | None,
    request: StudyRequest,
    display: Display,
    *,
    dry_run: bool,
) -> None:
    """Put runs of other text aside, so that the plan shows what is left to do; a dry run leaves them out."""
    if store is None:
        return
    runs = plan.sweep.runs
    if dry_run:
        found = compare(runs, store.path, fetch=False)
        store.leave_out(found.changed)
        said = found.sentences()
    elif _is_shared(request, pool, store):
        said = refuse_changed(runs, store.path, where=store.place.location)
    else:
        with exclusive(store.path):
            said = settle(runs, store.path)[1]
    for sentence in said:
        display.say(sentence)


def _plan(
    request: StudyRequest,
    question: Study,
    pool: Pool,
    existing: StudyPlan | None,
    display: Display,
    began: float,
    *,
    dry_run: bool,
) -> tuple[StudyPlan, CostModel]:
    """Return the `existing` plan, or a new one for what is left of the budget."""
    workers = pool.workers * (request.shard.of if request.shard else 1)
    guess = existing.sweep if existing else _rough(question, request, workers)
    # a plan alone has no need of times, unless it is to fit a time
    measure = not dry_run or (existing is None and request.compute is None)
    if measure:
        display.say("calibrating: a few steps of each shape on this machine (kept for next time)")
    cost = calibrate(guess, pool=pool, on_shape=display.calibrating, measure=measure)
    if existing is not None:
        return existing, cost
    if request.compute is None:
        spent = time.monotonic() - began
        plan = planning.within_budget(question, request.budget, request.data, cost, workers, spent=spent)
    else:
        plan = planning.of_compute(question, request.compute, request.data, cost, workers)
    return plan, cost


def _kept(plan: StudyPlan, store: Store, request: StudyRequest) -> StudyPlan:
    """Write a new plan and its text into the store; return it, or the plan of another driver that has been
    quicker.
    """
    folder = folder_of(store, request.key)
    if (
        recorded_text(folder) is None
    ):  # before the plan: a plan without its text could be taken for any text's
        folder.mkdir(parents=True, exist_ok=True)
        record_text(folder, present_text(request.data))
    return planning.keep(plan, store, folder)


def _with_devices(
    plan: StudyPlan, cost: CostModel, pool: Pool, most: int | None, display: Display
) -> StudyPlan:
    """Return the plan with the devices of each run, stage by stage: the slots are free again between them."""
    runs = {run.id: run for stage in plan.stages() for run in with_devices(stage, cost, pool, most)}
    sweep = replace(plan.sweep, runs=tuple(runs[run.id] for run in plan.sweep))
    if large := too_large(sweep.runs, pool):
        named = f"{large[0].id}{', …' if large[1:] else ''}"
        display.say(f"{counted(len(large), 'run')} may be too large for the memory of a GPU: {named}")
    return replace(plan, sweep=sweep)


def _rough(question: Study, request: StudyRequest, workers: int) -> Sweep:
    """Guess the sweep that will be planned, to know which shapes to time; larger if the guess is too small."""
    if request.compute is not None:
        return planning.of_compute(question, request.compute, request.data).sweep
    compute = max(request.budget, 10.0) * workers * _GUESS
    for _ in range(40):
        try:
            return question.sweep(compute, request.data)
        except AllometryError:
            compute *= 2
    return question.sweep(compute, request.data)


def _train(
    request: StudyRequest,
    question: Study,
    plan: StudyPlan,
    cost: CostModel,
    pool: Pool,
    store: Store,
    display: Display,
) -> tuple[dict[str, Any] | None, float]:
    """Train stage by stage; between the stages, predict the losses of the next one and write them down.
    Returns what was predicted, and the seconds that predicting took.
    """
    from allometry.sweeps.execute import execute  # needs the packages that train

    stages, shard = plan.stages(), request.shard
    workers = pool.workers * (shard.of if shard else 1)
    times = [cost.total(stage.runs, store=store, workers=workers).seconds for stage in stages]
    analysis = analysis_seconds(question.name, len(plan.sweep))
    prediction, predicting = None, 0.0
    for number, stage in enumerate(stages):
        if number > 0:
            began = time.monotonic()
            prediction = _register(request, question, plan, store, display)
            predicting += time.monotonic() - began
        later = sum(times[number + 1 :]) + analysis
        execute(
            stage,
            store,
            pool=pool,
            cost=cost,
            on_event=display.event,
            fail_fast=request.fail_fast,
            later=later,
            shared=shard is not None,
            first=own_part(stage.runs, shard) if shard else (),
        )
    return prediction, predicting


def _register(
    request: StudyRequest, question: Study, plan: StudyPlan, store: Store, display: Display
) -> dict[str, Any] | None:
    """Predict the held-back runs from the others, in writing, once; None if no study could."""
    folder = folder_of(store, request.key)
    existing = registered(folder)
    if existing is not None:
        return existing
    held = set(plan.held_back)
    runs = runs_of(store, [run for run in plan.sweep.ids if run not in held])
    finished = runs[runs["status"] == "done"]
    predicted, reasons = predict_held_back(question, plan, finished)
    for name, reason in reasons.items():
        display.warn(f"{name} could not predict its larger runs, which are trained all the same: {reason}")
    if predicted.empty:
        return None
    known = {run for run in held if store.status(run) in ("done", "diverged")}
    content = register_prediction(folder, finished, predicted, known, store.publish)
    display.say(f"predicted {len(predicted)} larger runs before training them: {folder / 'prediction.json'}")
    return content
