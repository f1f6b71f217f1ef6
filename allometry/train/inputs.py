"""The inputs of a run: its training tokens in their order, and the fixed held-out windows of its evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allometry.core.errors import AllometryError
from allometry.data.batches import first
from allometry.data.tokens import BatchOrder, Manifest, TokenSet, prepare, windows
from allometry.train.config import DataConfig, RunConfig
from allometry.train.generate import continued
from allometry.train.probes import Probes, controlled


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The order of batches, and evaluation windows (sequences, n_ctx + 1) by column of the curve.

    The first column is "loss" (the corpus's own test split), then "loss_<corpus>" for each of `eval_on`.
    `unique` counts the training tokens that there are. Where only answers count in the loss, `weights`,
    (n_ctx,), is 1 at theirs, and `trained` holds windows of the training split; else None and no windows.
    `probes` are sequences whose own losses are recorded, if the run has any; `continued` are held-out texts
    of which the run continues the beginnings, if it does (`train.generate`).
    """

    order: BatchOrder
    tests: dict[str, NDArray[np.int64]]
    unique: int
    bytes_per_token: float
    weights: NDArray[np.float32] | None
    trained: NDArray[np.int64]
    probes: Probes | None = None
    continued: NDArray[np.int64] | None = None

    def weights_of(self, batch: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Return the weight of each predicted token of a batch, (sequences, n_ctx); None if all weigh the same."""
        return None if self.weights is None else np.tile(self.weights, (len(batch), 1))

    def mean(self, values: NDArray[Any]) -> float:
        """Return the mean of (sequences, n_ctx) numbers over the predicted tokens that count."""
        if self.weights is None:
            return float(values.mean(dtype=np.float64))
        return float(np.average(values.mean(axis=0, dtype=np.float64), weights=self.weights))


def load_inputs(config: RunConfig, cache: Path | None = None) -> Inputs:
    """Load tokens and evaluation windows; AllometryError where data and model do not fit each other."""
    data, model = config.data, config.model
    tokens = prepare(data.corpus, data.tokenizer, cache=cache)
    vocabulary = tokens.manifest.n_vocab
    if vocabulary > model.n_vocab:
        raise AllometryError(
            f"tokenizer {data.tokenizer!r} has {vocabulary} tokens; the model's n_vocab is {model.n_vocab}",
            hint=f"set n_vocab = {vocabulary}",
        )
    available = first(tokens.train, data.limit, data.spread, data.skip)
    if data.skip + (data.limit or 1) > len(tokens.train):
        skipped = f" after {data.skip} that are skipped" if data.skip else ""
        raise AllometryError(
            f"data.limit asks for {data.limit or 'all'} tokens{skipped}; {data.corpus!r} has "
            f"{len(tokens.train)} for training",
            hint="lower the limit, or leave it out to use them all",
        )
    sets = {"loss": tokens} | {f"loss_{name}": _other(data, name, cache) for name in data.eval_on}
    weights = None if data.loss_on == "all" else _answers(data, model.n_ctx, list(sets.values()))

    def fixed(over: NDArray[Any], manifest: Manifest) -> NDArray[np.int64]:
        return windows(over, n_ctx=model.n_ctx, n_tokens=data.eval_tokens, record=_record(manifest, data))

    control = controlled(config, tokens, available, _record(tokens.manifest, data))
    return Inputs(
        order=control.order,
        tests={column: fixed(each.test, each.manifest) for column, each in sets.items()},
        unique=len(control.tokens),
        bytes_per_token=tokens.manifest.bytes_per_token,
        weights=weights,
        trained=(
            np.empty((0, model.n_ctx + 1), np.int64) if weights is None else fixed(available, tokens.manifest)
        ),
        probes=control.probes,
        continued=continued(tokens.test, model.n_ctx, data.novelty) if data.novelty else None,
    )


def _record(manifest: Manifest, data: DataConfig) -> int | None:
    """Return the tokens of a document where windows must begin with one; None where they may begin anywhere."""
    aligned = data.loss_on == "answer" or manifest.answer is None
    return manifest.record if aligned else None


def _answers(data: DataConfig, n_ctx: int, sets: Sequence[TokenSet]) -> NDArray[np.float32]:
    """Return 1 where the answer of a question is predicted, else 0, (n_ctx,); AllometryError if there is none."""
    for manifest in (each.manifest for each in sets):
        if manifest.answer is None or manifest.record != sets[0].manifest.record:
            raise AllometryError(
                f"loss_on = 'answer': corpus {manifest.corpus!r} in tokens of {manifest.tokenizer!r} does "
                "not consist of such questions",
                hint='use one such as synthetic:modular:97:div:0.5:0, with the tokenizer "symbols"',
            )
    answer, record = sets[0].manifest.answer, sets[0].manifest.record
    assert answer is not None
    assert record is not None
    if data.spread % record:
        raise AllometryError(
            f"blocks of {data.spread} tokens cut questions of {record} tokens apart",
            hint=f"leave spread out: questions are shuffled as they are, or use a multiple of {record}",
        )
    if n_ctx < answer:
        raise AllometryError(
            f"a context of {n_ctx} does not reach the answer, which is token {answer} of a question",
            hint=f"set n_ctx = {answer}",
        )
    return (np.arange(n_ctx) == answer - 1).astype(np.float32)


def token_sets(data: DataConfig) -> list[tuple[str, str]]:
    """Return (corpus, tokenizer) of every token set that a run on these data reads, the training corpus first."""
    others = [(corpus, _tokenizer_of_others(data)) for corpus in data.eval_on]
    return [(data.corpus, data.tokenizer), *others]


def _tokenizer_of_others(data: DataConfig) -> str:
    """Return the tokenizer for other corpora: the one of the training corpus."""
    trained = data.tokenizer.startswith(("bpe:", "symbols")) and "@" not in data.tokenizer
    return f"{data.tokenizer}@{data.corpus}" if trained else data.tokenizer


def _other(data: DataConfig, corpus: str, cache: Path | None) -> TokenSet:
    """Return another corpus, in the tokens of the training corpus."""
    return prepare(corpus, _tokenizer_of_others(data), cache=cache)
