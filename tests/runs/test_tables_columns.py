"""Which column is which, in the command line and in Python alike; units in headings; runs and their ends."""

import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.laws.observations import observe
from allometry.laws.zoo import get
from allometry.runs.importers import read_table
from allometry.runs.tables.columns import read_heading

N, D = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(2e8, 2e10, 5)))
LOSS = 1.75 + 320 / N**0.33 + 900 / D**0.35
LAW = get("chinchilla")


def both(tmp_path, frame, **options):
    """The values of N, D and the loss as read from a file, and as read from the frame in Python."""
    path = tmp_path / "runs.csv"
    frame.to_csv(path, index=False)
    from_file = observe(read_table(path, **options).frame, LAW)
    return from_file, observe(frame, LAW, columns=options.get("columns"))


HEADINGS = [
    ("params", 1, "tokens", 1, "val_loss"),
    ("Params (M)", 1e6, "Tokens (B)", 1e9, "Val Loss"),
    ("Parameters [millions]", 1e6, "training tokens, B", 1e9, "Validation loss (nats)"),
    ("params_millions", 1e6, "tokens_in_billions", 1e9, "test_loss"),
    ("model_size_b", 1e9, "n_tokens_b", 1e9, "eval/loss"),
    ("N (1e6)", 1e6, "D (10^9)", 1e9, "L"),
    ("#Params (M params)", 1e6, "Tokens (B tokens)", 1e9, "Loss"),
    ("config/num_params", 1, "train/tokens_seen", 1, "eval/loss"),
    ("config.model.n_params", 1, "summary.tokens_trained", 1, "summary.val_loss"),
    ("params.n_params", 1, "metrics.total_tokens", 1, "metrics.val_loss"),
    ("non_embedding_params", 1, "num_input_tokens_seen", 1, "eval_loss"),
    ("nParams", 1, "trainTokens", 1, "valLoss"),
]


@pytest.mark.parametrize("heading", HEADINGS, ids=lambda h: h[0])
def test_headings_are_known_in_files_and_in_python(tmp_path, heading):
    size, by_size, tokens, by_tokens, loss = heading
    for points in both(tmp_path, pd.DataFrame({size: N / by_size, tokens: D / by_tokens, loss: LOSS})):
        np.testing.assert_allclose(points.inputs["N"], N, rtol=1e-9)
        np.testing.assert_allclose(points.inputs["D"], D, rtol=1e-9)
        np.testing.assert_allclose(points.output, LOSS, rtol=1e-9)


def test_a_unit_in_the_cells_counts_alone(tmp_path):
    frame = pd.DataFrame({"Params (M)": [f"{n / 1e6:.9g}M" for n in N], "tokens": D, "loss": LOSS})
    for points in both(tmp_path, frame):
        np.testing.assert_allclose(points.inputs["N"], N, rtol=1e-6)


def test_arithmetic_uses_the_cells_as_they_stand(tmp_path):
    frame = pd.DataFrame({"Params (M)": N / 1e6, "tokens": D, "loss": LOSS})
    for points in both(tmp_path, frame, columns={"N": "`Params (M)`*1e6"}):
        np.testing.assert_allclose(points.inputs["N"], N, rtol=1e-9)


def test_a_constant_with_a_unit_is_a_column():
    points = observe(pd.DataFrame({"D": D, "loss": LOSS}), LAW, columns={"N": "25M"})
    assert set(points.inputs["N"]) == {25e6}


@pytest.mark.parametrize(
    ("values", "words"), [(N / 1e9, "billions"), (N / 1e6, "millions"), (N / 1e12, "trillions")]
)
def test_numbers_too_small_for_parameters_are_said(tmp_path, values, words):
    path = tmp_path / "runs.csv"
    pd.DataFrame({"N": values, "D": D, "loss": LOSS}).to_csv(path, index=False)
    said = [notice for notice in read_table(path).notices if "too few to be parameters" in notice]
    assert len(said) == 1
    assert words in said[0] or values.max() < 1e-2


def test_an_evaluation_goes_before_the_training_loss(tmp_path):
    frame = pd.DataFrame({"N": N, "D": D, "loss": LOSS - 0.2, "eval_loss": LOSS})
    for points in both(tmp_path, frame):
        np.testing.assert_allclose(points.output, LOSS, rtol=1e-9)
    for points in both(tmp_path, frame, columns={"L": "loss"}):
        np.testing.assert_allclose(points.output, LOSS - 0.2, rtol=1e-9)


def test_a_choice_made_in_reading_holds_in_the_fit(tmp_path):
    path = tmp_path / "runs.csv"
    pd.DataFrame({"N": N, "D": D, "train_loss": LOSS - 0.2, "eval_loss": LOSS}).to_csv(path, index=False)
    read = read_table(path, columns={"loss": "train_loss"})
    np.testing.assert_allclose(observe(read.frame, LAW).output, LOSS - 0.2, rtol=1e-9)


def test_a_training_loss_alone_is_said(tmp_path):
    path = tmp_path / "runs.csv"
    pd.DataFrame({"N": N, "D": D, "train/loss": LOSS}).to_csv(path, index=False)
    assert any("a training loss" in notice for notice in read_table(path).notices)
    assert any("a training loss" in note for note in observe(pd.read_csv(path), LAW).notes)


def test_two_counts_of_parameters_are_said(tmp_path):
    path = tmp_path / "runs.csv"
    frame = pd.DataFrame({"total_params": N * 1.3, "non_embedding_params": N, "tokens": D, "loss": LOSS})
    frame.to_csv(path, index=False)
    assert any("not 'non_embedding_params'" in notice for notice in read_table(path).notices)
    assert any("not 'non_embedding_params'" in note for note in observe(frame, LAW).notes)


