import json

import numpy as np
import pandas as pd
import pytest

import allometry
from allometry.core.errors import AllometryError
from allometry.core.units import PF_DAY
from allometry.laws.fit import fit
from allometry.laws.zoo import get
from allometry.planner import next_runs, plan
from allometry.planner.allocate import Efficient, convergence_trade, excess_compute, excess_steps
from allometry.planner.source import best_size, chinchilla_optimum, effective_tokens, from_published

EPOCH = dict(get("chinchilla").published["besiroglu2024"].values)
KAPLAN = Efficient(alpha_N=0.077, alpha_S=0.76, N_c=6.5e13, S_c=2.1e3, alpha_B=0.21, B_star=2.1e8)


@pytest.fixture(scope="module")
def fitted():
    grid = [(n, d) for n in np.logspace(6, 9, 7) for d in np.logspace(8, 11, 6)]
    frame = pd.DataFrame(grid, columns=["N", "D"])
    wobble = np.exp(0.003 * np.random.default_rng(0).standard_normal(len(frame)))
    frame["loss"] = get("chinchilla").predict(EPOCH, N=frame["N"], D=frame["D"]) * wobble
    return fit(frame, law="chinchilla", bootstrap=60)


def test_kaplan_appendix_b():
    assert KAPLAN.alpha_C == pytest.approx(0.0525, abs=5e-5)
    assert KAPLAN.C_c == pytest.approx(1.6e8, rel=0.02)
    assert KAPLAN.loss(1.0) == pytest.approx(2.69, abs=0.005)
    assert KAPLAN.size(1.0) == pytest.approx(5.8e8, rel=0.01)
    assert KAPLAN.steps(1.0) == pytest.approx(1.3e4, rel=0.05)
    assert KAPLAN.batch(1.0) == pytest.approx(1.9e6, rel=0.03)
    assert 6 * KAPLAN.size(1.0) * KAPLAN.steps(1.0) * KAPLAN.batch(1.0) == pytest.approx(PF_DAY, rel=1e-9)


def test_kaplan_efficient_training_stops_ten_percent_above_convergence():
    converged = (KAPLAN.N_c / KAPLAN.size(2.0)) ** 0.077
    assert KAPLAN.loss(2.0) / converged == pytest.approx(1 + 0.077 / 0.76, rel=1e-9)
    assert KAPLAN.compute_at(KAPLAN.size(2.0), KAPLAN.loss(2.0)) == pytest.approx(2.0, rel=1e-9)
    assert KAPLAN.compute_for(KAPLAN.loss(2.0)) == pytest.approx(2.0, rel=1e-9)


def test_kaplan_cost_of_a_wrong_size():
    assert excess_compute(0.6) == pytest.approx(1.165, abs=1e-3)
    assert excess_compute(2.2) == pytest.approx(1.204, abs=1e-3)
    assert excess_steps(2.2) == pytest.approx(0.547, abs=1e-3)
    assert excess_compute(1.0) == pytest.approx(1.0)
    size, steps, compute = convergence_trade(0.077 / 0.76, 0.02, 0.077, 0.76)
    assert (size, steps) == (pytest.approx(2.7, abs=0.05), pytest.approx(0.13, abs=0.005))
    assert compute == pytest.approx(0.35, abs=0.01)
    ratio = KAPLAN.compute_at(1.7 * KAPLAN.size(1.0), KAPLAN.loss(1.0))
    assert ratio == pytest.approx(excess_compute(1.7), rel=1e-9)


@pytest.mark.parametrize("C", [1e15, 5.76e23, 1e26])
def test_the_search_agrees_with_the_closed_form(C):
    source = from_published("chinchilla", "besiroglu2024")
    size, loss = best_size(source, source.parameters, C)
    expected, tokens = chinchilla_optimum(C, EPOCH["A"], EPOCH["B"], EPOCH["alpha"], EPOCH["beta"])
    assert size[0] == pytest.approx(expected, rel=1e-4)
    assert 6 * expected * tokens == pytest.approx(C)
    assert loss[0] == pytest.approx(get("chinchilla").predict(EPOCH, N=expected, D=tokens), rel=1e-9)


