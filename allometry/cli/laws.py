"""The commands of laws (`audit`, `fit`, `compare`, `isoflop`, `laws`) and `plan`: what to train for a budget, a time
or a target loss, and which runs to train next.
"""

from __future__ import annotations

import json
import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allometry.cli.output import Form, print_table, say, table_options, width
from allometry.cli.table_input import (
    TableOptions,
    group_option,
    listed,
    load,
    numbers,
    objective_options,
    table_inputs,
)
from allometry.core.errors import AllometryError
from allometry.core.units import parse_duration, parse_number

if TYPE_CHECKING:
    import pandas as pd

    from allometry.cli.table_input import TableInput
    from allometry.laws.backtest import Backtest
    from allometry.laws.law import Law
    from allometry.laws.result import FitResult
    from allometry.laws.uncertainty import Mapped

_PLOT_HELP = "Save the figure as .html, .svg, .png or .pdf."


def command(name: str) -> click.Command:
    """Return the click command of that name."""
    return {"audit": audit, "fit": fit, "compare": compare, "isoflop": isoflop, "laws": laws, "plan": plan}[
        name
    ]


@click.command()
@click.argument("table", nargs=-1, required=True)
@table_inputs
@table_options
def audit(table: tuple[str, ...], inputs: TableOptions, form: Form | None) -> None:
    """Look for what is wrong with a TABLE of runs before any law is fitted to it.

    Each finding has its evidence, its rows and the run that would cure it; what was checked without a
    finding, and what could not be checked for want of a column, is listed too.
    """
    from allometry.laws.audit import audit as by_audit

    read = load(table, inputs)
    found = by_audit(read.kept(), columns=read.columns)
    if form == "json":
        _json({**found.to_dict(), "read": list(read.notices)})
    elif form == "csv":
        print_table(found.table, form)
    else:
        click.echo(found.report(width() or 80))


@click.command()
@click.argument("table", nargs=-1, required=True)
@click.option("--law", default="chinchilla", show_default=True, help="The law (see `allometry laws`).")
@table_inputs
@group_option
@objective_options
@click.option("--weights", metavar="COLUMN", help="Column of relative weights.")
@click.option("--fix", multiple=True, metavar="PARAMETER=VALUE", help="Hold a parameter at a value.")
@click.option("--tie", multiple=True, metavar="PARAMETER=OTHER", help="Make a parameter equal to another.")
@click.option("--bootstrap", type=click.IntRange(min=0), default=400, show_default=True, help="Resamples.")
@click.option("--seed", default=0, show_default=True, help="Seed of the resamples.")
@click.option("--on", help="Where resamples are fitted: local (default), ray, or ray://HOST:PORT.")
@click.option(
    "--design", is_flag=True, help="Fit parts of the table alone too: how far estimates depend on it."
)
@click.option("--plot", metavar="FILE", help=f"{_PLOT_HELP} Data, law, band and residuals.")
@click.option("--save", "path", metavar="FILE", help="Save the fit as JSON, which `predict` reads.")
@table_options
def fit(
    table: tuple[str, ...], law: str, inputs: TableOptions, group: str | None,
    objective: str, weights: str | None, fix: tuple[str, ...], tie: tuple[str, ...],
    bootstrap: int, seed: int, on: str | None, design: bool, plot: str | None, path: str | None,
    form: Form | None,
) -> None:  # fmt: skip
    """Fit a law to a TABLE of runs: CSV, Parquet, Excel, JSON, JSON lines, a tracker's export, or a run
    store.

    Several tables, patterns ('logs/*.csv') and folders of logs are read as one table. Columns are found
    under their usual names; --let says what is what where they are not.

    \b
      allometry fit runs.csv --law chinchilla --let 'D=C/(6*N)' --let N=params
    """
    from allometry.cli.table_input import assignments
    from allometry.laws.fit import fit as fit_law
    from allometry.laws.subgrids import design_range

    read = load(table, inputs)
    with _mapped(on) as mapped:
        result = fit_law(
            read.frame, law=law, columns=read.columns, objective=objective, weights=weights, group=group,
            fixed=numbers(fix, "--fix"), tied=assignments(tie, "--tie"), exclude=read.exclude,
            bootstrap=bootstrap, seed=seed, mapped=mapped,
        )  # fmt: skip
    parts = design_range(result) if design else None
    if form is None:
        say(result.report(width() or 100))
        if parts is not None:
            say(parts.report())
    elif form == "json":
        said = {"design": parts.to_dict()} if parts is not None else {}
        _json({**result.to_dict(), **said, "read": list(read.notices)})
    else:
        from allometry.laws.fit_report import table as parameter_table

        shown = parameter_table(result)
        if parts is not None:
            ends = {n: parts.interval(n) if n in parts.table else (math.nan, math.nan) for n in shown.index}
            shown = shown.assign(
                design_low=[ends[n][0] for n in shown.index], design_high=[ends[n][1] for n in shown.index]
            )
        print_table(shown.rename_axis("parameter").reset_index(), form)
    if path:
        from allometry.core.files import write_json

        write_json(Path(path), {**result.to_dict(), "read": list(read.notices)})
        _saved(path)
    if plot:
        from allometry.figures.fits import fit_chart
        from allometry.figures.theme import save

        _saved(save(fit_chart(result), plot))


