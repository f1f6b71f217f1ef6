"""Models in a pack are what they are alone: gradients, updates, curves, whatever their neighbours do."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry.core.errors import AllometryError
from allometry.experimental.packs import Pack, unsupported_reason
from allometry.models.base import family
from allometry.models.transformer import TransformerConfig
from allometry.train.config import RunConfig, TrainConfig
from allometry.train.engines.base import Step
from allometry.train.engines.fast import FastEngine
from allometry.train.engines.reference import ReferenceEngine

SHAPE = {"n_layer": 2, "d_model": 16, "n_ctx": 12, "n_vocab": 40}
RECIPES = (
    {"seed": 0},
    {"seed": 1, "weight_decay": 0.0, "clip": None},
    {"seed": 2, "clip": 0.05, "beta1": 0.8, "beta2": 0.99},
)


def runs(recipes: tuple[dict[str, object], ...] = RECIPES, **shape: object) -> list[RunConfig]:
    model = TransformerConfig(**{**SHAPE, **shape})
    train = {"tokens": 4000, "batch_tokens": 4 * model.n_ctx, "lr": 0.01}
    return [RunConfig(model=model, train=TrainConfig(**{**train, **recipe})) for recipe in recipes]


def batches(configs: list[RunConfig], seed: int) -> np.ndarray:
    """One batch for each model, (K, sequences, n_ctx + 1)."""
    model, train = configs[0].model, configs[0].train
    shape = (len(configs), train.batch_tokens // model.n_ctx, model.n_ctx + 1)
    return np.random.default_rng(seed).integers(0, model.n_vocab // 2, shape)


def asked(tokens: np.ndarray, step: int, lr: float = 0.01) -> dict[int, list[Step]]:
    """A step for each model, at rates that differ by a factor of up to K."""
    return {row: [Step(batch, lr / (row + 1), step)] for row, batch in enumerate(tokens)}


@settings(max_examples=5, derandomize=True, deadline=None)
@given(
    heads=st.integers(1, 3),
    layers=st.integers(1, 2),
    n_ctx=st.integers(3, 20),
    vocab=st.integers(5, 300),
    bias=st.booleans(),
    models=st.integers(1, 4),
)
def test_gradients_are_those_of_each_model_alone(
    heads: int, layers: int, n_ctx: int, vocab: int, bias: bool, models: int
) -> None:
    """Without clipping Adam's first moment after one step is (1 - beta1) times the gradient."""
    shape = {"n_layer": layers, "d_model": 8 * heads, "n_head": heads, "n_ctx": n_ctx, "n_vocab": vocab}
    recipes = tuple({"seed": seed, "clip": None} for seed in range(models))
    configs = runs(recipes, **shape, bias=bias)
    pack, tokens = Pack(configs, precision=torch.float32), batches(configs, 0)
    results = pack.steps(asked(tokens, 1, lr=0.0))
    for row, config in enumerate(configs):
        loss, gradients = ReferenceEngine(config).gradients(tokens[row])
        length = math.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in gradients.values()))
        assert results[row][0] == pytest.approx((loss, length), rel=1e-5)
        state = pack.members[row].state()
        for name, expected in gradients.items():
            error = np.linalg.norm(state[f"adam_m/{name}"] / 0.1 - expected)
            assert error < 1e-5 * max(np.linalg.norm(expected), 1e-3), name


@pytest.mark.parametrize("kind", ["transformer", "universal"])
def test_curves_are_those_of_each_model_alone(kind: str) -> None:
    model = family(kind).from_n_params(3000, n_ctx=12, n_vocab=40)
    configs = [config.model_copy(update={"model": model}) for config in runs()]
    pack = Pack(configs, precision=torch.float32)
    alone = [ReferenceEngine(config) for config in configs]
    for step in range(1, 21):
        tokens = batches(configs, step % 4)
        results = pack.steps(asked(tokens, step))
        for row, engine in enumerate(alone):
            expected = engine.step(tokens[row], lr=0.01 / (row + 1), step=step)
            assert results[row][0] == pytest.approx(expected, rel=1e-4)
    for row, engine in enumerate(alone):
        assert np.allclose(pack.members[row].losses(tokens[row]), engine.losses(tokens[row]), atol=1e-4)


def test_only_weighted_positions_count() -> None:
    configs = runs()
    tokens, weights = batches(configs, 0), np.random.default_rng(1).random((4, 12)).astype(np.float32)
    pack = Pack(configs, precision=torch.float32)
    results = pack.steps({row: [Step(tokens[row], 0.01, 1, weights)] for row in range(3)})
    unweighted = pack.steps(asked(tokens, 2, lr=0.0))
    for row, config in enumerate(configs):
        engine = ReferenceEngine(config)
        expected = engine.step(tokens[row], lr=0.01, step=1, weights=weights)
        assert results[row][0] == pytest.approx(expected, rel=1e-5)
        assert unweighted[row][0].loss == pytest.approx(
            engine.step(tokens[row], lr=0.0, step=2).loss, rel=1e-4
        )


