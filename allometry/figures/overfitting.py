"""Training and test loss while a model learns sets of several sizes by heart.

After figure 16 (right) of Kaplan et al. 2020.
"""

from __future__ import annotations

import pandas as pd

from allometry.figures import frames, layers
from allometry.figures.axes import log_x, log_y
from allometry.report.content import Figure

_KINDS = {"loss": "test loss", "train_loss": "training loss"}


def train_and_test(
    curves: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    name: str = "train-and-test-loss",
    title: str = "Training and test loss while training",
    caption: str | None = None,
) -> Figure:
    """One colour a set (`unique` tokens, a column of `runs`): test loss as a line, training loss dashed, and
    a mark at `stop`, the update with the best test loss.

    `curves` has the columns run, step, loss and train_loss. Raises AllometryError for missing columns, or
    where no curve can be drawn.
    """
    frames.require(runs, ["run", "unique", "stop", "loss"], title)
    usable = frames.finite(curves, ["step", "loss", "train_loss"], title)
    long = usable.melt(["run", "step"], list(_KINDS), "kind", "value").rename(columns={"value": "loss"})
    table = long.assign(series=long["kind"].map(_KINDS)).merge(runs[["run", "unique"]], on="run")
    frames.require(table, ["loss"], title)
    position = log_x("step"), log_y("loss", title="Loss (nats per token)")
    ramp = layers.ordered_colour(table["unique"], "unique", title="Tokens in the set")
    lines = layers.series(
        table, *position, list(_KINDS.values()), coloured=False, detail=["run"]
    ).encode(color=ramp.encoding, opacity=ramp.opacity)  # fmt: skip
    stops = runs.rename(columns={"stop": "step"})[["run", "unique", "step", "loss"]]
    tips = layers.run_tips(stops, "run", "unique", "step", "loss")
    marks = layers.points(stops, *position, tips=tips, colour=ramp)
    return Figure(
        name=name,
        title=title,
        caption=caption
        or "Lines: test loss, dashed: training loss (the mean since the evaluation before). "
        "Points: the best test loss, where a run is said to stop.",
        chart=layers.compose(lines, marks, params=ramp.params, height=380),
        table=table[["run", "unique", "step", "series", "loss"]],
    )
