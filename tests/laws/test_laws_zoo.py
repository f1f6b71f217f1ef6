"""Formulas against numbers computed from the printed constants, and the registry's manners."""

import numpy as np
import pytest

import allometry.laws as laws
from allometry.core.errors import AllometryError
from allometry.laws.zoo import areas


@pytest.mark.parametrize(
    ("law", "constants", "inputs", "value"),
    [
        ("kaplan-n", "kaplan2020-table5", {"N": 768}, 6.92617),
        ("kaplan-n", "kaplan2020-table5", {"N": 1e5}, 4.78388),
        ("kaplan-n", "kaplan2020-table5", {"N": 1e6}, 4.01588),
        ("kaplan-n", "kaplan2020-table5", {"N": 1e9}, 2.37564),
        ("kaplan-d", "kaplan2020-table5", {"D": 2.1e7}, 4.06412),
        ("kaplan-d", "kaplan2020-table5", {"D": 1e9}, 2.81564),
        ("kaplan-d", "kaplan2020-table5", {"D": 2.2e10}, 2.09917),
        ("kaplan", "kaplan2020-table2", {"N": 1e6, "D": 1e8}, 4.03131),
        ("kaplan", "kaplan2020-table2", {"N": 1e6, "D": 2.2e10}, 3.92043),
        ("kaplan", "kaplan2020-table2", {"N": 1e8, "D": 1e9}, 2.95673),
        ("kaplan", "kaplan2020-table2", {"N": 1e9, "D": 2.2e10}, 2.36932),
        ("kaplan-ns", "kaplan2020-table3", {"N": 1e6, "S": 1e4}, 4.30113),
        ("kaplan-ns", "kaplan2020-table3", {"N": 1e8, "S": 1e5}, 2.85589),
        ("kaplan-c", "kaplan2020-table5-cmin", {"C": 1e-6}, 5.30357),
        ("kaplan-c", "kaplan2020-table5-cmin", {"C": 1e-3}, 3.75464),
        ("kaplan-c", "kaplan2020-table5-cmin", {"C": 1.0}, 2.65808),
        ("b-crit", "kaplan2020-table5", {"L": 4.0}, 285277),
        ("muennighoff", "muennighoff2023", {"N": 6.34e9, "D": 242e9, "U": 25e9}, 2.2256440890),
        ("muennighoff", "muennighoff2023", {"N": 8.67e9, "D": 178e9, "U": 25e9}, 2.2269634076),
        ("learning-rate", "step2025", {"N": 1e6, "D": 1e8}, 0.027),
        ("batch-size", "step2025", {"N": 1e6, "D": 1e8}, 2.1e4),
        ("learning-rate", "porian2024", {"N": 1e6, "D": 1e8}, 0.022),
        ("learning-rate", "porian2024", {"N": 108e6, "D": 1e8}, 0.0047),
    ],
)
def test_published_constants_give_the_known_values(law, constants, inputs, value):
    chosen = laws.get(law)
    digits = 5e-6 if value > 0.1 and law not in ("learning-rate", "batch-size") else 0.04
    assert chosen.predict(chosen.published[constants], **inputs) == pytest.approx(value, rel=digits)


def test_chinchilla_optimum_is_the_closed_form():
    """N_opt = G (C/6)^a, G = (alpha A / (beta B))^(1/(alpha+beta)), a = beta/(alpha+beta): the loss is
    lowest there.
    """
    law = laws.get("chinchilla")
    p = law.published["besiroglu2024"]
    budget = 5.76e23
    scale = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
    best = scale * (budget / 6) ** (p["beta"] / (p["alpha"] + p["beta"]))
    sizes = best * np.geomspace(0.5, 2, 2001)
    losses = law.predict(p, N=sizes, D=budget / (6 * sizes))
    assert sizes[np.argmin(losses)] == pytest.approx(best, rel=1e-3)
    assert budget / 6 / best**2 == pytest.approx(18.4, abs=0.15)  # tokens a parameter


@pytest.mark.parametrize(
    ("experts", "budget", "size", "tokens"),
    [(1, 1e20, 1.7e9, 9.7e9), (8, 1e21, 3.8e9, 44.3e9), (32, 1e22, 12.2e9, 136.9e9)],
)
def test_the_best_size_with_experts_is_the_printed_one(experts, budget, size, tokens):
    """Ludziejewski et al. 2025, table 1, from the constants of table 3."""
    law = laws.get("joint-experts")
    sizes = np.geomspace(1e8, 1e11, 4001)
    losses = law.predict(law.published["ludziejewski2025"], N=sizes, D=budget / (6 * sizes), n_E=experts)
    best = sizes[np.argmin(losses)]
    assert best == pytest.approx(size, rel=0.02)
    assert budget / (6 * best) == pytest.approx(tokens, rel=0.02)


def test_joint_experts_of_one_number_are_chinchilla():
    """Ludziejewski et al. 2025, table 4: m, mu, n and nu of 8 experts."""
    law = laws.get("joint-experts")
    p = law.published["ludziejewski2025"]
    n, d = np.geomspace(1e8, 1e10, 5), np.geomspace(1e10, 1e11, 5)
    there = 21.8330 * n**-0.1676 + 119.9126 * d**-0.2338 + 1.3637
    np.testing.assert_allclose(law.predict(p, N=n, D=d, n_E=8.0), there, rtol=1e-3)


