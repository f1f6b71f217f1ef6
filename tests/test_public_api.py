"""The public interface: its names, the parameters of its functions and the attributes of its classes.

A failure here is a change that users see: see docs/versions.md for how a name goes, and write it into the
changelog before this file is changed.
"""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import allometry
from allometry.core.errors import AllometryError

ROOT = Path(__file__).parent.parent

SIGNATURES = {
    "atlas": "(source)",
    "audit": "(frame, *, columns=None)",
    "backtest": "(frame, *, laws=('chinchilla', 'chinchilla-tied', 'kaplan', 'skaling'), columns=None, by='C', "
    "cuts=(0.5, 0.6, 0.7, 0.8, 0.9), objective='huber-log', group=None, exclude=None, bootstrap=100, seed=0)",
    "corpus": "(name, *, about='', licence='not known: your own', files=())",
    "family": "(name, *, size='d_model', multiple=4, rate=None, counts=None)",
    "fit": "(frame, *, law, columns=None, objective='huber-log', weights=None, group=None, fixed=None, tied=None, "
    "exclude=None, bootstrap=400, resample='auto', seed=0, mapped=<class 'map'>, test=True)",
    "isoflop": "(frame, *, columns=None, method='akima', budgets=None, noise=None, bootstrap=1000, seed=0)",
    "load": "(store='runs', study=None)",
    "load_plugins": "(*files)",
    "next_runs": "(fit=None, *, budget, target, law='chinchilla', published=None, candidates=None, "
    "most=12, noise=None, cost=None, against=None)",
    "plan": "(budget=None, *, hours=None, speed=None, loss=None, fit=None, law='chinchilla', published=None, N=None, "
    "D=None, tokens_per_parameter=None, unique=None, batch=None, inference=None, at=None)",
    "predict": "(source, at, *, law=None, columns=None, objective='huber-log', group=None, exclude=None, "
    "bootstrap=100, seed=0)",
    "read_table": "(path, *, columns=None, decimal=None, encoding=None, row=None)",
    "register": "(thing, *, name=None)",
    "run": "(study, *, budget=None, compute=None, store='runs', data='sotu', tokenizer='bytes', workers=None, "
    "device='auto', quiet=False, dry_run=False)",
    "sweep": "(runs=None, *, store='runs', workers=None, quiet=False, budget=None, compute=None, data='sotu', "
    "tokenizer='bytes', device='auto', dry_run=False, **grid)",
    "train_run": "(config, *, store='runs', quiet=False)",
    "versus": "(frame, *, by, against=None, columns=None, margin=0.05, exclude=None)",
}
"""Every public function: its parameters with their defaults, types apart."""

MEMBERS = {
    "AllometryError": "cli_hint hint message",
    "Atlas": "fetch id report source state table to_dict",
    "Audit": "columns findings level passed report rows table to_dict unchecked",
    "Backtest": "best failures fits forecast predictions report scores to_dict",
    "DataConfig": "corpus eval_on eval_tokens half limit loss_on novelty plant probe replace skip spread tokenizer",
    "Design": "after before budget in_flops notes report runs target to_dict value",
    "FitResult": "derived excluded from_dict interval interval_at law noise parameters predict prediction_interval "
    "profile report residuals samples selftest status table to_dict warnings",
    "IsoflopResult": "D N a b discarded excluded loss report slices table to_dict warnings",
    "Law": "derived expression formula gradient inputs latex name output parameters predict published source title",
    "Plan": "C D N batch beyond epochs frame law loss notes report seconds sizes steps to_dict warnings",
    "Prediction": "by_law notes output report source table to_dict weights",
    "RunConfig": "canonical data devices engine id identity model plugins replace train",
    "Store": "curves directory frame get novelty positions probes purge records remove sizes status studies undo",
    "Study": "analyse budget expected held_back name predict question run_sets sweep",
    "StudyData": "command curves ledger novelty of planned positions prediction probes runs",
    "StudyResult": "answer constants curves figures key predictions question report runs tables warnings",
    "Sweep": "ids name question runs",
    "TrainConfig": "batch_tokens beta1 beta2 clip decay early_stop evals_per_octave final_lr init_from lr "
    "noise_batches replace schedule seed steps stop_accuracy tokens warmup weight_decay",
    "Versus": "baseline by comparisons excluded law margin noise notes report table to_dict warnings",
}
"""Every public class: the attributes that must stay. A class may have more."""


