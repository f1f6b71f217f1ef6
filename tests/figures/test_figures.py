"""Every kind of figure: a valid chart that renders, numbers that are right, a caption that says what it
rests on.
"""

from collections.abc import Callable
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pytest

from allometry import figures
from allometry.core.errors import AllometryError
from allometry.figures import theme
from allometry.figures.several import effects
from allometry.figures.theme import Figure
from allometry.laws.envelope import fit_envelope
from allometry.laws.fit import fit
from allometry.laws.isoflop import isoflop

KINDS = (
    "learning curves", "L(N)", "L(D)", "L(N, D) against D", "L(N, D) against N", "isoFLOP slices", "N_opt(C)",
    "residuals", "predictions", "any fit of one input", "any fit of two inputs",
)  # fmt: skip


@pytest.fixture(scope="module")
def fits(planted_runs: pd.DataFrame) -> dict[str, Any]:
    longest = planted_runs[planted_runs["D"] == planted_runs["D"].max()]
    largest = planted_runs[planted_runs["N"] == planted_runs["N"].max()]
    tables = {
        "chinchilla": planted_runs,
        "kaplan": planted_runs,
        "kaplan-n": longest,
        "kaplan-d": largest,
    }
    return {law: fit(table, law=law, bootstrap=16, seed=0) for law, table in tables.items()}


@pytest.fixture(scope="module")
def drawn(
    planted_runs: pd.DataFrame, planted_curves: pd.DataFrame, fits: dict[str, Any]
) -> dict[str, Figure]:
    runs, both = planted_runs, {"Chinchilla": fits["chinchilla"], "Kaplan": fits["kaplan"]}
    longest, largest = runs[runs["D"] == runs["D"].max()], runs[runs["N"] == runs["N"].max()]
    curves = planted_curves.merge(runs[["run", "N"]], on="run").assign(D=lambda c: c["tokens"])
    envelope = fit_envelope(curves, bootstrap=10)
    slices = isoflop(runs, bootstrap=50)
    made = (
        figures.learning_curves(planted_curves, runs, frontier=envelope.points, fit=envelope.loss),
        figures.power_law(longest, fits["kaplan-n"], x="N", slopes={"Kaplan et al. 2020": -0.076}),
        figures.power_law(largest, fits["kaplan-d"], x="D"),
        figures.surface(runs, both),
        figures.surface(runs, both, x="N", colour="D"),
        figures.isoflop_slices(slices),
        figures.power_law(slices.table[slices.table["used"]], slices.N, x="C", y="N_opt", low="N_opt_low",
                          high="N_opt_high", slopes={"Hoffmann et al. 2022": 0.5}),
        figures.residuals(runs, both, noise=0.003),
        figures.predictions(scored(runs, fits["chinchilla"])),
        figures.fit_figure(fits["kaplan-n"]),
        figures.fit_figure(fits["chinchilla"], x="N"),
    )  # fmt: skip
    return dict(zip(KINDS, made, strict=True))


def scored(runs: pd.DataFrame, law: Any) -> pd.DataFrame:
    held = runs[runs["N"] == runs["N"].max()]
    low, high = law.prediction_interval(held)
    return held.drop(columns="C").assign(
        predicted=law.predict(held), low=low, high=high, measured=held["loss"], scored=True
    )


@pytest.mark.parametrize("kind", KINDS)
def test_renders_from_a_valid_specification(drawn: dict[str, Figure], kind: str) -> None:
    figure = drawn[kind]
    spec = theme.specification(figure)
    alt.Chart.from_dict({**spec, "datasets": {}}, validate=True)
    picture = theme.svg(figure)
    assert picture.startswith("<svg")
    assert "NaN" not in picture
    assert "undefined" not in picture


@pytest.mark.parametrize("kind", KINDS)
def test_has_numbers_and_says_what_it_rests_on(drawn: dict[str, Figure], kind: str) -> None:
    figure = drawn[kind]
    assert len(figure.table)
    assert figure.name == figure.name.lower().replace(" ", "-")
    assert any(word in figure.caption for word in ("run", "points", "prediction")), figure.caption


def test_points_are_means_over_seeds(planted_runs: pd.DataFrame) -> None:
    longest = planted_runs[planted_runs["D"] == planted_runs["D"].max()]
    table = figures.power_law(longest, x="N").table
    repeated = longest[longest["N"] == 22_000]["loss"]
    row = table[table["N"] == 22_000].iloc[0]
    assert row["n"] == 3
    assert row["loss"] == pytest.approx(repeated.mean())
    assert row["high"] - row["low"] == pytest.approx(2 * repeated.std(ddof=1))