def test_one_that_diverges_leaves_the_others_as_they_are() -> None:
    configs = runs()
    calm, hurt = Pack(configs), Pack(configs)
    for step in range(1, 6):
        tokens = batches(configs, step)
        expected = calm.steps(asked(tokens, step))
        wild = asked(tokens, step) | {1: [Step(tokens[1], 1e30, step)]}
        results = hurt.steps(wild)
        assert results[0] == expected[0]
        assert results[2] == expected[2]
    assert not math.isfinite(results[1][0].loss)
    results = hurt.steps({row: asked(tokens, 6)[row] for row in (0, 2)})  # and it is left out from here on
    expected = calm.steps(asked(tokens, 6))
    assert results == {row: expected[row] for row in (0, 2)}
    assert np.array_equal(hurt.members[2].losses(tokens[2]), calm.members[2].losses(tokens[2]))


def test_several_steps_in_one_call_and_a_state_change_no_bit() -> None:
    configs = runs()
    one, two = Pack(configs), Pack(configs)
    several: dict[int, list[Step]] = {0: [], 1: [], 2: []}
    single = []
    for step in range(1, 5):
        at = asked(batches(configs, step), step)
        single.append(one.steps(at))
        for row, steps in at.items():
            several[row] += steps
    first = two.steps({row: steps[:2] for row, steps in several.items()})
    again = Pack(configs)
    for old, new in zip(two.members, again.members, strict=True):
        new.load_state(old.state())
    last = again.steps({row: steps[2:] for row, steps in several.items()})
    for row in range(3):
        assert first[row] + last[row] == [results[row][0] for results in single]


def test_a_member_is_an_engine_of_its_own() -> None:
    """It computes with its row, and its state passes to and from engines that train alone."""
    configs = runs()
    pack, alone = Pack(configs), FastEngine(configs[1])
    tokens = batches(configs, 0)
    pack.steps(asked(tokens, 1))
    member = pack.members[1]
    alone.load_state(member.state())
    assert np.array_equal(member.losses(tokens[1]), alone.losses(tokens[1]))
    assert np.array_equal(member.hits(tokens[1]), alone.hits(tokens[1]))
    assert member.gradient_norm(tokens[1]) == alone.gradient_norm(tokens[1])
    expected = alone.step(tokens[1], lr=0.005, step=2)
    member.load_state(ReferenceEngine(configs[1]).state())
    pack.steps(asked(tokens, 1))
    assert pack.steps(asked(tokens, 2))[1][0] == pytest.approx(expected, rel=1e-5)


def test_bf16_is_the_fast_engines() -> None:
    configs = runs(tuple({"seed": seed} for seed in range(2)), d_model=64)
    pack = Pack(configs, precision=torch.bfloat16)
    alone = [FastEngine(config, precision=torch.bfloat16) for config in configs]
    for step in range(1, 11):
        tokens = batches(configs, step % 3)
        results = pack.steps(asked(tokens, step))
        for row, engine in enumerate(alone):
            expected = engine.step(tokens[row], lr=0.01 / (row + 1), step=step)
            assert results[row][0].loss == pytest.approx(expected.loss, abs=0.02)


@pytest.mark.parametrize(
    ("configs", "reason"),
    [
        (runs()[:1] + runs(n_vocab=41)[:1], "different shape"),
        (runs() + runs(({"batch_tokens": 12},)), "batches of different size"),
        (runs(dropout=0.1), "dropout"),
        (
            [
                run.model_copy(update={"model": family("lstm").from_n_params(3000, n_ctx=12)})
                for run in runs()
            ],
            "LSTM",
        ),
    ],
)
def test_what_cannot_be_packed_is_refused(configs: list[RunConfig], reason: str) -> None:
    assert reason in (unsupported_reason(configs) or "")
    with pytest.raises(AllometryError, match=reason):
        Pack(configs)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "tolerance"), [(torch.float32, {"rel": 1e-3}), (torch.bfloat16, {"abs": 0.02})]
)
def test_a_graph_on_a_gpu_trains_as_the_reference(
    precision: torch.dtype, tolerance: dict[str, float]
) -> None:
    """Two calls of several steps each: the second replays what the first has captured."""
    configs = runs()
    pack = Pack(configs, device="cuda", precision=precision)
    alone = [ReferenceEngine(config) for config in configs]
    for first in (1, 5):
        at = [asked(batches(configs, step), step) for step in range(first, first + 4)]
        results = pack.steps({row: [each[row][0] for each in at] for row in range(3)})
        for row, engine in enumerate(alone):
            for number, result in enumerate(results[row]):
                step = at[number][row][0]
                expected = engine.step(step.batch, lr=step.lr, step=step.step)
                assert result.loss == pytest.approx(expected.loss, **tolerance)
