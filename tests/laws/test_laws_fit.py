"""Fits: objectives, starts, fixed and tied parameters, and what happens to bad tables."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import allometry
from allometry.core.errors import AllometryError
from allometry.laws.fit import _nested_starts
from allometry.laws.law import evaluate, names_in
from allometry.laws.result import FitResult
from allometry.laws.zoo import all_laws, get

CURVES = Path(__file__).parents[3] / "shared" / "data" / "alabdulmohsin" / "lang10.csv"

TRUE = {"E": 1.8, "A": 400.0, "B": 1500.0, "alpha": 0.34, "beta": 0.36}


def table(noise=0.003, seed=0, sizes=5, horizons=5):
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, sizes), np.geomspace(2e8, 2e10, horizons)))
    loss = TRUE["E"] + TRUE["A"] / n ** TRUE["alpha"] + TRUE["B"] / d ** TRUE["beta"]
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"N": n, "D": d, "loss": loss * np.exp(noise * rng.standard_normal(len(n)))})


@pytest.fixture(scope="module")
def fitted():
    return allometry.fit(table(), law="chinchilla", bootstrap=100)


def names(result):
    return {w.name for w in result.warnings}


@pytest.mark.parametrize("objective", ["huber-log", "huber-log-scale", "lad-log", "lsq-log", "lsq"])
def test_objectives_agree_without_noise(objective):
    result = allometry.fit(table(noise=0), law="chinchilla", objective=objective, bootstrap=0)
    for name, value in TRUE.items():
        assert result.parameters[name] == pytest.approx(value, rel=1e-3)


def test_lower_envelope_lies_below_most_points():
    frame = table(noise=0.02, sizes=10, horizons=10)
    result = allometry.fit(frame, law="chinchilla", objective="lower-envelope", bootstrap=0)
    assert 0.04 < np.mean(result.residuals > 0) < 0.16  # predicted above measured: points under the curve


def test_robust_objectives_shrug_off_a_diverged_run():
    frame = table(noise=0.002)
    frame.loc[7, "loss"] *= 2
    robust = allometry.fit(frame, law="chinchilla", bootstrap=0)
    squares = allometry.fit(frame, law="chinchilla", objective="lsq-log", bootstrap=0)
    assert abs(robust.parameters["alpha"] - 0.34) < 0.5 * abs(squares.parameters["alpha"] - 0.34)
    assert "outliers" in names(robust)


def test_parameters_can_be_fixed_and_tied():
    fixed = allometry.fit(table(), law="chinchilla", fixed={"E": 1.8}, bootstrap=20)
    assert fixed.parameters["E"] == 1.8
    assert "E" not in fixed.free
    assert set(fixed.samples["E"]) == {1.8}
    tied = allometry.fit(table(), law="chinchilla", tied={"beta": "alpha"}, bootstrap=0)
    same = allometry.fit(table(), law="chinchilla-tied", bootstrap=0)
    assert tied.parameters["beta"] == tied.parameters["alpha"]
    assert tied.parameters["alpha"] == pytest.approx(same.parameters["alpha"], rel=1e-5)
    assert tied.objective_value == pytest.approx(same.objective_value, rel=1e-8)
    with pytest.raises(AllometryError, match="fixed or tied already"):
        allometry.fit(table(), law="chinchilla", tied={"beta": "alpha"}, fixed={"beta": 0.3})
    with pytest.raises(AllometryError, match="unknown parameter"):
        allometry.fit(table(), law="chinchilla", fixed={"alfa": 0.3})


def test_weights_count_rows_as_often_as_they_say():
    frame = table(noise=0.01)
    twice = pd.concat([frame, frame.iloc[:5]], ignore_index=True).assign(seed=range(30))
    weighted = frame.assign(w=np.r_[np.full(5, 2.0), np.ones(20)])
    a = allometry.fit(twice, law="chinchilla", objective="lsq-log", bootstrap=0)
    b = allometry.fit(weighted, law="chinchilla", objective="lsq-log", weights="w", bootstrap=0)
    assert a.parameters["alpha"] == pytest.approx(b.parameters["alpha"], rel=1e-5)


def test_columns_are_named_or_computed():
    frame = table()
    renamed = pd.DataFrame({"model size": frame.N, "FLOP": 6 * frame.N * frame.D, "val": frame.loss})
    columns = {"N": "model size", "D": "`FLOP`/(6*N)", "L": "val"}
    plain = allometry.fit(frame, law="chinchilla", bootstrap=0)
    other = allometry.fit(renamed, law="chinchilla", columns=columns, bootstrap=0)
    assert other.parameters["alpha"] == pytest.approx(plain.parameters["alpha"], rel=1e-6)
    np.testing.assert_allclose(other.predict(renamed), plain.predict(frame), rtol=1e-6)
    np.testing.assert_allclose(other.predict(frame), plain.predict(frame), rtol=1e-6)


def test_the_same_seed_gives_the_same_fit(fitted):
    again = allometry.fit(table(), law="chinchilla", bootstrap=100)
    pd.testing.assert_frame_equal(fitted.samples, again.samples)
    other = allometry.fit(table(), law="chinchilla", bootstrap=100, seed=1)
    assert not np.allclose(fitted.samples["E"], other.samples["E"])


@given(scale=st.floats(0.01, 100), unit=st.sampled_from([1e-3, 1.0, 1e6]))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_exponents_do_not_depend_on_units(scale, unit):
    frame = table()
    moved = frame.assign(N=frame.N * unit, loss=frame.loss * scale)
    result = allometry.fit(moved, law="chinchilla", bootstrap=0)
    plain = allometry.fit(frame, law="chinchilla", bootstrap=0)
    assert result.parameters["alpha"] == pytest.approx(plain.parameters["alpha"], rel=1e-4)
    assert result.parameters["E"] == pytest.approx(scale * plain.parameters["E"], rel=1e-4)


def test_the_report_says_what_a_statistician_asks(fitted):
    text = fitted.report()
    for words in (
        "80% interval",
        "95% interval",
        "starts",
        "condition",
        "correlation",
        "excluded",
        "extrapolation",
        "rms",
    ):
        assert words in text
    assert "simulated with noise" in text  # 25 runs are too few to resample
    assert "<table" in fitted._repr_html_()
    assert {"boot80_lb", "boot95_ub", "estimate"} <= set(fitted.table().columns)


def test_a_fit_survives_json(fitted):
    text = json.dumps(fitted.to_dict(), allow_nan=False)
    back = FitResult.from_dict(json.loads(text))
    assert back.parameters == fitted.parameters
    assert back.interval("alpha") == fitted.interval("alpha")
    assert back.report() == fitted.report()
    with pytest.raises(AllometryError, match="not a fit"):
        FitResult.from_dict({})


def test_a_command_needs_no_torch_and_no_scipy():
    code = (
        "import sys, numpy as np, pandas as pd, allometry\n"
        "x = np.geomspace(1e5, 1e9, 200)\n"
        "allometry.fit(pd.DataFrame({'N': x, 'loss': 7 * x**-0.08}), law='kaplan-n', bootstrap=10)\n"
        "assert 'torch' not in sys.modules and 'scipy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- bad input ----


def test_a_missing_column_is_named_with_a_suggestion():
    with pytest.raises(AllometryError, match="no column 'tokns'") as error:
        allometry.fit(table().rename(columns={"D": "tokens"}), law="chinchilla", columns={"D": "tokns"})
    assert "tokens" in error.value.hint
    with pytest.raises(AllometryError, match="no column 'D'"):
        allometry.fit(table()[["N", "loss"]], law="chinchilla")


@pytest.mark.parametrize(
    "text", ["__import__('os')", "N.real", "N if N else 1", "(lambda: 1)()", "N[0]", "N and 1", "'a'"]
)
def test_expressions_are_arithmetic_only(text):
    with pytest.raises(AllometryError):
        allometry.fit(table(), law="chinchilla", columns={"D": text})


def test_expressions():
    assert names_in("C/(6*`my N`)") == ["C", "my N"]
    assert evaluate("2*x^2 + log10(100)", {"x": 3.0}) == 20
    with pytest.raises(AllometryError, match="unknown function"):
        evaluate("sin(x)", {"x": 1})
    with pytest.raises(AllometryError, match="cannot read"):
        evaluate("1 +", {})


def test_rows_that_cannot_be_used_are_listed_with_reasons():
    frame = table()
    frame.loc[2, "loss"] = np.nan
    frame.loc[4, "N"] = -1
    frame.loc[6, "D"] = np.inf
    frame["status"] = "done"
    frame.loc[8, "status"] = "diverged"
    result = allometry.fit(frame, law="chinchilla", bootstrap=0, exclude={10: "learning rate too high"})
    reasons = result.excluded["reason"].to_dict()
    assert set(reasons) == {2, 4, 6, 8, 10}
    assert "missing" in reasons[2]
    assert "not positive" in reasons[4]
    assert "infinite" in reasons[6]
    assert reasons[8] == "status is diverged"
    assert reasons[10] == "learning rate too high"
    assert len(result.data) == 20
    for label in reasons:
        assert str(label) in result.report()
    assert "data" in names(result)
    with pytest.raises(AllometryError, match="rows that the table does not have"):
        allometry.fit(frame, law="chinchilla", exclude=[99])


def test_units_in_a_column_are_read_with_a_note():
    frame = table()
    frame["N"] = [f"{n / 1e6:.6f}M" for n in frame.N]
    result = allometry.fit(frame, law="chinchilla", bootstrap=0)
    assert result.parameters["alpha"] == pytest.approx(0.34, abs=0.05)
    assert any("read as numbers" in note for note in result.notes)


def test_text_is_not_numbers():
    frame = table().astype({"N": object})
    frame.loc[3, "N"] = "large"
    result = allometry.fit(frame, law="chinchilla", bootstrap=0)
    assert list(result.excluded.index) == [3]
    assert any("'large'" in w.meaning for w in result.warnings)
    frame["N"] = "large"
    with pytest.raises(AllometryError, match="not a column of numbers"):
        allometry.fit(frame, law="chinchilla")


def test_a_column_of_the_wrong_sign_is_refused():
    with pytest.raises(AllometryError, match="not positive in 25 of 25 rows"):
        allometry.fit(table().assign(loss=lambda f: -f.loss), law="chinchilla")


def test_duplicated_rows_are_said():
    frame = pd.concat([table(), table().iloc[:2]], ignore_index=True)
    result = allometry.fit(frame, law="chinchilla", bootstrap=0)
    assert (len(result.data), len(np.unique(result.group)), len(result.excluded)) == (27, 25, 0)
    with_seeds = allometry.fit(frame.assign(seed=np.arange(27) // 25), law="chinchilla", bootstrap=0)
    assert len(with_seeds.data) == 27
    assert len(np.unique(with_seeds.group)) == 27
    assert any("repeat an earlier row" in w.meaning and "25, 26" in w.meaning for w in result.warnings)


def test_a_loss_in_bits_or_a_perplexity_is_suspected():
    frame = table().rename(columns={"loss": "bits_per_token"})
    result = allometry.fit(frame, law="chinchilla", columns={"L": "bits_per_token"}, bootstrap=0)
    assert "loss-scale" in names(result)
    frame = table().assign(loss=lambda f: np.exp(f.loss))
    assert "loss-scale" in names(allometry.fit(frame, law="chinchilla", bootstrap=0))


def test_two_columns_of_one_name():
    frame = table()
    frame.columns = ["N", "N", "loss"]
    with pytest.raises(AllometryError, match="2 columns called 'N'"):
        allometry.fit(frame, law="kaplan-n")


def test_columns_defined_by_each_other():
    with pytest.raises(AllometryError, match="defined by each other"):
        allometry.fit(table(), law="chinchilla", columns={"N": "D/2+0", "D": "N*2+0"})


NESTED = [
    (law, name) for law in all_laws().values() for name in dict.fromkeys(name for name, _ in law.contains)
]


@pytest.mark.parametrize(("law", "inner"), NESTED, ids=[f"{law.name}-{name}" for law, name in NESTED])
def test_a_law_says_its_parameters_by_those_of_a_law_that_it_contains(law, inner):
    contained = get(inner)
    assert set(contained.inputs) <= set(law.inputs)
    assert contained.output == law.output
    for name, said in law.contains:
        if name == inner:
            assert set(said) <= set(law.parameter_names)
            assert set(law.parameter_names) <= set(said) | set(contained.parameter_names)


@pytest.mark.parametrize("law", ["m3", "m4", "broken-1", "broken-2"])
def test_a_law_reaches_at_least_the_optimum_of_the_law_that_it_contains(law):
    rng = np.random.default_rng(3)
    x = np.geomspace(1e5, 1e9, 12)
    frame = pd.DataFrame({"X": x, "L": (1.8 + 50 / x**0.25) * np.exp(0.01 * rng.standard_normal(12))})
    options = {"objective": "lsq-log", "bootstrap": 0, "test": False}
    inner = "broken-1" if law == "broken-2" else "power-offset"
    less, more = (allometry.fit(frame, law=name, **options).objective_value for name in (inner, law))
    assert more <= less * (1 + 1e-6)


def test_a_start_from_a_contained_law_is_its_optimum():
    """A Chinchilla fit is a fit of the additive law under one power, with that power 1."""
    frame = table()
    problem = allometry.fit(frame, law="skaling", bootstrap=0, test=False).problem()
    chinchilla = allometry.fit(frame, law="chinchilla", bootstrap=0, test=False)
    (z,) = _nested_starts(problem)
    assert problem.residuals(z[None])[0][0] == pytest.approx(chinchilla.residuals, abs=1e-6)


@pytest.mark.skipif(not CURVES.exists(), reason=f"published measurements are not at {CURVES}")
def test_laws_reach_the_optima_of_theirs_on_published_curves():
    curves = pd.read_csv(CURVES)
    curves = curves[(curves["Training"] == 1) & (curves["Domain"] == "NMT")]
    for _, rows in list(curves.groupby("Model"))[:2]:
        options = {"objective": "lsq-log", "bootstrap": 0, "test": False}
        options["columns"] = {"X": "Seen Examples", "L": "Loss"}
        lowest = {
            law: allometry.fit(rows, law=law, **options).objective_value
            for law in ("power-offset", "m3", "m4", "broken-1", "broken-2")
        }
        assert max(lowest["m3"], lowest["m4"], lowest["broken-1"]) <= lowest["power-offset"] * (1 + 1e-6)
        assert lowest["broken-2"] <= lowest["broken-1"] * (1 + 1e-6)
