"""Controlled training data (a random half of the documents, planted text) and the probes that measure it: sequences
whose own losses a run records at its evaluations, apart from the test set.

`probes.json` in the run directory says what they are; `probes.jsonl` has a line for each evaluation. See
`runs.measurements` for the reading of both.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from allometry.core.errors import AllometryError
from allometry.core.files import append_text, read_lines, write_json, write_text
from allometry.data import batches, tokenizers
from allometry.data.batches import BatchOrder, first, window_starts, windows
from allometry.runs.measurements import PROBE_TABLE, PROBES_FORMAT, PROBES_LINES
from allometry.train.plant import PlantedOrder, canary_tokens, passage_tokens

if TYPE_CHECKING:
    from allometry.data.tokenizers import Tokenizer
    from allometry.data.tokens import TokenSet
    from allometry.train.config import RunConfig
    from allometry.train.engines.base import Engine
    from allometry.train.plant import Plant


Ids = npt.NDArray[np.int64]

MOST = 128
"""Probes that stand for a whole training set; more sequences than that are recorded in groups."""

PER_OCTAVE, REACH = 48, 2048
"""Windows that stand for the first block, for the second, for the next two, four, ..., and how many blocks
are so measured: as many windows of each doubling, so that small sets are as well known as large ones."""

DOCUMENT_WINDOWS = 8
"""Windows, evenly spread, by which a document is measured."""

EXCERPT = 160
"""Characters of a probe's text that are kept to be shown."""

_DIGITS = 6


class Group(NamedTuple):
    """Windows of one length: tokens (n, T + 1), which predictions count (n, T), and the probe of each (n,).

    `hits`: also record how many of them the most probable token gets right. Where all are, greedy decoding
    from the tokens before them yields the text.
    """

    windows: Ids
    counted: npt.NDArray[np.bool_]
    owner: npt.NDArray[np.int64]
    hits: bool


