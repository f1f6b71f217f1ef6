"""Loss curves under learning-rate schedules: the paper's sum, its gradient, planted constants, intervals."""

import json

import numpy as np
import pandas as pd
import pytest

from allometry.cli import main
from allometry.core.errors import AllometryError
from allometry.laws.curves import NAMES, PRINTED, _made, fit_curves, schedule

TRUTH = dict(zip(NAMES, PRINTED["100M"], strict=True))
STEP = np.arange(500.0, 10_001, 250)
RATES = {
    "flat": np.full(39, 3e-4),
    "cosine": 3e-5 + 1.35e-4 * (1 + np.cos(np.pi * (STEP - 500) / 9500)),
    "two stages": np.where(STEP < 5000, 3e-4, 9e-5),
}


def loss(step, rate, warmup=None):
    rates = schedule(step, rate, warmup)
    fall = TRUTH["B"] * rates.reduction(TRUTH["C"], TRUTH["beta"], TRUTH["gamma"])
    return TRUTH["L_0"] + TRUTH["A"] * rates.total ** -TRUTH["alpha"] - fall


def curves(noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return pd.concat(
        pd.DataFrame({"run": name, "step": STEP, "lr": rate,
                      "loss": loss(STEP, rate) * np.exp(noise * rng.standard_normal(len(STEP)))})
        for name, rate in RATES.items()
    )  # fmt: skip


def by_the_paper(rates, C, beta, gamma):
    """LD after the last step, the double sum as it is written, with one rate a step from step 1 on."""
    gained = 0.0
    for k in range(1, len(rates)):
        x = rates[k] ** -gamma * rates[k:].sum()
        gained += (rates[k - 1] - rates[k]) * (1 - (C * x + 1) ** -beta)
    return gained


def test_the_reduction_is_the_sum_of_the_paper():
    every = np.r_[np.linspace(0, 3e-4, 500), np.full(1500, 3e-4), np.linspace(3e-4, 3e-5, 2000)]
    exact = by_the_paper(every, 2.1, 0.6, 0.65)
    logged = np.arange(500, 4000, 50)
    made = schedule(logged, every[logged])
    assert made.reduction(2.1, 0.6, 0.65)[-1] == pytest.approx(
        by_the_paper(every[:3951], 2.1, 0.6, 0.65), abs=6e-7
    )
    assert made.total[-1] == pytest.approx(every[:3951].sum(), rel=1e-3)
    assert exact > made.reduction(2.1, 0.6, 0.65)[-1]


def test_a_jump_between_two_logged_steps_is_a_jump_and_not_a_ramp():
    every = np.r_[np.full(2000, 3e-4), np.full(1000, 3e-5)]
    logged = np.r_[np.arange(100, 2000, 100), 2000, np.arange(2100, 3000, 100)]
    made = schedule(logged, every[logged - 1 + (logged == 2000)], warmup=0)
    assert made.total[-1] == pytest.approx(every[:2900].sum(), rel=1e-3)
    np.testing.assert_allclose(made.drop[60:], [2.7e-4])
    assert made.since[-1, 60] == pytest.approx(900 * 3e-5, rel=1e-6)


def test_the_gradient_is_exact():
    tables = {name: part.rename(columns={"step": "S", "loss": "L"}) for name, part in curves().groupby("run")}
    made = _made(tables, None)
    z = made.coordinates(TRUTH) + 0.1
    _, exact = made.residuals(z[None])
    for i in range(7):
        up, down = (made.residuals((z + s * 1e-6 * np.eye(7)[i])[None])[0][0] for s in (1, -1))
        np.testing.assert_allclose(exact[0, i], (up - down) / 2e-6, rtol=1e-5, atol=1e-9)
    back = made.natural(made.coordinates(TRUTH))
    assert back == pytest.approx(TRUTH)


def test_planted_curves_predict_an_unseen_schedule():
    fit = fit_curves(curves(noise=0.001, seed=1))
    late = np.where(STEP < 8000, 3e-4, 3e-4 * (1 - 0.9 * (STEP - 8000) / 2000))
    made = fit.along(STEP, late)
    truth = loss(STEP, late)
    np.testing.assert_allclose(made["predicted"], truth, rtol=1.5e-3)
    assert ((made["low95"] <= truth) & (truth <= made["high95"])).mean() > 0.9
    assert fit.dof == 3
    assert fit.noise < 0.004
    longer = np.arange(500.0, 40_001, 500)
    wide = fit.along(longer, np.full(len(longer), 3e-4))
    width = np.log(wide["high95"] / wide["low95"])
    assert width.iloc[-1] >= width.iloc[5]


def test_curves_that_cannot_say_what_a_decay_gains_are_refused():
    flat = curves().query("run == 'flat'")
    with pytest.raises(AllometryError, match="no learning rate in the table falls"):
        fit_curves(flat)
    with pytest.raises(AllometryError, match="several rows at one step"):
        fit_curves(curves().drop(columns="run"))
    with pytest.raises(AllometryError, match="must not be negative"):
        schedule([1.0, 2.0], [1e-3, -1e-3])
    alone = fit_curves(curves().query("run == 'cosine'"))
    assert alone.dof == 0
    assert alone.along(STEP, RATES["flat"])[["low80", "high95"]].isna().all(axis=None)
    assert "no intervals" in alone.report()


def test_the_command_reads_a_file_a_run(tmp_path, capsys):
    for name, part in curves().groupby("run"):
        part.drop(columns="run").to_csv(tmp_path / f"{name.replace(' ', '_')}.csv", index=False)
    files = [str(path) for path in sorted(tmp_path.glob("*.csv"))]
    late = pd.DataFrame({"step": STEP, "lr": np.where(STEP < 8000, 3e-4, 1e-4)})
    late.to_csv(tmp_path / "new.tsv", sep="\t", index=False)
    with pytest.raises(SystemExit) as done:
        main(["curves", *files, "--predict", str(tmp_path / "new.tsv")])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert "fitted to 3 curves" in shown
    value = float(shown.split("predicted at step 10000: ")[1].split(",")[0])
    assert value == pytest.approx(loss(STEP, late.lr.to_numpy())[-1], rel=1e-3)
    assert max(map(len, shown.splitlines())) <= 80
    with pytest.raises(SystemExit):
        main(["curves", files[0], "--predict", files[1], "--json"])
    made = json.loads(capsys.readouterr().out)
    assert made["curves"][0]["points"] == len(STEP)
    assert made["predicted"][0]["low95"] is None
