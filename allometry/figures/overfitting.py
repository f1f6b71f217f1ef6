"""Training and test loss while a model learns sets of several sizes by heart.

After figure 16 (right) of Kaplan et al. 2020.
"""

from __future__ import annotations

import pandas as pd

from allometry.figures import frames, layers
from allometry.figures.axes import log_x, log_y
from allometry.report.content import Figure

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
    frames.require(runs, ["run", "unique", "stop", "loss"], title)
    usable = frames.finite(curves, ["step", "loss", "train_loss"], title)
    table = pd.concat([_test(usable), _training(usable)]).merge(runs[["run", "unique"]], on="run")
    frames.require(table, ["loss"], title)
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
