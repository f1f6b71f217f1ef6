"""Exports and logs of trackers and trainers, folders and several files: the values that come out."""

import json

import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.laws.observations import observe
from allometry.laws.zoo import get
from allometry.runs.importers import read_table

STEPS = np.arange(100, 1100, 100)


def curve(n, steps=STEPS, per_step=262_144):
    return 1.75 + 320 / n**0.33 + 900 / (steps * per_step) ** 0.35


RUNS = {"d4-lr3e-3": 12e6, "d6-lr2e-3": 48e6, "d8 - wide": 190e6}


def chart(x, metric, *, bounds=True, group=False, step_columns=False):
    frame = pd.DataFrame({x: STEPS * 262_144 if "token" in x else STEPS})
    for run, n in RUNS.items():
        name = f"{'Group: ' if group else ''}{run} - {metric}"
        frame[name] = curve(n)
        if bounds:
            frame[f"{name}__MIN"], frame[f"{name}__MAX"] = curve(n) - 9, curve(n) + 9
        if step_columns:
            frame[f"{run} - _step"] = STEPS
    return frame


@pytest.mark.parametrize(
    "x", ["Step", "_step", "tokens", "train/total_tokens", "trainer/global_step", "epoch", "_runtime", "iter",
          "Relative Time (Process)", "Wall Time"],
)  # fmt: skip
@pytest.mark.parametrize("metric", ["val/loss", "eval/c4-en/loss", "val_loss"])
def test_charts_are_told_by_their_shape(tmp_path, x, metric):
    path = tmp_path / "chart.csv"
    chart(x, metric, group="c4" in metric, step_columns=metric == "val_loss").to_csv(path, index=False)
    frame = read_table(path).frame
    assert list(dict.fromkeys(frame["run"])) == list(RUNS)
    for run, n in RUNS.items():
        assert frame.loc[frame["run"] == run, metric].tolist() == pytest.approx(curve(n).tolist())
    axis = "step" if x in ("Step", "_step", "trainer/global_step", "iter") else x
    assert frame.loc[frame["run"] == "d8 - wide", axis].tolist() == chart(x, metric)[x].tolist()
    assert not any(name.endswith(("__MIN", "__MAX")) for name in frame)


def test_a_smoothed_curve_is_another_metric(tmp_path):
    path = tmp_path / "chart.csv"
    pd.DataFrame({"Step": STEPS, "r1 - loss": 3.0, "r1 - loss - smoothed": 2.5}).to_csv(path, index=False)
    frame = read_table(path).frame
    assert set(frame["run"]) == {"r1"}
    assert frame["loss"].tolist() == [3.0] * 10
    assert frame["loss - smoothed"].tolist() == [2.5] * 10


def test_tokens_of_a_chart_are_the_tokens_of_a_fit(tmp_path):
    path = tmp_path / "chart.csv"
    chart("train/total_tokens", "val/loss").to_csv(path, index=False)
    frame = read_table(path).frame
    assert frame["D"].tolist()[:2] == [100 * 262_144, 200 * 262_144]


def api_dump():
    return [
        {"name": f"r{i}", "state": state, "config": {"n_params": {"value": n}, "lr": 1e-3},
         "summary": {"val_loss": v, "train_tokens": 1e9, "_wandb": {"runtime": 3}}}
        for i, (state, n, v) in enumerate(
            [("finished", 1e6, 4.0), ("finished", 1e7, 3.5), ("crashed", 1e8, 9.0), ("finished", 1e8, 3.0)])
    ]  # fmt: skip


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv"])
def test_dumps_of_an_api_are_spread(tmp_path, ending):
    path = tmp_path / f"runs.{ending}"
    rows = api_dump()
    if ending == "json":
        path.write_text(json.dumps(rows))
    elif ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pd.DataFrame(rows).to_csv(path, index=False)
    points = observe(read_table(path).frame, get("chinchilla"))
    assert points.inputs["N"].tolist() == [1e6, 1e7, 1e8]
    assert points.output.tolist() == [4.0, 3.5, 3.0]
    assert points.excluded["reason"].tolist() == ["state is crashed"]


def sparse(loss="val_loss", train="train_loss"):
    """A log with ten training rows for one of evaluation."""
    rows = []
    for step in range(10, 510, 10):
        rows.append({"step": step, "tokens": step * 1e5, train: 9.0})
        if step % 100 == 0:
            rows.append({"step": step, "tokens": step * 1e5, loss: 2 + 9 / step})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "trainer_state"])
