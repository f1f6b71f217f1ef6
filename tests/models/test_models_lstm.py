"""The LSTM: the equations by hand, PyTorch's own module, counts, the start of the weights, engines."""

import numpy as np
import pytest
import torch
from torch import nn

from allometry.core.errors import AllometryError
from allometry.models.lstm import LSTMConfig
from allometry.models.modules.lstm import LSTM
from allometry.train.config import RunConfig, TrainConfig
from allometry.train.engines.select import engine

SHAPE = LSTMConfig(n_layer=2, d_model=20, n_ctx=24, n_vocab=67)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tokens(config: LSTMConfig = SHAPE, rows: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, config.n_vocab, (rows, config.n_ctx), generator=generator)


def torchs(model: LSTM) -> nn.LSTM:
    """torch.nn.LSTM with the same weights; its second bias is zero."""
    d, layers = model.config.d_model, model.config.n_layer
    theirs = nn.LSTM(d, d, layers, batch_first=True)
    with torch.no_grad():
        for i, layer in enumerate(model.layers):
            getattr(theirs, f"weight_ih_l{i}").copy_(layer.input.weight)
            getattr(theirs, f"weight_hh_l{i}").copy_(layer.recurrent.weight)
            getattr(theirs, f"bias_ih_l{i}").copy_(layer.bias)
            getattr(theirs, f"bias_hh_l{i}").zero_()
    return theirs


def test_the_equations_by_hand() -> None:
    model = SHAPE.build(seed=1).double()
    with torch.no_grad():
        x = model.embed(tokens())
        for layer in model.layers:
            h = c = torch.zeros(3, 20).double()
            states = []
            for t in range(24):
                gates = x[:, t] @ layer.input.weight.T + h @ layer.recurrent.weight.T + layer.bias
                i, f, g, o = gates.chunk(4, dim=1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                states.append(h)
            x = torch.stack(states, dim=1)
        assert torch.allclose(model(tokens()), x @ model.embed.weight.T, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients_are_those_of_torchs_module(training: bool) -> None:
    model = SHAPE.build(seed=2).train(training)
    theirs = torchs(model)
    ours = model.features(tokens())
    expected = theirs(model.embed(tokens()))[0]
    assert torch.allclose(ours, expected, atol=1e-6)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3))
    ours.backward(upstream)
    expected.backward(upstream)
    for i, layer in enumerate(model.layers):
        assert torch.allclose(layer.input.weight.grad, getattr(theirs, f"weight_ih_l{i}").grad, atol=1e-4)
        assert torch.allclose(layer.recurrent.weight.grad, getattr(theirs, f"weight_hh_l{i}").grad, atol=1e-4)
        assert torch.allclose(layer.bias.grad, getattr(theirs, f"bias_ih_l{i}").grad, atol=1e-4)


def test_names_and_shapes_that_checkpoints_and_the_native_engine_read() -> None:
    found = {name: tuple(tensor.shape) for name, tensor in SHAPE.build().state_dict().items()}
    layer = {"input.weight": (80, 20), "recurrent.weight": (80, 20), "bias": (80,)}
    layers = {f"layers.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}
    assert found == {"embed.weight": (67, 20), **layers}


def test_counts() -> None:
    """4 (d_in h + h^2) a layer without biases; one bias vector; nothing that grows with the context."""
    counts = SHAPE.counts()
    assert counts.N == 2 * 4 * (20 * 20 + 20 * 20)
    assert counts.other == 2 * 4 * 20
    assert counts.flops_blocks == 2 * counts.N
    assert counts.flops_attention == counts.position == counts.head == 0
    assert counts.flops_per_token("attention") == counts.flops_per_token("head")


@pytest.mark.parametrize("width", [32, 256])
@pytest.mark.parametrize(("layers", "scale"), [(1, 0.23), (2, 0.16), (4, 0.165)])
def test_initial_scales(width: int, layers: int, scale: float) -> None:
    """At every width states are about STATE_SCALE and logits about 1; forget gates start open."""
    config = LSTMConfig(n_layer=layers, d_model=width, n_ctx=64, n_vocab=256)
    model = config.build(seed=1)
    with torch.no_grad():
        h, logits = model.features(tokens(config)), model(tokens(config))
    assert float(h.square().mean().sqrt()) == pytest.approx(scale, rel=0.1)
    assert 0.7 < float(logits.std()) < 1.5
    biases = [layer.bias.detach().chunk(4) for layer in model.layers]
    assert all(bool((f == 1).all()) and not i.any() and not g.any() and not o.any() for i, f, g, o in biases)


def test_each_window_starts_afresh() -> None:
    """What was in another sequence, or in an earlier call, changes nothing."""
    model = SHAPE.build().double().eval()
    with torch.no_grad():
        alone = model(tokens()[:1])
        model(tokens()[1:])
        assert torch.allclose(model(tokens())[:1], alone, atol=1e-12)


def test_dropout_only_in_training() -> None:
    model = SHAPE.replace(dropout=0.5).build()
    with torch.no_grad():
        assert torch.equal(model.eval()(tokens()), model.eval()(tokens()))
        assert not torch.equal(model.train()(tokens()), model.train()(tokens()))


def test_autocast_leaves_the_recurrence_alone() -> None:
    model = SHAPE.build().eval()
    with torch.no_grad():
        plain = model.features(tokens())
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model.features(tokens()), plain)


def test_both_pytorch_engines_train_it_alike() -> None:
    batches = np.random.default_rng(0).integers(0, 67, (5, 4, 25))
    config = RunConfig(model=SHAPE, train=TrainConfig(tokens=96, batch_tokens=96, lr=0.01, warmup=0))
    states = []
    for name in ("reference", "fast"):
        trainer = engine(name, config)
        for step, batch in enumerate(batches, start=1):
            trainer.step(batch, lr=0.01, step=step)
        states.append(trainer.state())
    one, two = states
    assert one.keys() == two.keys()
    assert all(np.allclose(one[key], two[key], atol=2e-4) for key in one if key.startswith("params"))


def test_the_dial_keeps_what_is_fixed() -> None:
    assert LSTMConfig.from_n_params(3_000).shape == "2x14"
    assert LSTMConfig.from_n_params(1_000_000, n_layer=1).shape == "1x352"
    assert LSTMConfig.from_n_params(1_000_000, d_model=128).shape == "8x128"
    assert LSTMConfig.from_n_params(1_000_000, n_layer=4, d_model=128).shape == "4x128"
    for n in np.geomspace(3e3, 1e8, 50):
        assert pytest.approx(n, rel=0.15) == LSTMConfig.from_n_params(int(n)).counts().N
    with pytest.raises(AllometryError, match="ask for at least"):
        LSTMConfig.from_n_params(0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"d_model": 0}, "d_model"), ({}, "d_model is missing"), ({"d_model": 8, "hidden": 9}, "hidden")],
)
def test_wrong_shapes_are_explained(fields: dict[str, object], message: str) -> None:
    with pytest.raises(AllometryError, match=message):
        LSTMConfig(n_layer=2, **fields)