def test_a_papers_line_has_its_slope_and_crosses_the_centre_of_the_data(planted_runs: pd.DataFrame) -> None:
    longest = planted_runs[planted_runs["D"] == planted_runs["D"].max()]
    figure = figures.power_law(longest, x="N", slopes={"paper": -0.076})
    lines = [r for r in theme.specification(figure)["datasets"].values() if "series" in r[0]]
    (line,) = lines
    slope = np.log(line[1]["loss"] / line[0]["loss"]) / np.log(line[1]["N"] / line[0]["N"])
    assert slope == pytest.approx(-0.076)
    centre = np.exp(np.log([r["loss"] for r in line]).mean())
    table = figure.table
    assert centre == pytest.approx(
        np.exp(np.log(table["loss"]).mean())
        * (np.sqrt(line[0]["N"] * line[1]["N"]) / np.exp(np.log(table["N"]).mean())) ** -0.076
    )


def test_residuals_are_measured_over_fitted(drawn: dict[str, Figure], fits: dict[str, Any]) -> None:
    table = drawn["residuals"].table
    row = table[table["law"] == "Chinchilla"].iloc[0]
    expected = float(fits["chinchilla"].predict(N=[row["N"]], D=[row["D"]])[0])
    assert row["residual_percent"] == pytest.approx(100 * (row["loss"] / expected - 1))


def test_the_caption_of_predictions_counts_hits(planted_runs: pd.DataFrame) -> None:
    held = planted_runs[planted_runs["N"] == 105_000]
    table = held.assign(
        predicted=held["loss"], low=held["loss"] * 0.99, high=held["loss"] * 1.01, measured=held["loss"]
    )
    table.loc[table.index[0], ["low", "high"]] = 9.0, 10.0
    table.loc[table.index[1], "measured"] *= 1.005
    caption = figures.predictions(table).caption
    assert "4 predictions" in caption
    assert "3 of 4 lie inside" in caption


def test_a_prediction_of_a_known_loss_does_not_count(planted_runs: pd.DataFrame) -> None:
    held = planted_runs[planted_runs["N"] == 105_000]
    table = held.assign(predicted=held["loss"], measured=held["loss"], scored=False)
    assert figures.predictions(table).caption.startswith("No prediction was registered")


def test_curves_are_thinned_and_keep_their_last_point(
    planted_runs: pd.DataFrame, planted_curves: pd.DataFrame
) -> None:
    table = figures.learning_curves(planted_curves, planted_runs, points=10).table
    assert table.groupby("run").size().max() <= 11
    last = table.groupby("run")["loss"].last()
    assert np.allclose(last, planted_runs.set_index("run")["loss"].loc[last.index])


def test_more_values_than_a_legend_holds_become_a_ramp(planted_runs: pd.DataFrame) -> None:
    many = pd.concat([planted_runs.assign(N=planted_runs["N"] * (1 + i / 10)) for i in range(4)])
    spec = theme.specification(figures.surface(many))
    kinds = {layer["encoding"]["color"]["type"] for layer in spec["layer"] if "color" in layer["encoding"]}
    assert kinds == {"quantitative"}


BAD: dict[str, tuple[Callable[[pd.DataFrame], Any], str]] = {
    "no such column": (lambda runs: figures.power_law(runs, x="n"), "unknown column"),
    "nothing left": (lambda runs: figures.power_law(runs.assign(loss=np.nan)), "nothing to draw"),
    "empty": (lambda runs: figures.surface(runs.iloc[:0]), "nothing to draw"),
    "no fit": (lambda runs: figures.residuals(runs, {}), "no fit was given"),
    "no curves": (lambda runs: figures.learning_curves(runs.iloc[:0], runs), "nothing to draw"),
    "valley": (lambda runs: figures.valleys(runs, "cubic"), "unknown method"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_an_error_with_a_remedy(planted_runs: pd.DataFrame, case: str) -> None:
    draw, message = BAD[case]
    with pytest.raises(AllometryError, match=message) as caught:
        draw(planted_runs)
    assert caught.value.hint


def test_an_unknown_input_of_a_law_is_named(fits: dict[str, Any]) -> None:
    with pytest.raises(AllometryError, match="unknown input"):
        figures.fit_figure(fits["chinchilla"], x="C")


def test_column_names_with_dots_and_brackets_are_drawn(planted_runs: pd.DataFrame) -> None:
    odd = planted_runs.rename(columns={"loss": "loss_a.b[c]:d"})
    picture = theme.svg(figures.power_law(odd, y="loss_a.b[c]:d"))
    assert picture.count("<path") > 5


def test_effects_keep_their_order_and_need_intervals() -> None:
    rows = {"dial": ["a", "b"], "kind": ["dial", "interaction"], "effect": [-50.0, 20.0]}
    table = pd.DataFrame({**rows, "low": [-60.0, 10.0], "high": [-40.0, 30.0]})
    figure = effects(table, name="effects", title="Effects", x_title="change", caption="Two.")
    assert "errorbar" in figure.chart.to_json()
    assert '"sort": [ "a", "b" ]' in " ".join(figure.chart.to_json().split())
    assert figure.table["dial"].tolist() == ["a", "b"]
    with pytest.raises(AllometryError, match="column"):
        effects(table.drop(columns="low"), name="effects", title="Effects", x_title="change", caption="Two.")