def test_rows_without_an_evaluation_are_left_out(tmp_path, form):
    path = tmp_path / {"trainer_state": "trainer_state.json"}.get(form, f"metrics.{form}")
    if form == "csv":
        sparse().to_csv(path, index=False)
    elif form == "parquet":
        sparse().to_parquet(path)
    elif form == "jsonl":
        path.write_text("\n".join(row.dropna().to_json() for _, row in sparse().iterrows()))
    else:
        log = [row.dropna().to_dict() for _, row in sparse("eval_loss", "loss").iterrows()]
        path.write_text(json.dumps({"best_metric": None, "log_history": log}))
    frame = read_table(path).frame
    points = observe(frame, get("power-offset"), columns={"X": "tokens"})
    assert points.output.tolist() == pytest.approx([2 + 9 / s for s in (100, 200, 300, 400, 500)])
    assert points.inputs["X"].tolist() == [1e7, 2e7, 3e7, 4e7, 5e7]
    assert len(points.excluded) == 50
    assert all("missing" in reason for reason in points.excluded["reason"])


LOGS = {
    "nanoGPT": (
        "tokens per iteration will be: 16,384\nnumber of parameters: 10.65M\n"
        "step 0: train loss 4.2874, val loss 4.2823\niter 0: loss 4.2654, time 9000.00ms, mfu -100.00%\n"
        "iter 10: loss 3.1, time 10ms, mfu 3%\nstep 250: train loss 2.1, val loss 2.3\n",
        [4.2823, 2.3],
        {"N": 10.65e6, "D": [0, 250 * 16384]},
    ),
    "nanochat": (
        "Number of parameters: 560,988,160\nTotal batch size 524,288\nStep 00000 | Validation bpb: 3.2000\n"
        "step 00010/21400 (0.05%) | loss: 9.1 | lrm: 1.00 | dt: 5ms\nStep 00250 | Validation bpb: 1.1\n",
        None,
        {"val_bpb": [3.2, 1.1]},
    ),
    "modded-nanogpt": (
        "step:0/5100 val_loss:10.8258 train_time:0ms step_avg:nanms\nstep:1/5100 train_time:98ms\n"
        "step:125/5100 val_loss:6.2 train_time:9ms step_avg:9ms\n",
        [10.8258, 6.2],
        {},
    ),
    "llm.c": ("s:0 tel:11.0\ns:0 trl:11.02\ns:1 trl:10.9\ns:250 tel:6.4\n", [11.0, 6.4], {}),
    "Megatron": (
        " iteration 100/ 500 | consumed samples: 100 | lm loss: 7.1E+00 | grad norm: 1 |\n"
        " validation loss at iteration 100 on val set | lm loss value: 6.5E+00 | lm loss PPL: 6E+02 |\n"
        " iteration 200/ 500 | consumed samples: 200 | lm loss: 6.1E+00 | grad norm: 1 |\n"
        " validation loss at iteration 200 on val set | lm loss value: 5.5E+00 | lm loss PPL: 3E+02 |\n",
        [6.5, 5.5],
        {},
    ),
}


@pytest.mark.parametrize("program", LOGS)
@pytest.mark.parametrize("name", ["train.log", "out.txt"])
def test_logs_of_training_programs(tmp_path, program, name):
    text, losses, facts = LOGS[program]
    (tmp_path / name).write_text(f"loading…\nusing cuda\n{text}done\n")
    read = read_table(tmp_path / name)
    assert program in read.notices[0]
    if losses:
        assert read.frame["loss"].dropna().tolist() == losses
    evaluated = read.frame.dropna(subset=["loss"]) if losses else read.frame.dropna(subset=["val_bpb"])
    for column, values in facts.items():
        assert np.broadcast_to(values, len(evaluated)).tolist() == evaluated[column].tolist()


def write_runs(folder, form):
    for name, n in {"S": 12e6, "M": 48e6, "L": 190e6}.items():
        rows = pd.DataFrame({"step": STEPS, "tokens": STEPS * 262_144, "params": n, "val_loss": curve(n)})
        home = folder / name
        home.mkdir(parents=True)
        if form == "csv":
            rows.to_csv(folder / f"{name}.csv", index=False)
        elif form == "jsonl":
            rows.to_json(folder / f"{name}.jsonl", orient="records", lines=True)
        elif form == "metrics.csv":
            rows.to_csv(home / "metrics.csv", index=False)
        elif form == "metrics.csv, in versions":
            (home / "version_0").mkdir()
            rows.rename(columns={"val_loss": "val/loss"}).to_csv(
                home / "version_0" / "metrics.csv", index=False
            )
        elif form == "trainer_state":
            for last in (500, 1000):
                part = rows[rows["step"] <= last].rename(columns={"val_loss": "eval_loss"})
                (home / f"checkpoint-{last}").mkdir()
                state = {"log_history": part.to_dict("records")}
                (home / f"checkpoint-{last}" / "trainer_state.json").write_text(json.dumps(state))
                (home / "config.json.bak").write_text("{}")
        elif form == "TensorBoard":
            scalar = pd.DataFrame({"Wall time": 1.7e9 + STEPS, "Step": STEPS, "Value": curve(n)})
            scalar.to_csv(folder / f"run-{name}-tag-val_loss.csv", index=False)
            scalar.assign(Value=STEPS * 262_144).to_csv(folder / f"run-{name}-tag-tokens.csv", index=False)
            scalar.assign(Value=n).to_csv(folder / f"run-{name}-tag-params.csv", index=False)


