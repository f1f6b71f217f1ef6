"""The command `plan`: what to train for a budget, a time or a target loss, and which runs to train next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allometry.cli.output import Form, print_table, say, table_options
from allometry.cli.table_input import TableOptions, group_option, load, table_inputs
from allometry.core.errors import AllometryError
from allometry.core.units import parse_duration, parse_number

if TYPE_CHECKING:
    from allometry.cli.table_input import TableInput
    from allometry.laws.result import FitResult


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
@click.option("--objective", default="huber-log", show_default=True, help="Loss function of the fit.")
@click.option("--bootstrap", type=click.IntRange(min=0), default=400, show_default=True, help="Resamples.")
@click.option("--seed", default=0, show_default=True, help="Seed of the resamples.")
@click.option("-N", "--size", metavar="N", help="Fix the number of parameters, such as 10M.")
@click.option("-D", "--tokens", metavar="D", help="Fix the number of training tokens.")
@click.option("--ratio", metavar="D/N", help="Fix the tokens per parameter (over-training).")
@click.option("--unique", metavar="TOKENS", help="Unique tokens of data there are; beyond them data repeat.")
@click.option("--batch", metavar="TOKENS", help="Batch in tokens (default: Kaplan's critical batch).")
@click.option(
    "--next", "goal", metavar="TARGET", help="Runs that best pin down a, loss@1e21, N_opt@1e21, alpha, …"
)
@click.option(
    "--most", type=click.IntRange(min=1), default=12, show_default=True, help="Maximum number of --next runs."
)
@table_options
def plan(
    budget: str | None, hours: str | None, speed: str | None, target: float | None, law: str,
    published: str | None, table: tuple[str, ...], inputs: TableOptions, group: str | None,
    objective: str, bootstrap: int, seed: int, size: str | None,
    tokens: str | None, ratio: str | None, unique: str | None, batch: str | None, goal: str | None, most: int,
    form: Form | None,
) -> None:  # fmt: skip
    """Plan a run for a BUDGET in FLOPs (1e18, '3 PF-days'), for --hours, or for a target --loss.

    Without --from the constants of a paper are used, and the plan has no intervals.

    \b
      allometry plan 1e18 --law kaplan
      allometry plan --hours 8 --from runs/ --law chinchilla
      allometry plan 1e17 --from runs.csv --next loss@1e20
    """
    from allometry.planner import next_runs
    from allometry.planner import plan as make_plan

    fitted = read = None
    if table:
        read = load(table, inputs)
        fitted = _fit(read, law, objective, group, bootstrap, seed)
    flops, pace = _number(budget, "the budget"), _number(speed, "--speed")
    if hours is not None and pace is None:
        pace = _measured(read)
    if goal is not None:
        if flops is None:
            flops = _seconds(hours) * pace if hours is not None and pace is not None else None
        _next(
            next_runs(fitted, budget=_needed(flops), target=goal, law=law, published=published, most=most),
            form,
        )
        return
    made = make_plan(
        flops, hours=_seconds(hours) / 3600 if hours is not None else None, speed=pace, loss=target,
        fit=fitted, law=law, published=published, N=_number(size, "-N"), D=_number(tokens, "-D"),
        tokens_per_parameter=_number(ratio, "--ratio"), unique=_number(unique, "--unique"),
        batch=_number(batch, "--batch"),
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
