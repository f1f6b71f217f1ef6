"""The commands `predict` and `curves`: the loss of a run, or the loss curve of a schedule, before it is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allometry.cli.output import Form, print_table, say, table_options
from allometry.cli.table_input import (
    TableOptions,
    assignments,
    group_option,
    load,
    objective_options,
    table_inputs,
)
from allometry.core.errors import AllometryError

if TYPE_CHECKING:
    from allometry.laws.result import FitResult


def command(name: str) -> click.Command:
    """Return the click command of that name."""
    return {"predict": predict, "curves": curves}[name]


@click.command()
@click.argument("table", nargs=-1)
@click.option(
    "--at", "points", multiple=True, required=True, metavar="SYMBOL=VALUE,…",
    help="Where to predict, such as N=1.5B,D=30B; repeat for more runs. Of N, D and C two suffice.",
)  # fmt: skip
@click.option(
    "--law", metavar="NAME",
    help="One law alone (default: laws weighted by a back-test). Without TABLE: whose printed constants, such as"
    " chinchilla, besiroglu2024 or chinchilla-besiroglu2024.",
)  # fmt: skip
@table_inputs
@group_option
@objective_options
@click.option("--bootstrap", type=click.IntRange(min=0), default=100, show_default=True, help="Resamples.")
@click.option("--seed", default=0, show_default=True, help="Seed of the resamples.")
@table_options
def predict(
    table: tuple[str, ...], points: tuple[str, ...], law: str | None, inputs: TableOptions, group: str | None,
    objective: str, bootstrap: int, seed: int, form: Form | None,
) -> None:  # fmt: skip
    """Predict the loss of new runs from a TABLE of runs, a run store, a fit saved as JSON, or printed constants.

    \b
      allometry predict runs.csv --at N=1.5B,D=30B --at N=3B,D=60B
      allometry predict runs.csv --law chinchilla --at N=1.5B,C=1e21
      allometry fit runs.csv --law kaplan --save fit.json
      allometry predict fit.json --at N=1.5B,D=30B
      allometry predict --law hoffmann2022 --at N=70B,D=1.4T
    """
    from allometry.laws.predict import predict as predict_at

    at = [_point(text) for text in points]
    if len({frozenset(point) for point in at}) > 1:
        raise AllometryError("the points name different inputs", hint="give every --at the same symbols")
    saved = _saved_fit(table)
    if saved is not None:
        if law is not None and law != saved.law.name:
            raise AllometryError(f"{table[0]} is a fit of the law {saved.law.name!r}", hint="leave out --law")
        made = predict_at(saved, at)
    elif table:
        read = load(table, inputs)
        made = predict_at(
            read.frame, at, law=law, columns=read.columns, objective=objective, group=group, exclude=read.exclude,
            bootstrap=bootstrap, seed=seed,
        )  # fmt: skip
    elif law is None:
        raise AllometryError(
            "nothing to predict from", hint="name a table of runs, or printed constants: --law chinchilla"
        )
    else:
        made = predict_at(law, at)
    if form == "json":
        click.echo(json.dumps(made.to_dict(), indent=1, allow_nan=False))
    elif form == "csv":
        print_table(made.table, form)
    else:
        say(made.report())


@click.command()
@click.argument("table", nargs=-1, required=True)
@click.option(
    "--predict", "new", metavar="FILE", help="A table of steps and learning rates: the curve to predict."
)
@click.option(
    "--warmup", type=float, metavar="STEPS", help="Length of a warm-up before the first logged step."
)
@click.option("--free", is_flag=True, help="Fit C, beta and gamma too, far from the printed constants.")
@table_inputs
@group_option
@table_options
def curves(
    table: tuple[str, ...], new: str | None, warmup: float | None, free: bool, inputs: TableOptions,
    group: str | None, form: Form | None,
) -> None:  # fmt: skip
    """Fit the Multi-Power Law to loss curves of one model under several learning-rate schedules, and predict the
    curve of another.

    A TABLE has a step, a learning rate and a loss in every row, one file a run or a column that names the run.

    \b
      allometry curves cosine.csv constant.csv two_stage.csv
      allometry curves logs/*.csv --predict wsd.csv --csv
    """
    from dataclasses import replace

    from allometry.laws.curves import fit_curves
    from allometry.laws.uncertainty import plain

    read = load(table, replace(inputs, row=inputs.row or "all"))
    made = fit_curves(read.kept(), columns=read.columns, run=group, warmup=warmup, free=free)
    predicted = None
    if new is not None:
        from allometry.runs.importers import read_table

        asked = read_table(
            new, columns={k: v for k, v in read.columns.items() if k in ("S", "lr")}, row="all"
        )
        predicted = made.predict(asked.frame)
    if form == "csv":
        print_table(made.curves if predicted is None else predicted, form)
    elif form == "json":
        points = [] if predicted is None else predicted.to_dict("records")
        rows = {"predicted": [{str(k): plain(v) for k, v in row.items()} for row in points]} if points else {}
        click.echo(json.dumps({**made.to_dict(), **rows}, indent=1, allow_nan=False))
    else:
        say(made.report() if predicted is None else f"{made.report()}\n{_end(predicted)}")


def _end(curve: Any) -> str:
    """Return the last point of a predicted curve as a line."""
    last = curve.iloc[-1]
    span = f", 95 % [{last['low95']:.4f}, {last['high95']:.4f}]" if last["high95"] > 0 else ""
    return f"predicted at step {last['step']:.0f}: {last['predicted']:.4f}{span}"


def _point(text: str) -> dict[str, Any]:
    """Read "N=1.5B,D=30B" as a point."""
    found: dict[str, Any] = {}
    for part in text.split(","):
        if "=" not in part:
            raise AllometryError(
                f"--at {text!r}: {part!r} is not SYMBOL=VALUE",
                hint="write it like --at N=1.5B,D=30B, with points",
            )
        (name, value), *_ = assignments((part,), "--at").items()
        if name in found:
            raise AllometryError(f"--at {text!r} gives {name} twice", hint="repeat --at for another run")
        found[name] = value
    return found


def _saved_fit(table: tuple[str, ...]) -> FitResult | None:
    """Return the fit that a JSON file holds; None for anything else, which is read as a table."""
    if len(table) != 1 or not table[0].lower().endswith(".json") or not Path(table[0]).is_file():
        return None
    from allometry.laws.result import FitResult

    try:
        data = json.loads(Path(table[0]).read_text(encoding="utf-8"))
    except ValueError:
        return None
    if not isinstance(data, dict) or not str(data.get("kind", "")).startswith("allometry fit"):
        return None
    return FitResult.from_dict(data)
