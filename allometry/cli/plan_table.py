"""What `allometry run` prints before and after it trains: the plan, and the constants beside the published
ones."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from allometry.studies.needs import sentences
from allometry.units import format_count, format_duration, format_flops

if TYPE_CHECKING:
    import pandas as pd

    from allometry.report.content import Analysis, Constant
    from allometry.runs.store import Store
    from allometry.studies.plan import StudyPlan
    from allometry.sweeps.cost import Cost, CostModel


def _table(*columns: str, left: int = 1) -> Table:
    """A plain table whose first `left` columns are text and whose others are numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=number > 0)
    return table


def _console() -> Console:
    """The terminal, or 110 columns where there is none, so that logs hold whole tables."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=110)


def print_plan(plan: StudyPlan, store: Store | None, cost: CostModel) -> None:
    """The question, one row a design (or a model size, for a study of one design), and the total with its
    predicted time.
    """
    console = _console()
    console.print(
        f"\n[bold]{plan.study}[/bold]", textwrap.fill(plan.sweep.question, 96), sep="\n", end="\n\n"
    )
    frame = plan.sweep.frame(store, cost)
    frame["held"] = frame["run"].isin(plan.held_back)
    many = len(plan.designs) > 1
    console.print(_by_design(frame, plan, cost) if many else _by_shape(frame, cost.device))
    if many and len(plan.parts) > 1:
        console.print(_by_study(frame, plan))
    for sentence in sentences(plan.sweep.runs):
        console.print(textwrap.fill(sentence, 100, subsequent_indent="   "), markup=False)
    total = cost.total(plan.sweep.runs, store=store)
    measured = "timed on this machine" if total.measured else "not calibrated"
    where = _places(total) + _packs(plan, cost)
    console.print(
        f"{len(frame)} runs, {format_flops(frame['C'].sum())} FLOPs; left to do: "
        f"{format_duration(total.seconds)} of training on {where} ({measured}; runs of one "
        f"size share their trunk), {total.memory / 1e9:.1f} GB of memory, {total.disk / 1e6:.0f} MB of disk\n"
    )


def _places(total: Cost) -> str:
    """What trains: "2 cores", "1 GPU"."""
    kind = "GPU" if total.device.startswith("cuda") else "core"
    return f"{total.workers} {kind}{'' if total.workers == 1 else 's'}"


def _packs(plan: StudyPlan, cost: CostModel) -> str:
    """How many runs are trained together at most, if any are."""
    largest = max((cost.packing.size(run) for run in plan.sweep), default=1)
    return f" in packs of up to {largest} runs" if largest > 1 else ""


def _by_shape(frame: pd.DataFrame, device: str) -> Table:
    wide = ["devices"] if (frame["devices"] > 1).any() else []
    alone = "alone" if wide else f"alone, 1 {'GPU' if device.startswith('cuda') else 'core'}"
    table = _table("model", "N", "runs", "seeds", "tokens D", "FLOPs 6ND", alone, *wide, "state")
    for shape, part in frame.groupby("shape", sort=False):
        table.add_row(
            str(shape), format_count(part["N"].iloc[0]), str(len(part)), str(part["seed"].nunique()),
            _span(part["D"]), format_flops(part["C"].sum()), format_duration(part["seconds"].sum()),
            *([_span(part["devices"])] if wide else []), _state(part),
        )  # fmt: skip
    return table


def _by_design(frame: pd.DataFrame, plan: StudyPlan, cost: CostModel) -> Table:
    """A run of several designs is counted with the first."""
    wide = ["devices"] if (frame["devices"] > 1).any() else []
    table = _table("design", "runs", "N", "tokens D", "FLOPs 6ND", "core time", *wide, "state")
    configs = {run.id: run for run in plan.sweep}
    counted: set[str] = set()
    for name, ids in plan.designs.items():
        own = [run for run in ids if run not in counted]
        counted.update(own)
        part = frame[frame["run"].isin(own)]
        if not len(part):
            continue
        work = cost.total([configs[run] for run in own]).work
        table.add_row(
            name, str(len(part)), _span(part["N"]), _span(part["D"]), format_flops(part["C"].sum()),
            format_duration(work), *([_span(part["devices"])] if wide else []), _state(part),
        )  # fmt: skip
    return table


def _by_study(frame: pd.DataFrame, plan: StudyPlan) -> Table:
    table = _table("study", "runs that it reads", "predicted first")
    for name, ids in plan.parts.items():
        table.add_row(name, str(len(ids)), str(int(frame.loc[frame["run"].isin(ids), "held"].sum()) or "-"))
    return table


def _span(column: pd.Series) -> str:
    low, high = column.min(), column.max()
    return format_count(low) if low == high else f"{format_count(low)} - {format_count(high)}"


def _state(part: pd.DataFrame) -> str:
    states = part["state"].fillna("new").value_counts()
    state = ", ".join(f"{count} {name}" for name, count in states.items())
    return state + (" (predicted first)" if part["held"].any() else "")


def print_answer(analysis: Analysis) -> None:
    """Our constants beside the published ones, with verdicts, and the answer in words.

    Of a collection the constants by study, without the reasons: those are in the report, with each chapter.
    """
    console = _console()
    table = _table("quantity", "published", "ours", "interval", "verdict", left=2)
    for column, share in zip(table.columns[:2], (3, 2), strict=True):  # both wrap; the numbers never do
        column.no_wrap, column.ratio = False, share
    table.expand = True
    for entry in (analysis, *analysis.chapters):
        if entry.constants and entry is not analysis:
            table.add_row(f"[bold]{entry.study}[/bold]")
        for constant in entry.constants:
            table.add_row(*_constant(constant))
    console.print(table)
    for constant in analysis.constants:
        console.print(textwrap.fill(f"{constant.symbol}: {constant.why}", 100, subsequent_indent="   "))
    for warning in analysis.warnings:
        console.print(textwrap.fill(f"warning: {warning}", 100, subsequent_indent="   "), markup=False)
    silent = [entry for entry in analysis.chapters if not entry.sections]
    for entry in silent:
        text = f"no answer: {entry.study}: {entry.answer}"
        console.print(textwrap.fill(text, 100, subsequent_indent="   "), markup=False)
    console.print("\n" + textwrap.fill(analysis.answer, 100), markup=False)


def _constant(constant: Constant) -> list[str]:
    published = ", ".join(f"{value:.3g} ({paper})" for paper, value in constant.published.items())
    interval = f"[{constant.low:.3g}, {constant.high:.3g}] {100 * constant.level:.0f} %"
    name = f"{constant.symbol}  {constant.name}"
    return [name, published or "-", f"{constant.ours:.3g}", interval.replace("[", r"\["), constant.verdict]
