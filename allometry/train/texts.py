"""Compare the text that runs were trained on with what their corpora hold now (see `runs.record`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from allometry.core.errors import AllometryError
from allometry.data import tokens
from allometry.runs import record
from allometry.runs.record import Text
from allometry.train.config import RunConfig
from allometry.train.inputs import token_sets


def text_of(config: RunConfig, store: Path, cache: Path | None = None) -> Text:
    """Return what a run reads as its corpora are now, and what the run in `store` that it starts from has read.

    Prepares the token sets that the cache lacks; AllometryError where one is not available.
    """
    sets: dict[str, dict[str, str]] = {}
    for corpus, tokenizer in token_sets(config.data):
        sets |= set_of(corpus, tokenizer, cache)
    parent = config.train.init_from
    read = record.recorded_text(store / parent) if parent else None
    return Text(sets, read.digest if read else None)


def set_of(corpus: str, tokenizer: str, cache: Path | None = None) -> dict[str, dict[str, str]]:
    """Return a token set under its name, in the form of `Text.sets`; prepared if the cache lacks it."""
    return {tokens.key(corpus, tokenizer): _entry(tokens.prepare(corpus, tokenizer, cache=cache))}


def _entry(found: tokens.TokenSet) -> dict[str, str]:
    train = found.manifest.train_tokens  # the hash is of both splits together
    return {"tokens": f"{found.manifest.hash}-{train}", "identity": found.path.name}


@dataclass
class Comparison:
    """Runs of a store whose text is not what their corpora hold now.

    `changed` maps a run to the digests of its recorded and its present text; `texts` has the present digest
    of every run for which it is known; `unknown` are finished runs that record none, though their corpus may
    have changed, and `damaged` those whose record cannot be read; `unread` names token sets that could not be
    looked at, and why; `names` are the token sets that differ.
    """

    changed: dict[str, tuple[str, str]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def sentences(self) -> list[str]:
        """Return the warnings for the user, a sentence each."""
        said = []
        if self.changed:
            sets = ", ".join(sorted(self.names)) or "the weights that they start from"
            said.append(f"{_runs(len(self.changed))} of other text in the store: {sets} changed since")
        if self.unknown:
            said.append(
                f"{_runs(len(self.unknown))} of an earlier release do not record their text and are taken to "
                f"be of the present one (to train them again: allometry runs rm {self.unknown[0]} …)"
            )
        if self.damaged:
            said.append(
                f"{_runs(len(self.damaged))} with a damaged {record.TEXT_FILE}, taken to be of the present text "
                f"(to train them again: allometry runs rm {self.damaged[0]} …)"
            )
        said += [
            f"{name} cannot be compared with what runs in the store were trained on: {why}"
            for name, why in sorted(self.unread.items())
        ]
        return said


def compare(
    runs: Sequence[RunConfig], store: Path, *, fetch: bool = True, cache: Path | None = None
) -> Comparison:
    """Compare what runs in a store have recorded with what they would read now.

    Looks at the token ids in the cache. What the cache lacks is prepared, unless it would have to be made
    from the same text as what was recorded; without `fetch`, nothing is downloaded.
    """
    found, now = Comparison(), _Present(fetch, cache)
    known = {run.id for run in runs}
    for run in sorted(runs, key=lambda run: run.train.init_from in known):  # parents before their children
        directory = store / run.id
        before = record.recorded_text(directory)
        present = _present(run, before, now, found, store)
        if present is not None:
            found.texts[run.id] = present.digest
        if before is None:
            finished = (directory / "result.json").exists()
            if finished and record.is_text_damaged(directory):
                found.damaged.append(run.id)
            elif finished and any(_may_change(*each) for each in token_sets(run.data)):
                found.unknown.append(run.id)
        elif present is not None and present.digest != before.digest:
            found.changed[run.id] = (before.digest, present.digest)
            found.names |= {
                name
                for name, each in present.sets.items()
                if each["tokens"] != before.sets.get(name, {}).get("tokens")
            }
    return found


def _present(
    run: RunConfig, before: Text | None, now: _Present, found: Comparison, store: Path
) -> Text | None:
    """Return the text that a run would read now; None if that is not known."""
    sets = {}
    for corpus, tokenizer in token_sets(run.data):
        name = tokens.key(corpus, tokenizer)
        recorded = {} if before is None else before.sets.get(name, {})
        try:
            entry = now.entry(corpus, tokenizer, dict(recorded))
        except AllometryError as error:
            if before is not None:
                found.unread[name] = error.message
            return None
        if entry is None:
            return None
        sets[name] = entry
    parent = run.train.init_from
    if parent is None:
        return Text(sets)
    if parent in found.texts:
        return Text(sets, found.texts[parent])
    read = record.recorded_text(store / parent)
    return Text(sets, read.digest if read else None)


class _Present:
    """The token sets as they are now, each looked up once."""

    def __init__(self, fetch: bool, cache: Path | None) -> None:
        self.fetch, self.cache = fetch, cache
        self.known: dict[tuple[str, str], dict[str, str] | AllometryError] = {}

    def entry(self, corpus: str, tokenizer: str, recorded: dict[str, str]) -> dict[str, str] | None:
        """Return the "tokens" and "identity" of a token set; None for one that nothing has recorded and the
        cache lacks. Raises AllometryError for one that is not available.
        """
        wanted = corpus, tokenizer
        if wanted not in self.known:
            place = tokens.place_of(corpus, tokenizer, cache=self.cache)
            if tokens.is_complete(place):
                self.known[wanted] = _entry(tokens.load(place))
            elif not recorded:
                return None
            elif recorded["identity"] == place.name and _fixed(corpus, tokenizer):
                return recorded
            else:
                self.known[wanted] = self._prepare(corpus, tokenizer)
        found = self.known[wanted]
        if isinstance(found, AllometryError):
            raise found
        return found

    def _prepare(self, corpus: str, tokenizer: str) -> dict[str, str] | AllometryError:
        if not self.fetch and tokens.downloads(corpus, tokenizer, cache=self.cache):
            return AllometryError("it is not on this machine", hint=f"allometry data prepare {corpus}")
        try:
            return _entry(tokens.prepare(corpus, tokenizer, cache=self.cache))
        except AllometryError as error:
            return error


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _fixed(corpus: str, tokenizer: str) -> bool:
    return all(spec.fixed for spec in tokens.behind(corpus, tokenizer))


def _may_change(corpus: str, tokenizer: str) -> bool:
    """Return whether the text behind a token set can differ between machines or over time."""
    names = (corpus, tokenizer.partition("@")[2])
    return any(re.match(r"(files|webtext|hf):|stdlib\b", name) for name in names)


def settle(
    runs: Sequence[RunConfig], store: Path, *, cache: Path | None = None
) -> tuple[Comparison, list[str]]:
    """Put runs of other text aside and bring back those of the present text; return the comparison and the
    messages for the user.

    The caller must have the store for itself.
    """
    found = compare(runs, store, cache=cache)
    back = sum(record.exchange_text(store, run, *digests) for run, digests in found.changed.items())
    said = found.sentences()
    if found.changed:
        again = f", {_runs(back)} of the present text brought back" if back else ""
        said[0] += f"; put aside in {store / record.ASIDE}{again}"
    return found, said


def refuse_changed(runs: Iterable[RunConfig], store: Path, *, where: str) -> list[str]:
    """Refuse runs of other text in a store that other processes may be using; return the messages for the user.

    `where` is the store as the user names it.
    """
    found = compare(list(runs), store)
    if found.changed:
        raise AllometryError(
            f"{where}: {found.sentences()[0]}; others may be using this store, so they are left there",
            hint="name a store for the new text with --store PATH",
        )
    return found.sentences()


def same_text(config: RunConfig, directory: Path, cache: Path | None = None) -> Text:
    """Return the text that a run reads now; AllometryError if its directory records that it has read something else.

    The caller puts runs of other text aside first (`settle`): a difference found here arose since then.
    """
    text = text_of(config, directory.parent, cache)
    before = record.recorded_text(directory)
    if before is not None and before.digest != text.digest:
        raise _changed(config)
    return text


def still_same(config: RunConfig, directory: Path, cache: Path | None = None) -> None:
    """Refuse a finished run that is known to be of other text than the present one."""
    if compare([config], directory.parent, cache=cache).changed:
        raise _changed(config)


def _changed(config: RunConfig) -> AllometryError:
    return AllometryError(
        f"the text of {config.data.corpus!r} has changed since {config.id} was begun",
        hint="run the same command again: it puts the run of the earlier text aside and trains this one",
    )
