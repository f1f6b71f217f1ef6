"""What every engine must do: one interface, one set of equations, the same numbers every time."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from allometry.core.errors import AllometryError
from allometry.models.base import families
from allometry.models.transformer import TransformerConfig
from allometry.train.config import EngineName, RunConfig, TrainConfig
from allometry.train.engines.base import ADAM_EPS, CLIP_EPS, ENGINES, Engine, decays
from allometry.train.engines.fast import FastEngine
from allometry.train.engines.reference import ReferenceEngine
from allometry.train.engines.select import engine_class

SHAPES = [
    {"n_layer": 2, "d_model": 32, "n_ctx": 24, "n_vocab": 61},
    {"n_layer": 1, "d_model": 24, "n_ctx": 17, "n_vocab": 300, "bias": True},
    {"n_layer": 3, "d_model": 48, "n_head": 2, "d_ff": 72, "n_ctx": 9, "n_vocab": 128},
]


def test_a_configuration_may_name_every_engine() -> None:
    assert set(get_args(EngineName)) == {"auto", *ENGINES}


def run(shape: dict[str, object] | None = None, **train: object) -> RunConfig:
    model = TransformerConfig(**(shape or SHAPES[0]))
    recipe = {"tokens": 4000, "batch_tokens": 4 * model.n_ctx, "lr": 0.01, "seed": 1, **train}
    return RunConfig(model=model, train=TrainConfig(**recipe))


def batch(config: RunConfig, seed: int = 0) -> np.ndarray:
    shape = (config.train.batch_tokens // config.model.n_ctx, config.model.n_ctx + 1)
    return np.random.default_rng(seed).integers(0, config.model.n_vocab // 2, shape)


def autograd(
    config: RunConfig, tokens: np.ndarray, weights: np.ndarray | None = None
) -> tuple[float, dict[str, np.ndarray], np.ndarray]:
    """(Weighted) mean loss, its gradients and the losses of each token, in float64."""
    model = config.model.build(config.train.seed).double()
    ids = torch.from_numpy(tokens)
    losses = F.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:], reduction="none")
    w = torch.ones_like(losses) if weights is None else torch.from_numpy(weights.astype(np.float64))
    loss = (w * losses).sum() / w.sum()
    loss.backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
    return float(loss.detach()), gradients, losses.detach().numpy()


def norm(gradients: dict[str, np.ndarray]) -> float:
    return math.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in gradients.values()))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


EXACT = [name for name, kind in ENGINES.all().items() if not kind.bf16]
"""Engines whose numbers are those of fp32; the others are tested beside what they round."""


@pytest.fixture(params=EXACT)
def engine(request: pytest.FixtureRequest) -> type[Engine]:
    found = engine_class(request.param)
    if lack := found.unsupported_reason(run()):
        pytest.skip(lack)
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_float64_autograd(engine: type[Engine], shape: dict[str, object]) -> None:
    """Without clipping Adam's first moment after one step is (1 - beta1) times the gradient."""
    config = run(shape, clip=None)
    tokens = batch(config)
    loss, gradients, _ = autograd(config, tokens)
    trained = engine(config)
    result, state = trained.step(tokens, lr=0.0, step=1), trained.state()
    assert result.loss == pytest.approx(loss, rel=1e-6)
    assert result.grad_norm == pytest.approx(norm(gradients), rel=1e-5)
    for name, expected in gradients.items():
        found = state[f"adam_m/{name}"] / (1 - config.train.beta1)
        assert np.linalg.norm(found - expected) < 1e-5 * max(np.linalg.norm(expected), 1e-3), name


