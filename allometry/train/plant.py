"""Text inserted into training in order to measure memorisation: canaries and passages.

A canary is a fixed format with random digits (Carlini et al. 2019, "The Secret Sharer", arXiv 1802.08232); a
passage is held-out text. Each is inserted a known number of times, at the beginning of training windows, so
that none is ever cut. Where they go is a pure function of the plant and of the shape of training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from allometry.core.errors import AllometryError
from allometry.data.batches import BatchOrder
from allometry.models.base import StrictModel

if TYPE_CHECKING:
    from allometry.data.tokenizers import Tokenizer

CANARY = "The secret number is "
"""The format of every canary, which its digits follow."""

MOST = 0.25
"""Largest share of the training windows that may begin with something planted."""

_POOL, _ORDER, _PLACES = 1, 2, 3
"""Streams of random numbers: what is planted, which of it how often, and where."""

Ids = npt.NDArray[np.int64]
Count = Annotated[int, Field(ge=0)]


class Plant(StrictModel):
    """Insertions: for every r of `repeats`, so many `canaries` and `passages` that are inserted r times each.

    r = 0 makes controls that are never trained on. A canary has `slots` random digits, a passage `length`
    tokens of held-out text. Which passages there are does not depend on `seed`; how often each is inserted,
    the digits and the places do. `references` further fillings of the canary's format are never inserted.
    `prompts`: after how many tokens of a passage its last `suffix` tokens are asked for. `at`: everything is
    inserted in the batches that begin with this step, and nothing elsewhere.
    """

    repeats: tuple[Count, ...] = (0, 1, 4, 16, 64)
    canaries: Count = 2
    passages: Count = 4
    slots: Annotated[int, Field(ge=1, le=15)] = 6
    length: Annotated[int, Field(ge=2)] = 65
    suffix: Annotated[int, Field(ge=1)] = 16
    prompts: tuple[Annotated[int, Field(ge=1)], ...] = (16, 48)
    references: Count = 1024
    seed: Count = 0
    at: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Plant:
        if not self.repeats or not self.canaries + self.passages:
            raise ValueError("a plant without repeats, or without canaries and passages, inserts nothing")
        if self.passages and self.prompts and max(self.prompts) + self.suffix > self.length:
            raise ValueError(
                f"prompts of {max(self.prompts)} and a suffix of {self.suffix} tokens are longer than a "
                f"passage of {self.length}"
            )
        return self

    @property
    def times(self) -> list[int]:
        """The number of insertions of each canary, then of each passage."""
        return [r for count in (self.canaries, self.passages) for r in self.repeats for _ in range(count)]


def canary_tokens(plant: Plant, coder: Tokenizer) -> tuple[Ids, Ids, int]:
    """Return canaries (n, length), references (m, length) and the number of tokens of the format before the digits.

    All are different. AllometryError where a digit is not one token, so that slots would not be slots.
    """
    digits = [coder.encode(str(digit)) for digit in range(10)]
    if any(len(ids) != 1 for ids in digits):
        raise AllometryError(
            "canaries need a tokenizer in which every digit is one token", hint="use the tokenizer bytes"
        )
    count = plant.canaries * len(plant.repeats)
    if count + plant.references > 10**plant.slots // 2:
        raise AllometryError(
            f"{count} canaries and {plant.references} references are too many for {plant.slots} digits",
            hint="use more slots or fewer references",
        )
    generator = np.random.default_rng([plant.seed, _POOL])
    drawn: dict[bytes, None] = {}
    while len(drawn) < count + plant.references:
        drawn[generator.integers(10, size=plant.slots, dtype=np.uint8).tobytes()] = None
    table = np.array([int(ids[0]) for ids in digits])
    filled = table[np.array([list(row) for row in drawn], dtype=np.int64).reshape(-1, plant.slots)]
    prefix = np.asarray(coder.encode(CANARY), dtype=np.int64)
    whole = np.concatenate([np.tile(prefix, (len(filled), 1)), filled], axis=1)
    return whole[:count], whole[count:], len(prefix)


def passage_tokens(
    plant: Plant, test: npt.NDArray[np.integer], evaluated: Ids, window: int
) -> tuple[Ids, Ids]:
    """Return passages (n, length) of the held-out tokens `test`, in the order in which they are planted, and the
    position where each begins.

    They lie between the windows that evaluations read, which begin at `evaluated` and are `window` tokens
    long, so that the test loss stays one on text that was never trained on. AllometryError where there is
    too little such text.
    """
    wanted = plant.passages * len(plant.repeats)
    ends = np.append(evaluated[1:], len(test))
    gaps = [
        range(a + window, b - plant.length + 1, plant.length) for a, b in zip(evaluated, ends, strict=True)
    ]
    starts = np.array([start for gap in gaps for start in gap], dtype=np.int64)
    if len(starts) < wanted:
        raise AllometryError(
            f"held-out text between the evaluated windows holds {len(starts)} passages of {plant.length} "
            f"tokens, and {wanted} are to be planted",
            hint="plant fewer or shorter passages, lower eval_tokens, or use a larger corpus",
        )
    pool = np.sort(np.random.default_rng(_POOL).permutation(starts)[:wanted])
    pool = pool[np.random.default_rng([plant.seed, _ORDER]).permutation(wanted)]
    return test[pool[:, None] + np.arange(plant.length)].astype(np.int64), pool


class PlantedOrder(BatchOrder):
    """The order of batches in which planted items replace the beginning of some windows.

    `steps_of[i]` are the steps whose batches hold item i, once for each time that it is inserted.
    """

    def __init__(
        self,
        tokens: npt.NDArray[np.unsignedinteger],
        *,
        n_ctx: int,
        batch_tokens: int,
        seed: int,
        plant: Plant,
        items: list[Ids],
        steps: int,
    ) -> None:
        """Place the `items`, 1-D arrays of tokens in the order of `plant.times`, in a run of `steps` steps.

        AllometryError if one is longer than a window, or if they would fill more than MOST of training.
        """
        super().__init__(tokens, n_ctx=n_ctx, batch_tokens=batch_tokens, seed=seed)
        window = n_ctx + 1
        if items and max(map(len, items)) > window:
            raise AllometryError(
                f"what is planted has {max(map(len, items))} tokens and would be cut: windows have {window}",
                hint=f"shorten it, or set n_ctx = {max(map(len, items)) - 1} or more",
            )
        times = plant.times
        assert len(times) == len(items)
        places = _places(plant, sum(times), steps * self.rows, self.rows)
        owners = np.repeat(np.arange(len(items)), times)
        self._planted: dict[int, list[tuple[int, Ids]]] = {}
        self.steps_of: list[list[int]] = [[] for _ in items]
        for owner, place in zip(owners.tolist(), places.tolist(), strict=True):
            step, row = place // self.rows + 1, place % self.rows
            self._planted.setdefault(step, []).append((row, items[owner]))
            self.steps_of[owner].append(step)
        for seen in self.steps_of:
            seen.sort()

    def batch(self, step: int) -> Ids:
        """Return the batch of a step with its planted items: see `BatchOrder.batch`."""
        found = super().batch(step)
        for row, tokens in self._planted.get(step, ()):
            found[row, : len(tokens)] = tokens
        return found


def _places(plant: Plant, count: int, windows: int, rows: int) -> Ids:
    """Draw the windows of the whole run, counted from 0, that begin with something planted."""
    if plant.at is not None:
        first = (plant.at - 1) * rows
        if first + count > windows:
            raise AllometryError(
                f"{count} insertions from step {plant.at} on do not fit into {windows // rows} steps",
                hint="insert earlier, or train longer",
            )
        return np.random.default_rng([plant.seed, _PLACES]).permutation(count) + first
    if count > MOST * windows:
        raise AllometryError(
            f"{count} insertions would fill more than {MOST:.0%} of the run's {windows} windows",
            hint="insert less often, or train longer",
        )
    return np.random.default_rng([plant.seed, _PLACES]).choice(windows, size=count, replace=False)
