"""Figures of learning curves: loss against compute or tokens with its frontier, training beside test loss.

After figures 1 (left) and 16 (right) of Kaplan et al. 2020 and figure 2 of Hoffmann et al. 2022.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pandas as pd

from allometry.figures import layers
from allometry.figures.layers import capital, log_x, log_y, quantity
from allometry.figures.theme import Figure

_LOWEST = "lowest loss of any run"


def learning_curves(
    curves: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    frontier: pd.DataFrame | None = None,
    fit: Any = None,
    x: str = "C",
    y: str = "loss",
    colour: str = "N",
    label: str | None = None,
    level: float = 0.95,
    points: int = 48,
    growing: Collection[str] = (),
    name: str = "learning-curves",
    title: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Draw every run's curve of `y` against `x`, coloured by a column of its run, on logarithmic axes.

    `curves` has columns run, x, y; `runs` has run and `colour`. `frontier` has columns x and y
    (`laws.envelope.frontier` gives it), `fit` is a law of x alone fitted to it, or its power law. Each
    curve is thinned to `points`; those of `growing` runs, still being trained, end in a dot.
    Raises AllometryError for missing columns, or where no curve can be drawn.
    """
    what = title or capital(f"{quantity(y).name} while training")
    layers.require(runs, ["run", colour], what)
    usable = layers.finite(curves.drop(columns=colour, errors="ignore"), [x, y], what)
    joined = usable.merge(runs[["run", colour]].drop_duplicates("run"), on="run", how="inner")
    thinned = layers.thin(layers.finite(joined, [colour], what), x, points=points)
    table = thinned[[c for c in ("run", colour, "step", "tokens", x, y) if c in thinned]]
    table = table.loc[:, ~table.columns.duplicated()]
    position = log_x(x), log_y(y)
    ramp = layers.ordered_colour(table[colour], colour, opacity=0.75)
    drawn = [layers.lines(table, *position, detail=["run"], colour=ramp, width=1.4)]
    drawn += _frontier(frontier, fit, position, x, y, label, level)
    tips = layers.run_tips(table, "run", colour, "step", "tokens", x, y)
    last = table[table["run"].isin(list(growing))].drop_duplicates("run", keep="last")
    drawn.append(layers.points(last, *position, tips=tips, colour=ramp))
    drawn.append(layers.hover(table, *position, tips=tips))
    return Figure(
        name=name,
        title=what,
        caption=caption or _caption(table, runs, frontier, fit),
        chart=layers.compose(*drawn, params=ramp.params, height=380),
        table=table,
    )


def _frontier(
    frontier: pd.DataFrame | None,
    fit: Any,
    position: tuple[Any, Any],
    x: str,
    y: str,
    label: str | None,
    level: float,
) -> list[Any]:
    """Draw the envelope and its law as lines that a legend names, the law with its band."""
    if frontier is None:
        return []
    best = layers.finite(frontier, [x, y], "the frontier").sort_values(x)[[x, y]]
    named, parts = [best.assign(series=_LOWEST)], []
    if fit is not None:
        line = layers.evaluate(fit, pd.DataFrame({x: layers.log_grid(best[x], beyond=2.0)}), y, level)
        parts.append(layers.band(line, *position))
        named.append(line[[x, y]].assign(series=label or layers.label_of(fit)))
    table = pd.concat(named, ignore_index=True)
    return [*parts, layers.series(table, *position, list(table["series"].unique()))]


def _caption(table: pd.DataFrame, runs: pd.DataFrame, frontier: pd.DataFrame | None, fit: Any) -> str:
    text = f"{layers.count_note(runs[runs['run'].isin(table['run'])])}. One line a run."
    if frontier is not None:
        text += " Drawn over them: the lowest loss that any run reaches at that compute"
        text += ", and the law fitted to it." if fit is not None else "."
    return text


_KINDS = ("test loss", "training loss")


def train_and_test(
    curves: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    name: str = "train-and-test-loss",
    title: str = "Training and test loss while training",
    caption: str | None = None,
) -> Figure:
    """Draw each set (`unique` tokens, a column of `runs`) in one colour: test loss as a line, training loss
    dashed, and a mark at `stop`, the update with the best test loss.

    `curves` has the columns run, step, loss and train_loss. Raises AllometryError for missing columns, or
    where no curve can be drawn.
    """
    layers.require(runs, ["run", "unique", "stop", "loss"], title)
    usable = layers.finite(curves, ["step", "loss", "train_loss"], title)
    table = pd.concat([_test(usable), _training(usable)]).merge(runs[["run", "unique"]], on="run")
    layers.require(table, ["loss"], title)
    position = log_x("step"), log_y("loss", title="Loss (nats per token)")
    ramp = layers.ordered_colour(table["unique"], "unique", title="Tokens in the set")
    lines = layers.series(
        table, *position, _KINDS, coloured=False, detail=["run"]
    ).encode(color=ramp.encoding, opacity=ramp.opacity)  # fmt: skip
    stops = runs.rename(columns={"stop": "step"})[["run", "unique", "step", "loss"]]
    tips = layers.run_tips(stops, "run", "unique", "step", "loss")
    marks = layers.points(stops, *position, tips=tips, colour=ramp)
    return Figure(
        name=name,
        title=title,
        caption=caption
        or "Lines: test loss, dashed: training loss (the mean between evaluations). "
        "Points: the best test loss, where a run is said to stop.",
        chart=layers.compose(lines, marks, params=ramp.params, height=380),
        table=table[["run", "unique", "step", "series", "loss"]],
    )


def _test(curves: pd.DataFrame) -> pd.DataFrame:
    return curves[["run", "step", "loss"]].assign(series=_KINDS[0])


def _training(curves: pd.DataFrame) -> pd.DataFrame:
    """Move training losses to the steps that they belong to. A training loss is a mean since the evaluation
    before: it belongs to the step in the middle, and the first one, which begins with an untrained model, to
    none.
    """
    ordered = curves.sort_values(["run", "step"])
    before = ordered.groupby("run")["step"].shift()
    shown = ordered.assign(step=(before + ordered["step"]) / 2).dropna(subset=["step"])
    return (
        shown[["run", "step", "train_loss"]].rename(columns={"train_loss": "loss"}).assign(series=_KINDS[1])
    )