@pytest.mark.parametrize("shape", SHAPES)
def test_only_weighted_positions_count(engine: type[Engine], shape: dict[str, object]) -> None:
    """sum(w l) / sum(w), whatever the scale of w, in the gradient and in the update alike."""
    config = run(shape, clip=None)
    tokens = batch(config)
    weights = np.random.default_rng(1).random((4, config.model.n_ctx)).astype(np.float32)
    weights[:, : config.model.n_ctx // 2] = 0
    loss, expected, _ = autograd(config, tokens, weights)
    trained = engine(config)
    found_loss, found = trained.gradients(tokens, weights=weights)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    assert found.keys() == expected.keys()
    for name in expected:
        error = np.linalg.norm(found[name] - expected[name])
        assert error < 1e-5 * max(np.linalg.norm(expected[name]), 1e-3), name
    result = trained.step(tokens, lr=0.0, step=1, weights=3 * weights)
    assert result.loss == pytest.approx(loss, rel=1e-6)
    assert result.grad_norm == pytest.approx(norm(expected), rel=1e-5)


@pytest.mark.parametrize("family", families())
def test_every_family_is_computed_alike(engine: type[Engine], family: str) -> None:
    """Losses, weighted gradients, norms of sequences and an update, against float64 or the reference."""
    model = families()[family].from_n_params(3000, n_ctx=10, n_vocab=40)
    config = RunConfig(model=model, train=TrainConfig(tokens=4000, batch_tokens=40, lr=0.01, seed=1))
    if lack := engine.unsupported_reason(config):
        pytest.skip(lack)
    tokens, trained = batch(config), engine(config)
    weights = np.random.default_rng(1).random((4, 10)).astype(np.float32)
    loss, expected, _ = autograd(config, tokens, weights)
    found_loss, found = trained.gradients(tokens, weights=weights)
    assert found_loss == pytest.approx(loss, rel=1e-5)
    for name in expected:
        error = np.linalg.norm(found[name] - expected[name])
        assert error < 1e-4 * max(np.linalg.norm(expected[name]), 1e-3), name
    alone = [norm(autograd(config, window[None])[1]) for window in tokens]
    assert trained.sequence_norms(tokens) == pytest.approx(alone, rel=1e-4)
    theirs = ReferenceEngine(config)
    for step in (1, 2):
        a, b = trained.step(tokens, lr=0.01, step=step), theirs.step(tokens, lr=0.01, step=step)
        assert a == pytest.approx(b, rel=1e-4)
    assert np.allclose(trained.losses(tokens), theirs.losses(tokens), atol=1e-4)
    assert np.mean(trained.hits(tokens) == theirs.hits(tokens)) > 0.9  # near ties may differ


def test_equal_weights_are_the_mean(engine: type[Engine]) -> None:
    config = run()
    weights = np.full((4, config.model.n_ctx), 0.5, np.float32)
    weighted = engine(config).step(batch(config), lr=0.01, step=1, weights=weights)
    plain = engine(config).step(batch(config), lr=0.01, step=1)
    assert weighted == pytest.approx(plain, rel=1e-5)


def test_weights_that_are_all_zero_are_refused(engine: type[Engine]) -> None:
    config = run()
    with pytest.raises(AllometryError, match="all its weights are zero"):
        engine(config).step(batch(config), lr=0.01, step=1, weights=np.zeros((4, 24), np.float32))


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_norms_of_sequences_and_of_their_batch(engine: type[Engine], shape: dict[str, object]) -> None:
    config = run(shape)
    tokens = batch(config)
    trained = engine(config)
    expected = [norm(autograd(config, window[None])[1]) for window in tokens]
    assert trained.sequence_norms(tokens) == pytest.approx(expected, rel=1e-5)
    assert trained.gradient_norm(tokens) == pytest.approx(norm(autograd(config, tokens)[1]), rel=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_looking_at_gradients_does_not_change_training(engine: type[Engine], dropout: float) -> None:
    config = run({**SHAPES[0], "dropout": dropout})
    watched, alone = engine(config), engine(config)
    for step in range(1, 4):
        watched.gradients(batch(config, seed=9), step=step)
        watched.sequence_norms(batch(config, seed=8), step=step)
        watched.gradient_norm(batch(config, seed=7), step=step)
        a = watched.step(batch(config, seed=step), lr=0.01, step=step)
        assert alone.step(batch(config, seed=step), lr=0.01, step=step) == a
    one, two = watched.state(), alone.state()
    assert all(np.array_equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("clip", [None, 0.1])
def test_an_update_is_adamw_as_written(engine: type[Engine], clip: float | None) -> None:
    """The equations of `Engine.step`, in float64 from the engine's own state at step 2."""
    config = run(clip=clip, weight_decay=0.3)
    trained = engine(config)
    trained.step(batch(config), lr=0.01, step=1)
    before = trained.state()
    length = trained.step(batch(config, seed=1), lr=0.02, step=2).grad_norm
    after, train = trained.state(), config.train
    for key in [key.removeprefix("params/") for key in before if key.startswith("params/")]:
        m, v, p = (before[f"{kind}/{key}"].astype(np.float64) for kind in ("adam_m", "adam_v", "params"))
        g = (after[f"adam_m/{key}"] - train.beta1 * m) / (1 - train.beta1)
        v = train.beta2 * v + (1 - train.beta2) * g**2
        assert np.allclose(after[f"adam_v/{key}"], v, rtol=1e-3, atol=1e-10), key
        m, v = after[f"adam_m/{key}"].astype(np.float64), after[f"adam_v/{key}"].astype(np.float64)
        p *= 1 - 0.02 * train.weight_decay * decays(key, p.shape)
        p -= 0.02 * (m / (1 - train.beta1**2)) / (np.sqrt(v / (1 - train.beta2**2)) + ADAM_EPS)
        assert np.allclose(after[f"params/{key}"], p, rtol=1e-4, atol=1e-6), key
    assert clip is None or length > clip


def test_clipping_shrinks_the_gradient_to_the_threshold(engine: type[Engine]) -> None:
    free, clipped = engine(run(clip=None)), engine(run(clip=0.05))
    length = free.step(batch(run()), lr=0.0, step=1).grad_norm
    assert clipped.step(batch(run()), lr=0.0, step=1).grad_norm == pytest.approx(length, rel=1e-6)
    a, b = free.state()["adam_m/embed.weight"], clipped.state()["adam_m/embed.weight"]
    assert np.allclose(a * (0.05 / (length + CLIP_EPS)), b, rtol=1e-4, atol=1e-9)


def test_losses_of_each_token(engine: type[Engine]) -> None:
    config = run(SHAPES[1])
    tokens = batch(config)
    found = engine(config).losses(tokens)
    assert found.shape == (4, config.model.n_ctx)
    assert found.dtype == np.float32
    assert np.allclose(found, autograd(config, tokens)[2], atol=1e-5)


def test_hits_are_where_the_largest_logit_is_the_target(engine: type[Engine]) -> None:
    config = run(SHAPES[1])
    trained = engine(config)
    tokens = batch(config)
    for step in range(1, 6):  # learns some of the batch
        trained.step(tokens, lr=0.01, step=step)
    model = config.model.build()
    state = trained.state()
    model.load_state_dict({name: torch.from_numpy(state[f"params/{name}"]) for name in model.state_dict()})
    expected = model(torch.from_numpy(tokens[:, :-1])).argmax(-1).numpy() == tokens[:, 1:]
    found = trained.hits(tokens)
    assert found.dtype == np.bool_
    assert np.array_equal(found, expected)
    assert 0 < found.mean() < 1


def test_trains_as_the_reference_does(engine: type[Engine]) -> None:
    config = run(clip=0.5)
    ours, theirs = engine(config), ReferenceEngine(config)
    for step in range(1, 31):
        tokens = batch(config, seed=step % 5)
        a, b = ours.step(tokens, lr=0.01, step=step), theirs.step(tokens, lr=0.01, step=step)
        assert a.loss == pytest.approx(b.loss, rel=2e-4)
    assert ours.losses(batch(config)).mean() == pytest.approx(theirs.losses(batch(config)).mean(), rel=1e-3)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_same_bits_every_time_and_through_a_state(engine: type[Engine], dropout: float) -> None:
    config = run({**SHAPES[0], "dropout": dropout})
    one, two = engine(config), engine(config)
    for step in range(1, 7):
        if step == 4:  # the second run stops here and another process goes on
            state = two.state()
            two = engine(config)
            two.load_state(state)
        torch.manual_seed(step)  # the global generator must not matter
        a = one.step(batch(config, seed=step), lr=0.01, step=step)
        assert two.step(batch(config, seed=step), lr=0.01, step=step) == a
    last, again = one.state(), two.state()
    assert last.keys() == again.keys()
    assert all(np.array_equal(last[key], again[key]) for key in last)


def test_state_is_a_copy_and_passes_between_engines(engine: type[Engine]) -> None:
    config = run(SHAPES[1])
    theirs = ReferenceEngine(config)
    theirs.step(batch(config), lr=0.01, step=1)
    state = theirs.state()
    ours = engine(config)
    ours.load_state(state)
    taken = ours.state()
    assert taken.keys() == state.keys()
    assert all(
        np.array_equal(taken[key], state[key]) and taken[key].shape == state[key].shape for key in state
    )
    kept = taken["params/embed.weight"].copy()
    a, b = ours.step(batch(config), lr=0.01, step=2), theirs.step(batch(config), lr=0.01, step=2)
    assert a.loss == pytest.approx(b.loss, rel=1e-5)
    assert np.array_equal(taken["params/embed.weight"], kept)


def test_begins_with_the_models_own_parameters(engine: type[Engine]) -> None:
    config = run()
    state = engine(config).state()
    for name, tensor in config.model.build(config.train.seed).state_dict().items():
        assert np.array_equal(state[f"params/{name}"], tensor.numpy())
        assert not state[f"adam_m/{name}"].any()


def test_bf16_products_stay_near_fp32() -> None:
    """Where the fast engine uses bf16, its gradients are within 2 % of fp32's and it learns alike."""
    config = run({**SHAPES[0], "d_model": 64}, clip=None)
    half, whole = FastEngine(config, precision=torch.bfloat16), FastEngine(config, precision=torch.float32)
    for trained in (half, whole):
        trained.step(batch(config), lr=0.0, step=1)
    a, b = half.state(), whole.state()
    difference = sum(np.sum((a[key] - b[key]) ** 2) for key in a if key.startswith("adam_m"))
    assert difference < 0.02**2 * sum(np.sum(b[key] ** 2) for key in b if key.startswith("adam_m"))
    for step in range(2, 22):
        x, y = (trained.step(batch(config), lr=0.01, step=step) for trained in (half, whole))
    assert x.loss == pytest.approx(y.loss, abs=0.05)
