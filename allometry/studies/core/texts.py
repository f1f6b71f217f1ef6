"""A study belongs to the text that it was planned on: its plan, its prediction and its runs.

`text.json` in a study's folder says which text that is (`allometry.runs.texts`). When a corpus has changed,
the folder is put aside with its runs, and the study is planned afresh.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from allometry.core.errors import AllometryError
from allometry.runs import texts
from allometry.runs.texts import Text

if TYPE_CHECKING:
    from allometry.runs.store import Store
    from allometry.train.config import DataConfig


def present_text(data: DataConfig) -> Text:
    """Return the text that a study trains on, as its corpus is now."""
    from allometry.train.texts import set_of

    return Text(set_of(data.corpus, data.tokenizer))


def is_of_other_text(folder: Path, text: Text) -> bool:
    """Return whether the study in a folder records another text; False if it records none."""
    before = texts.recorded(folder)
    return before is not None and before.digest != text.digest


def make_way(store: Store, key: str, text: Text, *, shared: bool) -> list[str]:
    """Put the study `key` aside if it is of another text, and bring back what the store has of it on this
    one; what there is to say. The store must not be in use. AllometryError if it is `shared` with other
    processes.
    """
    folder = store.path / texts.STUDIES / key
    before = texts.recorded(folder)
    if before is None or before.digest == text.digest:
        return []
    if shared:
        raise AllometryError(
            f"the study {key!r} in {store.place.location} is of other text: {', '.join(text.sets)} changed",
            hint="name a store for the new text with --store PATH",
        )
    back = texts.exchange(store.path, f"{texts.STUDIES}/{key}", before.digest, text.digest)
    kept = store.path / texts.ASIDE / before.digest
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
    own = texts.recorded(folder)
    if own is None:
        return []
    return [run for run in runs if _differs(texts.recorded(store / run), own)]


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
    from allometry.data import tokens

    own = texts.recorded(folder)
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
