"""Printed constants derived again: on planted tables that follow them, and on published files where they lie."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.laws.verify import (
    COVERED,
    DERIVATIONS,
    DIFFERS,
    DIGITS,
    INSIDE,
    LOWER,
    OPEN,
    judge,
    printed,
    verify,
)
from allometry.laws.zoo import get
from allometry.sources.fetch import fetch
from allometry.sources.source import SOURCES, Constant

DATA = Path(__file__).parents[2].parent / "shared" / "data"
NAN = float("nan")


def constant(value="0.076", **more):
    return Constant(part="all", name=more.pop("name", "alpha"), value=value, where="table 1", **more)


@pytest.mark.parametrize(
    ("what", "ours", "verdict"),
    [
        (constant(low=0.07, high=0.08), (0.0705, NAN, NAN), INSIDE),
        (constant(low=0.07, high=0.08), (0.085, 0.08, 0.09), DIFFERS),
        (constant(), (0.0764, NAN, NAN), DIGITS),
        (constant(), (0.0766, NAN, NAN), DIFFERS),
        (constant(), (0.0766, 0.07, 0.08), COVERED),
        (constant(), (0.1, 0.01, 0.29), COVERED),
        (constant(), (0.1, 0.01, 0.31), OPEN),
        (constant("-0.5"), (-0.2, -1.2, 0.25), COVERED),
        (constant("-0.5"), (-0.2, -1.2, 0.35), OPEN),
        (constant("1.8e13"), (1.84e13, NAN, NAN), DIGITS),
        (constant("1.8e13"), (1.86e13, NAN, NAN), DIFFERS),
        (constant("0.00502165", name="objective"), (0.005021654, NAN, NAN), DIGITS),
        (constant("0.00502165", name="objective"), (0.0049, NAN, NAN), LOWER),
        (constant("0.00502165", name="objective"), (0.0051, NAN, NAN), DIFFERS),
    ],
)
def test_a_verdict_is_that_of_intervals_and_digits(what, ours, verdict):
    assert judge(what, *ours) == verdict


def planted(law, values, noise=0.0005, **inputs):
    """A table that follows a law's constants, with little noise."""
    grid = [a.ravel() for a in np.meshgrid(*inputs.values())]
    table = pd.DataFrame(dict(zip(inputs, grid, strict=True)))
    loss = get(law).predict(values, **{name: table[name].to_numpy(float) for name in inputs})
    return table.assign(loss=loss * np.exp(noise * np.random.default_rng(0).standard_normal(len(table))))


def test_derivations_find_the_constants_of_tables_that_follow_them():
    values = {c.name: c.number for c in SOURCES["kaplan2020"].constants if c.part == "size-and-data"}
    size = {"alpha_N": 0.076, "N_c": 8.8e13}
    tables = {
        "size-and-data": planted("kaplan", values, N=np.geomspace(4e5, 7e8, 6), D=np.geomspace(2e7, 2e10, 7)),
        "size": planted("kaplan-n", size, N=np.geomspace(1e3, 1e9, 20)),
    }
    found = DERIVATIONS["kaplan2020"](tables)
    for each in SOURCES["kaplan2020"].constants:
        value, low, high = found[each.part, each.name]
        assert low < each.number < high
        assert value == pytest.approx(each.number, rel=0.02 if each.name.startswith("alpha") else 0.3)
    streams = {c.name: c.number for c in SOURCES["parscale2025"].constants if c.part == "stack"}
    table = planted(
        "parallel",
        {**streams, "A": 1e7},
        N=np.geomspace(5e8, 4e9, 6),
        P=np.array([1.0, 2.0, 4.0, 8.0]),
        noise=1e-5,
    )
    found = DERIVATIONS["parscale2025"]({"stack": table, "pile": table})
    for name, value in streams.items():
        assert found["pile", name][0] == pytest.approx(value, rel=0.03)


def test_the_best_setting_is_the_minimum_of_a_smooth_valley():
    rate, batch = (a.ravel() for a in np.meshgrid(np.geomspace(1e-4, 1e-2, 9), np.geomspace(6e4, 2e6, 9)))
    rows = []
    for n, d in [(n, d) for n in (1e8, 3e8, 1e9) for d in (2e9, 8e9, 3e10)]:
        best_rate, best_batch = 1.79 * n**-0.713 * d**0.307, 0.58 * d**0.571
        off = np.log(rate / best_rate) ** 2 + 0.5 * np.log(batch / best_batch) ** 2
        rows.append(
            pd.DataFrame({"N": n, "D": d, "rate": rate, "batch": batch, "loss": 3 * (1 + 0.003 * off)})
        )
    found = DERIVATIONS["steplaw2025"]({"dense": pd.concat(rows)})
    wanted = {"rate_c": 1.79, "rate_a": -0.713, "rate_b": 0.307, "batch_c": 0.58, "batch_b": 0.571}
    for name, value in wanted.items():
        assert found["dense", name][0] == pytest.approx(value, rel=0.02)


def test_verify_says_printed_ours_and_why_they_differ(tmp_path):
    """On the published figure where it lies beside the repository; its hash is checked too."""
    if not DATA.is_dir():
        pytest.skip(f"no published tables at {DATA}")
    fetch(SOURCES["kaplan2020"], place=DATA / "kaplan", cache=tmp_path)
    table = verify(SOURCES["kaplan2020"], tmp_path).table
    ours = table.set_index(["part", "name"])
    assert ours.loc[("size-and-data", "alpha_N"), "ours"] == pytest.approx(0.0746, abs=0.0005)
    assert ours.loc[("size-and-data", "alpha_D"), "ours"] == pytest.approx(0.1194, abs=0.0005)
    differs = table[table["verdict"] == DIFFERS]
    assert set(differs["name"]) == {"alpha_D", "D_c"}
    assert (differs["reason"] != "").all()
    assert (table.loc[table["verdict"] != DIFFERS, "reason"] == "").all()
    assert list(printed(table)["printed"][:2]) == ["0.076", "0.103"]


@pytest.mark.slow
def test_published_tables_give_the_constants_that_were_printed_from_them(tmp_path):
    if not DATA.is_dir():
        pytest.skip(f"no published tables at {DATA}")
    place = tmp_path / "epoch" / "data"
    place.mkdir(parents=True)
    (place / "svg_extracted_data.csv").write_bytes(
        (DATA / "chinchilla" / "svg_extracted_data.csv").read_bytes()
    )
    fetch(SOURCES["hoffmann2022"], place=tmp_path / "epoch", cache=tmp_path)
    table = verify(SOURCES["hoffmann2022"], tmp_path).table.set_index("name")
    for name in ("E", "A", "B", "alpha", "beta", "a"):
        assert table.loc[name, "verdict"] == INSIDE
        assert table.loc[name, "ours"] == pytest.approx(table.loc[name, "published"], rel=0.002)
    assert table.loc["beta_hoffmann", "verdict"] == DIFFERS


def test_what_cannot_be_verified_is_refused(tmp_path):
    with pytest.raises(AllometryError, match="not on this machine yet") as caught:
        verify(SOURCES["hoffmann2022"], tmp_path)
    assert caught.value.hint == "allometry atlas fetch hoffmann2022"
    with pytest.raises(AllometryError, match="no constants are kept"):
        verify(replace(SOURCES["hoffmann2022"], constants=()), tmp_path)
