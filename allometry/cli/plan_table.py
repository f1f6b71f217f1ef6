"""What `allometry run` prints before and after it trains: the plan, and the constants beside the published
ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import pandas as pd

from allometry.cli.tables import PIPED, one_line, print_table, say
from allometry.core.units import counted, format_count, format_duration, format_flops
from allometry.studies.core.needs import sentences
from allometry.sweeps.cost.cost import Cost, CostModel, plan_frame

if TYPE_CHECKING:
    from allometry.report.content import Analysis, Constant
    from allometry.runs.store import Store
    from allometry.studies.core.plan import StudyPlan


def print_plan(plan: StudyPlan, store: Store | None, cost: CostModel) -> None:
    """Print the question, one row per run set (or per model size, for a study of one run set), and the total
    with its predicted time.
    """
    click.echo(f"\n{click.style(plan.study, bold=True)}")
    say(f"{plan.sweep.question}\n", piped=PIPED, hang=0)
    frame = plan_frame(plan.sweep, store, cost)
    frame["held"] = frame["run"].isin(plan.held_back)
    many = len(plan.run_sets) > 1
    if many:
        _print_run_sets(frame, plan, cost)
    else:
        _print_shapes(frame, cost.device)
    if many and len(plan.parts) > 1:
        _print_studies(frame, plan)
    for sentence in sentences(plan.sweep.runs):
        say(sentence, piped=PIPED)
    total = cost.total(plan.sweep.runs, store=store)
    measured = "timed on this machine" if total.measured else "not calibrated"
    where = _places(total) + _packs(plan, cost)
    say(
        f"{counted(len(frame), 'run')}, {format_flops(frame['C'].sum())} FLOPs; left to do: "
        f"{format_duration(total.seconds)} of training on {where} ({measured}; runs of one "
        f"size share their trunk), {total.memory / 1e9:.1f} GB of memory, "
        f"{total.disk / 1e6:.0f} MB of disk\n",
        piped=PIPED,
        hang=0,
    )


def _places(total: Cost) -> str:
    """Return what trains: "2 cores", "1 GPU"."""
    kind = "GPU" if total.device.startswith("cuda") else "core"
    return f"{total.workers} {kind}{'' if total.workers == 1 else 's'}"


def _packs(plan: StudyPlan, cost: CostModel) -> str:
    """Say how many runs are trained together at most, if any are."""
    largest = max((cost.packing.size(run) for run in plan.sweep), default=1)
    return f" in packs of up to {largest} runs" if largest > 1 else ""


def _print_shapes(frame: pd.DataFrame, device: str) -> None:
    """Print one row per model size."""
    wide = bool((frame["devices"] > 1).any())
    alone = "alone" if wide else f"alone, 1 {'GPU' if device.startswith('cuda') else 'core'}"
    _print(
        [
            {
                "model": str(shape), "N": format_count(part["N"].iloc[0]), "runs": len(part),
                "seeds": part["seed"].nunique(), "tokens D": _span(part["D"]),
                "FLOPs 6ND": format_flops(part["C"].sum()), alone: format_duration(part["seconds"].sum()),
                **({"devices": _span(part["devices"])} if wide else {}), "state": _state(part),
            }
            for shape, part in frame.groupby("shape", sort=False)
        ],
        drop=("FLOPs 6ND", "seeds", alone),
    )  # fmt: skip


def _print_run_sets(frame: pd.DataFrame, plan: StudyPlan, cost: CostModel) -> None:
    """Print one row a run set; a run of several run sets is counted with the first."""
    wide = bool((frame["devices"] > 1).any())
    configs = {run.id: run for run in plan.sweep}
    counted: set[str] = set()
    rows = []
    for name, ids in plan.run_sets.items():
        own = [run for run in ids if run not in counted]
        counted.update(own)
        part = frame[frame["run"].isin(own)]
        if not len(part):
            continue
        work = cost.total([configs[run] for run in own]).work
        rows.append({
            "run set": name, "runs": len(part), "N": _span(part["N"]), "tokens D": _span(part["D"]),
            "FLOPs 6ND": format_flops(part["C"].sum()), "core time": format_duration(work),
            **({"devices": _span(part["devices"])} if wide else {}), "state": _state(part),
        })  # fmt: skip
    _print(rows, drop=("FLOPs 6ND", "core time"))


def _print_studies(frame: pd.DataFrame, plan: StudyPlan) -> None:
    _print(
        [
            {
                "study": name, "runs that it reads": len(ids),
                "predicted first": str(int(frame.loc[frame["run"].isin(ids), "held"].sum()) or "-"),
            }
            for name, ids in plan.parts.items()
        ]
    )  # fmt: skip


def _print(rows: list[dict[str, Any]], drop: Sequence[str] = ()) -> None:
    """Print a table whose first column is text and whose others are numbers, formatted already."""
    table = pd.DataFrame(rows)
    print_table(table, right=list(table.columns[1:]), drop=drop, wrap=["state"], piped=PIPED)


def _span(column: pd.Series) -> str:
    low, high = column.min(), column.max()
    return format_count(low) if low == high else f"{format_count(low)} - {format_count(high)}"


def _state(part: pd.DataFrame) -> str:
    states = part["state"].fillna("new").value_counts()
    state = ", ".join(f"{count} {name}" for name, count in states.items())
    return state + (" (predicted first)" if part["held"].any() else "")


def print_answer(analysis: Analysis) -> None:
    """Print warnings, a line each, our constants beside the published ones, and at last the answer in words.

    Why a verdict is what it is, and warnings in full, stand in the report.
    """
    rows: list[dict[str, Any]] = []
    for entry in (analysis, *analysis.chapters):
        if entry.constants and entry is not analysis:
            rows.append({"quantity": f"{entry.study}:"})
        rows += map(_constant, entry.constants)
    for warning in analysis.warnings:
        click.echo(one_line(f"warning: {warning}"))
    for entry in analysis.chapters:
        if not entry.sections:
            click.echo(one_line(f"no answer: {entry.study}: {entry.answer}"))
    if rows:
        table = pd.DataFrame(rows, columns=["quantity", "published", "ours", "interval", "verdict"])
        wrap, right = ("quantity", "published"), ("ours", "interval")
        print_table(table.fillna(""), wrap=wrap, right=right, drop=["published"], piped=PIPED)
    say(analysis.answer, piped=PIPED, hang=0)


def _constant(constant: Constant) -> dict[str, Any]:
    published = ", ".join(f"{value:.3g} ({paper})" for paper, value in constant.published.items())
    return {
        "quantity": f"{constant.symbol}  {constant.name}",
        "published": published or "-",
        "ours": f"{constant.ours:.3g}",
        "interval": f"[{constant.low:.3g}, {constant.high:.3g}] {100 * constant.level:.0f} %",
        "verdict": constant.verdict,
    }
