"""What a study says about a question that its runs do not answer: the remedy follows from its plan."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import allometry.studies
from allometry.core.errors import AllometryError
from allometry.studies.core.sections import (
    NotRecorded,
    StudySection,
    TooFewRuns,
    chapter,
    remedy,
    section_or_reason,
)
from allometry.studies.core.study import StudyData, study

COMMAND = "allometry run size --budget 10m --store st"
GENERAL = ("more time", "train longer", "finish the study", "train the missing", "run the study again")


def data(statuses: dict[str, str], planned: tuple[str, ...], command: str = COMMAND) -> StudyData:
    runs = pd.DataFrame({"run": list(statuses), "status": list(statuses.values())})
    return StudyData(runs=runs, curves=pd.DataFrame(), planned=planned, command=command)


@pytest.mark.parametrize("status", ["failed", "partial", None])
def test_runs_that_are_not_finished_name_the_command_that_trains_them(status: str | None) -> None:
    statuses = {"a": "done", "b": "diverged"} | ({"c": status} if status else {})
    for problem in (TooFewRuns("x"), NotRecorded("x"), AllometryError("x", hint="--where")):
        text = remedy(data(statuses, ("a", "b", "c")), problem)
        assert text == f"1 of the 3 planned runs is not finished; this trains what is missing: {COMMAND}."


def test_a_plan_that_is_trained_needs_a_larger_one_in_the_option_that_sized_it() -> None:
    whole = {"a": "done", "b": "done"}
    text = remedy(data(whole, ("a", "b")), TooFewRuns("x"))
    assert "All 2 planned runs have ended: a larger --budget" in text
    assert "not finished" not in text
    sized = data(whole, ("a", "b"), "allometry run size --compute 1e12")
    assert "a larger --compute" in remedy(sized, TooFewRuns("x"))


def test_diverged_runs_are_counted_not_called_missing() -> None:
    text = remedy(data({"a": "done", "b": "diverged"}, ("a", "b")), TooFewRuns("x"))
    assert "1 of them diverged" in text
    assert "not finished" not in text


def test_what_was_not_recorded_is_trained_again_not_enlarged() -> None:
    text = remedy(data({"a": "done"}, ("a",)), NotRecorded("x"))
    assert "allometry runs rm" in text
    assert COMMAND in text
    assert "larger" not in text


def test_what_else_helps_is_kept() -> None:
    assert remedy(data({"a": "done"}, ("a",)), TooFewRuns("x", also="use a larger corpus")).endswith(
        "Or use a larger corpus."
    )


def test_a_chapter_says_it_and_drops_the_hint_about_tables() -> None:
    def refused() -> StudySection:
        raise AllometryError("too few points", hint="fixed={'E': 0}", cli_hint="--fix E=0")

    sections = {
        "bad": section_or_reason("Bad", refused),
        "good": section_or_reason("Good", lambda: StudySection(section=_section("Good"))),
    }
    found = chapter(study("size"), data({"a": "done"}, ("a", "b")), sections, answer="", next="")
    assert found.sections[0].text == (
        "This could not be answered from these runs: too few points. "
        f"1 of the 2 planned runs is not finished; this trains what is missing: {COMMAND}."
    )
    assert found.sections[1].text == "Said."


def _section(title: str) -> Any:
    from allometry.report.build import Section

    return Section(title=title, text="Said.")


def _raised() -> Iterator[tuple[Path, ast.Call]]:
    for path in Path(allometry.studies.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "AllometryError":
                yield path, node


def test_no_study_guesses_at_the_remedy_itself() -> None:
    guessed = [
        f"{path.name}:{call.lineno}"
        for path, call in _raised()
        for keyword in call.keywords
        if "hint" in str(keyword.arg) and any(word in ast.unparse(keyword.value) for word in GENERAL)
    ]
    # the text of a study has changed: that command is the remedy
    assert [place for place in guessed if not place.startswith("texts.py")] == []
