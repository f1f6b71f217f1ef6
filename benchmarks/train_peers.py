"""What people train small models with otherwise: plain PyTorch loops, LitGPT's model, GPT-2 under the HF
Trainer.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from allometry.train.config import RunConfig

Seconds = Callable[[int], list[float]]
Clock = Callable[[], float]


class PlainBlock(nn.Module):
    """Pre-LN attention and MLP out of nn.Linear, nn.LayerNorm and PyTorch's fused attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width, bias=False), nn.GELU(), nn.Linear(4 * width, width, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, d) to (B, T, d)."""
        B, T, d = x.shape
        q, k, v = self.qkv(self.norm_1(x)).split(d, dim=2)
        q, k, v = (t.view(B, T, self.heads, d // self.heads).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(y.transpose(1, 2).contiguous().view(B, T, d))
        return x + self.mlp(self.norm_2(x))


class PlainGPT(nn.Module):
    """Token and position embeddings, a stack of blocks gone through `repeats` times, a tied head."""

    def __init__(
        self, vocab: int, context: int, layers: int, width: int, heads: int, repeats: int = 1
    ) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks, self.repeats = nn.ModuleList(PlainBlock(width, heads) for _ in range(layers)), repeats
        self.norm = nn.LayerNorm(width, bias=False)
        self.head = nn.Linear(width, vocab, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits."""
        x = self.embed(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        for _ in range(self.repeats):
            for block in self.blocks:
                x = block(x)
        return self.head(self.norm(x))


class PlainLSTM(nn.Module):
    """PyTorch's LSTM between token embeddings and a tied head."""

    def __init__(self, vocab: int, layers: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, vocab, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits."""
        return self.head(self.lstm(self.embed(tokens))[0])


def plain_model(shape: Any) -> nn.Module:
    """Return the model of a configuration of Allometry's, as one writes it without thinking of speed."""
    if shape.family == "lstm":
        return PlainLSTM(shape.n_vocab, shape.n_layer, shape.d_model)
    repeats = getattr(shape, "reuse", 1)
    layers = shape.n_layer // repeats
    return PlainGPT(shape.n_vocab, shape.n_ctx, layers, shape.d_model, shape.n_head, repeats)


def missing_for_litgpt() -> str | None:
    """Return the line that installs LitGPT, or None."""
    return None if importlib.util.find_spec("litgpt") else "pip install litgpt"


def litgpt_model(shape: Any) -> nn.Module:
    """Return LitGPT's GPT in the same shape; its positions are rotary and its head has weights of its own."""
    from litgpt import GPT, Config

    config = Config(
        block_size=shape.n_ctx,
        vocab_size=shape.n_vocab,
        padded_vocab_size=shape.n_vocab,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.d_model,
        bias=False,
        parallel_residual=False,
        norm_class_name="LayerNorm",
        mlp_class_name="GptNeoxMLP",
    )
    return GPT(config)


def adamw(model: nn.Module, *, fused: bool | None = None) -> torch.optim.AdamW:
    """Return PyTorch's AdamW with two groups, as nanoGPT has it: only matrices decay."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    gains = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=1e-3, betas=(0.9, 0.95), fused=fused)


def cut_out(tokens: np.ndarray, B: int, T: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, (B, T) each, cut out one by one at random places."""
    starts = torch.randint(len(tokens) - T - 1, (B,))
    x = torch.stack([torch.from_numpy(tokens[i : i + T].astype(np.int64)) for i in starts])
    y = torch.stack([torch.from_numpy(tokens[i + 1 : i + 1 + T].astype(np.int64)) for i in starts])
    return x, y


def plain_loop(model: nn.Module, config: RunConfig, tokens: np.ndarray, clock: Clock) -> Seconds:
    """Batches cut out one by one, autograd, clip_grad_norm_, torch.optim.AdamW with two groups."""
    optimiser = adamw(model)
    T, B = config.model.n_ctx, config.train.batch_tokens // config.model.n_ctx

    def one_step() -> float:
        x, y = cut_out(tokens, B, T)
        logits = model(x)
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), y.reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return float(loss.item())

    def seconds(steps: int) -> list[float]:
        durations = []
        for _ in range(steps):
            began = clock()
            one_step()
            durations.append(clock() - began)
        return durations

    return seconds


def missing_for_trainer() -> str | None:
    """Return the line that installs what Hugging Face's Trainer needs, or None."""
    missing = [p for p in ("transformers", "accelerate") if importlib.util.find_spec(p) is None]
    return f"pip install {' '.join(missing)}" if missing else None


def trainer_loop(config: RunConfig, tokens: np.ndarray, clock: Clock) -> Seconds:
    """Return steps of GPT2LMHeadModel under transformers.Trainer with its defaults, apart from the recipe's
    numbers.
    """
    import transformers

    shape: Any = config.model
    T, B = config.model.n_ctx, config.train.batch_tokens // config.model.n_ctx
    gpt2 = transformers.GPT2Config(
        vocab_size=shape.n_vocab,
        n_positions=T,
        n_embd=shape.d_model,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        loss_type="ForCausalLM",
    )
    model = transformers.GPT2LMHeadModel(gpt2)
    pieces = torch.from_numpy(tokens[: len(tokens) // T * T].astype(np.int64).reshape(-1, T))
    data = [{"input_ids": piece, "labels": piece} for piece in pieces]

    def seconds(steps: int) -> list[float]:
        arguments = transformers.TrainingArguments(
            output_dir=tempfile.gettempdir(),
            max_steps=steps + 1,
            per_device_train_batch_size=B,
            weight_decay=0.1,
            max_grad_norm=1.0,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
        )
        times: list[float] = []

        class Marks(transformers.TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                times.append(clock())

        trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data, callbacks=[Marks()])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        return list(np.diff(times))

    return seconds
