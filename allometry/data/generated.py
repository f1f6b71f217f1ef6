"""Corpora that are generated, not collected: languages, random sequences, equations.

A language is a Markov source over `symbols` characters with memory `order`. After every context the
characters are ranked in an order of that context's own, and the next one has rank r with probability p_r ∝
r^-exponent (Zipf). A document ends after each character with probability q = 1 / length. The entropy of the
rank is the same in every context, so the entropy rate has a closed form whatever the order of the ranks: per
character H(p) + H(q), and per token, with one separator a document,

    h = (H(p) + H(q)) / (1 + q)   nats per token (= byte),   H(q) = -q ln q - (1 - q) ln(1 - q).

The ranks follow the character's own popularity with noise (Plackett-Luce), so that unigram frequencies are
Zipfian, too. What is to be learned is one ranking for each of symbols^order contexts, of which few are
frequent: the loss falls slowly with N and D, as it does on text.

Nothing about one sequence says anything about another, so whatever a model knows of its training sequences
beyond the alphabet it has stored (Morris et al. 2025, "How much do language models memorize?", arXiv
2505.24832). n sequences of S symbols out of V hold exactly n S log2 V bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from allometry.core.errors import AllometryError, unknown
from allometry.core.units import format_bytes, parse_number
from allometry.data import arithmetic
from allometry.data.arithmetic import Equations
from allometry.data.spec import CorpusSpec, refuse_unknown
from allometry.data.split import SMALLEST, Document, Split

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


_LANGUAGE = ("order", "symbols", "exponent", "length", "bytes", "seed")
_UNIFORM = ("symbols", "length", "sequences", "seed")

OPTIONS = frozenset({*_LANGUAGE, *_UNIFORM})
"""Keys that may follow the argument of one kind or another."""

ABOUT = (
    "a generated language whose entropy is known, uniform sequences, or the equations of modular arithmetic "
    "or S5"
)

USAGE = (
    "synthetic:zipf[,order=2,symbols=64,exponent=1.5,length=1000,bytes=10M,seed=0], "
    f"{FORM}, {arithmetic.FORM}"
)


def synthetic(name: str, argument: str, options: Mapping[str, str]) -> CorpusSpec:
    """Return the corpus that "synthetic:ARGUMENT" with these options means; AllometryError for an unknown one."""
    if argument.partition(":")[0] in ("modular", "s5"):
        return _equations(name, argument, options)
    if argument not in ("zipf", "uniform"):
        raise unknown(
            "synthetic language", argument, ["zipf", "uniform", "modular:P:OPERATION", "s5:OPERATION"]
        )
    refuse_unknown(name, options, _LANGUAGE if argument == "zipf" else _UNIFORM)
    numbers = {key: parse_number(value, f"option {key} of corpus {name!r}") for key, value in options.items()}
    if argument == "uniform":
        return _uniform(name, numbers)
    language = Language.of(numbers)
    return CorpusSpec(
        name=name,
        about=f"a Zipfian Markov source of order {language.order} over {language.symbols} characters",
        source="generated",
        licence="none needed",
        attribution="",
        size=format_bytes(language.bytes),
        read=lambda cache: language.documents(),
        fingerprint=lambda: asdict(language),
        entropy=language.entropy,
    )


def _uniform(name: str, numbers: Mapping[str, float]) -> CorpusSpec:
    source = Uniform.of(numbers)
    return CorpusSpec(
        name=name,
        about=f"uniform sequences of {source.length} out of {source.symbols} symbols: nothing to generalise",
        source="generated",
        licence="none needed",
        attribution="",
        size=f"{source.sequences} sequences",
        read=lambda cache: source.documents(),
        fingerprint=lambda: asdict(source),
        entropy=source.entropy,
        symbols=source.names,
        record=source.length + 1,
    )


def _equations(name: str, argument: str, options: Mapping[str, str]) -> CorpusSpec:
    refuse_unknown(name, options, ())
    equations = Equations.of(argument)
    where = "permutations of five things" if equations.modulus is None else f"residues of {equations.modulus}"
    return CorpusSpec(
        name=name,
        about=f"all equations of {equations.operation} over {where}, {equations.train:.0%} for training",
        source="generated",
        licence="none needed",
        attribution="",
        size=f"{len(equations.table())} equations",
        read=lambda cache: equations.documents(),
        fingerprint=lambda: asdict(equations),
        symbols=equations.symbols,
        record=arithmetic.LENGTH,
        answer=arithmetic.ANSWER,
    )
