"""Generated languages whose entropy rate is known exactly, so that a fit's irreducible loss E can be checked.

A language is a Markov source over `symbols` characters with memory `order`. After every context the
characters are ranked in an order of that context's own, and the next one has rank r with probability p_r ∝
r^-exponent (Zipf). A document ends after each character with probability q = 1 / length. The entropy of the
rank is the same in every context, so the entropy rate has a closed form whatever the order of the ranks: per
character H(p) + H(q), and per token, with one separator a document,

    h = (H(p) + H(q)) / (1 + q)   nats per token (= byte),   H(q) = -q ln q - (1 - q) ln(1 - q).

The ranks follow the character's own popularity with noise (Plackett-Luce), so that unigram frequencies are
Zipfian, too. What is to be learned is one ranking for each of symbols^order contexts, of which few are
frequent: the loss falls slowly with N and D, as it does on text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from allometry.core.errors import AllometryError
from allometry.data.split import Document

_BLOCK = 4096
"""Documents that are generated in parallel."""

_FIRST_CHARACTER = 33


@dataclass(frozen=True, kw_only=True)
class Language:
    """A Zipfian Markov source. `order` is its memory in characters, `length` the mean length of a document.

    `bytes` is how much text is generated (about), `seed` chooses both the language and the text.
    """

    order: int = 2
    symbols: int = 64
    exponent: float = 1.5
    length: int = 1000
    bytes: int = 10_000_000
    seed: int = 0

    @classmethod
    def of(cls, numbers: Mapping[str, float]) -> Language:
        """Return the language with these fields. Raises AllometryError for a fraction where a count is due."""
        for key, value in numbers.items():
            if key != "exponent" and (value != int(value) or value < 0):
                raise AllometryError(
                    f"synthetic: {key} {value:g} is not a whole number", hint="write it like order=2"
                )
        return cls(**{key: value if key == "exponent" else int(value) for key, value in numbers.items()})  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        if not 2 <= self.symbols <= 94:
            raise AllometryError(
                f"synthetic: {self.symbols} symbols", hint="use 2 to 94 (the visible ASCII characters)"
            )
        if self.order < 1 or (self.symbols + 1) ** self.order * self.symbols > 50_000_000:
            raise AllometryError(
                f"synthetic: order {self.order} with {self.symbols} symbols needs a table of "
                f"{(self.symbols + 1.0) ** self.order * self.symbols:.0e} ranks",
                hint="use order 1, 2 or 3 with fewer symbols (at most 5e7 ranks)",
            )
        if self.exponent < 0 or self.length < 8:
            raise AllometryError(
                "synthetic: exponent must be at least 0 and length at least 8", hint="omit them"
            )

    @property
    def rank_probabilities(self) -> npt.NDArray[np.float64]:
        """p_r for r = 1 … symbols."""
        weights: npt.NDArray[np.float64] = np.arange(1, self.symbols + 1, dtype=float) ** -self.exponent
        return weights / weights.sum()

    @property
    def entropy(self) -> float:
        """The entropy rate in nats per byte, where each document is its characters and one separator."""
        p, q = self.rank_probabilities, 1 / self.length
        ending = -q * np.log(q) - (1 - q) * np.log1p(-q)
        return float((-(p * np.log(p)).sum() + ending) / (1 + q))

    def ranking(self) -> npt.NDArray[np.uint8]:
        """Return the characters of every context from most to least probable: shape ((symbols + 1)^order, symbols).

        Characters count from 1; 0 in a context stands for what is before the document.
        """
        generator = np.random.default_rng([self.seed, 0])
        contexts = (self.symbols + 1) ** self.order
        popularity = np.log(self.rank_probabilities)
        noisy = popularity + generator.gumbel(size=(contexts, self.symbols)).astype(np.float32)
        return (np.argsort(-noisy, axis=1) + 1).astype(np.uint8)

    def documents(self) -> Iterator[Document]:
        """Yield the text, a pure function of the fields."""
        generator = np.random.default_rng([self.seed, 1])
        ranking = self.ranking()
        left = self.bytes
        while left > 0:
            lengths = generator.geometric(1 / self.length, size=_BLOCK)
            lengths = lengths[: np.searchsorted(np.cumsum(lengths + 1), left) + 1]
            left -= int((lengths + 1).sum())
            for row in self._generate(lengths, ranking, generator):
                yield Document(row.tobytes().decode("ascii"))

    def _generate(
        self, lengths: npt.NDArray[np.int64], ranking: npt.NDArray[np.uint8], generator: np.random.Generator
    ) -> list[npt.NDArray[np.uint8]]:
        """Generate documents of these lengths in parallel, the longest first, so that those which end come last."""
        sequence = np.argsort(-lengths, kind="stable")
        falling = lengths[sequence]
        text = np.empty((len(lengths), falling[0]), dtype=np.uint8)
        cumulative = np.cumsum(self.rank_probabilities)
        context = np.zeros(len(lengths), dtype=np.int64)
        base, size = self.symbols + 1, (self.symbols + 1) ** self.order
        alive = len(lengths)
        for position in range(falling[0]):
            while falling[alive - 1] <= position:
                alive -= 1
            ranks = np.searchsorted(cumulative[:-1], generator.random(alive), side="right")
            characters = ranking[context[:alive], ranks]
            text[:alive, position] = characters + (_FIRST_CHARACTER - 1)
            context = (context[:alive] * base + characters) % size
        places = np.argsort(sequence)
        return [text[place, :length] for place, length in zip(places, lengths, strict=True)]