def test_chinchilla_at_the_budget_of_gopher():
    planned = plan(5.76e23, published="besiroglu2024")
    assert planned.N.value == pytest.approx(72e9, rel=0.02)
    assert planned.D.value / planned.N.value == pytest.approx(18.4, abs=0.3)
    assert np.isnan(planned.N.interval()[0])


@pytest.mark.parametrize("law", ["chinchilla", "kaplan", "kaplan-ns", "muennighoff"])
def test_published_constants_plan_without_data_and_say_so(law):
    planned = allometry.plan(1e18, law=law)
    assert planned.C.value == pytest.approx(1e18)
    assert planned.steps.value * planned.batch.value == pytest.approx(planned.D.value, rel=1e-6)
    assert any("without uncertainty" in n for n in planned.notes)
    assert "et al." in planned.report()
    json.dumps(planned.to_dict(), allow_nan=False)


def test_a_fit_gives_intervals_and_says_how_far_it_extrapolates(fitted):
    planned = plan(1e23, fit=fitted)
    low, high = planned.N.interval(0.95)
    true, _ = chinchilla_optimum(1e23, EPOCH["A"], EPOCH["B"], EPOCH["alpha"], EPOCH["beta"])
    assert low < true < high
    assert planned.beyond["C"] == pytest.approx(1e23 / 6e20)
    assert any("extrapolates" in w for w in planned.warnings)
    assert "beyond the data" in planned.report()
    assert "<pre>" in planned._repr_html_()
    inside = plan(1e20, fit=fitted)
    assert inside.beyond["C"] == 1
    assert not any("extrapolates" in w for w in inside.warnings)


def test_a_target_loss_is_the_budget_turned_round(fitted):
    there = plan(1e20, fit=fitted)
    back = plan(loss=there.loss.value, fit=fitted)
    assert back.C.value == pytest.approx(1e20, rel=1e-3)
    assert back.N.value == pytest.approx(there.N.value, rel=1e-2)


@pytest.mark.parametrize("fixed", [{"N": 1e8}, {"D": 2e10}, {"tokens_per_parameter": 200}])
def test_over_training(fixed):
    budget = plan(1e20, **fixed)
    assert budget.loss.value >= plan(1e20).loss.value
    back = plan(loss=budget.loss.value, **fixed)
    assert back.C.value == pytest.approx(1e20, rel=1e-3)
    name, value = next(iter(fixed.items()))
    ratio = {"N": budget.N.value, "D": budget.D.value}.get(name, budget.D.value / budget.N.value)
    assert ratio == pytest.approx(value)


def test_the_batch_is_a_rule_that_makes_sense_or_the_one_given():
    large = plan(1e22)
    bytes_ = pd.DataFrame(
        [(n, d) for n in np.logspace(4, 6, 5) for d in np.logspace(6, 8, 5)], columns=["N", "D"]
    )
    bytes_["loss"] = 1.0 + 30 / bytes_["N"] ** 0.45 + 900 / bytes_["D"] ** 0.55
    small = plan(1e14, fit=fit(bytes_, law="chinchilla", bootstrap=0))
    assert large.batch.value == pytest.approx(2.1e8 / large.loss.value ** (1 / 0.21))
    assert small.steps.value > 50
    assert any("Step Law" in n for n in small.notes)
    assert plan(1e22, batch=2**19).batch.value == 2**19


def test_hours_are_a_budget():
    assert plan(hours=10, speed=1e12).C.value == pytest.approx(3.6e16)
    assert plan(hours=10, speed=1e12).seconds == pytest.approx(36000)


def test_other_sizes_cost_more():
    sizes = plan(1e20).sizes
    assert (sizes["loss_change"] > 0).all()
    assert (sizes["compute_ratio"] > 1).all()


def test_little_data_means_fewer_epochs_worth_having():
    free, tight = plan(1e20, law="muennighoff"), plan(1e20, law="muennighoff", unique=1e9)
    assert tight.loss.value > free.loss.value
    assert tight.D.value < free.D.value * 3
    assert tight.epochs is not None
    worth = tight.epochs.set_index("epochs")["worth"]
    assert worth.loc[1] == 1
    assert worth.loc[4] > 0.9 > worth.loc[16] > worth.loc[40]
    assert "epochs)" in tight.report()
    discounted = plan(1e20, unique=1e9)
    assert any("R_D*" in n for n in discounted.notes)


