"""Collections: shares, parts, predictions by member, chapters that fail and take no other along."""

from __future__ import annotations

from typing import Any, ClassVar

import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.report.build import Analysis, Constant, Section
from allometry.runs.store import Store
from allometry.studies.core.collection import BROKEN, Collection
from allometry.studies.core.plan import keep, load, of_compute
from allometry.studies.core.predictions import predict_held_back as foretell
from allometry.studies.core.study import Study, StudyData
from allometry.studies.quickstart import Quickstart
from allometry.sweeps.cost import plan_frame
from allometry.train.config import DataConfig, RunConfig


def _analysis(name: str, **fields: Any) -> Analysis:
    section = Section(title="Seen", text="Something.")
    return Analysis(study=name, question="q?", answer="a", command="c", sections=(section,), **fields)


class Reads(Quickstart):
    name = "reads"
    expected = "much"
    run_sets: ClassVar = {"grid": 1.0}

    def predict(self, runs: pd.DataFrame, held_back: pd.DataFrame) -> pd.DataFrame:
        if len(runs) < 3:
            raise AllometryError("too few runs")
        return held_back.assign(loss=1.0, low=0.9, high=1.1, level=0.95, method="law")

    def analyse(self, evidence: StudyData) -> Analysis:
        assert set(evidence.runs["run"]) <= set(evidence.planned)
        constant = Constant(name="Slope", symbol="a", published={"Paper": 1.0}, ours=1.0, low=0.9, high=1.1,
                            level=0.95, verdict="agrees", why="")  # fmt: skip
        return _analysis(self.name, constants=(constant,), warnings=("short", "own"))


class AlsoReads(Study):
    name = "also"
    question = "And what else?"
    run_sets: ClassVar = {"grid": 1.0}

    def held_back(self, run: RunConfig, sweep: Any) -> bool:
        return run.train.seed > 0

    def predict(self, runs: pd.DataFrame, held_back: pd.DataFrame) -> pd.DataFrame:
        return held_back.assign(loss=1.0, low=0.9, high=1.1, level=0.95, method="guess")

    def analyse(self, evidence: StudyData) -> Analysis:
        return _analysis(self.name, warnings=("short",))


class Broken(AlsoReads):
    name = "broken"

    def held_back(self, run: RunConfig, sweep: Any) -> bool:
        return False

    def analyse(self, evidence: StudyData) -> Analysis:
        raise KeyError("no such column")


class Refuses(Broken):
    name = "refuses"

    def analyse(self, evidence: StudyData) -> Analysis:
        raise AllometryError("there is one size", hint="train more")


class Four(Collection):
    name = "four"
    question = "All of it?"
    members = ("reads", "also", "broken", "refuses")
    shares: ClassVar = {"grid": 1.0}
    headlines = ("reads",)

    def member(self, name: str) -> Study:
        return {kind.name: kind for kind in (Reads, AlsoReads, Broken, Refuses)}[name]()


PLAN = of_compute(Four(), 2e13, DataConfig())


def _evidence(status: str = "done") -> StudyData:
    runs = plan_frame(PLAN.sweep).assign(status=status, loss=2.0, finished="2026-05-01T10:00:00+00:00")
    runs["finished"] = [f"2026-05-01T10:{k:02d}:00+00:00" for k in range(len(runs) - 1, -1, -1)]
    empty = pd.DataFrame({"run": []})
    return StudyData(
        runs=runs, curves=empty, positions=empty, planned=PLAN.sweep.ids, parts=PLAN.parts, command="c"
    )


def test_members_of_one_design_ask_for_the_same_runs() -> None:
    assert list(PLAN.parts) == list(Four.members)
    assert set(PLAN.parts["reads"]) == set(PLAN.parts["also"]) == set(PLAN.sweep.ids)
    assert set(PLAN.run_sets["grid"]) == set(PLAN.sweep.ids)


def test_any_compute_is_enough_and_more_never_asks_for_less() -> None:
    counts = [len(of_compute(Four(), compute, DataConfig()).sweep) for compute in (1.0, 1e9, 1e12, 1e14)]
    assert min(counts) > 10
    assert counts == sorted(counts)


def test_every_member_holds_back_its_own(tmp_path: Any) -> None:
    held = {run.id for run in PLAN.sweep if run.train.seed > 0}
    assert held < set(PLAN.held_back)
    assert keep(PLAN, Store(tmp_path, create=True), tmp_path) == PLAN
    assert load(tmp_path) == PLAN
    assert [len(stage) for stage in PLAN.stages()] == [
        len(PLAN.sweep) - len(PLAN.held_back), len(PLAN.held_back)
    ]  # fmt: skip


def test_a_run_is_predicted_once_by_the_first_that_can() -> None:
    runs = plan_frame(PLAN.sweep)
    first = runs[~runs["run"].isin(PLAN.held_back)].assign(status="done")
    predicted, reasons = foretell(Four(), PLAN, first.assign(loss=2.0))
    assert not reasons
    assert sorted(predicted["run"]) == sorted(PLAN.held_back)
    assert set(predicted["study"]) == {"reads", "also"}
    few, reasons = foretell(Four(), PLAN, first.assign(loss=2.0).head(2))
    assert list(reasons) == ["reads"]
    assert set(few["study"]) == {"also"}


def test_a_chapter_that_fails_says_why_and_the_others_are_written() -> None:
    with pytest.warns(RuntimeWarning, match="broken.*KeyError"):
        analysis = Four().analyse(_evidence())
    reads, also, broken, refuses = analysis.chapters
    assert broken.answer.startswith(BROKEN)
    assert "KeyError" in broken.answer
    assert "there is one size. Train more." in refuses.answer
    assert reads.expected == "much"
    assert also.sections
    assert {each.date for each in analysis.chapters} == {max(_evidence().runs["finished"])}
    assert analysis.warnings == ("short",)
    assert reads.warnings == ("own",)
    assert also.warnings == ()
    assert analysis.answer.startswith("As published: Slope.")
    assert "1 of 4 questions are answered" in analysis.answer
    assert "*reads*: Slope, 1.00 [0.90, 1.10] (Paper: 1): agrees." in analysis.answer


def test_nothing_finished_is_said_and_not_read() -> None:
    analysis = Four().analyse(_evidence("failed"))
    assert all("None of its" in each.answer for each in analysis.chapters)
