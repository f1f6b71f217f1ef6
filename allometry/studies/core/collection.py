"""Collections: several studies under one budget, trained together and reported in one log."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from allometry.core.errors import AllometryError
from allometry.figures.several import over_published
from allometry.report.build import Analysis, Section
from allometry.report.page import interval
from allometry.studies.core.plan import smallest
from allometry.studies.core.sections import heaviest_first
from allometry.studies.core.study import Study, run_set_named
from allometry.sweeps import Sweep

if TYPE_CHECKING:
    from allometry.report.build import Constant
    from allometry.studies.core.study import StudyData
    from allometry.train.config import DataConfig, RunConfig

BROKEN = "This chapter could not be written"
"""First words of a chapter whose analysis failed for an unexpected reason."""


class Collection(Study):
    """Studies that share runs. `members` in the order of the report; `shares` gives each run set its share of
    the whole compute (they sum to 1), so that members which read the same run set ask for the same runs.
    `headlines` are the members whose first constant is named in the answer.
    """

    members: ClassVar[tuple[str, ...]]
    shares: ClassVar[dict[str, float]]
    headlines: ClassVar[tuple[str, ...]] = ()

    def by_run_set(self, compute: float, data: DataConfig) -> dict[str, tuple[RunConfig, ...]]:
        """Return the runs by run set, each at its share.

        A run set whose share is too little to ask its question gets the least that is enough, so that a
        collection can be asked for at any compute; with more of it the shares are kept.
        """
        read = {name for member in self._members() for name in member.run_sets}
        return {
            name: _at_share(name, share * compute, data)
            for name, share in self.shares.items()
            if name in read
        }

    def parts(self, compute: float, data: DataConfig) -> dict[str, Sweep]:
        """Return each member's runs: those of its run sets."""
        runs = self.by_run_set(compute, data)
        return {
            member.name: Sweep(
                member.name, member.question, tuple(run for name in member.run_sets for run in runs[name])
            )
            for member in self._members()
        }

    def _members(self) -> list[Study]:
        return [self.member(name) for name in self.members]

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report one chapter a study, and an answer over all of them."""
        own = {name: study_data.of(name) for name in self.members if name in study_data.parts}
        chapters = [dated(chapter(self.member(name), part), part.runs) for name, part in own.items()]
        everywhere, chapters = _shared_warnings(chapters)
        return Analysis(
            study=self.name,
            question=self.question,
            expected=self.expected,
            answer=summary(chapters, self.headlines),
            command=study_data.command,
            sections=_beside_published(chapters, self.headlines),
            warnings=everywhere,
            runs=study_data.runs,
            environment=study_data.environment,
            chapters=tuple(chapters),
        )


def _at_share(name: str, compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    return run_set_named(name)(max(compute, _least(name, data)), data)


@lru_cache(maxsize=256)
def _least(name: str, data: DataConfig) -> float:
    return smallest(lambda compute: run_set_named(name)(compute, data))


def chapter(member: Study, study_data: StudyData) -> Analysis:
    """Report a member's analysis, or one that says why there is none.

    Any exception is caught here, and named: one broken analysis must not lose the report of an hour's runs.
    """
    done = int((study_data.runs["status"] == "done").sum())
    if not done:
        reason = f"No run of {len(study_data.planned)} has finished, so there is nothing to read yet."
        return _without_answer(member, study_data, reason)
    try:
        return replace(member.analyse(study_data), expected=member.expected)
    except AllometryError as error:
        hint = f" {error.cli_hint[:1].upper()}{error.cli_hint[1:]}." if error.cli_hint else ""
        return _without_answer(
            member, study_data, f"This could not be answered from these runs: {error.message}.{hint}"
        )
    except Exception as error:
        reason = f"{BROKEN}: {type(error).__name__}: {error}"
        warnings.warn(f"the chapter {member.name!r} failed: {reason}", RuntimeWarning, stacklevel=2)
        return _without_answer(member, study_data, reason)


def _without_answer(member: Study, study_data: StudyData, reason: str) -> Analysis:
    return Analysis(
        study=member.name,
        question=member.question,
        expected=member.expected,
        answer=reason,
        command=study_data.command,
        sections=(),
        warnings=(f"{member.name}: {reason}",),
    )


def dated(analysis: Analysis, runs: pd.DataFrame) -> Analysis:
    """Report the analysis with the time when the last of its runs was finished, where that is known."""
    finished = runs["finished"].dropna() if "finished" in runs else ()
    if analysis.date or not len(finished):
        return analysis
    return replace(analysis, date=str(max(finished)))


def _shared_warnings(chapters: list[Analysis]) -> tuple[tuple[str, ...], list[Analysis]]:
    """Return the warnings that several chapters give, once and for all of them; the chapters keep the
    others.
    """
    count = Counter(warning for each in chapters for warning in dict.fromkeys(each.warnings))
    shared = heaviest_first(warning for warning, times in count.items() if times > 1)
    kept = [
        replace(each, warnings=tuple(w for w in dict.fromkeys(each.warnings) if w not in shared))
        for each in chapters
    ]
    return shared, kept


def summary(chapters: list[Analysis], headlines: tuple[str, ...]) -> str:
    """Return the whole collection in a few sentences: what came out as published, what did not, and what these
    runs leave open, of the first constant of the chapters `headlines`; then those constants, and the count.
    """
    constants = [constant for each in chapters for constant in each.constants]
    verdicts = Counter(constant.verdict for constant in constants)
    answered = [c for c in chapters if c.constants or any(part.evidence for part in c.sections)]
    count = (
        f"{len(answered)} of {len(chapters)} questions are answered, in whole or in part. Of "
        f"{len(constants)} constants {verdicts['agrees']} agree with a published value, "
        f"{verdicts['differs']} differ, and for "
        f"{verdicts['cannot tell']} it cannot be told from these runs."
    )
    known = {each.study: each.constants[0] for each in chapters if each.constants}
    first = [(name, known[name]) for name in headlines if name in known]
    words = [
        f"{said}: {'; '.join(constant.name for _, constant in first if constant.verdict == verdict)}."
        for verdict, said in _SAID.items()
        if any(constant.verdict == verdict for _, constant in first)
    ]
    parts = [" ".join(words), *(_headline(name, constant) for name, constant in first), count]
    return "\n\n".join(part for part in parts if part)


def _beside_published(chapters: list[Analysis], headlines: tuple[str, ...]) -> tuple[Section, ...]:
    """Draw the first constant of the chapters `headlines` over the value that a paper printed for it."""
    rows = []
    for each in sorted(chapters, key=lambda each: [*headlines, each.study].index(each.study)):
        if each.study not in headlines or not each.constants or not each.constants[0].published:
            continue
        first = each.constants[0]
        printed = next(iter(first.published.values()))
        if printed > 0:
            ours = {key: value / printed for key, value in
                    (("ratio", first.ours), ("low", first.low), ("high", first.high))}  # fmt: skip
            rows.append({"constant": first.name, "verdict": first.verdict, **ours, "study": each.study})
    try:
        figure = over_published(
            pd.DataFrame(rows, columns=["constant", "verdict", "ratio", "low", "high", "study"]),
            name="over-published",
            title="Ours over published",
            caption="The first constant of each main chapter over the first value printed for it, with our "
            "interval; at the line both are equal.",
        )
    except AllometryError:  # nothing to compare
        return ()
    text = "Each chapter says what its constants rest on."
    return (Section(title="Ours over published", text=text, evidence=(figure,)),)


_SAID = {
    "agrees": "As published",
    "differs": "Otherwise than published",
    "cannot tell": "Left open by these runs",
}
"""Verdict -> how the answer of a collection begins its list."""


def _headline(name: str, constant: Constant) -> str:
    published = ", ".join(f"{paper}: {value:.3g}" for paper, value in constant.published.items())
    ours = interval(constant.ours, constant.low, constant.high)
    beside = f" ({published})" if published else ""
    return f"*{name}*: {constant.name}, {ours}{beside}: {constant.verdict}."