def test_muennighoff_values():
    source = from_published("muennighoff")
    first = source.loss(source.parameters, np.array([6.34e9]), np.array([242e9]), 25e9)
    second = source.loss(source.parameters, np.array([8.67e9]), np.array([178e9]), 25e9)
    assert first[0] == pytest.approx(2.2256440890, rel=1e-6)
    assert second[0] == pytest.approx(2.2269634076, rel=1e-6)
    assert effective_tokens(1e9, 2e9) == 1e9


def test_kaplans_own_allocation_can_be_fitted_and_planned_with():
    grid = [(n, s) for n in np.logspace(5, 9, 6) for s in np.logspace(3, 6, 5)]
    frame = pd.DataFrame(grid, columns=["N", "S"])
    table3 = dict(get("kaplan-ns").published["kaplan2020-table3"].values)
    frame["loss"] = get("kaplan-ns").predict(table3, N=frame["N"], S=frame["S"])
    fitted = fit(frame, law="kaplan-ns", bootstrap=0)
    planned = plan(PF_DAY, fit=fitted)
    assert planned.N.value == pytest.approx(KAPLAN.size(1.0), rel=0.01)
    assert planned.batch.value == pytest.approx(KAPLAN.batch(1.0), rel=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing says"),
        ({"budget": 1e18, "loss": 3.0}, "contradict"),
        ({"hours": 3.0}, "speed"),
        ({"budget": -1.0}, "positive"),
        ({"budget": 1e18, "N": 1e6, "D": 1e6}, "cannot all be fixed"),
        ({"loss": 1.0}, "never reaches"),
        ({"budget": 1e18, "law": "power"}, "no loss from N and D"),
        ({"budget": 1e18, "law": "skaling"}, "no paper's constants"),
        ({"budget": 1e18, "published": "hofman"}, "hoffmann2022"),
        ({"budget": 1e18, "law": "kaplan-ns", "N": 1e6}, "compute-efficient"),
    ],
)
def test_bad_requests_are_explained(options, message):
    with pytest.raises(AllometryError, match=message):
        plan(**options)


def test_the_next_runs_make_the_target_surer(fitted):
    design = next_runs(fitted, budget=1e20, target="loss@1e22", most=4)
    assert design.runs["C"].sum() <= 1e20
    assert design.after < design.before
    assert (np.diff(design.runs["deviation"]) <= 0).all()
    assert "4 runs" in design.report()
    json.dumps(design.to_dict(), allow_nan=False)


@pytest.mark.parametrize("target", ["a", "N_opt@1e21", "alpha"])
def test_any_target_can_be_named(fitted, target):
    assert next_runs(fitted, budget=1e19, target=target, most=2).after > 0


def test_the_loss_of_a_run_is_a_target_and_the_promised_deviation_comes_true(fitted):
    """The deviation that the design promises is the one that refits show."""
    point = {"N": 5e9, "D": 3e11}
    design = next_runs(fitted, budget=3e20, target="L@N=5B,D=300B", most=6)
    assert design.value == pytest.approx(float(fitted.predict(**point)))
    assert design.after < 0.9 * design.before
    assert next_runs(fitted, budget=3e20, target=point, most=6).after == pytest.approx(design.after)
    runs = pd.concat([fitted.data[["N", "D"]], design.runs[["N", "D"]]])
    truth, predicted = fitted.predict(N=runs.N, D=runs.D), []
    for seed in range(60):
        noise = np.exp(fitted.rms * np.random.default_rng(seed).standard_normal(len(runs)))
        again = fit(
            runs.assign(loss=truth * noise), law="chinchilla", objective="lsq-log", bootstrap=0, test=False
        )
        predicted.append(float(again.predict(**point)))
    assert np.std(predicted) == pytest.approx(design.after, rel=0.3)


