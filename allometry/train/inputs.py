"""What a run reads: its training tokens in their order, and the fixed held-out windows it is evaluated on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from allometry.data.tokens import BatchOrder, TokenSet, prepare, windows
from allometry.errors import AllometryError
from allometry.train.config import DataConfig, RunConfig


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The order of batches, and evaluation windows (sequences, n_ctx + 1) by column of the curve.

    The first column is "loss" (the corpus's own test split), then "loss_<corpus>" for each of `eval_on`.
    `unique` counts the training tokens that there are.
    """

    order: BatchOrder
    tests: dict[str, NDArray[np.int64]]
    unique: int
    bytes_per_token: float


def load_inputs(config: RunConfig, cache: Path | None = None) -> Inputs:
    """Tokens and evaluation windows; AllometryError where data and model do not fit each other."""
    data, model = config.data, config.model
    tokens = prepare(data.corpus, data.tokenizer, cache=cache)
    vocabulary = tokens.manifest.n_vocab
    if vocabulary > model.n_vocab:
        raise AllometryError(
            f"tokenizer {data.tokenizer!r} has {vocabulary} tokens; the model's n_vocab is {model.n_vocab}",
            hint=f"set n_vocab = {vocabulary}",
        )
    available = tokens.train if data.limit is None else tokens.train[: data.limit]
    if data.limit is not None and data.limit > len(tokens.train):
        raise AllometryError(
            f"data.limit asks for {data.limit} tokens; {data.corpus!r} has {len(tokens.train)} for training",
            hint="lower the limit, or leave it out to use them all",
        )
    sets = {"loss": tokens} | {f"loss_{name}": _other(data, name, cache) for name in data.eval_on}
    return Inputs(
        order=BatchOrder(
            available, n_ctx=model.n_ctx, batch_tokens=config.train.batch_tokens, seed=config.train.seed
        ),
        tests={
            column: windows(each.test, n_ctx=model.n_ctx, n_tokens=data.eval_tokens)
            for column, each in sets.items()
        },
        unique=len(available),
        bytes_per_token=tokens.manifest.bytes_per_token,
    )


def _other(data: DataConfig, corpus: str, cache: Path | None) -> TokenSet:
    """Another distribution in the tokens of the training corpus."""
    trained = data.tokenizer.startswith("bpe:") and "@" not in data.tokenizer
    return prepare(corpus, f"{data.tokenizer}@{data.corpus}" if trained else data.tokenizer, cache=cache)
