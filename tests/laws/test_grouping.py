"""Rows of one run are resampled together, whether or not a column says which they are."""

import numpy as np
import pandas as pd
import pytest

import allometry
from allometry.core.errors import AllometryError
from allometry.laws.grouping import agreement, numbered
from allometry.laws.observations import read_runs

TRUE = {"E": 1.75, "A": 320.0, "B": 900.0, "alpha": 0.33, "beta": 0.35}


def law(n, d):
    return TRUE["E"] + TRUE["A"] / n ** TRUE["alpha"] + TRUE["B"] / d ** TRUE["beta"]


def logs(runs=8, steps=20, seed=3, shared=0.008):
    """Training logs: the noise of a run is nearly all common to its rows."""
    rng = np.random.default_rng(seed)
    rows = []
    for k, n in enumerate(np.geomspace(5e7, 1e9, runs)):
        run = shared * rng.standard_normal()
        for step in range(1, steps + 1):
            d = step * 2e8
            noise = run + 0.002 * rng.standard_normal()
            rows.append((f"m{k}", n, step, d, law(n, d) * np.exp(noise)))
    return pd.DataFrame(rows, columns=["run", "N", "step", "D", "loss"])


def grid(noise=0.003, seed=0):
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(2e8, 2e10, 5)))
    wobble = np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return pd.DataFrame({"N": n, "D": d, "loss": law(n, d) * wobble})


def fit(frame, **options):
    return allometry.fit(frame, law="chinchilla", **{"bootstrap": 60, **options})


def warned(result):
    return {w.name for w in result.warnings}


LOGS = {
    "run": logs(),
    "step without run": logs().drop(columns="run"),
    "iter without run": logs().drop(columns="run").rename(columns={"step": "iter"}),
    "model, no step": logs().rename(columns={"run": "model"}).drop(columns="step"),
    "name, no step": logs().rename(columns={"run": "name"}).drop(columns="step"),
    "nothing but N and D": logs().drop(columns=["run", "step"]),
    "shuffled": logs().drop(columns="run").sample(frac=1, random_state=0),
}


@pytest.mark.parametrize("kind", list(LOGS))
def test_checkpoints_are_resampled_by_run_whatever_names_them(kind):
    result = fit(LOGS[kind])
    assert (result.dof, len(np.unique(result.group)), len(result.data)) == (3, 8, 160)
    assert {len(np.unique(result.data["N"][result.group == g])) for g in range(8)} == {1}
    assert "checkpoints" in warned(result)
    assert result.to_dict()["group_name"] in ("run", "N", "model", "name")
    told = fit(LOGS["run"])
    low, high = result.interval("alpha")
    assert high - low == pytest.approx(np.subtract(*told.interval("alpha")[::-1]), rel=0.25)


def test_intervals_of_step_logs_hold_the_truth():
    """With rows taken as independent the 95 % interval of alpha held it in 18 % of such tables."""
    held = 0
    for seed in range(12):
        low, high = fit(logs(seed=seed, steps=12).drop(columns="run"), seed=seed).interval("alpha")
        held += low <= TRUE["alpha"] <= high
    assert held >= 9  # fewer in one of 500 tries at 95 %


INDEPENDENT = {
    "name is one family": grid().assign(name="transformer"),
    "run is one experiment": grid().assign(run="exp-1"),
    "id is the corpus": grid().assign(id=["pile", "c4", "refinedweb"] * 10),
    "name is the size": grid().assign(name=lambda f: [f"size-{n:.2g}" for n in f.N]),
    "model is the size": grid().assign(model=lambda f: [f"size-{n:.2g}" for n in f.N]),
    "steps of finished runs": grid().assign(steps=lambda f: f.D / 5e5),
    "nothing": grid(),
}


