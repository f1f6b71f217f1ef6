"""The texts of a study: what a plan needs of its corpora, and which text a study belongs to.

`text.json` in a study's folder says which text that is (`allometry.runs.record`). When a corpus has changed,
the folder is put aside with its runs, and the study is planned afresh.

Kept with the timings of shapes in the cache folder, so that the next plan knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allometry.core import __version__
from allometry.core.env import cache_dir, cpu_model
from allometry.core.errors import AllometryError
from allometry.core.files import read_json, write_json
from allometry.core.units import format_bytes, format_count
from allometry.data import tokens
from allometry.data.tokens import is_complete, load, place_of
from allometry.runs import record
from allometry.runs.record import Text
from allometry.train.inputs import token_sets
from allometry.train.texts import set_of

if TYPE_CHECKING:
    from allometry.data.spec import Download
    from allometry.runs.store import Store
    from allometry.train.config import DataConfig, RunConfig


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
    place = place_of(corpus, tokenizer)
    return load(place).manifest.train_tokens if is_complete(place) else None


def downloads(runs: Iterable[RunConfig]) -> list[Download]:
    """Return what training the runs would fetch from the network, each once."""
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


def present_text(data: DataConfig) -> Text:
    """Return the text that a study trains on, as its corpus is now."""
    return Text(set_of(data.corpus, data.tokenizer))


def is_of_other_text(folder: Path, text: Text) -> bool:
    """Return whether the study in a folder records another text; False if it records none."""
    before = record.recorded_text(folder)
    return before is not None and before.digest != text.digest


def make_way(store: Store, key: str, text: Text, *, shared: bool) -> list[str]:
    """Put the study `key` aside if it is of another text, and bring back what the store has of it on this
    one; what there is to say. The store must not be in use. AllometryError if it is `shared` with other
    processes.
    """
    folder = store.path / record.STUDIES / key
    before = record.recorded_text(folder)
    if before is None or before.digest == text.digest:
        return []
    if shared:
        raise AllometryError(
            f"the study {key!r} in {store.place.location} is of other text: {', '.join(text.sets)} changed",
            hint="name a store for the new text with --store PATH",
        )
    back = record.exchange_text(store.path, f"{record.STUDIES}/{key}", before.digest, text.digest)
    kept = store.path / record.ASIDE / before.digest
    after = "the earlier plan of the present text is back" if back else "it is planned afresh"
    return [f"{', '.join(text.sets)} has changed since {key!r} was planned: {after}; the other is in {kept}"]


def require_own_text(store: Store, folder: Path, runs: Iterable[str], command: str) -> None:
    """Raise AllometryError if finished runs of the study in a folder are now of another text than the study is."""
    if foreign := of_other_text(store.path, folder, runs):
        raise AllometryError(
            f"{len(foreign)} runs of the study {folder.name!r} are of other text than it was planned on: "
            f"the corpus has changed since, and something else was run on it ({foreign[0]})",
            hint=f"run the study again on the text that there is now: {command or 'allometry run STUDY'}",
        )


def of_other_text(store: Path, folder: Path, runs: Iterable[str]) -> list[str]:
    """Return those of the runs that record other text than the study in a folder does."""
    own = record.recorded_text(folder)
    if own is None:
        return []
    return [run for run in runs if _differs(record.recorded_text(store / run), own)]


def _differs(run: Text | None, study: Text) -> bool:
    """Return whether a run read another version of a token set of the study."""
    if run is None:
        return False
    return any(
        name in study.sets and study.sets[name]["tokens"] != each["tokens"] for name, each in run.sets.items()
    )


def changed_since(folder: Path) -> str | None:
    """Say in a sentence that the files which the study in a folder was planned on have been written since;
    return None if they have not, are not here, or are no files. Reads no text.
    """
    own = record.recorded_text(folder)
    for name, each in own.sets.items() if own else ():
        corpus, _, tokenizer = name.rpartition(" | ")
        if not corpus.startswith(("files:", "webtext:")):
            continue
        try:
            place = tokens.place_of(corpus, tokenizer)
            same = place.name == each["identity"] or (
                tokens.is_complete(place) and tokens.load(place).manifest.hash == each["tokens"].split("-")[0]
            )
        except AllometryError:  # it is gone, or on another machine
            continue
        if not same:
            return (
                f"{corpus} has been written since this study was planned; what is shown is of the text of "
                "then. The command that made the study trains it on the present text."
            )
    return None


_ONCE = 10.0
"""Seconds that a study's analysis is taken to need before it was ever timed here: what does not grow, …"""

_EACH = 0.2
"""… and what each run adds."""


def analysis_seconds(study: str, runs: int) -> float:
    """Return the seconds that predictions, fits and report of a study of so many runs are expected to take here."""
    stored = read_json(_path(study)) or {}
    seconds, of = stored.get("seconds"), stored.get("runs")
    if not isinstance(seconds, int | float) or not isinstance(of, int) or of < 1:
        return _ONCE + _EACH * runs
    return float(seconds) + _EACH * (runs - of) if runs > of else float(seconds)


def keep_analysis_seconds(study: str, runs: int, seconds: float) -> None:
    """Remember how long it took."""
    write_json(_path(study), {"study": study, "runs": runs, "seconds": round(seconds, 1)})


def _path(study: str) -> Path:
    key = hashlib.sha256(f"{study} {cpu_model()} {__version__}".encode()).hexdigest()[:16]
    return cache_dir("timings") / f"analysis-{key}.json"
