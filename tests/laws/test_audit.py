"""Each fault that is planted in a clean table is found, with its rows, and clean tables have none."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import allometry
from allometry.core.errors import AllometryError
from allometry.laws.audit import LEVELS, audit

E, A, B, ALPHA, BETA = 1.75, 320.0, 900.0, 0.33, 0.35


def law(n, d):
    return E + A / n**ALPHA + B / d**BETA


def ladder(seed=0, noise=0.002, sizes=6, horizons=4):
    """A clean table: six sizes, four horizons, three rates with the best inside, seeds, all columns."""
    rng = np.random.default_rng(seed)
    rows = [
        (n, 20 * n * ratio, 3e-3 * (n / 1e7) ** -0.3 * step, repeat)
        for n in np.geomspace(1e7, 1e9, sizes)
        for ratio in np.geomspace(0.4, 8, horizons)
        for step, repeat in ((0.5, 0), (1, 0), (1, 1), (2, 0))
    ]
    frame = pd.DataFrame(rows, columns=["N", "D", "lr", "seed"])
    away = np.log(frame.lr / (3e-3 * (frame.N / 1e7) ** -0.3))
    wobble = np.exp(noise * rng.standard_normal(len(frame)))
    return frame.assign(
        C=6 * frame.N * frame.D, unique=1e12, schedule="cosine", steps=(frame.D / 1e5).round(),
        loss=law(frame.N, frame.D) * (1 + 0.02 * away**2) * wobble,
    )  # fmt: skip


def budgets(noise=0.001, seed=0):
    rows = []
    for c in 1e18 * 4.0 ** np.arange(4):
        best = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (c / 6) ** (BETA / (ALPHA + BETA))
        rows += [(n, c / (6 * n), c) for n in best * 2.0 ** np.arange(-3, 4)]
    frame = pd.DataFrame(rows, columns=["N", "D", "C"])
    return frame.assign(
        loss=law(frame.N, frame.D) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(frame)))
    )


def found(frame, **given):
    return {f.name: f for f in audit(frame, **given).findings}


def test_a_clean_table_has_no_finding_and_says_what_was_checked():
    result = audit(ladder())
    assert not result.findings
    assert "nothing was found" in result.report()
    assert "one rate for all sizes" in result.passed
    assert set(result.unchecked) == {"isoFLOP optima inside their sizes"}
    assert not audit(budgets()).level("fault")
    assert "isoFLOP optima inside their sizes" in audit(budgets()).passed


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), st.sampled_from([0.0005, 0.002, 0.006]), st.integers(4, 8), st.integers(4, 6))
def test_clean_tables_have_no_fault(seed, noise, sizes, horizons):
    result = audit(ladder(seed, noise, sizes, horizons))
    assert not result.level("fault")
    assert len(result.level("caution")) <= 1


def diverged(f):
    return f.assign(loss=f.loss.where(f.index != 41, f.loss * 1.5).where(f.index != 42, f.loss * 1.5)), [
        41,
        42,
    ]


def mislabelled(f):
    one = (f.seed == 0) & (f.groupby(["N", "D"]).lr.transform("median") == f.lr)
    f = f[one | (f.index == 41)].reset_index(drop=True)
    row = 10
    return f.assign(loss=f.loss.where(f.index != row, f.loss[row] * 0.9)), [row]


def edge_rates(f):
    """The best rate of the two largest sizes is far below those tried."""
    large = f.N >= 3e8
    tilt = 1 + 0.03 * np.log(f.lr / f.groupby("N").lr.transform("min")) * large
    lowest = large & (f.lr == f.groupby("N").lr.transform("min"))
    return f.assign(loss=law(f.N, f.D) * tilt), list(f.index[lowest])


def duplicated(f):
    return pd.concat([f, f.iloc[[5, 9]]], ignore_index=True), [len(f), len(f) + 1]


def unfinished_checkpoints(f):
    """Half of the rows are from the middle of runs twice as long."""
    half = f.index % 4 == 3
    return f.assign(max_steps=f.steps.where(~half, 2 * f.steps)), list(f.index[half])


def wrong_flops(f):
    return f.assign(C=f.C.where(~f.index.isin([8, 30]), f.C * 3)), [8, 30]


def repeated(f):
    return f.assign(unique=2e9), list(f.index[f.D > 8e9])


def nan_loss(f):
    return f.assign(loss=f.loss.where(f.index != 7)), [7]


def copied_loss(f):
    f = f.copy()
    f.loc[60, "loss"] = f.loc[20, "loss"]
    return f, [20, 60]


def short_runs(f):
    d = f.D.where(f.groupby("N").D.transform("min") < f.D, 0.3 * f.N)
    starved = 1 + 0.3 * (d < f.N)
    return f.assign(D=d, C=6 * f.N * d, loss=law(f.N, d) * starved), list(f.index[d < f.N])


@pytest.mark.parametrize(
    ("plant", "names"),
    [
        (mislabelled, {"losses too low"}),
        (edge_rates, {"learning rate not tuned"}),
        (duplicated, {"duplicates"}),
        (unfinished_checkpoints, {"checkpoints before the end"}),
        (wrong_flops, {"wrong compute of single runs"}),
        (repeated, {"repeated data"}),
        (nan_loss, {"values that cannot be used"}),
        (copied_loss, {"one loss in two runs"}),
        (short_runs, {"under-trained runs", "short runs off the law"}),
    ],
)
def test_a_planted_fault_is_found_with_its_rows(plant, names):
    frame, rows = plant(ladder())
    result = found(frame)
    assert names & set(result)
    name = next(n for n in names if n in result)
    assert sorted(result[name].rows) == sorted(rows)
    assert result[name].cure
    others = [f for f in result.values() if f.level == "fault" and f.name not in names]
    assert not others, others


def test_a_run_that_diverged_is_named():
    frame = budgets().assign(loss=lambda f: f.loss.where(f.index != 18, 2.8 * f.loss))
    result = found(frame)
    assert result["runs that diverged or are mislabelled"].rows == (18,)
    assert result["runs that diverged or are mislabelled"].level == "fault"


@pytest.mark.parametrize(
    ("change", "name", "level", "cure"),
    [
        (lambda f: f.assign(lr=0.003), "one rate for all sizes", "fault", "0.006"),
        (lambda f: f.assign(D=20 * f.N, C=120 * f.N**2, loss=law(f.N, 20 * f.N)), "one D/N", "fault", "train 10M"),
        (lambda f: f[f.N < 4e7], "few sizes", "fault", "add sizes"),
        (lambda f: f[(f.seed == 0) & (f.lr == f.groupby(["N", "D"]).lr.transform("median"))], "no seeds", "caution",
         "repeat"),
        (lambda f: f.assign(C=f.C / 3), "wrong FLOPs", "fault", "C=C/0.333"),
        (lambda f: f.assign(C=f.C / 1e15), "unit of C", "fault", "1e"),
        (lambda f: f.assign(N=f.N / 1e6, C=f.C), "unit of N", "fault", "1e6"),
        (lambda f: f.assign(N=f.N - 4e6 * (f.N / 1e7) ** 0.5), "N and C count differently", "caution", "alike"),
        (lambda f: f.assign(d_model=(f.N / 1e3) ** 0.4, n_layer=8).assign(
            N=lambda g: 12 * g.n_layer * g.d_model**2 + 50_000 * g.d_model, C=lambda g: 6 * g.N * g.D),
         "embeddings in N", "caution", "12*`n_layer`*`d_model`**2"),
        (lambda f: f.assign(n_no_embed=f.N - 4e6 * (f.N / 1e7) ** 0.5), "embeddings in N", "caution", "n_no_embed"),
        (lambda f: f.assign(schedule=np.where(f.index % 2, "cosine", "constant")), "mixed schedules", "caution",
         "one schedule"),
        (lambda f: f.assign(loss=np.exp(f.loss)), "unit of the loss", "fault", "log(`loss`)"),
        (lambda f: f.assign(loss=f.loss / 4.5), "unit of the loss", "caution", "nats per token"),
        (lambda f: f.assign(corpus=np.where(f.index % 2, "pile", "c4")), "several laws in one table", "caution",
         "--where"),
    ],
)  # fmt: skip
def test_a_fault_of_the_whole_table_is_found(change, name, level, cure):
    result = found(change(ladder()))
    assert name in result
    assert result[name].level == level
    assert cure in result[name].cure


def test_an_optimum_at_the_edge_names_the_run_that_brackets_it():
    frame = budgets()
    last = frame.groupby("C").cumcount() < 3
    result = found(frame[last])
    edge = result["optimum at the edge"]
    assert edge.level == "fault"
    assert list(edge.rows) == list(frame.index[frame.groupby("C").cumcount() == 2])
    assert "largest" in edge.what
    assert not [f for f in found(frame).values() if f.name == "optimum at the edge"]


def test_a_grid_of_sizes_and_tokens_is_no_set_of_budgets():
    rows = [(n, d, law(n, d)) for n in np.logspace(6, 9, 6) for d in np.logspace(8, 11, 6)]
    result = audit(pd.DataFrame(rows, columns=["N", "D", "loss"]))
    assert "no set budgets" in result.unchecked["isoFLOP optima inside their sizes"]


def test_one_budget_is_found():
    assert found(budgets().iloc[:7])["one compute"].level == "fault"


def test_checkpoints_of_a_decaying_schedule_are_found_and_those_of_a_constant_rate_are_not():
    parts = [
        pd.DataFrame({"run": f"r{i}", "N": n, "D": n * np.geomspace(2, 40, 8)})
        for i, n in enumerate(np.geomspace(1e7, 1e9, 6))
    ]
    frame = pd.concat(parts, ignore_index=True)
    frame["loss"] = law(frame.N, frame.D) * np.exp(
        0.002 * np.random.default_rng(0).standard_normal(len(frame))
    )
    result = found(frame.assign(schedule="cosine"))
    assert "6 runs" in result["checkpoints of one schedule"].what
    assert "6 runs" in result["dependent rows"].what
    result = found(frame.assign(schedule="constant"))
    assert "checkpoints of one schedule" not in result
    assert "dependent rows" in result


def test_two_laws_in_one_table_are_found():
    frame = ladder().assign(kind=lambda f: np.where(f.index % 2, "x", "y"))
    frame["loss"] *= np.where(frame["kind"] == "x", 1.15, 1.0)
    assert "'kind'" in found(frame)["several laws in one table"].what


def test_what_lacks_a_column_is_said_to_be_unchecked():
    result = audit(ladder().drop(columns=["lr", "unique", "seed"]))
    assert "learning rates" in result.unchecked["one rate for all sizes"]
    assert "unique tokens" in result.unchecked["repeated data"]
    assert "not checked" in result.report()
    bare = audit(ladder()[["N", "D"]].drop_duplicates().assign(val_ppl=20.0))
    assert "loss=log(val_ppl)" in bare.unchecked["number and range of sizes"]
    assert "in what could be checked" in bare.report()


def test_columns_are_named_and_rows_keep_their_labels():
    frame = ladder().rename(columns={"N": "size", "loss": "nats"}).rename(index=lambda i: f"run-{i}")
    frame.loc["run-7", "nats"] = np.nan
    result = found(frame, columns={"N": "size", "loss": "nats"})
    assert result["values that cannot be used"].rows == ("run-7",)


def test_the_report_is_narrow_and_the_rest_plain():
    result = audit(ladder().assign(lr=0.003, C=lambda f: f.C / 3))
    assert max(map(len, result.report().splitlines())) <= 80
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["rows"] == len(ladder())
    assert list(result.table["level"]) == sorted(result.table["level"], key=LEVELS.index)
    assert allometry.audit is audit
    with pytest.raises(AllometryError, match="no rows"):
        audit(ladder().iloc[:0])


@pytest.mark.parametrize("column", ["N", "D", "loss"])
def test_of_a_table_without_a_usable_row_only_that_is_said(column):
    result = audit(ladder().assign(**{column: np.nan}))
    (finding,) = result.findings
    assert (finding.name, finding.level) == ("values that cannot be used", "fault")
    assert set(result.unchecked.values()) == {"no row can be used"}
    assert not result.passed
