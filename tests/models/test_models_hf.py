"""Parity with Hugging Face's GPT-2: the same weights give the same logits, both ways."""

import json
from pathlib import Path

import pytest
import torch

from allometry.core.errors import AllometryError
from allometry.models.hf import export_gpt2, import_gpt2
from allometry.models.transformer import TransformerConfig

SHAPE = {"n_layer": 3, "d_model": 48, "n_head": 3, "n_ctx": 40, "n_vocab": 301}


@pytest.mark.parametrize("bias", [False, True])
def test_same_weights_same_logits_as_gpt2(tmp_path: Path, bias: bool) -> None:
    transformers = pytest.importorskip("transformers")
    model = TransformerConfig(**SHAPE, bias=bias).build(seed=3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # gains and biases too must land in the right places
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)) * 0.1)
    export_gpt2(model, tmp_path)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    tokens = torch.randint(0, 301, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        difference = (model(tokens) - theirs(tokens).logits).abs().max()
    assert difference < 1e-5


@pytest.mark.parametrize("bias", [False, True])
def test_round_trip_keeps_configuration_and_weights(tmp_path: Path, bias: bool) -> None:
    model = TransformerConfig(**SHAPE, d_ff=64, bias=bias, dropout=0.1).build(seed=3)
    if bias:
        torch.nn.init.ones_(model.norm.bias)
    export_gpt2(model, tmp_path)
    again = import_gpt2(tmp_path)
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_published_gpt2_is_refused_for_its_gelu(tmp_path: Path) -> None:
    export_gpt2(TransformerConfig(**SHAPE).build(), tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**described, "activation_function": "gelu_new"}))
    with pytest.raises(AllometryError, match="activation_function 'gelu_new'"):
        import_gpt2(tmp_path)


def test_what_is_not_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AllometryError, match="is not a model in Hugging Face"):
        import_gpt2(tmp_path)
    export_gpt2(TransformerConfig(**SHAPE).build(), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(AllometryError, match="not a model"):
        import_gpt2(tmp_path)