@pytest.mark.parametrize("kind", list(INDEPENDENT))
def test_a_name_that_is_no_run_does_not_change_the_statistics(kind):
    plain, result = fit(grid()), fit(INDEPENDENT[kind])
    assert (result.dof, result.group_name) == (25, None)
    assert result.interval("alpha") == plain.interval("alpha")
    assert "checkpoints" not in warned(result)
    if kind.startswith(("name", "id", "run", "model")):
        assert any(f"'{kind.split()[0]}'" in note and "independent" in note for note in result.notes)


def test_a_guessed_run_column_is_called_by_its_own_name():
    frame = logs().rename(columns={"run": "name"}).drop(columns="step")
    result = fit(frame.assign(run=frame["name"]))
    assert result.group_name == "name"
    assert result.dof == 3


def test_too_few_runs_are_said_or_refused_and_never_nan():
    frame = logs(runs=5)
    result = fit(frame)
    assert "few-runs" in warned(result)
    assert "nan" not in result.report()
    assert "5 runs (run) for 5 parameters leave none to spare" in result.report()
    with pytest.raises(AllometryError, match="grouped by 'run' the table has 5 runs for 5"):
        fit(frame, group="run")
    assert fit(frame, group="run", bootstrap=0).parameters == result.parameters
    assert fit(frame, tied={"beta": "alpha"}).dof == 1


def test_a_rate_that_changes_within_a_run_is_seen():
    frame = logs().assign(lr=lambda f: 1e-3 * (1 - f.step / 40))
    assert any("'lr' shows" in w.meaning for w in fit(frame).warnings if w.name == "checkpoints")


def test_independent_residuals_agree_by_chance_only():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(10), 8)
    p = np.array([agreement(rng.standard_normal(80), group) for _ in range(400)])
    assert np.mean(p < 0.05) < 0.08
    assert agreement(rng.standard_normal(80) + 2 * rng.standard_normal(10)[group], group) < 1e-4
    assert agreement(np.zeros(80), group) == 1
    assert list(numbered(pd.Series(["b", "a", "b"]))) == [0, 1, 0]


def test_one_name_for_all_sizes_is_no_learning_curve():
    """Else the envelope would draw one curve through all sizes."""
    frame = grid().assign(run="transformer")
    assert read_runs(frame).table["run"].nunique() == len(frame)
    assert read_runs(logs()).table["run"].nunique() == 8


def test_copies_are_no_repeats():
    frame = grid()
    copied = fit(pd.concat([frame, frame], ignore_index=True))
    assert (copied.noise, len(copied.data), copied.dof) == (None, 60, 25)
    assert copied.interval("alpha") == pytest.approx(fit(frame).interval("alpha"), rel=1e-9)
    assert copied.scatter == pytest.approx(fit(frame).scatter, rel=1e-9)
    exported_twice = pd.concat([frame.assign(row=1), frame.assign(row=2)], ignore_index=True)
    assert fit(exported_twice, bootstrap=0).noise is None
    seeds = pd.concat([grid(seed=s).assign(seed=s) for s in range(3)], ignore_index=True)
    assert fit(seeds, bootstrap=0).noise == pytest.approx(0.003, rel=0.25)


PASTED = {
    "equal": lambda f: f,
    "beside an index": lambda f: f.reset_index(),
    "beside an unnamed index": lambda f: f.reset_index(names="Unnamed: 0"),
    "beside row numbers from 1": lambda f: f.assign(row=range(1, len(f) + 1)),
    "beside the keys of a database": lambda f: f.assign(id=range(100, 100 + len(f))),
    "beside lists": lambda f: f.assign(betas=[[0.9, 0.95]] * len(f)),
    "with empty cells": lambda f: f.assign(note=np.nan),
}


@pytest.mark.parametrize("kind", list(PASTED))
def test_a_run_that_was_pasted_twice_is_one_run(kind):
    """It weighs twice in the estimate, as the published fits of tables with equal rows have it; evidence it is once."""
    frame = grid()
    result = fit(PASTED[kind](pd.concat([frame, frame.iloc[[3, 3, 17]]], ignore_index=True)))
    assert (len(result.data), result.dof, len(np.unique(result.group))) == (33, 25, 30)
    assert list(result.group[30:]) == [3, 3, 17]
    assert "rows 30, 31, 32 repeat" in next(w.meaning for w in result.warnings if w.name == "copies")
    weighted = fit(frame.assign(w=np.bincount([*range(30), 3, 3, 17])), weights="w", bootstrap=0)
    assert result.parameters == pytest.approx(weighted.parameters, rel=1e-6)
    assert result.noise is None


