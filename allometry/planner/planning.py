"""From a budget, a time or a target loss to a run: size, tokens, batch, steps and loss, and how far to
trust them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.units import format_count, format_duration, format_flops
from allometry.laws.backtest import Backtest
from allometry.laws.result import FitResult
from allometry.laws.uncertainty import Array, Estimate, percentile_interval, plain
from allometry.laws.zoo import get
from allometry.planner.allocate import FLOPS_PER_PARAMETER_USED, Allocation, Request, allocate, wrong_sizes
from allometry.planner.source import (
    FLOPS_PER_PARAMETER_TOKEN,
    R_D_STAR,
    Source,
    effective_tokens,
    from_backtest,
    from_fit,
    from_published,
)

EPOCHS = (1, 2, 4, 8, 16, 40)
LEAST_STEPS = 1000
_CRITICAL = (
    "batch: Kaplan's B_crit = 2.1e8/L^4.76 tokens at this loss (measured on WebText2); steps and tokens are"
    " twice their minimum there. Measure yours (the study batch does), or give a batch"
)
_STEP_LAW = (
    "batch: 0.58 D^0.571 tokens (Step Law, Li et al. 2025); Kaplan's critical batch is not for this loss"
    " per token. Sweep it, or give a batch"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A run to train. N (parameters), D (tokens), C (FLOPs), loss, batch (tokens) and steps are
    `Estimate`s.

    `beyond` says how many times N, D and C lie outside the data of the fit (None: not known).
    `sizes`: what other sizes cost (columns N, D, loss at the same compute, compute for the same loss).
    `epochs`: for limited data, what repeating is worth. `notes` are assumptions, `warnings` reasons to
    distrust.
    """

    rule: str
    source: str
    law: str
    N: Estimate
    D: Estimate
    C: Estimate
    loss: Estimate
    batch: Estimate
    steps: Estimate
    beyond: dict[str, float | None]
    seconds: float | None
    unique: float | None
    sizes: pd.DataFrame
    epochs: pd.DataFrame | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        """Return the report."""
        return self.report()

    def report(self, level: float = 0.95) -> str:
        """Return the plan as text, with intervals where the constants have any."""
        lines = [f"plan: {self.rule}", f"from: {self.source}"]
        shown = (("N", format_count), ("D", format_count), ("C", format_flops), ("batch", format_count))
        for name, form in (*shown, ("steps", format_count), ("loss", "{:.4f}".format)):
            lines.append(_line(name, getattr(self, name), form, level, self.beyond.get(name)))
        lines.append(f"  D/N   {self.D.value / self.N.value:.3g} tokens per parameter")
        if self.seconds is not None:
            lines.append(f"  time  {format_duration(self.seconds)}")
        lines.append("other sizes (against this one):")
        lines += [_size_line(row) for _, row in self.sizes.iterrows()]
        if self.epochs is not None:
            epochs = self.D.value / (self.unique or self.D.value)
            lines.append(f"repeating the data (this plan: {max(epochs, 1):.3g} epochs):")
            lines += [
                f"  {r['epochs']:4.3g} epochs  worth {r['worth']:.1%} of as many fresh tokens"
                for _, r in self.epochs.iterrows()
            ]
        return "\n".join(
            lines + [f"note: {n}" for n in self.notes] + [f"warning: {w}" for w in self.warnings]
        )

    def frame(self) -> pd.DataFrame:
        """Return one row per quantity: value, 80 % and 95 % bounds, and how far it extrapolates."""
        rows = [
            {"quantity": name, **getattr(self, name).to_dict(), "beyond": self.beyond.get(name)}
            for name in ("N", "D", "C", "batch", "steps", "loss")
        ]
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON."""
        values = {name: getattr(self, name).to_dict() for name in ("N", "D", "C", "batch", "steps", "loss")}
        return {
            "rule": self.rule,
            "source": self.source,
            "law": self.law,
            **values,
            "beyond": self.beyond,
            "seconds": self.seconds,
            "unique": self.unique,
            "sizes": [{k: plain(v) for k, v in row.items()} for row in self.sizes.to_dict("records")],
            "epochs": None if self.epochs is None else self.epochs.to_dict("records"),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.report())}</pre>"


def plan(
    budget: float | None = None,
    *,
    hours: float | None = None,
    speed: float | None = None,
    loss: float | None = None,
    fit: FitResult | Backtest | None = None,
    law: str = "chinchilla",
    published: str | None = None,
    N: float | None = None,
    D: float | None = None,
    tokens_per_parameter: float | None = None,
    unique: float | None = None,
    batch: float | None = None,
    inference: float | None = None,
    at: Mapping[str, float] | None = None,
) -> Plan:
    """Plan a run for a compute budget, a time, or a target loss.

    Parameters
    ----------
    budget
        Compute in FLOPs.
    hours, speed
        Time, and FLOPs per second, in place of a budget.
    loss
        Target, in place of a budget.
    fit
        The law to plan with, or a back-test, whose laws are then weighted by it; else the constants `published` (a
        set's name; default the first) of `law`.
    law, published
        Law and set of constants where there is no `fit`.
    N, D, tokens_per_parameter
        Size, tokens or their ratio, to be kept in place of the compute-optimal ones (over-training). N and D
        without a budget give the loss of that run.
    unique
        Tokens of data that there are; they repeat when D exceeds them.
    batch
        Tokens a step (default: Kaplan's critical batch at the loss reached).
    inference
        Tokens that the model will read and write when it is used: the budget is then that of training and use, 6ND + 2N
        times these tokens, or its least for a target loss.
    at
        Values of the law's inputs besides N, D and the unique tokens, such as {"n_E": 8}.

    Returns
    -------
    Plan
        N, D, steps and loss, each an `Estimate`, and what other sizes would cost.

    Raises
    ------
    AllometryError
        For requests that contradict each other or that the law cannot meet.

    Examples
    --------
    >>> import allometry
    >>> plan = allometry.plan(1e21)
    >>> f"{plan.N.value:.2g} parameters, {plan.D.value:.2g} tokens"
    '2.8e+09 parameters, 6e+10 tokens'
    """
    source = _source(fit, law, published, at)
    request = Request(
        budget=_budget(budget, hours, speed, loss, (N, D)),
        loss=loss,
        N=N,
        D=D,
        ratio=tokens_per_parameter,
        unique=unique,
        inference=inference,
    )
    best = allocate(source, request, source.parameters)
    drawn = allocate(source, request, source.draws) if source.count else None
    values = {k: _estimate(best, drawn, k) for k in ("N", "D", "C", "loss")}
    values["batch"], rule = _batch(batch, best, drawn)
    values["steps"] = _ratio(values["D"], values["batch"])
    beyond = {k: source.beyond(k, values[k].value) for k in ("N", "D", "C")}
    return Plan(
        rule=request.rule, source=source.label, law=source.law.name, **values, beyond=beyond,
        seconds=values["C"].value / speed if speed else None, unique=unique,
        sizes=wrong_sizes(source, best, unique),
        epochs=_epochs(source, best, unique),
        notes=(*_notes(source, rule, unique), *_use(best, inference, source)),
        warnings=_warnings(beyond, values, drawn, request),
    )  # fmt: skip


def _source(
    fit: FitResult | Backtest | None, law: str, published: str | None, at: Mapping[str, float] | None
) -> Source:
    if isinstance(fit, Backtest):
        if at:
            raise AllometryError("the laws of a back-test have only N and D", hint="leave out `at`")
        return from_backtest(fit)
    return from_fit(fit, at) if fit is not None else from_published(law, published, at)


def _use(best: Allocation, inference: float | None, source: Source) -> list[str]:
    """Return what a plan notes of the cost of use and of inputs that are held."""
    held = ", ".join(f"{name} = {value:g}" for name, value in source.others.items())
    notes = [f"held: {held}"] if held else []
    if inference is not None:
        use = FLOPS_PER_PARAMETER_USED * float(best.N[0]) * inference
        whole = format_flops(use + float(best.C[0]))
        notes.append(
            f"C is that of training; use adds 2N a token, {format_flops(use)} FLOPs: {whole} in all"
            " (Sardana et al. 2024)"
        )
    return notes


def _budget(
    budget: float | None,
    hours: float | None,
    speed: float | None,
    loss: float | None,
    run: tuple[float | None, float | None],
) -> float | None:
    given = [
        name for name, value in (("budget", budget), ("hours", hours), ("loss", loss)) if value is not None
    ]
    N, D = run
    if not given and N is not None and D is not None:
        return FLOPS_PER_PARAMETER_TOKEN * N * D
    if len(given) != 1:
        what = f"{' and '.join(given)} contradict each other" if given else "nothing says how much to spend"
        raise AllometryError(
            what,
            hint="give one of a compute budget, hours (with a speed), a target loss, or both N and D",
            cli_hint="give one of a BUDGET such as 1e18, --hours (with a speed), --loss, or both -N and -D",
        )
    if hours is not None:
        if speed is None:
            raise AllometryError(
                "a time needs the speed of the machine in FLOPs per second",
                hint="speed=3e10",
                cli_hint="--speed 3e10",
            )
        budget = hours * 3600 * speed
    for name, value in (("the budget", budget), ("the target loss", loss), ("speed", speed)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise AllometryError(f"{name} must be a positive number, not {value}", hint="write it like 1e18")
    return budget


def _estimate(best: Allocation, drawn: Allocation | None, name: str) -> Estimate:
    samples = getattr(drawn, name) if drawn is not None else np.empty(0)
    return Estimate(value=float(getattr(best, name)[0]), samples=samples)


def _batch(batch: float | None, best: Allocation, drawn: Allocation | None) -> tuple[Estimate, str]:
    """Return the batch in tokens and where it comes from: given, or the law's own (Kaplan's App. B), or a
    rule.

    Kaplan's critical batch at the loss is taken where it leaves at least a thousand steps; it was
    measured on BPE tokens between 3 and 10 nats, and makes no sense for losses per byte. Else the Step
    Law's rule from D is.
    """
    if batch is not None:
        return Estimate(value=float(batch), samples=np.empty(0)), ""
    if best.batch is not None:
        samples = drawn.batch if drawn is not None and drawn.batch is not None else np.empty(0)
        return Estimate(value=float(best.batch[0]), samples=samples), ""
    critical = float(_rule("b-crit", "kaplan2020-table5", L=best.loss)[0])
    if float(best.D[0]) / critical >= LEAST_STEPS:
        samples = _rule("b-crit", "kaplan2020-table5", L=drawn.loss) if drawn is not None else np.empty(0)
        return Estimate(value=critical, samples=samples), _CRITICAL
    value = float(_rule("batch-size", "step2025", N=best.N, D=best.D)[0])
    samples = _rule("batch-size", "step2025", N=drawn.N, D=drawn.D) if drawn is not None else np.empty(0)
    return Estimate(value=min(value, float(best.D[0])), samples=samples), _STEP_LAW


def _rule(law: str, published: str, **inputs: Array) -> Array:
    chosen = get(law)
    return chosen.predict(dict(chosen.published[published].values), **inputs)


def _ratio(tokens: Estimate, batch: Estimate) -> Estimate:
    value = max(1.0, tokens.value / batch.value)
    if not len(tokens.samples):
        return Estimate(value=value, samples=np.empty(0))
    per = batch.samples if len(batch.samples) else batch.value
    return Estimate(value=value, samples=np.maximum(1.0, tokens.samples / per))


def _epochs(source: Source, best: Allocation, unique: float | None) -> pd.DataFrame | None:
    """Return the effective tokens as a share of the tokens trained, by number of epochs."""
    if unique is None:
        return None
    R_D = float(source.parameters["R_D"][0]) if "R_D" in source.parameters else R_D_STAR
    epochs = np.array([*EPOCHS, max(1.0, float(best.D[0]) / unique)])
    worth = effective_tokens(epochs * unique, unique, R_D) / (epochs * unique)
    last = np.exp(-(epochs - 1) / R_D)
    return pd.DataFrame({"epochs": epochs, "worth": worth, "last_epoch": last}).sort_values(
        "epochs", ignore_index=True
    )


def _notes(source: Source, rule: str, unique: float | None) -> tuple[str, ...]:
    notes = list(source.notes)
    if source.scatter is not None:
        notes.append(f"the loss is the law's; a single run scatters by a further {source.scatter:.2%}")
    notes.append("C = 6ND counts the same parameters as N; head and attention come on top")
    if rule:
        notes.append(rule)
    if unique is not None and "U" not in source.law.inputs:
        notes.append(
            f"repeated data are discounted with the published R_D* = {R_D_STAR:.3g} (Muennighoff et al. 2023)"
        )
    return tuple(notes)


def _warnings(
    beyond: dict[str, float | None], values: dict[str, Estimate], drawn: Allocation | None, request: Request
) -> tuple[str, ...]:
    found = []
    far = {k: x for k, x in beyond.items() if x is not None and x > 10}
    if far:
        text = ", ".join(f"{k} by {x:.3g} x" for k, x in far.items())
        found.append(
            f"extrapolates more than 10 x beyond the data ({text}); the law's form may not hold there"
        )
    if drawn is not None:
        lost = float(np.mean(~np.isfinite(drawn.N) | ~np.isfinite(drawn.C)))
        if lost > 0.02:
            found.append(
                f"in {lost:.0%} of the resamples the request cannot be met; the intervals leave those out"
            )
    elif request.loss is not None:
        found.append("published constants carry no uncertainty: the true plan may be far from this one")
    return tuple(found)


def _size_line(row: pd.Series) -> str:
    parts = []
    if np.isfinite(row["loss_change"]):
        parts.append(f"loss {row['loss_change']:+.2%} at the same compute")
    reached = f"{row['compute_ratio']:.2f} x compute for the same loss"
    parts.append(reached if np.isfinite(row["compute_ratio"]) else "never reaches this loss")
    return f"  {row['ratio']:5.2g} x N   {'; '.join(parts)}"


def _line(name: str, value: Estimate, form: Any, level: float, beyond: float | None) -> str:
    low, high = percentile_interval(value.samples, level)
    span = f"   {100 * level:.0f} % [{form(low)}, {form(high)}]" if high > low else ""
    far = f"   {beyond:.3g} x beyond the data" if beyond is not None and beyond > 1 else ""
    return f"  {name:5s} {form(value.value)}{span}{far}"