def test_several_points_are_one_target(fitted):
    points = {"N": [2e9, 5e9], "D": 1e11}
    both = next_runs(fitted, budget=1e20, target=points, most=3)
    each = [next_runs(fitted, budget=1e20, target={"N": n, "D": 1e11}, most=3).before for n in (2e9, 5e9)]
    assert both.before == pytest.approx(np.sqrt(np.mean(np.square(each))))


def test_two_recipes_are_told_apart_by_runs_of_both(fitted):
    rng = np.random.default_rng(1)
    frame = fitted.data.assign(
        loss=fitted.data["L"] * 0.99 * np.exp(0.003 * rng.standard_normal(len(fitted.data)))
    )
    second = fit(frame.drop(columns="L").iloc[::5], law="chinchilla", bootstrap=0, test=False)
    design = next_runs(fitted, against=second, budget=1e20, target="L@N=5B,D=300B", most=6)
    gap = float(fitted.predict(N=5e9, D=3e11) - second.predict(N=5e9, D=3e11))
    assert design.value == pytest.approx(gap)
    assert design.after < design.before
    assert (design.runs["recipe"] == 2).sum() > (
        design.runs["recipe"] == 1
    ).sum()  # it has a fifth of the runs
    alone = next_runs(second, budget=1e20, target="L@N=5B,D=300B", most=6)
    assert design.before > alone.before
    with pytest.raises(AllometryError, match="fits of one law"):
        next_runs(against=second, budget=1e20, target="alpha")


def test_a_law_with_other_inputs_takes_a_pool_and_a_cost():
    law = get("experts")
    truth = {"E": 1.6, "A": 43.0, "alpha": 0.2, "beta": 0.08}
    pool = pd.DataFrame([(n, e) for n in np.logspace(7, 9, 6) for e in (1, 4, 16, 64)], columns=["N", "n_E"])
    few = pool.iloc[[0, 1, 5, 9, 13, 14, 20]]
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(len(few)))
    done = few.assign(L=law.predict(truth, N=few.N, n_E=few.n_E) * noise)
    fitted = fit(done, law="experts", bootstrap=0, test=False)
    rest = pool.drop(index=few.index)
    design = next_runs(fitted, budget=2e9, target="L@N=10B,n_E=64", candidates=rest, cost="N", most=5)
    assert design.runs["C"].sum() <= 2e9
    assert not design.runs[["N", "n_E"]].duplicated().any()
    assert design.after < design.before
    assert "FLOPs" not in design.report().splitlines()[0]
    with pytest.raises(AllometryError, match="needs a pool"):
        next_runs(fitted, budget=1e20, target="alpha")
    with pytest.raises(AllometryError, match="nothing says what a run costs"):
        next_runs(fitted, budget=1e20, target="alpha", candidates=rest)
    with pytest.raises(AllometryError, match="needs n_E"):
        next_runs(fitted, budget=1e20, target={"N": 1e9}, candidates=rest, cost="N")
    with pytest.raises(AllometryError, match="gives L, not B_crit"):
        next_runs(fitted, budget=1e20, target="B_crit@L=2.5", candidates=rest, cost="N")


def test_the_critical_batch_at_a_loss_is_a_target():
    losses = np.linspace(2.4, 5, 6)
    noise = np.exp(0.1 * np.random.default_rng(0).standard_normal(6))
    frame = pd.DataFrame({"L": losses, "B_crit": 2.1e8 / losses ** (1 / 0.21) * noise})
    fitted = fit(frame, law="b-crit", bootstrap=0, test=False)
    pool = pd.DataFrame({"L": [2.2, 2.6, 3.0, 4.0]})
    design = next_runs(fitted, budget=2, target="B_crit@L=2", candidates=pool, cost="1")
    assert design.value == pytest.approx(float(fitted.predict(L=2.0)))
    assert len(design.runs) == 2
    assert design.runs["L"].min() == 2.2
    assert design.after < design.before


