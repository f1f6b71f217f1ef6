"""The rules a document must pass: repetition and quality as in MassiveText (Rae et al. 2021, appendix A.1,
"Gopher").

Each rule measures one number and has a bound; a document that exceeds it (or falls short) is dropped, with
the number. Characters of n-grams are counted over words, without the spaces between them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from allometry.core.errors import unknown
from allometry.data.webtext.shingles import Hashes, Ints, ngrams, word_hashes, word_lengths

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
_BULLETS = ("•", "‣", "▪", "-", "*", "·", "–")
_ELLIPSES = ("...", "…")


class Text:
    """A document with what several rules look at, each computed once."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def words(self) -> list[str]:
        """The parts between spaces."""
        return self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not empty, without the space around them."""
        return [line for line in map(str.strip, self.text.splitlines()) if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        """The parts between empty lines."""
        return [part for part in map(str.strip, re.split(r"\n\s*\n", self.text)) if part]

    @cached_property
    def hashed(self) -> Hashes:
        """The hashes of the words (runs of letters and digits)."""
        return word_hashes(self.text)

    @cached_property
    def lengths(self) -> Ints:
        """The number of characters of each of those words."""
        return word_lengths(self.text)


@dataclass(frozen=True)
class Rule:
    """A named measure with its bounds (a document outside them is dropped). `english` rules apply to English
    only."""

    name: str
    measure: Callable[[Text], float]
    at_least: float | None = None
    at_most: float | None = None
    english: bool = False

    def fails(self, value: float) -> bool:
        """Return whether a value is out of bounds."""
        too_low = self.at_least is not None and value < self.at_least
        return too_low or (self.at_most is not None and value > self.at_most)


def _mean_word_length(text: Text) -> float:
    return sum(map(len, text.words)) / len(text.words) if text.words else 0.0


def _symbols_per_word(text: Text) -> float:
    symbols = text.text.count("#") + text.text.count("…") + text.text.count("...")
    return symbols / len(text.words) if text.words else 0.0


def _share_of_lines(test: Callable[[str], bool]) -> Callable[[Text], float]:
    def measure(text: Text) -> float:
        return sum(map(test, text.lines)) / len(text.lines) if text.lines else 0.0

    return measure


def _alphabetic_words(text: Text) -> float:
    return sum(any(map(str.isalpha, word)) for word in text.words) / len(text.words) if text.words else 0.0


def _stop_words(text: Text) -> float:
    return float(len(STOP_WORDS & {word.casefold().strip(".,;:!?\"'()") for word in text.words}))


def _repeated(pieces: list[str], *, characters: bool) -> float:
    """Return the share of pieces (or of their characters) that occur earlier in the document."""
    seen: set[str] = set()
    repeated = total = 0
    for piece in pieces:
        size = len(piece) if characters else 1
        total += size
        repeated += size if piece in seen else 0
        seen.add(piece)
    return repeated / total if total else 0.0


def _top_ngram(n: int) -> Callable[[Text], float]:
    """Return a measure of the share of characters inside the most frequent n-gram (0 if none occurs twice)."""

    def measure(text: Text) -> float:
        grams = ngrams(text.hashed, n)
        if not len(grams):
            return 0.0
        _, first, counts = np.unique(grams, return_index=True, return_counts=True)
        most = counts.max()
        if most < 2:
            return 0.0
        sums = np.concatenate([[0], np.cumsum(text.lengths)])
        sizes = sums[first + n] - sums[first]
        covered = int((sizes * counts)[counts == most].max())
        return min(1.0, covered / max(1, int(sums[-1])))

    return measure


def _repeated_ngrams(n: int) -> Callable[[Text], float]:
    """Return a measure of the share of characters inside n-grams that occur earlier, overlaps counted once."""

    def measure(text: Text) -> float:
        grams = ngrams(text.hashed, n)
        if not len(grams):
            return 0.0
        _, first = np.unique(grams, return_index=True)
        again = np.ones(len(grams), dtype=bool)
        again[first] = False
        edges = np.zeros(len(text.lengths) + 1, dtype=np.int64)
        starts = np.flatnonzero(again)
        np.add.at(edges, starts, 1)
        np.add.at(edges, starts + n, -1)
        covered = np.cumsum(edges[:-1]) > 0
        return float(text.lengths[covered].sum() / max(1, text.lengths.sum()))

    return measure


def _all_rules() -> tuple[Rule, ...]:
    quality = (
        Rule("words", lambda t: float(len(t.words)), at_least=50, at_most=100_000),
        Rule("mean_word_length", _mean_word_length, at_least=3, at_most=10),
        Rule("symbols_per_word", _symbols_per_word, at_most=0.1),
        Rule("bullet_lines", _share_of_lines(lambda line: line.startswith(_BULLETS)), at_most=0.9),
        Rule("ellipsis_lines", _share_of_lines(lambda line: line.endswith(_ELLIPSES)), at_most=0.3),
        Rule("alphabetic_words", _alphabetic_words, at_least=0.8),
        Rule("stop_words", _stop_words, at_least=2, english=True),
    )
    repetition = (
        Rule("repeated_lines", lambda t: _repeated(t.lines, characters=False), at_most=0.30),
        Rule("repeated_paragraphs", lambda t: _repeated(t.paragraphs, characters=False), at_most=0.30),
        Rule("repeated_line_characters", lambda t: _repeated(t.lines, characters=True), at_most=0.20),
        Rule(
            "repeated_paragraph_characters", lambda t: _repeated(t.paragraphs, characters=True), at_most=0.20
        ),
    )
    top = tuple(Rule(f"top_{n}gram", _top_ngram(n), at_most=m) for n, m in ((2, 0.20), (3, 0.18), (4, 0.16)))
    bounds = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
    return (
        quality
        + repetition
        + top
        + tuple(Rule(f"repeated_{n}grams", _repeated_ngrams(n), at_most=m) for n, m in bounds)
    )


RULES: dict[str, Rule] = {rule.name: rule for rule in _all_rules()}
"""Name -> rule, in the order in which they are applied; the bounds are those of the paper (table A1 and
section A.1.1)."""

GROUPS: dict[str, tuple[str, ...]] = {
    "quality": tuple(list(RULES)[:7]),
    "repetition": tuple(list(RULES)[7:]),
}
"""Names that stand for several rules."""


def choose_rules(without: tuple[str, ...] = ()) -> tuple[Rule, ...]:
    """Return all rules but the named ones (or groups of them). Raises AllometryError for an unknown name."""
    dropped: set[str] = set()
    for name in without:
        if name not in RULES and name not in GROUPS:
            raise unknown("rule", name, [*RULES, *GROUPS, "language", "tokens"])
        dropped.update(GROUPS.get(name, (name,)))
    return tuple(rule for name, rule in RULES.items() if name not in dropped)


def first_failure(text: Text, rules: tuple[Rule, ...], *, english: bool) -> tuple[str, float] | None:
    """Return the first rule that a text fails, with the value; None if it passes all."""
    for rule in rules:
        if rule.english and not english:
            continue
        value = rule.measure(text)
        if rule.fails(value):
            return rule.name, round(value, 4)
    return None