@dataclass
class Probes:
    """All probes of a run: what each is (a row of `rows`) and the groups of windows that measure them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)

    def add(
        self,
        windows: Ids,
        rows: Sequence[dict[str, Any]],
        *,
        owner: npt.NDArray[np.int64] | None = None,
        last: int | None = None,
        hits: bool = False,
    ) -> None:
        """Add probes with their windows (n, T + 1), one each unless `owner` (n,) says which of `rows` a window
        belongs to; only the `last` predictions of a window count, if given.
        """
        width = windows.shape[1] - 1
        counted = np.zeros((len(windows), width), dtype=bool)
        counted[:, width - (last or width) :] = True
        owner = np.arange(len(windows)) if owner is None else owner
        tokens = np.bincount(owner, counted.sum(axis=1), minlength=len(rows))
        self.groups.append(Group(windows, counted, owner + len(self.rows), hits))
        self.rows += [{**row, "tokens": int(n)} for row, n in zip(rows, tokens, strict=True)]

    def measure(self, engine: Engine) -> dict[str, list[Any]]:
        """Return for each probe the loss in nats, summed over its counted tokens, and how many of them the model
        predicts as most probable (None where that is not recorded).
        """
        count = len(self.rows)
        losses, hits = np.zeros(count), np.full(count, np.nan)
        for group in self.groups:
            own = np.where(group.counted, engine.losses(group.windows), 0).sum(axis=1, dtype=np.float64)
            losses += np.bincount(group.owner, own, minlength=count)
            if group.hits:
                right = (engine.hits(group.windows) & group.counted).sum(axis=1)
                found = np.bincount(group.owner, right, minlength=count)
                mine = np.unique(group.owner)
                hits[mine] = found[mine]
        return {
            "loss": [float(f"{value:.{_DIGITS}g}") for value in losses],
            "hits": [None if np.isnan(value) else int(value) for value in hits],
        }

    def begin(self, directory: Path, step: int) -> None:
        """Write the description of the probes, and keep the lines up to `step` of a run that continues."""
        columns = {key: [row.get(key) for row in self.rows] for key in PROBE_TABLE}
        write_json(directory / "probes.json", {"format": PROBES_FORMAT, **columns})
        lines, _ = read_lines(directory / PROBES_LINES)
        kept = "".join(_line(line) for line in lines if line["step"] <= step)
        write_text(directory / PROBES_LINES, kept)

    def record(self, directory: Path, engine: Engine, step: int) -> None:
        """Measure all probes after `step` and append the results."""
        line = _line({"step": step, **self.measure(engine)})
        append_text(directory / PROBES_LINES, line)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, separators=(",", ":")) + "\n"


def planted_probes(
    plant: Plant,
    canaries: Ids,
    references: Ids,
    passages: Ids,
    starts: Ids,
    texts: Sequence[str],
    steps_of: Sequence[list[int]],
) -> Probes:
    """Return probes of canaries and references by their digits, of passages as a whole and by their suffix after
    each prompt.

    `texts` and `steps_of` (when each was trained on) of the canaries, then of the passages.
    """
    probes, times = Probes(), plant.times
    told = [
        {"text": text, "steps": steps, "repeats": r}
        for text, steps, r in zip(texts, steps_of, times, strict=True)
    ]
    if len(canaries):
        rows = [{"probe": f"canary {i}", "kind": "canary", **told[i]} for i in range(len(canaries))]
        probes.add(canaries, rows, last=plant.slots, hits=True)
    if len(references):
        rows = [{"probe": f"reference {i}", "kind": "reference"} for i in range(len(references))]
        probes.add(references, [{**row, "repeats": 0} for row in rows], last=plant.slots)
    if not len(passages):
        return probes
    mine = [
        {"probe": f"passage {start}", **row} for start, row in zip(starts, told[len(canaries) :], strict=True)
    ]
    probes.add(passages, [{"kind": "passage", **row} for row in mine], hits=True)
    for prompt in plant.prompts:
        ends = passages[:, plant.length - plant.suffix - prompt :]
        rows = [{"kind": "extract", "prompt": prompt, **row, "text": None, "steps": None} for row in mine]
        probes.add(ends, rows, last=plant.suffix, hits=True)
    return probes


def trained_probes(windows: Ids, entropy: float | None) -> Probes:
    """Return probes of the training windows (n, T + 1), in at most MOST groups of neighbours.

    `entropy` is that of a token in nats where it is known: groups then have theirs.
    """
    probes = Probes()
    owner = np.arange(len(windows)) * min(MOST, len(windows)) // len(windows)
    rows: list[dict[str, Any]] = [
        {"probe": f"trained {i}", "kind": "trained", "repeats": 1} for i in range(owner[-1] + 1)
    ]
    probes.add(windows, rows, owner=owner)
    if entropy is not None:
        for row in probes.rows:
            row["entropy"] = entropy * row["tokens"]
    return probes


def window_probes(
    tokens: npt.NDArray[np.integer], block: int, n_ctx: int, trained: tuple[int, int]
) -> Probes:
    """Return a probe for each of some windows of n_ctx + 1 tokens within the first REACH blocks of `tokens` in
    the order of `batches.first`: the same in every run whose block and context are the same.

    Named by the block and the place in it ("window 12.3"). `trained`: the run trains on the tokens from the
    first to before the second of these, in that order. AllometryError if there is not one block.
    """

    if len(tokens) < block:
        raise AllometryError(
            f"{len(tokens)} training tokens hold no block of {block}", hint="use a larger corpus"
        )
    count, fit = min(REACH, len(tokens) // block), block // (n_ctx + 1)
    pool = first(np.asarray(tokens), count * block, block).reshape(count, block)
    rows, kept = [], []
    edges = [0, *(2**k for k in range(count.bit_length())), count]
    for low, high in itertools.pairwise(sorted(set(edges))):
        number = min(PER_OCTAVE, (high - low) * fit)
        for which in np.linspace(low * fit, high * fit - 1, number).round().astype(int).tolist():
            place, part = divmod(which, fit)
            begin, end = part * (n_ctx + 1), (part + 1) * (n_ctx + 1)
            inside = trained[0] <= place * block + begin and place * block + end <= trained[1]
            rows.append({"probe": f"window {place}.{part}", "kind": "window", "repeats": int(inside)})
            kept.append(pool[place, begin:end])
    probes = Probes()
    probes.add(np.array(kept, dtype=np.int64), rows)
    return probes


def document_probes(
    pieces: Sequence[npt.NDArray[np.integer]],
    rows: Sequence[dict[str, Any]],
    n_ctx: int,
) -> Probes:
    """Return probes of documents, each by at most DOCUMENT_WINDOWS of its windows; shorter ones are left out."""
    probes = Probes()
    kept = [(piece, row) for piece, row in zip(pieces, rows, strict=True) if len(piece) > n_ctx]
    parts, owners = [], []
    for number, (piece, _) in enumerate(kept):
        count = (len(piece) - 1) // n_ctx
        which = np.unique(np.linspace(0, count - 1, min(count, DOCUMENT_WINDOWS)).round().astype(int))
        parts.append(np.asarray(piece)[which[:, None] * n_ctx + np.arange(n_ctx + 1)].astype(np.int64))
        owners += [number] * len(which)
    if kept:
        probes.add(np.concatenate(parts), [row for _, row in kept], owner=np.array(owners))
    return probes


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
    return planted, planted_probes(plant, canaries, references, passages, starts, texts, planted.steps_of)


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
    return document_probes([*pieces, *held_out], rows, config.model.n_ctx)


def _trained(config: RunConfig, found: TokenSet, kept: NDArray[Any], record: int | None) -> Probes:
    """Return probes of all training windows, with their entropy where it is known."""

    n_ctx, manifest = config.model.n_ctx, found.manifest
    entropy = None
    if manifest.entropy is not None and manifest.record:  # the separator of a record is certain
        entropy = manifest.entropy * manifest.record / (manifest.record - 1)
    return trained_probes(windows(kept, n_ctx=n_ctx, n_tokens=len(kept), record=record), entropy)


def _windows(config: RunConfig, found: TokenSet) -> Probes:
    """Return probes of windows of the corpus's first blocks; those between the run's skip and its limit are
    trained on.
    """
    data = config.data
    stop = len(found.train) if data.limit is None else data.skip + data.limit
    return window_probes(np.asarray(found.train), data.spread, config.model.n_ctx, (data.skip, stop))
