"""What a plan needs of its corpora, said before anything is trained: passes over the text, and downloads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allometry.core.errors import AllometryError
from allometry.core.units import format_bytes, format_count

if TYPE_CHECKING:
    from allometry.data.spec import Download
    from allometry.train.config import RunConfig

_FRESH = 1.0
"""Passes up to which every token that a run trains on is new to it."""


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How often runs read a training text: `most` is the longest run's, of which there are `tokens`; `again`
    counts the runs that read some of it more than once, of `runs`. `chosen`: on small parts of the text,
    which the study repeats on purpose.
    """

    corpus: str
    tokens: int
    runs: int
    most: float
    again: int
    chosen: bool = False

    def __str__(self) -> str:
        if self.chosen:
            return f"{self.runs} runs train on parts of {self.corpus}, up to {self.most:.3g} times over"
        text = f"{self.corpus} has {format_count(self.tokens)} tokens to train on; "
        if not self.again:
            return f"{text}the longest run reads {_share(self.most)} of them"
        return (
            f"{text}{self.again} of {self.runs} runs read them more than once, up to {self.most:.3g} times: "
            "the laws assume fresh tokens, so give more text or a smaller --budget"
        )


def _share(passes: float) -> str:
    return "all" if passes > 0.995 else f"{100 * passes:.2g} %"


def passes(runs: Iterable[RunConfig]) -> list[Passes]:
    """Return how often the runs of a plan read each of their training texts; those that are not on this
    machine, or not tokenized yet, are left out.
    """
    found: dict[tuple[str, str, bool], list[float]] = {}
    sizes: dict[tuple[str, str], int | None] = {}
    for run in runs:
        wanted = run.data.corpus, run.data.tokenizer
        if wanted not in sizes:
            sizes[wanted] = _tokens(*wanted)
        there = sizes[wanted]
        if there is None:
            continue
        chosen = run.data.limit is not None or run.data.half is not None or run.data.loss_on != "all"
        unique = min(run.data.limit or there, there - run.data.skip)
        unique = unique // 2 if run.data.half is not None else unique
        found.setdefault((*wanted, chosen), []).append(run.train.tokens / max(unique, 1))
    return [
        Passes(
            corpus=corpus if tokenizer == "bytes" else f"{corpus} ({tokenizer})",
            tokens=sizes[corpus, tokenizer] or 0,
            runs=len(each),
            most=max(each),
            again=sum(count > _FRESH for count in each),
            chosen=chosen,
        )
        for (corpus, tokenizer, chosen), each in found.items()
        if not chosen or max(each) > _FRESH
    ]


def _tokens(corpus: str, tokenizer: str) -> int | None:
    """Return the training tokens of a token set in the cache; None without it."""
    from allometry.data.tokens import is_complete, load, place_of

    place = place_of(corpus, tokenizer)
    return load(place).manifest.train_tokens if is_complete(place) else None


def downloads(runs: Iterable[RunConfig]) -> list[Download]:
    """Return what training the runs would fetch from the network, each once."""
    from allometry.data import tokens
    from allometry.train.inputs import token_sets

    found: dict[str, Download] = {}
    for wanted in dict.fromkeys(each for run in runs for each in token_sets(run.data)):
        try:
            found |= {download.name: download for download in tokens.downloads(*wanted)}
        except AllometryError:  # the run that reads it will say why
            continue
    return list(found.values())


def sentences(runs: Sequence[RunConfig]) -> list[str]:
    """Return what a user should know of a plan's corpora before it is trained, a sentence each."""
    said = [str(each) for each in passes(runs)]
    if wanted := downloads(runs):
        named = ", ".join(
            each.name + ("" if each.size is None else f" ({format_bytes(each.size)})") for each in wanted
        )
        said.append(f"to be downloaded: {named}")
    return said