def test_columns_that_tell_runs_apart_make_equal_rows_runs_of_their_own():
    frame = pd.concat([grid(), grid().iloc[:5]], ignore_index=True)
    for told in (frame.assign(seed=range(35)), frame.assign(run=[f"r{i}" for i in range(35)])):
        assert (fit(told).dof, "copies" in warned(fit(told))) == (30, False)


def test_a_log_that_was_pasted_twice_has_the_intervals_of_one():
    once, twice = fit(logs()), fit(pd.concat([logs(), logs()], ignore_index=True))
    assert (once.dof, twice.dof) == (3, 3)
    assert twice.interval("alpha") == pytest.approx(once.interval("alpha"), rel=1e-6)


def test_as_many_different_rows_as_parameters_are_no_evidence():
    frame = grid().iloc[[0, 4, 12, 25, 29]]
    result = fit(pd.concat([frame, frame], ignore_index=True))
    assert (result.dof, len(result.samples)) == (0, 0)
    assert "few-runs" in warned(result)


def test_isoflop_leaves_copies_out_and_says_so():
    frame = grid()
    read = read_runs(pd.concat([frame, frame.iloc[:4]], ignore_index=True).reset_index())
    assert (len(read.table), list(read.excluded.index)) == (30, [30, 31, 32, 33])
    assert set(read.excluded["reason"]) == {"a copy of an earlier row"}
    assert any("rows 30, 31, 32, 33 repeat" in note for note in read.notes)


@pytest.mark.parametrize("setting", ["lr", "seed", "weight_decay", "B"])
def test_runs_of_several_settings_are_not_one_run(setting):
    """Rows of one N and one D that differ in a setting are runs of their own, not points of one."""
    parts = [grid(seed=k).assign(**{setting: value}) for k, value in enumerate((1, 3, 10))]
    result = fit(pd.concat(parts, ignore_index=True))
    assert len(np.unique(result.group)) == 90
    low, high = result.interval("alpha")
    assert low < TRUE["alpha"] < high
    assert high - low < 0.05


@pytest.mark.parametrize("column", ["checkpoint", "revision", "ckpt"])
def test_checkpoints_that_are_named_are_points_of_one_run(column):
    few = logs(steps=20).query("step % 5 == 0").drop(columns=["run", "step"])
    named = few.assign(**{column: [f"step{k}" for k in (1, 2, 3, 4)] * 8})
    assert len(np.unique(fit(named).group)) == 8


def test_a_few_points_a_size_whose_residuals_agree_are_said():
    few = logs(steps=20).query("step % 5 == 0").drop(columns=["run", "step"])
    result = fit(few)
    assert len(np.unique(result.group)) == 32
    assert any("group by N" in note for note in result.notes)
    wide = fit(few, group="N").interval("alpha")
    narrow = result.interval("alpha")
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
    quiet = fit(grid(), bootstrap=0)
    assert not any("checkpoints" in note for note in quiet.notes)


@pytest.mark.parametrize("cell", [[1, 2], {"peak": 1e-3}, np.array([1, 2])])
@pytest.mark.parametrize("column", ["lr", "peak_lr", "checkpoint", "seed", "model"])
def test_columns_that_hold_lists_change_nothing(cell, column):
    plain = fit(grid(), bootstrap=0)
    held = grid().assign(**{column: [cell] * 30})
    assert fit(held, bootstrap=0).parameters == plain.parameters
    twice = held.assign(other=held[column]).set_axis(["N", "D", "loss", column, column], axis=1)
    assert fit(twice, bootstrap=0).parameters == plain.parameters