def signature(function: Any) -> str:
    """The parameters of a function without their types."""
    whole = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in whole.parameters.values()]
    return str(whole.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def attributes(cls: type) -> set[str]:
    """The public attributes of a class, those of its instances that are declared as fields included."""
    declared: set[str] = set()
    for each in cls.__mro__:
        if each.__module__.startswith("allometry."):
            declared |= {*vars(each), *vars(each).get("__annotations__", {})}
    return {name for name in declared if not name.startswith("_")}


def test_the_public_names_are_these() -> None:
    assert sorted([*SIGNATURES, *MEMBERS, "__version__"]) == sorted(allometry.__all__)
    assert sorted([*SIGNATURES, *MEMBERS]) == sorted([*allometry._PUBLIC, "AllometryError"])
    assert dir(allometry) == allometry.__all__


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_parameters_of_public_functions_are_these(name: str) -> None:
    assert signature(getattr(allometry, name)) == SIGNATURES[name]


@pytest.mark.parametrize("name", MEMBERS)
def test_public_classes_keep_their_attributes(name: str) -> None:
    cls = getattr(allometry, name)
    if cls is AllometryError:
        assert set(MEMBERS[name].split()) <= set(vars(AllometryError("wrong", hint="type this")))
    else:
        assert set(MEMBERS[name].split()) - attributes(cls) == set()


def test_a_name_comes_from_the_module_that_defines_it() -> None:
    """The page of the documentation and tracebacks then say where it is."""
    for name, module in allometry._PUBLIC.items():
        assert getattr(importlib.import_module(module), name) is getattr(allometry, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        allometry.nothing  # noqa: B018


def test_the_page_of_the_reference_holds_every_public_name() -> None:
    found = importlib.util.spec_from_file_location("docs_site", ROOT / "tools" / "docs_site.py")
    assert found is not None
    assert found.loader is not None
    tool: ModuleType = importlib.util.module_from_spec(found)
    found.loader.exec_module(tool)
    page = tool.api()
    for name in (*SIGNATURES, *MEMBERS):
        assert f".{name}\n" in page


def test_the_statement_on_versions_says_what_is_public_and_how_it_goes() -> None:
    text = (ROOT / "docs" / "versions.md").read_text()
    assert "`allometry.__all__`" in text
    assert "`DeprecationWarning`" in text


def test_the_version_is_one() -> None:
    """That of the package, of the citation and of the newest section of the changelog."""
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {allometry.__version__}\n" in citation
    sections = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## [")]
    released = [line for line in sections if not line.startswith("## [Unreleased]")]
    assert released[0].startswith(f"## [{allometry.__version__}]")


@pytest.mark.parametrize("name", SIGNATURES)
def test_public_functions_document_their_parameters_result_and_errors(name: str) -> None:
    """In numpydoc form: each parameter of the signature has its entry, and no other has."""
    text = inspect.getdoc(getattr(allometry, name)) or ""
    parts = re.split(r"^(\w+)\n-{4,}\n", text, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(sections) == ["Parameters", "Returns", "Raises", "Examples"]
    entries = re.findall(r"^(\w[\w, ]*)$", sections["Parameters"], re.MULTILINE)
    named = [name for entry in entries for name in entry.split(", ")]
    assert sorted(named) == sorted(inspect.signature(getattr(allometry, name)).parameters)
    assert "AllometryError" in sections["Raises"]


def examples_run(test: doctest.DocTest) -> int:
    """Run a docstring's examples; return how many there are."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    said: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=flags, verbose=False).run(test, out=said.append)
    assert not outcome.failed, "".join(said)
    return outcome.attempted


@pytest.mark.parametrize("name", [*SIGNATURES, *MEMBERS])
def test_examples_of_the_public_interface_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are printed, beside the repository's files."""
    monkeypatch.chdir(ROOT)
    examples = 0
    for test in doctest.DocTestFinder().find(getattr(allometry, name), name):
        examples += examples_run(test)
    assert examples or name not in SIGNATURES


MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "allometry").rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_other_functions_run(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in docstrings of what has no public name."""
    monkeypatch.chdir(ROOT)
    public = {id(getattr(allometry, name)) for name in [*SIGNATURES, *MEMBERS]}
    loaded = importlib.import_module(module)
    for test in doctest.DocTestFinder().find(loaded, module):
        name = test.name.removeprefix(module).lstrip(".")
        if id(getattr(loaded, name, None)) in public or name.split(".")[0] in MEMBERS:
            continue
        examples_run(test)


def test_results_are_one_line_at_the_prompt() -> None:
    runs = allometry.read_table(ROOT / "examples" / "runs.csv")
    frame, columns = runs.frame, {"N": "N", "D": "D", "L": "loss"}
    results = (
        allometry.isoflop(frame, columns={"N": "N", "C": "C", "L": "loss"}, bootstrap=10),
        allometry.backtest(frame, laws=["kaplan"], by="N", columns=columns, cuts=[0.7], bootstrap=0),
        allometry.audit(frame),
        allometry.fit(frame, law="kaplan", columns=columns, bootstrap=0, test=False),
    )
    for result in results:
        assert len(repr(result)) < 160, repr(result)
        assert "\n" not in repr(result)
