"""Figures of steps against tokens, and of sets learnt by heart: they render, in both modes, with their
numbers."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.figures import theme
from allometry.figures.curves import train_and_test
from allometry.figures.surface import trade_off
from allometry.figures.theme import Figure
from allometry.laws.critical_batch import fit_critical_batch, hyperbola


@pytest.fixture(scope="module")
def scan() -> Figure:
    batches = 2.0 ** np.arange(8, 14)
    parts = [
        pd.DataFrame({"loss": loss, "B": batches, "S": 100 * scale + 2e5 * scale / batches})
        for loss, scale in ((2.5, 1.0), (2.0, 4.0))
    ]
    table = pd.concat(parts, ignore_index=True)
    table = table.assign(E=table["S"] * table["B"])
    return trade_off(table, fit_critical_batch(table, bootstrap=20))


@pytest.fixture(scope="module")
def sets() -> Figure:
    steps = np.array([64.0, 128, 256, 512, 1024])
    curves = pd.concat(
        pd.DataFrame({"run": str(d), "step": steps, "loss": 3 / steps**0.1, "train_loss": 3 / steps**0.2})
        for d in (1000, 8000)
    )
    runs = pd.DataFrame(
        {"run": ["1000", "8000"], "unique": [1000, 8000], "stop": [256.0, 1024.0], "loss": 1.6}
    )
    return train_and_test(curves, runs)


@pytest.mark.parametrize("name", ["scan", "sets"])
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_renders_from_a_valid_specification(
    name: str, mode: theme.Mode, request: pytest.FixtureRequest
) -> None:
    figure = request.getfixturevalue(name)
    alt.Chart.from_dict({**theme.specification(figure), "datasets": {}}, validate=True)
    assert theme.svg(figure, mode=mode).startswith("<svg")
    assert len(figure.table)
    assert figure.caption


def test_the_hyperbola_goes_through_the_points(scan: Figure) -> None:
    table = scan.table[scan.table["loss"] == 2.5]
    np.testing.assert_allclose(hyperbola(table["S"], 100, 2e5), table["E"], rtol=1e-9)
    assert "2 losses" in scan.caption


def test_the_first_training_loss_belongs_to_no_step(sets: Figure) -> None:
    training = sets.table[sets.table["series"] == "training loss"]
    assert training["step"].min() == (64 + 128) / 2
    assert len(training) == 2 * 4


def test_nothing_to_draw_says_so() -> None:
    with pytest.raises(AllometryError):
        train_and_test(pd.DataFrame(), pd.DataFrame({"run": [], "unique": [], "stop": [], "loss": []}))
