"""The command `versus`: recipes of a table against one of them."""

from __future__ import annotations

import json

import click

from allometry.cli.output import Form, print_table, say, table_options
from allometry.cli.table_input import TableOptions, load, table_inputs


def command(name: str) -> click.Command:
    """Return the click command of that name."""
    return {"versus": versus}[name]


@click.command()
@click.argument("table", nargs=-1, required=True)
@click.option("--by", required=True, metavar="COLUMN", help="Column that names the recipe of each run.")
@click.option(
    "--against",
    metavar="NAME",
    help="Recipe that the others are compared with (default: the first in the table).",
)
@click.option(
    "--margin", default=0.05, show_default=True, type=click.FloatRange(0.001, 1),
    help="Multipliers closer to 1 than this make no difference that matters.",
)  # fmt: skip
@table_inputs
@table_options
def versus(
    table: tuple[str, ...],
    by: str,
    against: str | None,
    margin: float,
    inputs: TableOptions,
    form: Form | None,
) -> None:
    """Compare recipes that were trained on the same sizes and tokens: how much more compute or data does one need to
    reach the loss of the other, and does that grow with scale?

    \b
      allometry versus runs.csv --by optimizer
      allometry versus runs.csv --by mlp --against gelu --margin 0.02
      allometry versus runs/ --by family --where 'D>1e6'
    """
    from allometry.laws.versus import versus as compare

    read = load(table, inputs)
    made = compare(
        read.frame, by=by, against=against, columns=read.columns, margin=margin, exclude=read.exclude,
    )  # fmt: skip
    if form == "json":
        click.echo(json.dumps(made.to_dict(), indent=1, allow_nan=False))
    elif form == "csv":
        print_table(made.table, form)
    else:
        say(made.report())
