"""To and from the Hugging Face GPT-2 layout: config.json and model.safetensors, which `transformers` loads.

    export_gpt2(model, Path("exported"))                    # then GPT2LMHeadModel.from_pretrained("exported")
    model = import_gpt2(Path("exported"))

Only the format is needed, so neither direction needs the package `transformers`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from allometry.core.errors import AllometryError
from allometry.core.files import writing
from allometry.models.modules.transformer import Transformer
from allometry.models.transformer import TransformerConfig
from allometry.models.universal import UniversalConfig

_NAMES = {
    "norm_1": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.project": "attn.c_proj",
    "norm_2": "ln_2",
    "mlp.expand": "mlp.c_fc",
    "mlp.contract": "mlp.c_proj",
}
"""Our name for each part of a block, and GPT-2's."""


def export_gpt2(model: nn.Module, directory: Path) -> None:
    """Write config.json and model.safetensors in the layout of `GPT2LMHeadModel`.

    A model without biases gets biases of zero, which GPT-2 always has; the logits are the same. The blocks of
    a Universal Transformer are written as often as they are applied. Raises AllometryError for what GPT-2
    cannot be: an LSTM, and a Universal Transformer with time-step signal or ACT.
    """
    tensors = {}
    ours = model.state_dict()
    config, distinct = _as_transformer(model)
    for name, (kind, shape, theirs) in _layout(config).items():
        tensor = ours.get(_shared(name, distinct), torch.zeros(shape))
        tensors[theirs] = (tensor.T if kind == "matrix" else tensor).detach().cpu().contiguous().clone()
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        (directory / "config.json").write_text(json.dumps(_gpt2_config(config), indent=2) + "\n")


def _as_transformer(model: nn.Module) -> tuple[TransformerConfig, int]:
    """Return the equivalent transformer's configuration, and its number of distinct blocks."""
    config = model.config if isinstance(model, Transformer) else None
    if isinstance(config, TransformerConfig):
        return config, config.n_layer
    if isinstance(config, UniversalConfig) and not config.timestep and config.act is None:
        stack = config.distinct()
        return stack.replace(n_layer=config.n_layer), stack.n_layer
    found = type(model).__name__ + (f" {config.shape}" if isinstance(config, UniversalConfig) else "")
    raise AllometryError(
        f"{found} has no counterpart among GPT-2s",
        hint="transformers can be exported, and Universal Transformers without timestep and act",
    )


def _shared(name: str, distinct: int) -> str:
    """Return the parameter's name in a model with `distinct` blocks that are applied repeatedly."""
    if not name.startswith("blocks."):
        return name
    _, block, rest = name.split(".", 2)
    return f"blocks.{int(block) % distinct}.{rest}"


def import_gpt2(directory: Path) -> Transformer:
    """Read the model in a directory in GPT-2's layout, as `save_pretrained` or `export_gpt2` writes it.

    Biases that are all zero are left out. Raises AllometryError for another architecture, the tanh GELU (of
    the published GPT-2 weights), and files that are missing or do not fit together.
    """
    try:
        described = json.loads((directory / "config.json").read_text())
        tensors = _tensors(directory)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise AllometryError(
            f"{directory} is not a model in Hugging Face's layout: {error}",
            hint="it needs config.json, and model.safetensors or its parts with model.safetensors.index.json",
        ) from None
    tensors = {name.removeprefix("transformer."): tensor.float() for name, tensor in tensors.items()}
    has_bias = any(bool(t.any()) for name, t in tensors.items() if name.endswith(".bias") and t.ndim == 1)
    config = _our_config(described, bias=has_bias)
    model = config.build()
    model.load_state_dict(
        {
            name: _import(tensors, *entry)
            for name, entry in _layout(config).items()
            if has_bias or not name.endswith("bias")
        }
    )
    return model


def _tensors(directory: Path) -> dict[str, Tensor]:
    """Read the weights from one file, or from the parts that an index names, as `save_pretrained` writes them."""
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        return load_file(directory / "model.safetensors")
    names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    if strange := [name for name in names if Path(name).name != name]:
        raise ValueError(f"{index.name} names a file outside of the folder: {strange[0]!r}")
    return {name: tensor for part in names for name, tensor in load_file(directory / part).items()}


def _import(tensors: dict[str, Tensor], kind: str, shape: tuple[int, ...], theirs: str) -> Tensor:
    name = theirs.removeprefix("transformer.")
    if name not in tensors:
        raise AllometryError(f"model.safetensors lacks {theirs}", hint="is it a GPT-2 model?")
    tensor = tensors[name].T if kind == "matrix" else tensors[name]
    if tuple(tensor.shape) != shape:
        raise AllometryError(f"{theirs} is {tuple(tensor.shape)}, but config.json makes it {shape}")
    return tensor


def _layout(config: TransformerConfig) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Return our parameter names with kind, shape and GPT-2's name; "matrix": GPT-2 stores the transpose."""
    d, f = config.d_model, config.d_ff
    entries: dict[str, tuple[str, tuple[int, ...], str]] = {
        "embed.weight": ("table", (config.n_vocab, d), "transformer.wte.weight"),
        "position.weight": ("table", (config.n_ctx, d), "transformer.wpe.weight"),
        "norm.weight": ("vector", (d,), "transformer.ln_f.weight"),
        "norm.bias": ("vector", (d,), "transformer.ln_f.bias"),
    }
    sizes = {
        "attention.qkv": (3 * d, d),
        "attention.project": (d, d),
        "mlp.expand": (f, d),
        "mlp.contract": (d, f),
    }
    for layer in range(config.n_layer):
        for ours, theirs in _NAMES.items():
            shape = sizes.get(ours, (d,))
            kind = "matrix" if ours in sizes else "vector"
            stem = f"transformer.h.{layer}.{theirs}"
            entries[f"blocks.{layer}.{ours}.weight"] = (kind, shape, f"{stem}.weight")
            entries[f"blocks.{layer}.{ours}.bias"] = ("vector", shape[:1], f"{stem}.bias")
    return entries


def _gpt2_config(config: TransformerConfig) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": config.n_layer,
        "n_embd": config.d_model,
        "n_head": config.n_head,
        "n_inner": config.d_ff,
        "n_positions": config.n_ctx,
        "n_ctx": config.n_ctx,
        "vocab_size": config.n_vocab,
        "activation_function": "gelu",
        "layer_norm_epsilon": 1e-5,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": "float32",
    }


def _our_config(described: dict[str, Any], *, bias: bool) -> TransformerConfig:
    for key, ours in (("model_type", "gpt2"), ("activation_function", "gelu"), ("tie_word_embeddings", True)):
        found = described.get(key, "gelu_new" if key == "activation_function" else ours)
        if found != ours:
            raise AllometryError(
                f"config.json has {key} {found!r}; this transformer has {ours!r}",
                hint="models exported by Allometry, and GPT-2s trained with the erf GELU, can be imported",
            )
    d = described["n_embd"]
    return TransformerConfig(
        n_layer=described["n_layer"],
        d_model=d,
        n_head=described["n_head"],
        d_ff=described.get("n_inner") or 4 * d,
        n_ctx=described["n_positions"],
        n_vocab=described["vocab_size"],
        dropout=described.get("resid_pdrop", 0.0),
        bias=bias,
    )
