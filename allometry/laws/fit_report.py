"""A fit as text that a careful statistician wants to read: estimates, how sure, and what they rest on."""

from __future__ import annotations

import textwrap
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.core.units import counted, format_count
from allometry.laws.problem import conditioning
from allometry.laws.uncertainty import quantiles, student_quantile

if TYPE_CHECKING:
    from allometry.laws.result import FitResult

_WIDTH = 100
_WIDEST = 109
"""Columns that a table with both intervals takes."""


def table(result: FitResult) -> pd.DataFrame:
    """Return one row per parameter, indexed by name: estimate, s.e., 80 and 95 % intervals, how it was
    treated.
    """
    rows = {}
    for name in result.law.parameter_names:
        samples = result.samples[name].to_numpy()
        fitted = len(samples) > 1 and name in result.free
        spread = standard_error(samples, result.dof) if fitted else float("nan")
        (low80, high80), (low95, high95) = (result.interval(name, level) for level in (0.80, 0.95))
        rows[name] = {
            "estimate": result.parameters[name],
            "se_boot": spread,
            "boot80_lb": low80,
            "boot80_ub": high80,
            "boot95_lb": low95,
            "boot95_ub": high95,
            "treatment": _treatment(result, name),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def standard_error(samples: np.ndarray, dof: int) -> float:
    """Return the standard error that the middle 68 % of the samples say, which follow Student's t."""
    low, high = quantiles(samples, 0.6827)
    return float((high - low) / 2 / student_quantile(0.84135, dof))


def _treatment(result: FitResult, name: str) -> str:
    if name in result.fixed:
        return "fixed"
    return f"= {result.tied[name]}" if name in result.tied else "fitted"


def render(result: FitResult, width: int | None = None) -> str:
    """Return the whole report as plain text; where `width` is small, tables have fewer columns."""
    narrow = width is not None and width < _WIDEST
    parts = [
        _heading(result),
        _estimates(result, narrow),
        _derived(result, narrow),
        _predictions(result, narrow),
        _quality(result),
        _data(result),
        excluded_rows(result),
    ]
    return "\n\n".join(p for p in (*parts, _warnings(result, min(width or _WIDTH, _WIDTH))) if p)


def _heading(result: FitResult) -> str:
    law, goal = result.law, result.objective
    equation = f"0 = {law.expression}" if law.bracket else f"{law.output} = {law.expression}"
    lines = [f"{law.title}:  {equation}"]
    lines += [f"  with {name} = {text}" for name, text in law.where.items()]
    lines.append(f"  {law.source}")
    lines.append(f"objective  {goal.name}: {goal.meaning}")
    state = f"status     {result.status}"
    lines.append(state + (f": {'; '.join(result.reasons)}" if result.reasons else ""))
    if result.selftest is not None:
        lines.append(f"self-test  {result.selftest.sentence()}")
    return "\n".join(lines)


def _estimates(result: FitResult, narrow: bool) -> str:
    frame = table(result)
    levels = (95,) if narrow else (80, 95)
    headings = "   ".join(f"{f'{level}% interval':^25s}" for level in levels)
    lines = [f"{'':12s} {'estimate':>12s} {'s.e.':>10s}   {headings}"]
    for name, row in frame.iterrows():
        text = f"{name!s:12s} {row['estimate']:12.6g} "
        if row["treatment"] != "fitted":
            lines.append(f"{text}{'':>10s}   {row['treatment']}")
            continue
        intervals = (_span(row[f"boot{level}_lb"], row[f"boot{level}_ub"]) for level in levels)
        error = f"{row['se_boot']:10.4g}" if np.isfinite(row["se_boot"]) else f"{'-':>10s}"
        lines.append(f"{text}{error}   " + "   ".join(intervals))
    lines.append(_how(result))
    return "\n".join(lines)


def _span(low: float, high: float) -> str:
    """Return an interval as a column of 25 characters, a dash where there is none."""
    return f"[{low:11.5g},{high:11.5g} ]" if np.isfinite([low, high]).all() else f"{'-':^25s}"


def _how(result: FitResult) -> str:
    groups = len(np.unique(result.group))
    unit = (
        f"{counted(groups, 'run')} ({result.group_name})" if result.group_name else counted(groups, "point")
    )
    if not len(result.samples):
        verb = "leaves" if groups == 1 else "leave"
        spare = f"{unit} for {counted(len(result.free), 'parameter')} {verb} none to spare"
        return f"no intervals: {spare if result.dof < 1 else 'no resamples were asked for'}"
    if result.resampling == "runs":
        how = f"{len(result.samples)} bootstrap resamples of {unit}"
    else:
        how = f"{len(result.samples)} tables simulated with noise like the residuals, for {unit}"
    return f"intervals: percentiles of {how}, as Student's t with {counted(result.dof, 'degree')} of freedom"


def _derived(result: FitResult, narrow: bool) -> str:
    lines, gap = [], "" if narrow else f"{'':25s}   "
    for name, expression in result.law.derived.items():
        value, low, high = result.derived(expression, 0.95)
        lines.append(f"{name:12s} {value:12.6g} {'':10s}   {gap}{_span(low, high)}   = {expression}")
    return "\n".join(["derived quantities", *lines]) if lines else ""


def _predictions(result: FitResult, narrow: bool) -> str:
    """Return the predictions of the law, and of a new run, at the centre of the data and ten times out, as
    text.
    """
    law = result.law
    if not len(result.samples) or law.linear or "L" in law.inputs:
        return ""
    values = {n: result.data[n].to_numpy(dtype=float) for n in law.inputs}
    centre = {n: float(np.exp(np.mean(np.log(v)))) for n, v in values.items()}
    beyond = {n: 10 * float(v.max()) for n, v in values.items()}
    names, margin = ["new run, 95% interval"], 34
    if not narrow:
        names, margin = ["law, 95% interval", *names], 40
    headings = "   ".join(f"{heading:^25s}" for heading in names)
    lines = [f"{'predictions':{margin}s} {law.output:>10s}   {headings}"]
    for where, at in (("centre", centre), ("10 times out", beyond)):
        text = f"{where}: " + ", ".join(f"{n} {format_count(v)}" for n, v in at.items())
        points = {n: [v] for n, v in at.items()}
        pairs = [result.interval_at(points), result.prediction_interval(points)][-len(names) :]
        ends = "   ".join(f"[{low[0]:11.5g},{high[0]:11.5g} ]" for low, high in pairs)
        lines.append(f"{text:{margin}s} {result.predict(**points)[0]:10.5g}   {ends}")
    return "\n".join(lines)


def _quality(result: FitResult) -> str:
    n = len(result.residuals)
    scale = "log residual" if result.objective.log else "residual"
    noise = f"; noise between repeats {result.noise:.3g}" if result.noise is not None else ""
    new = f"; a new run scatters by {result.scatter:.3g}" if np.isfinite(result.scatter) else ""
    lines = [
        f"starts     {result.agreeing} of {result.starts} reached the lowest objective, "
        f"{result.objective_value:.10g}",
        f"residuals  rms {scale} {result.rms:.3g}, largest {np.abs(result.residuals).max():.3g}{new}{noise}",
        f"points     {n} for {counted(len(result.free), 'parameter')}",
    ]
    state = conditioning(
        result.problem(), result.coordinates, {str(c): result.samples[c].to_numpy() for c in result.samples}
    )
    strongest = ", ".join(f"{a} {b} {r:+.3f}" for a, b, r in state.correlations[:3] if abs(r) > 0.5)
    lines.append(f"condition  {state.condition:.3g}" + (f"; correlations {strongest}" if strongest else ""))
    worst = np.argsort(-np.abs(result.residuals))[:3]
    listed = ", ".join(f"{result.data.index[i]} ({-result.residuals[i]:+.3g})" for i in worst)
    lines.append(f"largest    residuals (measured minus law) in rows {listed}")
    return "\n".join(lines)


def _data(result: FitResult) -> str:
    lines = []
    for name in result.law.inputs:
        values = result.data[name].to_numpy(dtype=float)
        source = result.columns.get(name, name)
        read = f" from {source}" if source != name else ""
        span = f"{format_count(values.min())} to {format_count(values.max())}"
        if name in result.law.linear:
            lines.append(f"{name:10s} {span}{read}")
            continue
        beyond = f"{format_count(values.min() / 10)} or above {format_count(values.max() * 10)}"
        levels = len(np.unique(values))
        lines.append(
            f"{name:10s} {span}{read} (a factor of {values.max() / values.min():.3g}, {levels} values); "
            f"below {beyond} is an extrapolation of more than 10 times"
        )
    output = result.data[result.law.output]
    lines.append(
        f"{result.law.output:10s} {output.min():.4g} to {output.max():.4g}  {result.law.output_meaning}"
    )
    lines += [f"note       {note}" for note in result.notes]
    return "\n".join(lines)


def excluded_rows(result: FitResult) -> str:
    """Return the rows that were left out, by reason, as text."""
    if not len(result.excluded):
        return "excluded   nothing"
    counts = result.excluded.groupby("reason", sort=False)
    lines = [f"excluded   {counted(len(result.excluded), 'row')}"]
    for reason, rows in counts:
        labels = ", ".join(str(i) for i in rows.index[:8]) + (" …" if len(rows) > 8 else "")
        lines.append(f"  {reason}: {labels}")
    return "\n".join(lines)


def _warnings(result: FitResult, width: int = _WIDTH) -> str:
    lines = []
    for w in result.warnings:
        text = f"{w.name}: {w.meaning}."
        if w.identified:
            text += f" What can be relied on: {w.identified}."
        lines.append(textwrap.fill(text, width, initial_indent="! ", subsequent_indent="  "))
    return "\n".join(lines)


def html(result: FitResult) -> str:
    """Return the report for a notebook: the equation, the estimates as a table, the text below. Everything is
    escaped.
    """
    frame = table(result).map(lambda v: f"{v:.5g}" if isinstance(v, float) else v)
    text = "\n\n".join((_quality(result), _data(result), excluded_rows(result), _warnings(result)))
    return (
        f"<p><b>{escape(result.law.title)}</b> \\({escape(result.law.latex)}\\)<br>"
        f"{escape(result.objective.name)}, {escape(result.status)} {escape('; '.join(result.reasons))}</p>"
        f"{frame.to_html(escape=True)}<p>{escape(_how(result))}</p><pre>{escape(text)}</pre>"
    )
