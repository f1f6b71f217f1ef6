"""Sequences of independent, uniformly drawn symbols: data that can be memorised and not generalised.

Nothing about one sequence says anything about another, so whatever a model knows of its training sequences
beyond the alphabet it has stored (Morris et al. 2025, "How much do language models memorize?", arXiv
2505.24832). n sequences of S symbols out of V hold exactly n S log2 V bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from allometry.core.errors import AllometryError
from allometry.data.split import SMALLEST, Document, Split

HELD_OUT = 64
"""Sequences of the test split, on which every model must be at chance or worse."""

FORM = "synthetic:uniform,symbols=64,length=17,sequences=1000,seed=0"


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """`sequences` training sequences of `length` symbols each out of `symbols`; `seed` draws them.

    Sets of one seed are nested: a larger one begins with the smaller ones.
    """

    symbols: int = 64
    length: int = 17
    sequences: int = 1000
    seed: int = 0

    @classmethod
    def of(cls, numbers: Mapping[str, float]) -> Uniform:
        """Return the source with these fields. AllometryError for one that is no whole number."""
        for key, value in numbers.items():
            if value != int(value) or value < 0:
                raise AllometryError(
                    f"synthetic:uniform: {key} {value:g} is not a whole number", hint=f"write it like {FORM}"
                )
        return cls(**{key: int(value) for key, value in numbers.items()})

    def __post_init__(self) -> None:
        if not 2 <= self.symbols <= 10_000:
            raise AllometryError(f"synthetic:uniform: {self.symbols} symbols", hint="use 2 to 10,000")
        if self.length < 2 or self.length * math.log2(self.symbols) < 32:
            raise AllometryError(
                f"synthetic:uniform: {self.length} symbols out of {self.symbols} hold so few bits that "
                "sequences would repeat",
                hint="make length x log2(symbols) at least 32",
            )
        if self.sequences < self.fewest:
            raise AllometryError(
                f"synthetic:uniform: {self.sequences} sequences of {self.length} are too few for a data set",
                hint=f"ask for at least {self.fewest}",
            )

    @property
    def fewest(self) -> int:
        """The least number of sequences: every symbol has room to occur, and the text can be split."""
        bytes_each = self.length * (self.width + 1) - 1
        return max(
            16, math.ceil((self.symbols + 1) / (self.length + 1)), math.ceil(SMALLEST / bytes_each) - HELD_OUT
        )

    @property
    def width(self) -> int:
        """Characters of a symbol's name."""
        return len(str(self.symbols - 1))

    @property
    def names(self) -> tuple[str, ...]:
        """Every symbol, in the order of their ids: numbers with leading zeros."""
        return tuple(f"{number:0{self.width}d}" for number in range(self.symbols))

    @property
    def entropy(self) -> float:
        """Nats per byte of the text, in which a symbol takes its name and a space or the separator."""
        return math.log(self.symbols) / (self.width + 1)

    def drawn(self, split: Split) -> npt.NDArray[np.int64]:
        """Draw the sequences of a split, (sequences, length)."""
        count = self.sequences if split == "train" else HELD_OUT
        generator = np.random.default_rng([self.seed, int(split == "test")])
        return generator.integers(self.symbols, size=(count, self.length))

    def documents(self) -> Iterator[Document]:
        """Yield the sequences as text, one a document, held-out ones first."""
        names = self.names
        splits: tuple[Split, ...] = ("test", "train")
        for split in splits:
            for row in self.drawn(split).tolist():
                yield Document(" ".join(names[number] for number in row), split)
