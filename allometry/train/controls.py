"""Controlled training data: a random half of the documents, planted text, and the probes that measure both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from allometry.core.errors import AllometryError
from allometry.data import batches, tokenizers
from allometry.data.batches import BatchOrder, window_starts
from allometry.train import probes
from allometry.train.plant import PlantedOrder, canary_tokens, passage_tokens
from allometry.train.probes import EXCERPT, Probes

if TYPE_CHECKING:
    from allometry.data.tokenizers import Tokenizer
    from allometry.data.tokens import TokenSet
    from allometry.train.config import RunConfig
    from allometry.train.plant import Plant

HELD_OUT = 64
"""Held-out documents that are measured beside those of the training split."""


@dataclass(frozen=True, kw_only=True)
class Controlled:
    """The training data after selection and planting: tokens, the order of batches, and probes if there are any."""

    tokens: NDArray[Any]
    order: BatchOrder
    probes: Probes | None


def controlled(config: RunConfig, found: TokenSet, available: NDArray[Any], record: int | None) -> Controlled:
    """Return the training data of a run, made from the tokens that its corpus and limit leave (`available`).

    AllometryError where there are too few documents for halves, or what is planted does not fit.
    """
    data = config.data
    kept, inside = available, None
    if data.half is not None:
        pieces = batches.documents(available, _separator(found), data.spread)
        inside = batches.chosen(len(pieces), data.half)
        kept = np.concatenate([piece for piece, chosen in zip(pieces, inside, strict=True) if chosen])
    order, measured = _order(config, found, kept, record)
    if data.probe == "documents":
        measured = _documents(config, found, available, inside)
    elif data.probe == "trained":
        measured = _trained(config, found, kept, record)
    elif data.probe == "windows":
        measured = _windows(config, found)
    return Controlled(tokens=kept, order=order, probes=measured if data.probe else None)


def _order(
    config: RunConfig, found: TokenSet, kept: NDArray[Any], record: int | None
) -> tuple[BatchOrder, Probes | None]:
    """Return the order of batches and, where something is planted, its probes."""
    train, n_ctx, plant = config.train, config.model.n_ctx, config.data.plant
    if plant is None:
        plain = BatchOrder(kept, n_ctx=n_ctx, batch_tokens=train.batch_tokens, seed=train.seed, record=record)
        return plain, None
    if record is not None:
        raise AllometryError(
            f"{config.data.corpus!r} consists of records, into which nothing can be planted",
            hint="plant into text",
        )
    return _planted(config, plant, found, kept)


def _coder(found: TokenSet) -> Tokenizer:
    return tokenizers.load(found.manifest.tokenizer)


def _separator(found: TokenSet) -> int:
    return _coder(found).separator


def _planted(
    config: RunConfig, plant: Plant, found: TokenSet, kept: NDArray[Any]
) -> tuple[PlantedOrder, Probes]:
    n_ctx, train, coder = config.model.n_ctx, config.train, _coder(found)
    empty = np.empty((0, 1), np.int64)
    canaries, references, passages, starts = empty, empty, empty, empty[:, 0]
    if plant.canaries:
        canaries, references, _ = canary_tokens(plant, coder)
    if plant.passages:
        evaluated = window_starts(len(found.test), n_ctx=n_ctx, n_tokens=config.data.eval_tokens)
        passages, starts = passage_tokens(plant, found.test, evaluated, n_ctx + 1)
    items = [*canaries, *passages]
    planted = PlantedOrder(
        kept, n_ctx=n_ctx, batch_tokens=train.batch_tokens, seed=train.seed, plant=plant, items=items,
        steps=train.steps,
    )  # fmt: skip
    texts = [coder.decode(item)[:EXCERPT] for item in items]
    return planted, probes.planted(plant, canaries, references, passages, starts, texts, planted.steps_of)


def _documents(
    config: RunConfig, found: TokenSet, available: NDArray[Any], inside: NDArray[np.bool_] | None
) -> Probes:
    """Return probes of every training document, in the half or not, and of some held-out documents."""
    coder, spread = _coder(found), config.data.spread
    pieces = batches.documents(available, coder.separator, spread)
    held_out = batches.documents(np.asarray(found.test), coder.separator, spread)
    spaced = np.unique(np.linspace(0, len(held_out) - 1, min(HELD_OUT, len(held_out))).round().astype(int))
    held_out = [held_out[number] for number in spaced]
    trained = np.ones(len(pieces), dtype=bool) if inside is None else inside
    rows = [
        {"probe": f"document {i}", "kind": "document", "repeats": int(trained[i])} for i in range(len(pieces))
    ]
    rows += [{"probe": f"held out {i}", "kind": "held out", "repeats": 0} for i in range(len(held_out))]
    for row, piece in zip(rows, [*pieces, *held_out], strict=True):
        row["text"] = coder.decode(piece[: 2 * EXCERPT])[:EXCERPT]
    return probes.documents([*pieces, *held_out], rows, config.model.n_ctx)


def _trained(config: RunConfig, found: TokenSet, kept: NDArray[Any], record: int | None) -> Probes:
    """Return probes of all training windows, with their entropy where it is known."""
    from allometry.data.batches import windows

    n_ctx, manifest = config.model.n_ctx, found.manifest
    entropy = None
    if manifest.entropy is not None and manifest.record:  # the separator of a record is certain
        entropy = manifest.entropy * manifest.record / (manifest.record - 1)
    return probes.trained(windows(kept, n_ctx=n_ctx, n_tokens=len(kept), record=record), entropy)


def _windows(config: RunConfig, found: TokenSet) -> Probes:
    """Return probes of windows of the corpus's first blocks; those between the run's skip and its limit are
    trained on.
    """
    data = config.data
    stop = len(found.train) if data.limit is None else data.skip + data.limit
    return probes.windows(np.asarray(found.train), data.spread, config.model.n_ctx, (data.skip, stop))
