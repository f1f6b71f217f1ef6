"""What every law of the zoo must do, asked of each without its author's help."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from allometry.laws import all_laws
from allometry.laws.fit import fit
from allometry.laws.problem import Problem
from allometry.laws.solver import get_objective

LAWS = all_laws()
RANGES = {
    "X": (1e3, 1e9),
    "N": (1e6, 3e9),
    "D": (1e8, 1e11),
    "U": (3e7, 3e10),
    "M": (3.0, 300.0),
    "R": (0.5, 200.0),
    "C": (1e16, 1e21),
    "S": (3e3, 3e5),
    "L": (2.0, 5.0),
    "T": (1.0, 1024.0),
    "D_F": (1e5, 1e9),
    "S_1": (1.0, 100.0),
    "S_2": (0.0, 0.5),
    "n_E": (1.0, 512.0),
    "P": (1.0, 64.0),
    "N_nv": (1e7, 3e9),
    "N_v": (1e6, 3e8),
    "P_w": (2.0, 16.0),
    "P_a": (2.0, 16.0),
    "P_kv": (2.0, 16.0),
    "P_post": (3.0, 12.0),
    "N_once": (1e6, 3e8),
    "N_rec": (1e6, 3e8),
    "r": (1.0, 8.0),
    **{f"r_{i}": (0.0, 0.5) for i in (1, 2, 3, 4)},
    **{f"h_{i}": (0.05, 0.9) for i in (1, 2, 3)},
}


def design(law):
    """A grid over the law's inputs: 60 values of one, 8 x 8 of two, 5 x 5 x 5 of three, fewer of more."""
    count = {1: 60, 2: 8, 3: 5, 4: 4, 5: 3}[len(law.inputs)]
    axes = [(np.linspace if n in law.linear else np.geomspace)(*RANGES[n], count) for n in law.inputs]
    return dict(zip(law.inputs, map(np.array, zip(*itertools.product(*axes), strict=True)), strict=True))


def planted(law, output_size=2.5):
    """Parameters in the middle of the ranges that starts are drawn from, for an output of the given size."""
    inputs = design(law)
    size = np.full(len(next(iter(inputs.values()))), output_size)
    problem = Problem(
        law=law,
        objective=get_objective("lsq-log"),
        inputs=inputs,
        output=size,
        weights=np.ones(len(size)),
        fixed={},
        tied={},
    )
    z = problem.ranges.mean(axis=1) + 0.07 * np.arange(len(problem.free)) / len(problem.free)
    return {n: float(v) for n, v in problem.natural(z).items()}, inputs


@pytest.fixture(params=LAWS.values(), ids=LAWS.keys())
def law(request):
    return request.param


def test_it_says_where_it_comes_from(law):
    assert law.source
    assert law.title
    assert law.output_meaning
    assert all(law.inputs.values())
    assert all(p.meaning for p in law.parameters)


def test_its_latex_names_everything(law):
    import sympy as sp

    for name in (law.output, *law.inputs, *law.parameter_names):
        assert sp.latex(sp.Symbol(name)) in law.latex


def test_its_published_constants_evaluate(law):
    for name, constants in law.published.items():
        assert constants.name == name
        assert constants.source
        assert set(constants.values) == set(law.parameter_names)
        value = law.predict(constants, **{n: np.geomspace(*RANGES[n], 3) + 1e-9 for n in law.inputs})
        assert np.all(np.isfinite(value))
        assert np.all(value > 0)


def test_its_gradient_is_exact(law):
    params, inputs = planted(law)
    exact = law.gradient(params, **inputs)
    for i, name in enumerate(law.parameter_names):
        h = 1e-6 * max(abs(params[name]), 1e-3)
        up, down = (law.predict({**params, name: params[name] + s * h}, **inputs) for s in (1, -1))
        numeric = (up - down) / (2 * h)
        np.testing.assert_allclose(exact[:, i], numeric, rtol=2e-4, atol=1e-5 * np.abs(numeric).max())


def test_the_fit_recovers_planted_parameters(law):
    params, inputs = planted(law)
    truth = law.predict(params, **inputs)
    assert np.all(truth > 0)
    frame = pd.DataFrame({**inputs, law.output: truth})
    result = fit(frame, law=law, objective="lsq-log", bootstrap=0)
    np.testing.assert_allclose(result.predict(frame), truth, rtol=1e-5)
    if not law.name.startswith("broken-"):  # several breaks may be exchanged, or stand in for each other
        for name, value in params.items():
            assert result.parameters[name] == pytest.approx(value, rel=2e-3, abs=1e-6), name


def test_the_documentation_lists_it(law):
    text = (Path(__file__).parents[2] / "docs" / "laws.md").read_text()
    assert f"| `{law.name}` |" in text
    assert law.source in text