def test_laws_become_the_plain_law_where_their_input_does_nothing():
    plain = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
    at = {"N": 3e8, "D": 7e9}
    chinchilla = float(laws.get("chinchilla").predict(plain, **at))
    bits = laws.get("precision").predict(
        {**plain, "gamma_w": 2.0, "gamma_a": 2.0, "gamma_kv": 2.0}, **at, P_w=99.0, P_a=99.0, P_kv=99.0
    )
    rounded = laws.get("quantised").predict(
        {**plain, "C": 1e-3, "gamma_D": 0.5, "gamma_N": 0.5, "gamma_post": 0.5}, **at, P_post=99.0
    )
    looped = laws.get("looped").predict({**plain, "phi": 0.46}, N_once=1e8, N_rec=2e8, r=1.0, D=7e9)
    farseer = laws.get("farseer").predict(
        {"s": 0.0, "q": 0.1, "S": np.log(1.8), "A": 0.0, "a": 0.1, "E": np.log(0.37), "B": 0.0, "b": -0.1,
         "Q": np.log(2100.0)}, **at
    )  # fmt: skip
    for other in (bits, rounded, looped):
        assert float(other) == pytest.approx(chinchilla, rel=1e-12)
    assert float(farseer) == pytest.approx(1.8 + 2100 / 7e9**0.37, rel=1e-12)
    ends = {
        "E": 1.8,
        "L_0": 10.0,
        "a": 1e3,
        "b": 1e3,
        "c": 1.0,
        "alpha": 0.5,
        "beta": 0.5,
        "gamma": 0.5,
        "delta": 0.5,
    }
    assert float(laws.get("bryant").predict(ends, N=1e-20, D=1e9, U=1e9)) == pytest.approx(10.0)
    assert float(laws.get("bryant").predict(ends, N=1e20, D=1e30, U=1e40)) == pytest.approx(1.8, rel=1e-5)


def test_gadre_is_the_same_law_in_compute():
    """L(N, M) = p N^b + q 6^(b/2) (M N)^b + E of the authors' code, with eta = -b/2, a = p 6^eta, b' = q."""
    p, q, b, floor = 200.0, 300.0, -0.3, 1.8
    n, m = 4.11e8, 80.0
    code = p * n**b + q * 6 ** (b / 2) * (m * n) ** b + floor
    constants = {"E": floor, "eta": -b / 2, "a": p * 6 ** (-b / 2), "b": q}
    assert laws.get("gadre").predict(constants, N=n, M=m) == pytest.approx(code, rel=1e-9)


def test_repeating_data_once_is_the_plain_law():
    law = laws.get("muennighoff")
    p = law.published["muennighoff2023"]
    plain = {k: p[k] for k in ("E", "A", "B", "alpha", "beta")}
    fresh = law.predict(p, N=1e8, D=2e9, U=2e12)
    assert fresh == pytest.approx(laws.get("chinchilla").predict(plain, N=1e8, D=2e9), rel=1e-12)
    assert law.predict(p, N=1e8, D=2e11, U=2e9) > law.predict(p, N=1e8, D=2e11, U=2e11)


def test_m4_is_solved_to_its_equation():
    law = laws.get("m4")
    p = {"E": 1.5, "A": 30.0, "c": 0.3, "alpha": 0.4, "L_0": 10.0}
    x = np.geomspace(1, 1e9, 50)
    loss = law.predict(p, X=x)
    left, right = (loss - p["E"]) / (p["L_0"] - loss) ** p["alpha"], p["A"] * x ** -p["c"]
    np.testing.assert_allclose(left, right, rtol=1e-9)
    assert np.all(np.diff(loss) < 0)


def test_rosenfeld_saturates_at_random_guessing():
    law = laws.get("rosenfeld")
    p = {"E": 1.5, "A": 400.0, "B": 400.0, "alpha": 0.4, "beta": 0.4, "L_0": 10.8}
    assert law.predict(p, N=1e-6, D=1e-6) == pytest.approx(10.8, rel=1e-3)
    assert law.predict(p, N=1e15, D=1e15) == pytest.approx(1.5 / np.sqrt(1 + (1.5 / 10.8) ** 2), rel=1e-2)


def test_schedule_areas():
    """S_1 sums the rates; S_2 of a constant schedule is zero, and a sudden drop adds up to drop/(1 -
    decay).
    """
    first, second = areas(np.full(100, 0.01))
    assert first[-1] == pytest.approx(1.0)
    assert np.all(second == 0)
    first, second = areas(np.r_[np.full(10, 0.01), np.zeros(200_000)], decay=0.999)
    assert second[9] == 0
    assert second[-1] == pytest.approx(0.01 / (1 - 0.999), rel=1e-6)


def test_areas_of_a_warm_up_do_not_count_as_annealing():
    rate = np.r_[np.linspace(0.001, 0.01, 10), np.full(50, 0.01)]
    assert np.all(areas(rate)[1] == 0)


def test_samples_broadcast_against_points():
    law = laws.get("power")
    out = law.predict(
        {"A": np.array([[1.0], [2.0]]), "alpha": np.array([[0.1], [0.2]])}, X=np.array([1.0, 10.0, 100.0])
    )
    assert out.shape == (2, 3)
    assert law.gradient({"A": 1.0, "alpha": 0.1}, X=[1.0, 10.0, 100.0]).shape == (3, 2)


def test_unknown_names_get_a_suggestion():
    with pytest.raises(AllometryError, match="unknown law 'chinchila'") as error:
        laws.get("chinchila")
    assert "chinchilla" in str(error.value.hint)
    with pytest.raises(AllometryError, match="unknown parameter"):
        laws.get("power").predict({"A": 1, "alpa": 1}, X=1)
    with pytest.raises(AllometryError, match="needs the input X"):
        laws.get("power").predict({"A": 1, "alpha": 1})
    with pytest.raises(AllometryError, match="unknown input"):
        laws.get("power").predict({"A": 1, "alpha": 1}, N=1)
