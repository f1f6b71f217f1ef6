"""The transformer's own numbers: the paper's counts, derived fields, initialisation, errors."""

import math

import pytest
import torch
import torch.nn.functional as F

from allometry.core.errors import AllometryError
from allometry.models.modules import causal_attention
from allometry.models.transformer import TransformerConfig
from allometry.train.config import RunConfig


def test_smallest_model_of_the_paper() -> None:
    """Kaplan et al. 2020, section 3: models from N = 768, which is one layer of width 8."""
    assert TransformerConfig(n_layer=1, d_model=8).counts().N == 768


def test_counts_of_gpt2_small() -> None:
    """124,439,808 parameters, of which 12 n_layer d^2 = 84,934,656 count for Kaplan."""
    counts = TransformerConfig(n_layer=12, d_model=768, n_ctx=1024, n_vocab=50257, bias=True).counts()
    assert counts.N_total == 124_439_808
    assert counts.N == 84_934_656
    assert counts.flops_per_token("6ND") == 6 * 84_934_656
    # C_forward = 2N + 2 n_layer n_ctx d_attn (Table 1), and 2 d_model n_vocab for the head
    assert counts.flops_per_token("attention") == 3 * (2 * 84_934_656 + 2 * 12 * 1024 * 768 + 2 * 768 * 50257)


def test_heads_and_feed_forward_follow_from_the_width() -> None:
    widths = {8: 1, 16: 1, 24: 3, 32: 1, 48: 3, 64: 2, 96: 3, 112: 7, 128: 4, 512: 8, 768: 12}
    for width, heads in widths.items():
        config = TransformerConfig(n_layer=1, d_model=width)
        assert (config.n_head, config.d_ff) == (heads, 4 * width)


def test_initial_scales() -> None:
    model = TransformerConfig(n_layer=8, d_model=256, n_ctx=64, n_vocab=512).build(seed=0)
    scales = {name: float(p.detach().std()) for name, p in model.named_parameters() if p.ndim > 1}
    assert scales["embed.weight"] == pytest.approx(256**-0.5, rel=0.02)
    assert scales["position.weight"] == pytest.approx(256**-0.5, rel=0.02)
    assert scales["blocks.3.attention.qkv.weight"] == pytest.approx(256**-0.5, rel=0.02)
    assert scales["blocks.3.attention.project.weight"] == pytest.approx(256**-0.5 / 4, rel=0.02)
    assert scales["blocks.3.mlp.contract.weight"] == pytest.approx(1024**-0.5 / 4, rel=0.02)
    gpt2 = TransformerConfig(n_layer=8, d_model=256, init="gpt2").build(seed=0)
    assert float(gpt2.blocks[0].mlp.expand.weight.detach().std()) == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": 64, "n_head": 3}, "n_head 3 does not divide d_model 64"),
        ({"d_model": 48, "n_head": 4}, "multiple of 8"),
        ({"d_model": 0}, "d_model"),
        ({}, "d_model is missing"),
        ({"d_model": 64, "heads": 2}, "unknown field 'heads'"),
        ({"d_model": "wide"}, "got 'wide'"),
        ({"d_model": 64, "dropout": 1.0}, "dropout"),
    ],
)
def test_wrong_shapes_are_explained(fields: dict[str, object], message: str) -> None:
    with pytest.raises(AllometryError, match=message):
        TransformerConfig(n_layer=2, **fields)


def test_errors_inside_a_run_name_the_model() -> None:
    train = {"tokens": 1000, "lr": 0.01}
    with pytest.raises(AllometryError, match="TransformerConfig: n_head 3"):
        RunConfig(model={"family": "transformer", "n_layer": 2, "d_model": 64, "n_head": 3}, train=train)
    with pytest.raises(AllometryError, match=r"model\.family is missing"):
        RunConfig(model={"n_layer": 2, "d_model": 64}, train=train)
    with pytest.raises(AllometryError, match="did you mean 'transformer'"):
        RunConfig(model={"family": "transfomer", "n_layer": 2, "d_model": 64}, train=train)
    with pytest.raises(AllometryError, match="n_heads"):
        TransformerConfig(n_layer=2, d_model=64).replace(n_heads=2)


def test_the_dial_keeps_what_is_fixed() -> None:
    assert TransformerConfig.from_n_params(100_000).shape == "2x64"
    assert TransformerConfig.from_n_params(1_000_000, n_layer=1).n_layer == 1
    assert TransformerConfig.from_n_params(1_000_000, d_model=64).shape == "20x64"
    assert TransformerConfig.from_n_params(1_000_000, n_layer=3, d_model=64).shape == "3x64"
    assert TransformerConfig.from_n_params(1_000_000, n_head=6).n_head == 6
    narrow = TransformerConfig.from_n_params(1_000_000, d_ff=64)
    assert narrow.shape.endswith("f64")
    assert pytest.approx(1e6, rel=0.1) == narrow.counts().N
    with pytest.raises(AllometryError, match="ask for at least"):
        TransformerConfig.from_n_params(0)


def test_written_out_attention_equals_the_fused_one() -> None:
    """In bf16 on CPUs attention is written out; in fp32 PyTorch's fused kernel does the same thing."""
    q, k, v = torch.randn(3, 2, 3, 17, 8, generator=torch.Generator().manual_seed(0))
    exact = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    half = causal_attention(q.bfloat16(), k.bfloat16(), v.bfloat16()).float()
    assert (exact - half).abs().max() < 0.03
    assert torch.equal(causal_attention(q, k, v), exact)


def test_dropout_only_in_training() -> None:
    model = TransformerConfig(n_layer=2, d_model=32, dropout=0.5).build()
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(model.eval()(tokens), model.eval()(tokens))
        assert not torch.equal(model.train()(tokens), model.train()(tokens))
    assert math.isclose(model.blocks[0].attention.dropout.p, 0.5)