def _mapped(on: str | None) -> AbstractContextManager[Mapped]:
    """Return what fits resamples: this process, or a cluster."""
    if on is None or on == "local":
        return nullcontext(map)
    from allometry.cluster import mapped

    return mapped(on)


@click.command()
@click.argument("table", nargs=-1, required=True)
@click.option("--laws", "names", metavar="A,B,…", help="Laws to compare (default: those of N and D).")
@table_inputs
@group_option
@click.option("--by", default="C", show_default=True, help="Cost of a run: a symbol or a column.")
@click.option("--cuts", metavar="X,Y,…", help="Shares of the rows (0.5,0.7) or values of --by to fit up to.")
@objective_options
@click.option("--predict", multiple=True, metavar="SYMBOL=VALUE", help="Forecast a run: --predict N=1B.")
@click.option("--bootstrap", type=click.IntRange(min=0), default=100, show_default=True, help="Resamples.")
@click.option("--seed", default=0, show_default=True, help="Seed of the resamples.")
@table_options
def compare(
    table: tuple[str, ...], names: str | None, inputs: TableOptions, group: str | None,
    by: str, cuts: str | None, objective: str, predict: tuple[str, ...], bootstrap: int,
    seed: int, form: Form | None,
) -> None:  # fmt: skip
    """Compare laws on a TABLE of runs: fit on the cheapest, predict the most expensive, rank by error."""
    from allometry.laws.backtest import DEFAULT_CUTS, DEFAULT_LAWS, backtest

    read = load(table, inputs)
    chosen = [n.strip() for n in names.split(",")] if names else DEFAULT_LAWS
    result = backtest(
        read.frame, laws=chosen, columns=read.columns,
        by=by, cuts=listed(cuts, "--cuts") or DEFAULT_CUTS, objective=objective, group=group,
        exclude=read.exclude, bootstrap=bootstrap, seed=seed,
    )  # fmt: skip
    points = {name: [value] for name, value in numbers(predict, "--predict").items()}
    forecast = result.forecast(points) if points else None
    if form == "json":
        _json(result.to_dict() | ({"forecast": _forecast(forecast)} if forecast else {}))
    elif form == "csv":
        print_table(result.scores, form)
    else:
        say(result.report())
        if forecast:
            said = _forecast(forecast)
            say("  " + "   ".join(f"{law} {value:.4f}" for law, value in said["by_law"].items()))
            click.echo(f"forecast: {said['value']:.4f}   95 % [{said['low']:.4f}, {said['high']:.4f}]")


