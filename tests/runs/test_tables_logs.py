"""Logs of training as text: of programs that are known and others, of one run, of several, and of resumed ones."""

import numpy as np
import pytest

from allometry.runs.importers import read_table


def loss(step, n=10e6, batch=16_384):
    return 1.75 + 320 / n**0.33 + 900 / (max(step, 1) * batch) ** 0.35


def nanogpt(n, steps, first=0, facts=True):
    text = f"tokens per iteration will be: 16,384\nnumber of parameters: {n / 1e6:.2f}M\n" if facts else ""
    for step in range(first, steps + 1, 250):
        text += f"step {step}: train loss {loss(step, n) - 0.1:.4f}, val loss {loss(step, n):.4f}\n"
        text += "".join(
            f"iter {k}: loss {loss(k, n):.4f}, time 56ms, mfu 9%\n" for k in range(step, step + 250, 50)
        )
    return text


def llm_c(n, steps, first=0):
    text = f"| num_parameters: {n:.0f} => bytes: 1 |\n"
    for step in range(first, steps + 1, 50):
        text += f"s:{step} tel:{loss(step, n):.4f}\ns:{step} trl:{loss(step, n) - 0.1:.4f} lr:1e-4\n"
    return text


def printed(n, steps, first=0):
    text = f"Total number of parameters: {n:,.0f}\n"
    for step in range(first, steps + 1, 50):
        text += f"[rank0] step: {step:4d}  loss: {loss(step, n) - 0.1:.4f}  lr: 1e-4  tps: 99\n"
        text += f"    validation loss {loss(step, n):.4f}\n"
    return text


PROGRAMS = {"nanoGPT": nanogpt, "llm.c": llm_c, "another program": printed}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_log_that_begins_again_holds_several_runs(tmp_path, program):
    write = PROGRAMS[program]
    (tmp_path / "train.log").write_text(write(10e6, 2000) + write(40e6, 1000) + write(90e6, 1500))
    read = read_table(tmp_path / "train.log", row="last")
    assert read.frame["N"].tolist() == [10e6, 40e6, 90e6]
    ends = read.frame["loss"].tolist()
    assert ends == pytest.approx([loss(2000, 10e6), loss(1000, 40e6), loss(1500, 90e6)], abs=1e-4)
    assert read.frame["run"].tolist() == ["run 1", "run 2", "run 3"]
    assert any("3 runs" in notice for notice in read.notices)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_resumed_log_is_one_run_and_counts_what_was_said_last(tmp_path, program):
    write = PROGRAMS[program]
    text = write(10e6, 1000) + "resumed from a checkpoint\n" + write(40e6, 2000, first=500)
    (tmp_path / "train.log").write_text(text)
    frame = read_table(tmp_path / "train.log").frame
    evaluated = frame.dropna(subset=["val_loss"]).set_index("step")["val_loss"]
    assert evaluated.index.is_unique
    assert evaluated.index.is_monotonic_increasing
    assert evaluated[250] == pytest.approx(loss(250, 10e6), abs=1e-4)
    assert evaluated[1000] == pytest.approx(loss(1000, 40e6), abs=1e-4)
    assert "run" not in frame


OTHERS = {
    "a step and a loss a line": "step {step:5d}/2000 | loss {train:.6f} (+0.12z)| lr 6e-04 | 2830 tok/s\n"
    "val loss {val:.6f}\n",
    "names with equals signs": "[step={step}/2000,epoch=0]\n    train/CrossEntropyLoss={train:.4f}\n"
    "    eval/c4/CrossEntropyLoss={val:.4f}\n    throughput/total_tokens={tokens:,}\n",
    "dates and ranks": "2026-01-01 00:00:00,000 INFO - iteration: {step}  train_loss: {train:.4f}  "
    "val_loss: {val:.4f}\n",
    "LitGPT": "Epoch 1 | iter {micro} step {step} | loss train: {train:.3f}, val: {val:.4f} | iter time: 15.2 ms\n"
    "Epoch 1 | iter {micro} step {step} | loss train: {train:.3f}, val: n/a | iter time: 15.2 ms\n",
    "numbers first": "{step} val {val:.4f}\n{step} hella 0.25\n{step} train {train:.6f}\n",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_programs_are_read_by_their_words(tmp_path, kind):
    steps = range(50, 1050, 50)
    lines = [
        OTHERS[kind].format(step=s, micro=4 * s, train=loss(s) - 0.1, val=loss(s), tokens=s * 16_384)
        for s in steps
    ]
    (tmp_path / "out.log").write_text("loading the model\nseed 1337\n" + "".join(lines) + "saved\n")
    frame = read_table(tmp_path / "out.log").frame
    assert frame["step"].tolist() == list(steps)
    assert frame["loss"].tolist() == pytest.approx([loss(s) for s in steps], abs=1e-3)
    if "tokens" in OTHERS[kind]:
        assert frame["D"].tolist() == [s * 16_384 for s in steps]


@pytest.mark.parametrize("before", ["", "  1%|▏       | 10/1000 [00:01<02:09,  7.6it/s]\r", "INFO:root:"])
def test_dictionaries_that_a_trainer_prints_are_its_history(tmp_path, before):
    text = ""
    for at in range(1, 101):
        text += f"{before}{ {'loss': round(loss(at) - 0.1, 4), 'learning_rate': 1e-4, 'epoch': at / 100} }\n"
        if at % 10 == 0:
            text += f"{ {'eval_loss': round(loss(at), 4), 'eval_runtime': 1.0, 'epoch': at / 100} }\n"
    (tmp_path / "train.log").write_text(text)
    frame = read_table(tmp_path / "train.log").frame.dropna(subset=["eval_loss"])
    assert frame["epoch"].tolist() == pytest.approx(list(np.arange(1, 11) / 10))
    assert frame["loss"].dropna().tolist() == pytest.approx([loss(10 * k) for k in range(1, 11)], abs=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "N D loss\n1e6 1e8 3.1\n2e6 2e8 3.0\n4e6 4e8 2.9\n",
        "N;D;loss;note\n1e6;1e8;3.1;step 5 again\n2e6;2e8;3.0;at step 7\n4e6;4e8;2.9;after step 9\n",
    ],
)
def test_a_table_with_words_of_logs_stays_a_table(tmp_path, text):
    (tmp_path / "runs.txt").write_text(text)
    assert read_table(tmp_path / "runs.txt").frame["N"].tolist() == [1e6, 2e6, 4e6]
