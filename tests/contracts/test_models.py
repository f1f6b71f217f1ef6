"""What every architecture must do, asked of each family in the registry: a new file is tested unasked."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from allometry.core.errors import AllometryError
from allometry.models.base import ModelConfig, families

FAMILIES = list(families().values())
TOLERANCE = {1e4: 0.30, 1e5: 0.15, 1e6: 0.10, 1e7: 0.10, 1e8: 0.10}
"""How far `from_n_params` may be from the size asked for, from each size on."""


def name(config: type[ModelConfig]) -> str:
    return str(config.model_fields["family"].default)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Spinning threads make tiny models a hundred times slower on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(params=FAMILIES, ids=name)
def config(request: pytest.FixtureRequest) -> ModelConfig:
    """A small model of each family, with a vocabulary and a context that are not round numbers."""
    shape: ModelConfig = request.param.from_n_params(20_000, n_ctx=24, n_vocab=131)
    return shape


def tokens(config: ModelConfig, *, rows: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, config.n_vocab, (rows, config.n_ctx), generator=generator)


def loss(model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def test_counts_equal_the_real_parameters(config: ModelConfig) -> None:
    counts = config.counts()
    assert sum(p.numel() for p in config.build().parameters()) == counts.N_total
    assert counts.N == counts.blocks > 0


def test_flops_agree_with_torchs_counter(config: ModelConfig) -> None:
    """Blocks and head count the same. The context term is left out: torch knows no formula for it on CPUs.

    In fp64, which oneDNN's fused kernels do not take: the counter would not see their products.
    """
    model, counts = config.build().double().eval(), config.counts()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens(config))
    products = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
    assert not any("attention" in op for op in products)
    assert sum(products.values()) == 4 * config.n_ctx * (counts.flops_blocks + counts.flops_head)


def test_no_position_sees_the_future(config: ModelConfig) -> None:
    model = config.build().double().eval()
    before = tokens(config, rows=2)
    after = before.clone()
    after[:, 13:] = (after[:, 13:] + 1) % config.n_vocab
    with torch.no_grad():
        a, b = model(before), model(after)
    assert a.shape == (2, config.n_ctx, config.n_vocab)
    assert torch.allclose(a[:, :13], b[:, :13], atol=1e-12)
    assert not torch.allclose(a[:, 13:], b[:, 13:], atol=1e-3)


def test_shorter_inputs_than_the_context_are_fine(config: ModelConfig) -> None:
    model = config.build().double().eval()
    inputs = tokens(config, rows=2)
    with torch.no_grad():
        assert torch.allclose(model(inputs)[:, :5], model(inputs[:, :5]), atol=1e-12)


def test_knows_nothing_at_initialisation(config: ModelConfig) -> None:
    model = config.build(seed=1)
    with torch.no_grad():
        start = float(loss(model, tokens(config, rows=64), tokens(config, rows=64, seed=1)))
    assert math.log(config.n_vocab) - 0.05 < start < math.log(config.n_vocab) + 0.8


def test_overfits_a_batch(config: ModelConfig) -> None:
    model = config.build()
    inputs, targets = tokens(config), tokens(config, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(120):
        optimizer.zero_grad()
        loss(model, inputs, targets).backward()
        optimizer.step()
    assert float(loss(model, inputs, targets).detach()) < 0.2


def test_same_seed_same_model(config: ModelConfig) -> None:
    torch.manual_seed(7)
    one = config.build(seed=3).state_dict()
    torch.manual_seed(8)  # the global generator must not matter
    two, other = config.build(seed=3).state_dict(), config.build(seed=4).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_building_leaves_the_global_generator_alone(config: ModelConfig) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    config.build(seed=3)
    assert torch.equal(torch.rand(3), expected)


def test_weights_survive_a_file(config: ModelConfig, tmp_path: Path) -> None:
    model = config.build(seed=3).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    again = config.build(seed=4).eval()
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    with torch.no_grad():
        assert torch.equal(model(tokens(config)), again(tokens(config)))


def test_the_configuration_survives_json(config: ModelConfig) -> None:
    assert type(config).model_validate_json(config.model_dump_json()) == config
    assert len(type(config).model_fields) <= 12


@pytest.mark.parametrize("family", FAMILIES, ids=name)
def test_the_dial_hits_its_size(family: type[ModelConfig]) -> None:
    sizes = np.geomspace(1e4, 1e8, 97)
    for size in sizes:
        allowed = TOLERANCE[10.0 ** math.floor(math.log10(size) + 1e-9)]
        reached = family.from_n_params(int(size)).counts().N
        assert abs(reached / size - 1) <= allowed, (size, reached)


@pytest.mark.parametrize("family", FAMILIES, ids=name)
def test_the_dial_never_turns_back(family: type[ModelConfig]) -> None:
    reached = [family.from_n_params(int(size)).counts().N for size in np.geomspace(1e4, 1e8, 97)]
    assert reached == sorted(reached)


@pytest.mark.parametrize("family", FAMILIES, ids=name)
def test_bad_fields_are_explained(family: type[ModelConfig]) -> None:
    with pytest.raises(AllometryError, match="n_vocba"):
        family.from_n_params(20_000, n_vocba=256)
    with pytest.raises(AllometryError, match="n_ctx"):
        family.from_n_params(20_000, n_ctx=0)
