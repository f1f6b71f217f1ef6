"""Equations of a finite arithmetic, which models memorise long before they generalise (Power et al. 2022,
"Grokking", arXiv 2201.02177).

The whole table of a binary operation is written out, one equation a document: "34 div 5 = 84". A random share
of it is trained on and the rest is held out, so that a model that only memorises is at chance on the test split.
Every symbol is one token ("symbols" is the tokenizer), so an equation has five, and a sixth that ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from allometry.core.errors import AllometryError, unknown
from allometry.data.split import Document, Split

Number = TypeVar("Number", int, float)
Elements = npt.NDArray[np.int64]

LENGTH = 6
"""Tokens of an equation: a, operation, b, "=", c, and the separator."""

ANSWER = 4
"""Which of them is the answer c, counted from 0."""

LEAST, MOST = 23, 512
"""Moduli whose equations are enough to be split, and few enough to fit in memory easily."""

MODULAR: dict[str, Callable[[Elements, Elements], Elements]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "x2y2": lambda a, b: a**2 + b**2,
    "x2xyy2": lambda a, b: a**2 + a * b + b**2,
    "x2xyy2x": lambda a, b: a**2 + a * b + b**2 + a,
    "x3xy": lambda a, b: a**3 + a * b,
    "x3xy2y": lambda a, b: a**3 + a * b**2 + b,
}
"""Operations on numbers, before the remainder is taken; besides them there are QUOTIENTS."""

QUOTIENTS = ("div", "divsub")
"""a / b, and a / b where b is odd but a - b where it is even. The modulus must be prime, and b is not 0."""

PRODUCTS = ("xy", "xyx", "conjugate")
"""Operations on permutations of five things: a b, a b a, and a b a^-1."""

FORM = "synthetic:modular:97:div:0.5:0 or synthetic:s5:xy:0.5:0"
"""How a corpus of equations is named: modulus (of residues), operation, share that is trained on, seed; a
further number is the share of wrong answers in training (Power et al. 2022 have outliers, too)."""


@dataclass(frozen=True, kw_only=True)
class Equations:
    """A table of equations. `modulus` is None for S5, the permutations of five things, which are numbered.

    `train` is the share that is trained on, `seed` chooses which. Division is of residues modulo a prime.
    `noise` is the share of the training equations whose answer is replaced by a random element; held-out
    equations are always right.
    """

    operation: str
    modulus: int | None = None
    train: float = 0.5
    seed: int = 0
    noise: float = 0.0

    @classmethod
    def of(cls, argument: str) -> Equations:
        """Parse "modular:97:div:0.5:0" or "s5:xy:0.5:0:0.1"; share, seed and noise may be left out.
        AllometryError for anything else.
        """
        kind, *parts = argument.split(":")
        modulus = None
        if kind == "modular":
            modulus = _number(int, parts.pop(0) if parts else "", argument)
        if not parts or len(parts) > 4:
            raise _unreadable(argument)
        train = _number(float, parts[1], argument) if len(parts) > 1 else cls.train
        seed = _number(int, parts[2], argument) if len(parts) > 2 else cls.seed
        noise = _number(float, parts[3], argument) if len(parts) > 3 else cls.noise
        return cls(operation=parts[0], modulus=modulus, train=train, seed=seed, noise=noise)

    def __post_init__(self) -> None:
        known = PRODUCTS if self.modulus is None else (*MODULAR, *QUOTIENTS)
        if self.operation not in known:
            raise unknown("operation", self.operation, known)
        if not 0 < self.train < 1:
            raise AllometryError(
                f"equations: a share of {self.train:g} leaves one split empty",
                hint="train on a share between 0 and 1, such as 0.5",
            )
        if self.seed < 0:
            raise AllometryError(f"equations: seed {self.seed} is negative", hint="use 0 or more")
        if not 0 <= self.noise < 1:
            raise AllometryError(
                f"equations: a share of {self.noise:g} wrong answers",
                hint="use 0 or more, and less than 1",
            )
        if self.modulus is None:
            return
        if not LEAST <= self.modulus <= MOST:
            raise AllometryError(
                f"equations: modulus {self.modulus} is not between {LEAST} and {MOST}",
                hint="the papers use 97",
            )
        if self.operation in QUOTIENTS and not _is_prime(self.modulus):
            raise AllometryError(
                f"equations: division modulo {self.modulus}, which is not prime, is not defined",
                hint="use a prime such as 97",
            )

    @property
    def symbols(self) -> tuple[str, ...]:
        """Every symbol, in the order of their ids: the elements, the operation, the equals sign."""
        return (*map(str, range(self.modulus or 120)), self.operation, "=")

    def table(self) -> Elements:
        """Return all equations as rows (a, b, c), in order."""
        if self.modulus is None:
            return _permutation_table(self.operation)
        p = self.modulus
        a, b = (each.ravel() for each in np.meshgrid(np.arange(p), np.arange(p), indexing="ij"))
        if self.operation not in QUOTIENTS:
            return np.stack([a, b, MODULAR[self.operation](a, b) % p], axis=1)
        a, b = a[b > 0], b[b > 0]
        quotient = np.stack([a * b % p, b, a], axis=1)  # a b / b = a
        if self.operation == "divsub":
            even = b % 2 == 0
            quotient[even] = np.stack([a, b, (a - b) % p], axis=1)[even]
        return quotient

    def documents(self) -> Iterator[Document]:
        """Yield the equations as text, held-out ones first, shuffled: a pure function of the fields."""
        table = self.table()
        order = np.random.default_rng(self.seed).permutation(len(table))
        trained = round(self.train * len(table))
        table = self._blurred(table, order[:trained])
        sides: Sequence[tuple[Split, npt.NDArray[np.int64]]] = (
            ("test", order[trained:]),
            ("train", order[:trained]),
        )
        for side, rows in sides:
            for a, b, c in table[rows].tolist():
                yield Document(f"{a} {self.operation} {b} = {c}", side)

    def _blurred(self, table: Elements, trained: Elements) -> Elements:
        """Return the table with random answers in the first of the rows `trained`: none without noise."""
        wrong = trained[: round(self.noise * len(trained))]
        answers = np.random.default_rng([self.seed, 1]).integers(len(self.symbols) - 2, size=len(wrong))
        table = table.copy()
        table[wrong, 2] = answers
        return table


def _permutation_table(operation: str) -> Elements:
    """Return the table of S5: elements are numbered in lexicographic order; a b applies b first."""
    elements = np.array(list(permutations(range(5))))
    places = 5 ** np.arange(5)
    number = {int(key): index for index, key in enumerate(elements @ places)}
    a, b = (each.ravel() for each in np.meshgrid(np.arange(120), np.arange(120), indexing="ij"))
    c = np.take_along_axis(elements[a], elements[b], axis=1)
    if operation != "xy":
        last = elements if operation == "xyx" else np.argsort(elements, axis=1)
        c = np.take_along_axis(c, last[a], axis=1)
    return np.stack([a, b, [number[int(key)] for key in c @ places]], axis=1)


def _number(read: Callable[[str], Number], text: str, argument: str) -> Number:
    try:
        return read(text)
    except ValueError:
        raise _unreadable(argument) from None


def _unreadable(argument: str) -> AllometryError:
    return AllometryError(f"cannot read the equations {argument!r}", hint=f"write them like {FORM}")


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % k for k in range(2, int(n**0.5) + 1))