@pytest.mark.parametrize(
    ("columns", "mapping", "remedy"),
    [
        ({"N": N, "D": D, "c4_loss": LOSS}, {}, "--let loss=c4_loss"),
        ({"N": N, "D": D, "val_ppl": np.exp(LOSS)}, {}, "--let 'loss=log(val_ppl)'"),
        ({"N": N, "D": D, "val/ppl": np.exp(LOSS)}, {}, "--let 'loss=log(`val/ppl`)'"),
        ({"weights (our count)": N, "D": D, "loss": LOSS}, {}, "--let 'N=weights (our count)'"),
        ({"our size (M)": N / 1e6, "D": D, "loss": LOSS}, {"N": "our size (M)*1e6"}, "`our size (M)`*1e6"),
        ({"N": N, "toks": D, "loss": LOSS}, {}, "--let D=toks"),
    ],
)
def test_a_missing_column_names_what_may_be_meant(columns, mapping, remedy):
    frame = pd.DataFrame(columns)
    with pytest.raises(AllometryError, match="has no column") as stop:
        observe(frame, LAW, columns=mapping)
    assert remedy in stop.value.cli_hint
    assert "--let" not in stop.value.hint
    assert "columns={" in stop.value.hint
    typed = stop.value.cli_hint.partition("--let ")[2].strip("'").partition("=")
    again = observe(frame, LAW, columns={**mapping, ("L" if typed[0] == "loss" else typed[0]): typed[2]})
    np.testing.assert_allclose(again.output, LOSS, rtol=1e-9)


@pytest.mark.parametrize(
    "name", ["bitnet_val_loss_8bit", "model", "learning rate (1e-3)", "train/loss", "step_b", "L", "c4 (en)"]
)
def test_headings_without_a_unit_scale_nothing(name):
    assert read_heading(name).scale == 1 or name.startswith("learning")


STATES = {
    "Weights & Biases": ("State", "finished", ("crashed", "failed", "killed", "running")),
    "MLflow": ("status", "FINISHED", ("FAILED", "KILLED", "RUNNING", "SCHEDULED")),
    "SLURM": ("State", "COMPLETED", ("TIMEOUT", "CANCELLED by 1000", "OUT_OF_MEMORY", "NODE_FAIL")),
    "Ray Tune": ("status", "TERMINATED", ("ERROR", "PENDING", "PAUSED", "RUNNING")),
    "Optuna": ("state", "COMPLETE", ("PRUNED", "FAIL", "WAITING", "RUNNING")),
    "ClearML": ("status", "completed", ("aborted", "failed", "in_progress", "queued")),
    "ours": ("status", "done", ("partial", "failed", "diverged", "running")),
}


@pytest.mark.parametrize("tracker", STATES)
def test_runs_that_did_not_finish_are_left_out(tmp_path, tracker):
    name, good, bad = STATES[tracker]
    ends = [good] * 21 + list(bad)
    frame = pd.DataFrame({"N": N, "D": D, "loss": np.where(np.arange(25) < 21, LOSS, 9.0), name: ends})
    for points in both(tmp_path, frame):
        np.testing.assert_allclose(points.output, LOSS[:21], rtol=1e-9)
        assert points.excluded["reason"].tolist() == [f"{name} is {word}" for word in bad]


def test_words_of_something_else_leave_nothing_out(tmp_path):
    frame = pd.DataFrame({"N": N, "D": D, "loss": LOSS, "state": np.resize(["Texas", "Ohio", "Utah"], 25)})
    assert all(len(points) == 25 for points in both(tmp_path, frame))


def test_an_unknown_word_among_known_ones_is_kept_and_said(tmp_path):
    frame = pd.DataFrame(
        {"N": N, "D": D, "loss": LOSS, "status": ["finished"] * 20 + ["crashed"] * 4 + ["fine"]}
    )
    for points in both(tmp_path, frame):
        assert len(points) == 21
        assert any("'fine'" in note for note in points.notes)


@pytest.mark.parametrize(
    ("labels", "taken"),
    [
        ([f"r{i}" for i in range(25)], True),
        (["transformer"] * 25, False),
        (np.resize(["pile", "c4"], 25), False),
        ([f"size-{n:.0f}" for n in N], False),
    ],
)
@pytest.mark.parametrize("column", ["name", "id"])
def test_a_name_is_a_run_only_where_it_can_be(tmp_path, labels, taken, column):
    path = tmp_path / "runs.csv"
    pd.DataFrame({column: labels, "N": N, "D": D, "loss": LOSS}).to_csv(path, index=False)
    read = read_table(path)
    assert ("run" in read.frame) is taken
    assert taken or any(f"{column!r} has" in notice for notice in read.notices)


def test_a_name_along_steps_is_a_run(tmp_path):
    rows = [(f"m{n:.0f}", n, step, step * 1e6, 3 + 9 / step) for n in (1e7, 1e8) for step in (1, 2, 3)]
    path = tmp_path / "runs.csv"
    pd.DataFrame(rows, columns=["name", "params", "step", "tokens", "loss"]).to_csv(path, index=False)
    assert read_table(path).frame["run"].tolist() == ["m10000000"] * 3 + ["m100000000"] * 3


def test_a_full_name_is_taken_before_a_letter_that_may_be_an_index_or_a_width(tmp_path):
    path = tmp_path / "runs.csv"
    rows = [f"{i},{64 * i},{10**6 * i},{10**8 * i},{4 - 0.1 * i}" for i in range(1, 8)]
    path.write_text("n,d,params,tokens,loss\n" + "\n".join(rows) + "\n")
    frame = read_table(path).frame
    assert frame["N"].tolist() == [10**6 * i for i in range(1, 8)]
    assert frame["D"].tolist() == [10**8 * i for i in range(1, 8)]