@click.command()
@click.argument("table", nargs=-1, required=True)
@table_inputs
@click.option(
    "--method", type=click.Choice(["akima", "parabola", "envelope"]), default="akima", show_default=True,
    help="Interpolation (Porian), parabola (Chinchilla approach 2) or envelope (approach 1).",
)  # fmt: skip
@click.option("--budgets", metavar="C1,C2,…", help="Where to slice an N x D grid, in FLOPs.")
@click.option("--noise", type=float, help="Relative standard deviation of a run's loss between seeds.")
@click.option("--bootstrap", type=click.IntRange(min=2), default=1000, show_default=True, help="Resamples.")
@click.option("--seed", default=0, show_default=True, help="Seed of the resamples.")
@click.option("--plot", metavar="FILE", help=f"{_PLOT_HELP} Slices and their optima.")
@table_options
def isoflop(
    table: tuple[str, ...], inputs: TableOptions,
    method: Any, budgets: str | None, noise: float | None, bootstrap: int, seed: int, plot: str | None,
    form: Form | None,
) -> None:  # fmt: skip
    """Find the compute-optimal size at each budget of a TABLE of runs, and how it grows with compute."""
    from allometry.laws.isoflop import isoflop as by_isoflop

    read = load(table, inputs)
    result = by_isoflop(
        read.kept(), columns=read.columns, method=method, budgets=listed(budgets, "--budgets") or None,
        noise=noise, bootstrap=bootstrap, seed=seed,
    )  # fmt: skip
    if form == "json":
        _json(result.to_dict())
    elif form == "csv":
        print_table(result.table, form)
    else:
        say(result.report())
    if plot:
        from allometry.figures.surface import isoflop_slices
        from allometry.figures.theme import save

        _saved(save(isoflop_slices(result), plot))


@click.command()
@click.argument("name", required=False)
@table_options
def laws(name: str | None, form: Form | None) -> None:
    """List the laws, or show one: its formula, parameters, source and published constants."""
    import pandas as pd

    from allometry.laws.zoo import all_laws, get

    if name is None:
        rows = [
            {"law": law.name, "title": law.title, "formula": f"{law.output} = {law.expression}",
             "inputs": ", ".join(law.inputs), "constants": ", ".join(law.published), "source": law.source}
            for law in all_laws().values()
        ]  # fmt: skip
        frame = pd.DataFrame(rows)
        shown = frame if form else frame[["law", "title", "inputs", "constants", "source"]]
        print_table(shown, form, wrap=("title", "constants", "source"), drop=("source", "constants"))
        return
    law = get(name)
    if form == "json":
        _json(_described(law))
    elif form == "csv":
        print_table(_constants(law), form)
    else:
        _show(law)


def _described(law: Law) -> dict[str, Any]:
    return {
        "law": law.name, "title": law.title, "formula": f"{law.output} = {law.expression}",
        "where": dict(law.where), "latex": law.latex, "inputs": dict(law.inputs),
        "parameters": {p.name: p.meaning for p in law.parameters}, "source": law.source, "note": law.note,
        "published": {n: {**p.values, "source": p.source, "note": p.note} for n, p in law.published.items()},
    }  # fmt: skip


def _constants(law: Law) -> pd.DataFrame:
    """Return one row per published set; only the parameters' names where there is none."""
    import pandas as pd

    names = ["set", *law.parameter_names, "source", "note"]
    rows = [{"set": n, **p.values, "source": p.source, "note": p.note} for n, p in law.published.items()]
    return pd.DataFrame(rows, columns=names)


def _show(law: Law) -> None:
    say(f"{law.name}: {law.title}\n\n  {law.output} = {law.expression}")
    for name, text in law.where.items():
        say(f"    {name} = {text}")
    say(f"\n{law.output}: {law.output_meaning}")
    for name, meaning in law.inputs.items():
        say(f"{name}: {meaning}")
    say("\nparameters")
    for p in law.parameters:
        say(f"  {p.name:10s} {p.meaning}")
    say(f"\nsource: {law.source}" + (f"\nnote: {law.note}" if law.note else ""))
    for name, constants in law.published.items():
        values = ", ".join(f"{k} = {v:.6g}" for k, v in constants.values.items())
        say(f"\n{name}: {values}\n  {constants.source}" + (f" ({constants.note})" if constants.note else ""))


def _forecast(forecast: Any) -> dict[str, Any]:
    first = {k: float(getattr(forecast, k)[0]) for k in ("value", "low", "high")}
    by_law = {str(k): float(v) for k, v in forecast.by_law.iloc[0].items()}
    return {**first, "level": forecast.level, "by_law": by_law, "weights": forecast.weights}


def _json(data: dict[str, Any]) -> None:
    click.echo(json.dumps(data, indent=1, allow_nan=False))


def _saved(path: Any) -> None:
    click.echo(f"saved {path}", err=True)


