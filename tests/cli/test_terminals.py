"""On a console of 80, 100 or 140 columns every table fits, keeps its key columns whole, and says what it
leaves out; prose is wrapped once."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.cells import cell_len

from allometry.cli import main
from allometry.cli.output import print_table
from allometry.cli.runs import shortened
from allometry.cli.study import print_answer, print_plan
from allometry.report.build import Analysis, Constant
from allometry.runs.store import Store
from allometry.studies.core import plan as planning
from allometry.studies.core.plan import StudyPlan
from allometry.studies.core.study import study
from allometry.sweeps.cost import CostModel
from allometry.train.config import DataConfig

WIDTHS = (80, 100, 140)


@pytest.fixture(params=WIDTHS)
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


def output(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    assert not ended.value.code
    return capsys.readouterr().out


def fits(text: str, room: int) -> str:
    wide = [line for line in text.splitlines() if cell_len(line) > room and not line.startswith("/")]
    assert not wide, wide  # a path stays whole: it is to be copied
    assert "…" not in re.sub(r"[=,(]…", "", text)  # nothing is cut; "docs=…" is how an option is written
    return text


def heading(text: str) -> list[str]:
    """The names of the columns of the first table."""
    lines = text.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(" ──"))
    return re.split(r"\s{2,}", lines[at - 1].strip())


PROSE = {
    "fit": ("alpha", "95% interval", "new run, 95% interval", "rms log residual"),
    "compare": ("mean err", "chinchilla", "95 % prediction intervals"),
    "isoflop": ("N_opt = ", "intervals 95 %"),
    "plan": ("435", "FLOPs, compute-optimal", "tokens per parameter", "note: "),
    "next": ("2 runs", "loss@1e20"),
    "law": ("kaplan2020-table2", "6.4e+13", "non-embedding parameters"),
    "studies": ("quickstart", "predict the largest?"),
    "doctor": ("reference: available", "disk"),
}


@pytest.fixture
def commands(table: Path, quickstart_store: Path) -> dict[str, list[str]]:
    runs = str(table)
    return {
        "fit": ["fit", runs, "--bootstrap", "20"],
        "compare": ["compare", runs, "--laws", "chinchilla,kaplan", "--cuts", "0.7", "--bootstrap", "4"],
        "isoflop": ["isoflop", runs, "--bootstrap", "10"],
        "plan": ["plan", "1e18"],
        "next": ["plan", "1e18", "--from", runs, "--bootstrap", "0", "--next", "loss@1e20", "--most", "2"],
        "law": ["laws", "kaplan"],
        "studies": ["studies"],
        "doctor": ["doctor", "--store", str(quickstart_store)],
    }


@pytest.mark.parametrize("name", [name for name in PROSE if name != "plan"])
def test_text_is_wrapped_once_at_the_width(
    name: str,
    commands: dict[str, list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for room in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(room))
        text = fits(output(capsys, *commands[name]), room)
        for words in PROSE[name]:
            assert words in " ".join(text.split()), words
        stubs = [
            (first, second)
            for first, second in zip(text.splitlines(), text.splitlines()[1:], strict=False)
            if second.startswith("  ") and len(first) < room - 45 and first.endswith((" the", " of", " a"))
        ]
        assert not stubs  # a line broken long before the edge was wrapped before


def test_runs_are_listed_with_ids_that_commands_take(
    room: int, quickstart_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--store", str(quickstart_store))
    text = fits(output(capsys, "runs", "list", "--limit", "3", *at), room)
    assert {"run", "N", "D", "loss", "status"} <= set(heading(text))
    rows = [line.split() for line in text.splitlines() if re.search(r"\bdone\b", line)]
    frame = Store(quickstart_store).frame().head(3)
    assert len(rows) == 3
    for cells, (_, run) in zip(rows, frame.iterrows(), strict=True):
        assert f"{run['loss']:.4f}" in cells
        assert run["run"].endswith(cells[0])
        assert run["run"] in output(capsys, "runs", "show", cells[0], *at).splitlines()[0]
    hidden = set(tables_left_out(text))
    assert (room > 100) == (rows[0][0] == frame["run"].iloc[0])
    assert not hidden & {"run", "N", "D", "loss"}


def tables_left_out(text: str) -> list[str]:
    said = re.search(r"not shown at this width: (.*)", text)
    return said[1].split(", ") if said else []


def test_corpora_and_laws_keep_their_names(room: int, capsys: pytest.CaptureFixture[str]) -> None:
    corpora = fits(output(capsys, "data", "list"), room)
    assert {"corpus", "size", "what"} <= set(heading(corpora))
    assert all(re.search(rf"^ {name} ", corpora, re.MULTILINE) for name in ("sotu", "stdlib", "shakespeare"))
    laws = fits(output(capsys, "laws"), room)
    assert {"law", "title", "inputs"} <= set(heading(laws))
    assert re.search(r"^ chinchilla-tied ", laws, re.MULTILINE)


def test_a_run_and_a_difference_fit(
    room: int, quickstart_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--store", str(quickstart_store))
    first, second = Store(quickstart_store).frame()["run"][:2]
    shown = fits(output(capsys, "runs", "show", first, *at), room)
    curve = shown[shown.index("curve") :]
    assert {"step", "tokens", "loss"} <= set(heading(curve))
    assert "train.tokens" in fits(output(capsys, "runs", "diff", first, second, *at), room)


@pytest.fixture(scope="module", params=["one design", "a collection"])
def plan(request: pytest.FixtureRequest) -> StudyPlan:
    """The smallest quickstart, as it is and as if two studies of two run sets each had asked for its runs."""
    plan = planning.of_compute(study("quickstart"), 0.0, DataConfig())
    if request.param == "one design":
        return plan
    ids = plan.sweep.ids
    run_sets = {"the_longest_name_of_all_run_sets": ids[:20], "grid": ids[20:]}
    return replace(plan, run_sets=run_sets, parts={"first": ids[:30], "second": ids[10:]})


def test_a_plan_keeps_sizes_data_and_state(
    plan: StudyPlan, room: int, capsys: pytest.CaptureFixture[str]
) -> None:
    print_plan(plan, None, CostModel())
    text = fits(capsys.readouterr().out, room)
    assert {"N", "runs", "tokens D", "state"} <= set(heading(text))
    assert " ".join(plan.sweep.question.split()) in " ".join(text.split())
    assert f"{len(plan.sweep)} runs" in text


LONG = "a sentence of many words which no console of any width that people have could show in one line, " * 2


def answered(**more: Any) -> Analysis:
    constant = Constant(
        name="slope of the loss in parameters at one horizon", symbol="α_N",
        published={"Kaplan 2020": 0.076, "Porian 2024, without the embeddings": 0.082}, ours=0.0757,
        low=0.0601, high=0.0901, level=0.95, verdict="agrees", why="it lies inside",
    )  # fmt: skip
    return Analysis(
        study="quickstart", question="Is it?", answer=LONG, command="allometry run quickstart",
        constants=(constant,), warnings=(f"few seeds: {LONG}",), sections=(), runs=pd.DataFrame(),
        excluded=pd.DataFrame(), environment={}, **more,
    )  # fmt: skip


def test_the_answer_is_last_and_warnings_take_a_line_each(
    room: int, capsys: pytest.CaptureFixture[str]
) -> None:
    print_answer(answered())
    text = capsys.readouterr().out
    assert not [line for line in text.splitlines() if cell_len(line) > room]
    assert {"quantity", "ours", "interval", "verdict"} <= set(heading(text))
    assert "[0.0601, 0.0901] 95 %" in text
    (warning,) = [line for line in text.splitlines() if line.startswith("warning: ")]
    assert warning.endswith("…")
    assert " ".join(text.split()).endswith(LONG.strip())


def test_columns_go_in_the_order_of_their_weight(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.DataFrame(
        {"key": ["k" * 20], "first": ["f" * 20], "second": ["s" * 20], "prose": ["p q " * 20]}
    )

    def shown(room: str) -> tuple[list[str], list[str]]:
        monkeypatch.setenv("COLUMNS", room)
        print_table(frame, drop=("first", "second"), wrap=["prose"])
        text = fits(capsys.readouterr().out, int(room))
        return heading(text), tables_left_out(text)

    assert shown("200") == (["key", "first", "second", "prose"], [])
    assert shown("80") == (["key", "second", "prose"], ["first"])
    assert shown("50") == (["key", "prose"], ["first", "second"])


def test_what_is_piped_elsewhere_is_neither_cut_nor_wrapped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, quickstart_store: Path
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    text = output(capsys, "runs", "list", "--store", str(quickstart_store))
    for run in Store(quickstart_store).frame()["run"]:
        assert run in text
    assert heading(text) == ["run", "status", "shape", "N", "D", "C", "lr", "loss", "seconds", "study"]


def test_short_ids_are_as_long_as_it_takes() -> None:
    ids = ["a-11111111", "b-22222222", "c-x2222222"]
    assert shortened(ids[:1], ids) == ["11111111"]
    assert shortened(["1-22222222", "2-22222222"], ["1-22222222", "2-22222222"]) == [
        "1-22222222",
        "2-22222222",
    ]
    assert shortened(["x-abcdefgh"], ["x-abcdefgh", "abcdefgh-y"]) == ["-abcdefgh"]