def test_designs_that_cannot_identify_the_target_are_refused():
    sizes = np.logspace(6, 8, 8)
    one_ratio = pd.DataFrame({"N": sizes, "D": 20 * sizes})
    with pytest.raises(AllometryError, match="one D/N"):
        next_runs(budget=1e20, target="alpha", candidates=one_ratio)
    two_levels = pd.DataFrame([(n, d) for n in (1e6, 1e7) for d in (1e8, 1e9, 1e10)], columns=["N", "D"])
    with pytest.raises(AllometryError, match="2 sizes"):
        next_runs(budget=1e20, target="alpha", candidates=two_levels)
    design = next_runs(budget=1e20, target="alpha", most=8)
    assert np.isinf(design.before)
    assert design.runs["N"].nunique() >= 3


def test_an_unknown_target_is_explained(fitted):
    with pytest.raises(AllometryError, match="unknown target"):
        next_runs(fitted, budget=1e18, target="beauty")


def test_n_and_d_alone_give_the_loss_of_that_run():
    """8.7B parameters on 178B tokens of which 25.4B are unique (Muennighoff et al. 2023)."""
    run = {"N": 8.7e9, "D": 178e9, "law": "muennighoff"}
    assert plan(**run, unique=25.4285714e9).loss.value == pytest.approx(2.226081, abs=1e-6)
    assert plan(**run).loss.value == pytest.approx(2.192164, abs=1e-6)
    assert plan(**run).C.value == pytest.approx(6 * 8.7e9 * 178e9)
    with pytest.raises(AllometryError, match="cannot all be fixed"):
        plan(1e21, **run)


def test_the_loss_of_a_run_has_the_fits_interval(fitted):
    low, high = plan(N=1e9, D=1e10, fit=fitted).loss.interval()
    expected = fitted.interval_at({"N": [1e9], "D": [1e10]})
    assert (low, high) == (pytest.approx(expected[0][0], rel=1e-3), pytest.approx(expected[1][0], rel=1e-3))


def test_epochs_are_printed_as_they_are_computed():
    planned = plan(N=8.7e9, D=88.2e9, unique=25.4e9, law="muennighoff")
    row = float(planned.epochs["worth"][(planned.epochs["epochs"] - 88.2 / 25.4).abs().argmin()])
    assert f"3.47 epochs  worth {row:.1%}" in planned.report()


def test_steps_spread_as_tokens_over_a_given_batch(fitted):
    planned = plan(1e21, fit=fitted, batch=2**20)
    for level in (0.8, 0.95):
        tokens, steps = planned.D.interval(level), planned.steps.interval(level)
        np.testing.assert_allclose(np.array(steps) * 2**20, tokens, rtol=1e-9)


def test_printed_intervals_are_those_of_the_draws(fitted):
    planned = plan(1e21, fit=fitted)
    for level in (0.5, 0.9):
        low, high = np.quantile(planned.loss.samples, [(1 - level) / 2, (1 + level) / 2])
        assert f"{100 * level:.0f} % [{low:.4f}, {high:.4f}]" in planned.report(level)


@pytest.mark.parametrize(("N", "D"), [(1e9, 1e12), (1e9, 1.0), (1.0, 1e9)])
def test_sizes_and_tokens_that_are_no_counts_are_refused(N, D):
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(2e8, 2e10, 5)))
    frame = pd.DataFrame({"N": n / N, "D": d / D, "loss": 1.8 + 400 / n**0.34 + 1500 / d**0.36})
    scaled = fit(frame, law="chinchilla", bootstrap=0)
    assert scaled.parameters["alpha"] == pytest.approx(0.34, abs=1e-3)
    with pytest.raises(AllometryError, match=r"too few to be (parameters|training tokens)"):
        plan(1e22, fit=scaled)
    with pytest.raises(AllometryError, match="too few to be"):
        next_runs(scaled, budget=1e20, target="a")


def test_published_constants_say_how_far_they_extrapolate():
    far, inside = plan(1e15), plan(N=1e9, D=2e10)
    assert far.beyond["N"] == pytest.approx(7e7 / far.N.value)
    assert any("extrapolates" in w for w in far.warnings)
    assert (inside.beyond["N"], inside.beyond["D"]) == (1, 1)
    assert not inside.warnings