@click.command()
@click.argument("budget", required=False)
@click.option("--hours", metavar="TIME", help="Time to spend, such as 8, 8h or 90m (needs a speed).")
@click.option("--speed", metavar="FLOPS", help="FLOPs per second (default: measured in the runs of --from).")
@click.option("--loss", "target", type=float, help="Loss to reach, instead of a budget.")
@click.option("--law", default="chinchilla", show_default=True, help="The law (see `allometry laws`).")
@click.option("--published", metavar="SET", help="Which published constants (default: the law's first).")
@click.option(
    "--from",
    "table",
    multiple=True,
    metavar="TABLE",
    help="Fit the law to these runs instead of published constants; repeat for several files.",
)
@table_inputs
@group_option
@objective_options
@click.option("--bootstrap", type=click.IntRange(min=0), default=400, show_default=True, help="Resamples.")
@click.option("--seed", default=0, show_default=True, help="Seed of the resamples.")
@click.option("-N", "--size", metavar="N", help="Fix the number of parameters, such as 10M.")
@click.option("-D", "--tokens", metavar="D", help="Fix the number of training tokens.")
@click.option("--ratio", metavar="D/N", help="Fix the tokens per parameter (over-training).")
@click.option("--unique", metavar="TOKENS", help="Unique tokens of data there are; beyond them data repeat.")
@click.option("--batch", metavar="TOKENS", help="Batch in tokens (default: Kaplan's critical batch).")
@click.option(
    "--inference",
    metavar="TOKENS",
    help="Tokens that the model will handle in use: the budget is for training and use.",
)
@click.option("--at", metavar="SYMBOL=VALUE,…", help="The law's inputs besides N and D, such as n_E=8.")
@click.option(
    "--next", "goal", metavar="TARGET",
    help="Runs that best pin down a, loss@1e21, N_opt@1e21, L@N=1B,D=20B, a parameter, …",
)  # fmt: skip
@click.option(
    "--pool", metavar="TABLE", help="The runs that --next chooses from: the law's inputs, a row a run."
)
@click.option("--cost", metavar="ARITHMETIC", help="What a run of --next costs (default: 6*N*D).")
@click.option(
    "--most", type=click.IntRange(min=1), default=12, show_default=True, help="Maximum number of --next runs."
)
@table_options
def plan(
    budget: str | None, hours: str | None, speed: str | None, target: float | None, law: str,
    published: str | None, table: tuple[str, ...], inputs: TableOptions, group: str | None,
    objective: str, bootstrap: int, seed: int, size: str | None,
    tokens: str | None, ratio: str | None, unique: str | None, batch: str | None, inference: str | None,
    at: str | None, goal: str | None, pool: str | None, cost: str | None, most: int, form: Form | None,
) -> None:  # fmt: skip
    """Plan a run for a BUDGET in FLOPs (1e18, '3 PF-days'), for --hours, or for a target --loss.

    Without --from the constants of a paper are used, and the plan has no intervals.

    \b
      allometry plan 1e18 --law kaplan
      allometry plan --hours 8 --from runs/ --law chinchilla
      allometry plan 1e20 --from runs.csv --law mixture
      allometry plan --loss 2.1 --inference 2T
      allometry plan 1e17 --from runs.csv --next loss@1e20
    """
    from allometry.planner import next_runs
    from allometry.planner import plan as make_plan

    fitted: FitResult | Backtest | None = None
    read = None
    if table:
        read = load(table, inputs)
        fitted = (
            _mixture(read, objective, group, bootstrap, seed)
            if law == "mixture"
            else _fit(read, law, objective, group, bootstrap, seed)
        )
    elif law == "mixture":
        raise AllometryError("laws are weighted by a back-test of your runs", hint="name them: --from TABLE")
    others = _held(at)
    flops, pace = _number(budget, "the budget"), _number(speed, "--speed")
    if hours is not None and pace is None:
        pace = _measured(read)
    if goal is not None:
        if flops is None:
            flops = _seconds(hours) * pace if hours is not None and pace is not None else None
        _next(
            next_runs(
                fitted,
                budget=_needed(flops),
                target=goal,
                law=law,
                published=published,
                most=most,
                cost=cost,
                candidates=_pool(pool, law, read),
            ),
            form,
        )
        return
    made = make_plan(
        flops, hours=_seconds(hours) / 3600 if hours is not None else None, speed=pace, loss=target,
        fit=fitted, law=law, published=published, N=_number(size, "-N"), D=_number(tokens, "-D"),
        tokens_per_parameter=_number(ratio, "--ratio"), unique=_number(unique, "--unique"),
        batch=_number(batch, "--batch"), inference=_number(inference, "--inference"), at=others,
    )  # fmt: skip
    if form == "json":
        click.echo(json.dumps(made.to_dict(), indent=1, allow_nan=False))
    elif form == "csv":
        print_table(made.frame(), form)
    else:
        say(made.report())


