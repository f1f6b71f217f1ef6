"""The Universal Transformer: the transformer where it is one, sharing where it shares, ACT by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from allometry.core.errors import AllometryError
from allometry.models.hf import export_gpt2, import_gpt2
from allometry.models.lstm import LSTMConfig
from allometry.models.modules.universal import Universal
from allometry.models.transformer import TransformerConfig
from allometry.models.universal import Act, UniversalConfig
from allometry.train.config import RunConfig, TrainConfig
from allometry.train.engines.native import NativeEngine
from allometry.train.engines.select import engine

SHAPE = {"d_model": 32, "n_head": 2, "n_ctx": 20, "n_vocab": 67}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tokens(rows: int = 3) -> torch.Tensor:
    return torch.randint(0, 67, (rows, 20), generator=torch.Generator().manual_seed(1))


def ponderer(**act: float) -> Universal:
    """A model with ACT whose halting unit has been moved off its constant start."""
    model = UniversalConfig(n_layer=8, reuse=4, act=Act(**act), **SHAPE).build(seed=2)
    with torch.no_grad():
        model.halt.weight.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(3))
        model.halt.bias.fill_(-0.5)
    return model


@pytest.mark.parametrize("bias", [False, True])
def test_without_reuse_it_is_the_transformer_bit_for_bit(bias: bool) -> None:
    universal = UniversalConfig(n_layer=3, reuse=1, bias=bias, **SHAPE)
    transformer = TransformerConfig(n_layer=3, bias=bias, **SHAPE)
    assert universal.counts() == transformer.counts()
    ours, theirs = universal.build(seed=4), transformer.build(seed=4)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    losses = []
    for model in (ours, theirs):
        logits = model(tokens())
        logits.square().mean().backward()
        losses.append([logits, *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*losses, strict=True))


@pytest.mark.parametrize("reuse", [2, 4, 8])
def test_parameters_including_reuse_come_from_the_counts(reuse: int) -> None:
    """Kaplan et al. 2020, figure 17: r N on one axis, N on the other."""
    counts = UniversalConfig(n_layer=8, reuse=reuse, **SHAPE).counts()
    assert 12 * (8 // reuse) * 32**2 == counts.N
    assert counts.flops_blocks // 2 == reuse * counts.N == 12 * 8 * 32**2
    assert counts.flops_attention == 2 * 8 * 20 * 32


def test_repetitions_are_an_unrolled_transformer(tmp_path: Path) -> None:
    model = UniversalConfig(n_layer=6, reuse=3, **SHAPE).build(seed=5).eval()
    export_gpt2(model, tmp_path)
    unrolled = import_gpt2(tmp_path).eval()
    assert unrolled.config.n_layer == 6
    with torch.no_grad():
        assert torch.equal(model(tokens()), unrolled(tokens()))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (UniversalConfig(n_layer=2, timestep=True, **SHAPE), "Universal 2x32r2t"),
        (UniversalConfig(n_layer=2, act=True, **SHAPE), "Universal 2x32r2a"),
        (LSTMConfig(n_layer=1, d_model=8), "LSTM"),
    ],
)
def test_what_is_no_gpt2_is_not_exported(tmp_path: Path, config: UniversalConfig, named: str) -> None:
    with pytest.raises(AllometryError, match=f"{named} has no counterpart"):
        export_gpt2(config.build(), tmp_path)


def test_the_time_step_signal_tells_repetitions_apart() -> None:
    model = UniversalConfig(n_layer=4, reuse=4, timestep=True, **SHAPE).build().eval()
    assert "2x32r2t" in UniversalConfig(n_layer=2, timestep=True, **SHAPE).shape
    x = torch.randn(1, 5, 32)
    with torch.no_grad():
        assert not torch.allclose(model.repeat(x, 0), model.repeat(x, 1), atol=1e-3)


def test_halting_by_hand() -> None:
    """Weights, repetitions and ponder cost of single positions, as Graves 2016 writes them down."""
    model = ponderer(threshold=0.9, ponder=1.0).double()
    with torch.no_grad():
        features = model.features(tokens())
        state = model.enter(tokens())
        halted = torch.zeros(3, 20, dtype=torch.bool)
        total, mean = torch.zeros(3, 20).double(), torch.zeros_like(state)
        costs = torch.zeros(3, 20).double()
        for n in range(4):
            proposed = model.stack(state)
            for b, t in np.ndindex(3, 20):
                if halted[b, t]:
                    continue
                state[b, t] = proposed[b, t]
                p = torch.sigmoid(model.halt(model.norm(state[b, t])))[0]
                halted[b, t] = n == 3 or total[b, t] + p > 0.9
                weight = 1 - total[b, t] if halted[b, t] else p
                mean[b, t] += weight * state[b, t]
                total[b, t] += weight
                costs[b, t] += 1 + (weight if halted[b, t] else 0)
    assert torch.allclose(total, torch.ones_like(total))
    assert len(costs.floor().unique()) > 1  # positions differ in how long they think
    assert torch.allclose(features, model.norm(mean), atol=1e-12)
    assert model.auxiliary_loss is not None
    assert model.auxiliary_loss.item() == pytest.approx(costs.mean().item())


def test_halting_sees_no_future() -> None:
    model = ponderer().double().eval()
    other = tokens().clone()
    other[:, 11:] = (other[:, 11:] + 1) % 67
    with torch.no_grad():
        assert torch.allclose(model(tokens())[:, :11], model(other)[:, :11], atol=1e-12)


def test_halting_costs_no_more_than_was_counted() -> None:
    model = ponderer().eval()
    counts = model.config.counts()
    assert sum(p.numel() for p in model.parameters()) == counts.N_total
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens())
    halting_unit = 2 * 32 * 4
    most = 60 * (counts.flops_blocks + counts.flops_head + halting_unit)
    assert most / 4 < counter.get_total_flops() <= most


@pytest.mark.parametrize("name", ["reference", "fast"])
def test_ponder_cost_is_trained_but_not_reported(name: str) -> None:
    batch = np.random.default_rng(0).integers(0, 67, (4, 21))
    train = TrainConfig(tokens=80, batch_tokens=80, lr=0.003, warmup=0, clip=None)
    gradients, losses = [], []
    for ponder in (0.0, 10.0):
        model = UniversalConfig(n_layer=4, reuse=4, act=Act(ponder=ponder), **SHAPE)
        loss, gradient = engine(name, RunConfig(model=model, train=train)).gradients(batch)
        losses.append(loss)
        gradients.append(gradient["halt.bias"])
    assert losses[0] == losses[1]
    # a fresh model halts at the second step, so the remainder is 1 - p and its slope is -p (1 - p)
    p = 1 / (1 + np.exp(-1.0))
    assert gradients[1] - gradients[0] == pytest.approx(-10 * p * (1 - p), rel=1e-4)


def test_the_native_engine_says_what_it_lacks() -> None:
    model = UniversalConfig(n_layer=2, act=True, **SHAPE)
    train = TrainConfig(tokens=100, batch_tokens=20, lr=0.01)
    assert "fast or reference" in str(NativeEngine.unsupported_reason(RunConfig(model=model, train=train)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_layer": 3, "reuse": 2}, "reuse 2 does not divide n_layer 3"),
        ({"n_layer": 2, "n_head": 3}, "n_head 3 does not divide d_model 32"),
        ({"n_layer": 2, "act": {"treshold": 0.9}}, "treshold"),
        ({"n_layer": 2, "act": "sometimes"}, "act"),
    ],
)
def test_wrong_shapes_are_explained(fields: dict[str, object], message: str) -> None:
    with pytest.raises(AllometryError, match=message):
        UniversalConfig(**{**SHAPE, **fields})


def test_the_dial_keeps_what_is_fixed() -> None:
    assert UniversalConfig.from_n_params(3_000).shape == "2x16r2"
    assert UniversalConfig.from_n_params(100_000, reuse=4).shape == "8x64r4"
    assert UniversalConfig.from_n_params(100_000, reuse=4, n_layer=4).shape == "4x96r4"
    assert UniversalConfig.from_n_params(100_000, d_model=64).shape == "4x64r2"
    assert UniversalConfig.from_n_params(100_000, d_model=64, n_layer=8).counts().N == 4 * 12 * 64**2
    assert UniversalConfig.from_n_params(100_000, act=True).shape == "4x64r2a"
