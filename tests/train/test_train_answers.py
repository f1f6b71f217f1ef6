"""Runs whose loss is on answers only: what they see, and what their curves hold."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from allometry.core.errors import AllometryError
from allometry.models.transformer import TransformerConfig
from allometry.runs.measurements import milestones
from allometry.runs.record import read_run
from allometry.train.checkpoint import trained_model
from allometry.train.config import DataConfig, RunConfig, TrainConfig
from allometry.train.inputs import load_inputs
from allometry.train.loop import train


def questions(
    engine: str = "fast", n_ctx: int = 4, data: dict[str, object] | None = None, **more: object
) -> RunConfig:
    chosen = {"corpus": "synthetic:modular:23:add:0.8:0", "tokenizer": "symbols", "loss_on": "answer"}
    settings = {"tokens": 120 * 32 * n_ctx, "batch_tokens": 32 * n_ctx, "lr": 0.02, "schedule": "constant"}
    return RunConfig(
        model=TransformerConfig(n_layer=1, d_model=32, n_ctx=n_ctx, n_vocab=26),
        data=DataConfig(**{**chosen, "eval_tokens": 2000, **(data or {})}),
        train=TrainConfig(**{**settings, "warmup": 10, **more}),
        engine=engine,
    )


def test_the_curve_has_the_answers_loss_and_accuracies(tmp_path: Path) -> None:
    config = questions(data={"limit": 40 * 6})  # few enough to be memorised at once
    result = train(config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    inputs, model = load_inputs(config), trained_model(tmp_path)
    for column, seen in (("accuracy", inputs.tests["loss"]), ("train_accuracy", inputs.trained)):
        logits = model(torch.from_numpy(seen[:, :4])).detach().numpy()[:, 3]
        assert rows[-1][column] == result[column] == np.mean(logits.argmax(axis=1) == seen[:, 4])
    assert "by_position" not in rows[-1]
    assert rows[-1]["train_accuracy"] > 0.9
    assert rows[-1]["accuracy"] < 0.5
    assert "bits_per_byte" not in result
    assert read_run(tmp_path).row()["accuracy"] == result["accuracy"]
    assert result["unique"] == 40 * 6


@pytest.mark.parametrize("n_ctx", [4, 5])
def test_only_the_answer_counts(n_ctx: int) -> None:
    config = questions(n_ctx=n_ctx)
    inputs = load_inputs(config)
    batch = inputs.order.batch(3)
    assert np.array_equal((batch[:, 0] + batch[:, 2]) % 23, batch[:, 4])
    weights = inputs.weights_of(batch)
    assert weights is not None
    assert weights.shape == (32, n_ctx)
    assert np.array_equal(weights.sum(axis=0), 32 * (np.arange(n_ctx) == 3))
    values = np.arange(8.0).reshape(2, 4)
    assert n_ctx == 5 or inputs.mean(values) == 5


def test_stopped_and_continued_is_bitwise_the_same(
    run_files: Callable[[Path], tuple[bytes, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allometry.train.loop.PROGRESS_SECONDS", 0.0)
    reports = iter(range(45))

    def stop(progress: object) -> None:
        if next(reports, None) is None:
            raise KeyboardInterrupt

    train(questions(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(questions(), tmp_path / "parts", on_progress=stop)
    train(questions(), tmp_path / "parts")
    assert run_files(tmp_path / "parts") == run_files(tmp_path / "whole")


def test_what_has_no_answers_says_so(corpus: str) -> None:
    with pytest.raises(AllometryError, match="does not consist of such questions"):
        load_inputs(
            questions(data={"tokenizer": "bytes"}).replace(
                model=TransformerConfig(n_layer=1, d_model=16, n_ctx=4)
            )
        )
    with pytest.raises(AllometryError, match="does not reach the answer"):
        load_inputs(questions(n_ctx=3))
    with pytest.raises(AllometryError, match="leave noise_batches or loss_on out"):
        questions(noise_batches=1)


def test_a_run_ends_when_its_answers_are_right(tmp_path: Path) -> None:
    result = train(questions(stop_accuracy=0.05, evals_per_octave=4), tmp_path)
    assert result["step"] < 120
    assert result["accuracy"] >= 0.05
    assert result["generalised"] is None
    assert "held-out accuracy" in result["notes"][0]
    with pytest.raises(AllometryError, match="stop_accuracy needs questions"):
        questions(stop_accuracy=0.5, data={"loss_on": "all"})


def test_milestones_are_interpolated() -> None:
    rows = [(16, 0.2, 0.0), (64, 0.89, 0.01), (256, 1.0, 0.02), (1024, 1.0, 0.99)]
    curve = [{"step": s, "train_accuracy": a, "accuracy": b} for s, a, b in rows]
    found = milestones(curve)
    assert found["memorised"] == pytest.approx(64 * 4 ** (10 / 11))
    assert found["generalised"] == 1024
    assert milestones(curve[:3])["generalised"] is None
    assert milestones([{"step": 1, "loss": 2.0}]) == {}