def _fit(
    read: TableInput, law: str, objective: str, group: str | None, bootstrap: int, seed: int
) -> FitResult:
    from allometry.laws.fit import fit

    return fit(
        read.frame, law=law, columns=read.columns, objective=objective, group=group, exclude=read.exclude,
        bootstrap=bootstrap, seed=seed,
    )  # fmt: skip


def _pool(pool: str | None, law: str, read: TableInput | None) -> pd.DataFrame | None:
    """Read the runs to choose from: the law's inputs, under the names of the table of runs or usual ones."""
    if pool is None:
        return None
    import pandas as pd

    from allometry.laws.observations import read_inputs
    from allometry.laws.zoo import get
    from allometry.runs.importers import read_table

    frame = read_table(pool, row="all").frame
    return pd.DataFrame(read_inputs(frame, get(law), {} if read is None else read.columns))


def _mixture(read: TableInput, objective: str, group: str | None, bootstrap: int, seed: int) -> Backtest:
    from allometry.laws.predict import tested

    return tested(
        read.frame, columns=read.columns, objective=objective, group=group, exclude=read.exclude,
        bootstrap=bootstrap, seed=seed,
    )  # fmt: skip


def _held(at: str | None) -> dict[str, float]:
    """Read "n_E=8,P=2" as values of inputs."""
    from allometry.cli.table_input import assignments

    given = assignments(tuple(at.split(",")), "--at") if at else {}
    return {name: parse_number(value, name) for name, value in given.items()}


def _next(design: Any, form: Form | None) -> None:
    if form == "json":
        click.echo(json.dumps(design.to_dict(), indent=1, allow_nan=False))
    elif form == "csv":
        print_table(design.runs, form)
    else:
        say(design.report())


def _number(text: str | None, what: str) -> float | None:

    return None if text is None else parse_number(text, what)


def _seconds(text: str) -> float:
    """Read a time: a bare number counts hours here."""

    try:
        return float(text) * 3600
    except ValueError:
        return parse_duration(text, "--hours")


def _needed(flops: float | None) -> float:

    if flops is None:
        raise AllometryError(
            "--next needs a budget for the new runs", hint="allometry plan 1e17 --next loss@1e20"
        )
    return flops


def _measured(read: TableInput | None) -> float:
    """Return the FLOPs per second of the runs that took longest, from the seconds of a table, or of the store
    `runs`.
    """
    from allometry.laws.observations import other_count, read_runs
    from allometry.runs.store import Store

    runs = None
    if read is not None and "seconds" in read.frame:
        table = read_runs(read.kept(), read.columns).table
        costs, other = table["C"], other_count(table)
        if other is not None:
            costs = (6 * table["N"] * table["D"]).rename("C")
            click.echo(
                f"note: speeds are counted in 6ND, as plans are; {other[1].partition(':')[0]}", err=True
            )
        runs = costs.to_frame().assign(seconds=read.frame["seconds"])  # rows of `read` have distinct labels
    elif read is None and Path("runs", "store.json").exists():
        runs = Store("runs").frame("status=done")
    runs = None if runs is None else runs[runs["seconds"] > 0]
    if runs is None or not len(runs):
        raise AllometryError(
            "--hours needs the machine's speed, and no runs with a column of seconds were given",
            hint="--speed 3e10 (FLOPs per second), or --from runs/ after training some",
        )
    longest = runs.nlargest(8, "seconds")
    pace = float((longest["C"] / longest["seconds"]).median())
    click.echo(f"note: speed {pace:.3g} FLOPs/s, the median of the {len(longest)} longest runs", err=True)
    return pace
