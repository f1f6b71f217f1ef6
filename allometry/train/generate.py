"""Use a trained model: load it, generate text from it token by token, and measure what it copies.

from allometry.train.checkpoint import trained_model
from allometry.train.generate import generate
model = trained_model(Path("runs/transformer-4x64-…"))
ids = generate(model, [list(b"My fellow citizens")], 200, seed=1)

from allometry.models.hf import export_gpt2
export_gpt2(model, Path("exported"))

A run with `data.novelty` continues that many held-out texts when it has ended: plain sampling at temperature
1 after prompts of half a context. Its continuations and the true ones are then looked up in the tokens that
it was trained on (McCoy et al. 2021, "How much do language models copy from their training data?", arXiv
2111.09509). See `runs.measurements` for the reading of what is written. It costs as many forward passes as there
are tokens in LENGTH: at a context of 64, 64 texts cost what training on about 1.6e5 tokens does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from allometry.core.errors import AllometryError
from allometry.core.files import write_json
from allometry.data.batches import duplicated, windows
from allometry.runs.measurements import NOVELTY_FILE, NOVELTY_FORMAT
from allometry.train.config import RunConfig

if TYPE_CHECKING:
    from torch import nn

    from allometry.train.config import RunConfig
    from allometry.train.engines.base import State
    from allometry.train.inputs import Inputs


Ids = npt.NDArray[np.int64]


def generate(
    model: nn.Module,
    prompts: npt.NDArray[np.integer] | Sequence[Sequence[int]],
    length: int,
    *,
    seed: int | Sequence[int] = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> Ids:
    """Generate `length` tokens after each prompt of token ids, (n, T) with 1 <= T <= n_ctx: ids of shape (n, length).

    A token is drawn from softmax(logits / temperature), with `top_k` from its most probable ones alone;
    temperature 0 takes the most probable. A model reads the last n_ctx tokens, which slide along. The same
    `seed`, model and prompts give the same text. AllometryError for prompts that no model could read.
    """
    import torch

    config: Any = model.config
    given, context = _checked(prompts, config), int(config.n_ctx)
    if temperature < 0 or (top_k is not None and top_k < 1):
        raise AllometryError(
            f"temperature {temperature} and top_k {top_k} leave nothing to draw from",
            hint="use a temperature of 0 or more, and a top_k of 1 or more",
        )
    text = np.concatenate([given, np.zeros((len(given), length), np.int64)], axis=1)
    generator, device = np.random.default_rng(seed), next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for at in range(given.shape[1], text.shape[1]):
                seen = torch.from_numpy(text[:, max(0, at - context) : at]).to(device)
                logits = model(seen)[:, -1].double().cpu().numpy()
                text[:, at] = _drawn(logits, generator.random(len(text)), temperature, top_k)
    finally:
        model.train(training)
    return text[:, given.shape[1] :]


def _checked(prompts: npt.NDArray[np.integer] | Sequence[Sequence[int]], config: Any) -> Ids:
    """Return the prompts as ids (n, T); AllometryError if a model could not read them."""
    if len({len(prompt) for prompt in prompts}) != 1 or not len(prompts[0]):
        raise AllometryError(
            "prompts must have one length, of at least one token", hint="cut them to that of the shortest"
        )
    given = np.asarray(prompts, dtype=np.int64)
    if given.shape[1] > config.n_ctx:
        raise AllometryError(
            f"a prompt of {given.shape[1]} tokens is longer than the context n_ctx {config.n_ctx}",
            hint=f"give its last {config.n_ctx} tokens",
        )
    if given.min() < 0 or given.max() >= config.n_vocab:
        raise AllometryError(
            f"prompts hold token {given.max() if given.max() > 0 else given.min()}; "
            f"the model knows 0 to {config.n_vocab - 1}",
            hint="use the tokenizer that it was trained with",
        )
    return given


def _drawn(
    logits: npt.NDArray[np.float64], uniform: npt.NDArray[np.float64], temperature: float, top_k: int | None
) -> Ids:
    """Draw a token for each row of logits (n, V), by inverting its cumulative probabilities at `uniform` (n,)."""
    if temperature == 0:
        return logits.argmax(axis=1)
    if top_k is not None and top_k < logits.shape[1]:
        least = np.partition(logits, -top_k, axis=1)[:, -top_k, None]
        logits = np.where(logits < least, -np.inf, logits)
    scaled = (logits - logits.max(axis=1, keepdims=True)) / temperature
    cumulative = np.cumsum(np.exp(scaled), axis=1)
    return (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(axis=1)


LENGTH = 128
"""Tokens of a continuation: they slide the context along."""

MOST = 64
"""The longest n-grams that are looked up."""

_STREAM = 4
"""The stream of random numbers that continuations are drawn from, beside the run's seed."""


def continued(test: npt.NDArray[np.unsignedinteger], n_ctx: int, count: int) -> npt.NDArray[np.int64]:
    """Return `count` held-out texts or as many as there are, evenly spread: prompts with what follows them, (n,
    max(1, n_ctx // 2) + LENGTH).

    AllometryError where the held-out text is too short for one.
    """
    width = _prompt(n_ctx) + LENGTH
    return windows(test, n_ctx=width - 1, n_tokens=count * (width - 1))


def _prompt(n_ctx: int) -> int:
    return max(1, n_ctx // 2)


def record(directory: Path, config: RunConfig, inputs: Inputs, state: State, step: int) -> None:
    """Continue the run's held-out texts with these parameters, and write down how often n-grams of the
    continuations, and of the true ones, occur in the training tokens.
    """
    from allometry.train.engines.reference import with_parameters

    assert inputs.continued is not None
    prompt = _prompt(config.model.n_ctx)
    model = with_parameters(config.model.build(), state)
    written = generate(model, inputs.continued[:, :prompt], LENGTH, seed=(config.train.seed, _STREAM))
    counts = duplicated(
        inputs.order.tokens, np.concatenate([written, inputs.continued[:, prompt:]]), MOST
    ).tolist()
    found = {"generated": counts[: len(written)], "human": counts[len(written) :]}
    about = {"format": NOVELTY_FORMAT, "step": step, "prompt": prompt, "length": LENGTH}
    write_json(directory / NOVELTY_FILE, {**about, **found})