def test_use_makes_the_cheapest_model_smaller():
    """Sardana et al. 2024: of all runs that reach the loss, the one of least 6ND + 2N times the tokens of use."""
    used, target = 2e12, 2.1
    cheapest = plan(loss=target, inference=used)
    source = from_published("chinchilla")
    sizes = np.geomspace(1e9, 1e11, 2001)
    exact = (target - EPOCH["E"] - EPOCH["A"] / sizes ** EPOCH["alpha"]).clip(1e-9)
    tokens = (EPOCH["B"] / exact) ** (1 / EPOCH["beta"])
    total = 6 * sizes * tokens + 2 * sizes * used
    assert cheapest.N.value == pytest.approx(sizes[total.argmin()], rel=0.005)
    assert cheapest.C.value + 2 * cheapest.N.value * used == pytest.approx(total.min(), rel=1e-4)
    assert cheapest.N.value < 0.8 * plan(loss=target).N.value
    back = plan(total.min(), inference=used)  # the same question turned round
    assert back.N.value == pytest.approx(cheapest.N.value, rel=0.01)
    assert back.loss.value == pytest.approx(target, rel=1e-5)
    assert plan(loss=target, inference=1.0).N.value == pytest.approx(plan(loss=target).N.value, rel=0.01)
    assert source.loss(source.parameters, np.array([back.N.value]), np.array([back.D.value]), None)[
        0
    ] == pytest.approx(back.loss.value)
    with pytest.raises(AllometryError, match="cannot be fixed"):
        plan(1e22, inference=used, N=1e9)


def test_a_law_with_experts_is_planned_with_their_number():
    """Ludziejewski et al. 2025, table 1."""
    made = plan(1e21, law="joint-experts", at={"n_E": 8})
    assert made.N.value == pytest.approx(3.8e9, rel=0.02)
    assert made.D.value == pytest.approx(44.3e9, rel=0.02)
    assert any("n_E = 8" in note for note in made.notes)
    with pytest.raises(AllometryError, match="needs n_E too"):
        plan(1e21, law="joint-experts")
    with pytest.raises(AllometryError, match="no input to hold"):
        plan(1e21, at={"n_E": 8})


def test_several_laws_plan_together_with_intervals():
    rng = np.random.default_rng(3)
    grid = [(n, d) for n in np.logspace(7, 9, 6) for d in np.logspace(9, 11, 5)]
    frame = pd.DataFrame(grid, columns=["N", "D"])
    frame["loss"] = get("chinchilla").predict(EPOCH, N=frame.N, D=frame.D) * np.exp(
        0.003 * rng.standard_normal(30)
    )
    tested = allometry.backtest(frame, laws=["chinchilla", "chinchilla-tied"], bootstrap=60)
    made = plan(1e22, fit=tested)
    assert made.law == "mixture"
    best, _ = chinchilla_optimum(1e22, *(EPOCH[k] for k in ("A", "B", "alpha", "beta")))
    low, high = made.N.interval(0.95)
    assert low < best < high
    assert made.N.value == pytest.approx(float(best), rel=0.6)
    forecast = tested.forecast({"N": made.N.value, "D": made.D.value})  # plain numbers
    assert made.loss.value == pytest.approx(float(forecast.value[0]), rel=1e-6)
    truth = float(get("chinchilla").predict(EPOCH, N=made.N.value, D=made.D.value))
    assert made.loss.interval(0.95)[0] < truth < made.loss.interval(0.95)[1]
    json.dumps(made.to_dict(), allow_nan=False)


def test_a_law_whose_limit_lies_above_measured_losses_plans_nothing():
    frame = pd.DataFrame(
        [(n, d) for n in np.logspace(7, 9, 8) for d in np.logspace(8, 10, 8)], columns=["N", "D"]
    )
    frame["loss"] = 6 - 0.5 * np.log10(frame.N * frame.D / 1e15)  # falls for ever
    frame.loc[frame["loss"] < 4.2, "loss"] -= 0.6
    bad = fit(frame, law="chinchilla", bootstrap=0, fixed={"E": 4.0})
    assert any("lies above measured values" in reason for reason in bad.reasons)
    with pytest.raises(AllometryError, match="nothing can be planned"):
        plan(1e22, fit=bad)