@pytest.mark.parametrize(
    "form", ["csv", "jsonl", "metrics.csv", "metrics.csv, in versions", "trainer_state", "TensorBoard"]
)
def test_a_folder_of_runs_is_one_table(tmp_path, form):
    write_runs(tmp_path, form)
    whole = read_table(tmp_path, row="all").frame
    assert len(whole) == 30
    last = read_table(tmp_path, row="last").frame.sort_values("N", ignore_index=True)
    assert last["N"].tolist() == [12e6, 48e6, 190e6]
    assert last["D"].tolist() == [1000 * 262_144] * 3
    assert last["loss"].tolist() == pytest.approx([curve(n)[-1] for n in (12e6, 48e6, 190e6)], rel=1e-6)
    assert last["run"].nunique() == 3


def test_several_files_and_patterns_keep_the_last_row_of_each(tmp_path):
    write_runs(tmp_path, "jsonl")
    named = read_table([tmp_path / "S.jsonl", tmp_path / "M.jsonl"])
    assert named.frame["run"].tolist() == ["S", "M"]
    assert any("last row of each of 2 runs" in notice for notice in named.notices)
    assert sorted(read_table(str(tmp_path / "*.jsonl")).frame["run"]) == ["L", "M", "S"]
    with pytest.raises(AllometryError, match="no table"):
        read_table(str(tmp_path / "*.csv"))


def test_the_best_row_is_that_of_the_lowest_loss(tmp_path):
    loss = [4.0, 3.0, 3.5]
    frame = pd.DataFrame({"run": ["a"] * 3, "step": [1, 2, 3], "N": [1e6, None, None], "D": [1e7, 2e7, None]})
    frame.assign(val_loss=loss).to_csv(tmp_path / "log.csv", index=False)
    best = read_table(tmp_path / "log.csv", row="best").frame.iloc[0]
    assert (best["loss"], best["D"], best["N"]) == (3.0, 2e7, 1e6)
    last = read_table(tmp_path / "log.csv", row="last").frame.iloc[0]
    assert (last["loss"], last["D"], last["N"]) == (3.5, 2e7, 1e6)


def test_tables_of_runs_are_put_under_each_other(tmp_path):
    for part, size in (("a", 1e6), ("b", 1e7)):
        frame = pd.DataFrame(
            {"name": ["x", "y", "z"], "N": size, "D": [1e8, 2e8, 3e8], "loss": [3.0, 2.9, 2.8]}
        )
        frame.to_csv(tmp_path / f"{part}.csv", index=False)
    read = read_table(tmp_path)
    assert read.frame["N"].tolist() == [1e6] * 3 + [1e7] * 3
    assert read.frame["run"].tolist() == ["a/x", "a/y", "a/z", "b/x", "b/y", "b/z"]


def test_a_wide_table_says_how_to_reshape_it(tmp_path):
    pd.DataFrame({"step": STEPS, "S": curve(1e6), "M": curve(1e7), "L": curve(1e8)}).to_csv(
        tmp_path / "wide.csv", index=False
    )
    said = " ".join(read_table(tmp_path / "wide.csv").notices)
    assert "frame.melt('step', var_name='run', value_name='loss')" in said


WRAPPED = {
    "dictionaries of Python": lambda v: str({"value": v}),
    "JSON": lambda v: json.dumps({"value": v}),
    "with a description": lambda v: json.dumps({"desc": None, "value": v}),
}


@pytest.mark.parametrize("kind", list(WRAPPED))
@pytest.mark.parametrize("ending", ["csv", "json", "jsonl"])
def test_cells_that_wrap_a_value_are_that_value(tmp_path, kind, ending):
    n = [10_000_000, 30_000_000, 100_000_000]
    frame = pd.DataFrame(
        {"params": n, "tokens": [2e9, 4e9, 8e9], "val_loss": [3.5, 3.25, 3.0], "note": ["{a}", "b", ""]}
    )
    for name in ("params", "val_loss"):
        frame[name] = [WRAPPED[kind](value) for value in frame[name]]
    path = tmp_path / f"runs.{ending}"
    if ending == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=ending == "jsonl")
    read = read_table(path)
    assert list(read.frame["N"]) == n
    assert list(read.frame["loss"]) == [3.5, 3.25, 3.0]
    assert list(read.frame["note"])[:2] == ["{a}", "b"]
    assert any("'params', 'val_loss'" in notice for notice in read.notices)


def test_empty_cells_among_wrapped_ones_stay_empty(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("params,tokens,val_loss\n{'value': 1e6},1e8,3.0\n,1e8,2.9\n{'value': 4e6},1e8,2.8\n")
    assert read_table(path).frame["N"].fillna(-1).tolist() == [1e6, -1, 4e6]
