"""A corpus as token ids on disk: memory-mapped splits and a manifest that says what they are.

from allometry.data.tokens import BatchOrder, prepare
data = prepare("sotu", "bytes")
batch = BatchOrder(data.train, n_ctx=128, batch_tokens=1024, seed=0).batch(1)

Token sets travel through the run store, as `data/NAME/`, and lie in each machine's cache as if they had been made
there. A cache that `settle` returns finds them by corpus and tokenizer; pass it as `cache`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from allometry.core.env import cache_root
from allometry.core.errors import AllometryError
from allometry.core.files import write_json
from allometry.core.units import parse_number
from allometry.data import corpora, tokenizers
from allometry.data.batches import BatchOrder, windows
from allometry.data.cache import NAMES, build_once, downloads_allowed, sha256, slug
from allometry.data.spec import Download
from allometry.data.split import HELD_OUT, SplitPlan, plan_split, split_documents
from allometry.runs.place import Place

__all__ = ["BatchOrder", "Manifest", "TokenSet", "prepare", "windows"]

FORMAT = 1
"""Version of the layout on disk and of the rules that made it; part of the cache's keys."""

_BYTES_PER_TOKEN = 3.0
"""Assumed bytes of text per token of a trained vocabulary where that is not known yet."""

_UNKNOWN_BYTES = 1e8
"""Assumed bytes of a corpus of unknown size."""

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a token set. Bytes are UTF-8 bytes of text, with one more for the separator that ends
    each document.

    `entropy` is the entropy rate in nats per token where the language is known, else None. `hash` is the
    SHA-256 of the ids. `duplicates` counts dropped copies of documents, `nul_bytes` the bytes 0 taken out of
    the text. `record` and `answer` are those of the corpus (see `CorpusSpec`), if its symbols are the tokens.
    """

    corpus: str
    tokenizer: str
    n_vocab: int
    dtype: str
    hash: str
    train_documents: int
    test_documents: int
    train_tokens: int
    test_tokens: int
    train_bytes: int
    test_bytes: int
    bytes_per_token: float
    duplicates: int
    nul_bytes: int
    split: str
    source: str
    licence: str
    attribution: str
    provenance: Any
    entropy: float | None = None
    record: int | None = None
    answer: int | None = None
    format: int = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class TokenSet:
    """A prepared corpus: `train` and `test` are 1-D memory-mapped arrays of token ids (uint16, or uint32)."""

    train: npt.NDArray[Any]
    test: npt.NDArray[Any]
    manifest: Manifest
    path: Path


def prepare(
    corpus: str, tokenizer: str, *, cache: Path | None = None, progress: Progress | None = None
) -> TokenSet:
    """Return the token ids of a corpus: tokenized at the first call, then read from the cache.

    `corpus` is a name of the registry ("sotu", "files:PATH", …), `tokenizer` is "bytes", "gpt2", "bpe:V"
    (trained on the corpus's training split), "bpe:V@CORPUS" (trained on another corpus's) or, for a corpus
    with a closed vocabulary, "symbols". `cache` defaults
    to the environment's ALLOMETRY_CACHE, else ~/.cache/allometry. `progress` receives a line about each
    step.

    Raises AllometryError, with the remedy, for what cannot be read, is too small, or does not fit the
    tokenizer.
    """
    target = place_of(corpus, tokenizer, cache=cache)
    if is_complete(target):
        return load(target)
    spec = corpora.resolve(corpus)
    name = tokenizers.full_name(tokenizer, corpus)

    def build(directory: Path) -> None:
        _build(spec, name, directory, cache, progress or (lambda text: None))
        if _own_place(corpora.resolve(corpus), name, cache) != target:
            raise AllometryError(
                f"{corpus!r} was changed while it was being read", hint="run the same command again"
            )

    build_once(target, build, complete=is_complete)
    return load(target)


def prepared(corpus: str, tokenizer: str, *, cache: Path | None = None) -> bool:
    """Return whether a corpus has its token ids in the cache already; nothing is fetched. Raises AllometryError
    for an unknown corpus or tokenizer.
    """
    return is_complete(place_of(corpus, tokenizer, cache=cache))


def place_of(corpus: str, tokenizer: str, *, cache: Path | None = None) -> Path:
    """Return the path at which `prepare` finds or puts the token ids of a corpus. The last part of the path
    names all that they depend on. Raises AllometryError for an unknown corpus or tokenizer.
    """
    placed = _placed(corpus, tokenizer, cache)
    if placed is not None:
        return placed
    name = tokenizers.full_name(tokenizer, corpus)
    return _own_place(corpora.resolve(corpus), name, cache)


def behind(corpus: str, tokenizer: str) -> list[corpora.CorpusSpec]:
    """Return the corpora that a token set is made from: its own, and the one that its tokenizer was trained on."""
    _, _, trained_on = tokenizers.full_name(tokenizer, corpus).partition("@")
    return [corpora.resolve(name) for name in dict.fromkeys([corpus, trained_on or corpus])]


def downloads(corpus: str, tokenizer: str, *, cache: Path | None = None) -> list[Download]:
    """Return what `prepare` would fetch from the network; nothing if the token ids are in the cache."""
    if prepared(corpus, tokenizer, cache=cache):
        return []
    return [wanted for spec in behind(corpus, tokenizer) if (wanted := spec.download(cache)) is not None]


def _own_place(spec: corpora.CorpusSpec, tokenizer: str, cache: Path | None) -> Path:
    """Return the path at which this machine keeps the ids of a corpus under a tokenizer's full name."""
    identity = {"format": FORMAT, "corpus": spec.identity(), "tokenizer": tokenizers.identity(tokenizer)}
    return cache_root(cache) / "tokens" / slug(spec.name, tokenizer, identity=identity)


def key(corpus: str, tokenizer: str) -> str:
    """Return the name of a token set in a cache that was settled for this machine (`allometry.data.tokens`)."""
    return f"{corpus} | {tokenizer}"


def _placed(corpus: str, tokenizer: str, cache: Path | None) -> Path | None:
    """Return the path of a token set that another machine made; None if the cache says nothing about it."""
    if cache is None or not (cache / NAMES).exists():
        return None
    where = json.loads((cache / NAMES).read_text(encoding="utf-8")).get(key(corpus, tokenizer))
    return None if where is None else Path(where)


def manifest_of(corpus: str, tokenizer: str) -> Manifest:
    """Return the manifest of a token set, prepared if need be; an estimate from the corpus's size where it would
    have to be downloaded and must not (`fetching.no_downloads`).
    """
    if downloads_allowed() or not downloads(corpus, tokenizer):
        return prepare(corpus, tokenizer).manifest
    spec, name = corpora.resolve(corpus), tokenizers.full_name(tokenizer, corpus)
    size = _bytes_of(spec)
    per_token = 1.0 if name == "bytes" else _BYTES_PER_TOKEN
    held = round(HELD_OUT * size)
    return Manifest(
        corpus=corpus,
        tokenizer=name,
        n_vocab=tokenizers.vocabulary_size(name),
        dtype="",
        hash="",
        train_documents=0,
        test_documents=0,
        train_tokens=round((size - held) / per_token),
        test_tokens=round(held / per_token),
        train_bytes=round(size) - held,
        test_bytes=held,
        bytes_per_token=per_token,
        duplicates=0,
        nul_bytes=0,
        split="",
        source=spec.source,
        licence=spec.licence,
        attribution=spec.attribution,
        provenance=None,
    )


def _bytes_of(spec: corpora.CorpusSpec) -> float:
    """Return the declared bytes of text of a corpus, before it has been read."""
    if spec.package is not None:
        return parse_number(spec.size.removesuffix("B"), f"size of {spec.name!r}")
    wanted = spec.download()
    return _UNKNOWN_BYTES if wanted is None or wanted.size is None else float(wanted.size)


def load(path: Path) -> TokenSet:
    """Load the token set in a directory that `prepare` made."""
    manifest = _manifest(path)
    return TokenSet(
        train=_map(path, "train", manifest), test=_map(path, "test", manifest), manifest=manifest, path=path
    )


def _manifest(path: Path) -> Manifest:
    return Manifest(**json.loads((path / "manifest.json").read_text(encoding="utf-8")))


def _map(path: Path, split: str, manifest: Manifest) -> npt.NDArray[Any]:
    return np.memmap(path / f"{split}.bin", dtype=manifest.dtype, mode="r")


def is_complete(path: Path) -> bool:
    """Return whether a directory holds all that its manifest lists."""
    try:
        manifest = _manifest(path)
        width = np.dtype(manifest.dtype).itemsize
        return all(
            (path / f"{split}.bin").stat().st_size == count * width
            for split, count in (("train", manifest.train_tokens), ("test", manifest.test_tokens))
        )
    except (OSError, ValueError, TypeError):
        return False


@dataclass
class _Written:
    """The progress of one split: what has been written so far."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0


def _build(
    spec: corpora.CorpusSpec, tokenizer: str, directory: Path, cache: Path | None, progress: Progress
) -> None:
    progress(f"reading {spec.name}")
    plan = plan_split(lambda: spec.documents(cache), name=spec.name)
    coder = tokenizers.load(tokenizer, cache=cache, progress=progress)
    progress(f"tokenizing {spec.name} with {tokenizer}")
    dtype = "uint16" if coder.n_vocab <= 65536 else "uint32"
    train, test = _write(spec, plan, coder, directory, dtype, cache)
    if not tokenizer.startswith("bpe:"):
        _require_enough(spec.name, tokenizer, coder.n_vocab, train.tokens)
    bytes_per_token = (train.bytes + test.bytes) / (train.tokens + test.tokens)
    closed = tokenizer.startswith("symbols@")
    manifest = Manifest(
        corpus=spec.name,
        tokenizer=tokenizer,
        n_vocab=coder.n_vocab,
        dtype=dtype,
        hash=sha256(directory / "train.bin", directory / "test.bin"),
        train_documents=train.documents,
        test_documents=test.documents,
        train_tokens=train.tokens,
        test_tokens=test.tokens,
        train_bytes=train.bytes,
        test_bytes=test.bytes,
        bytes_per_token=bytes_per_token,
        duplicates=plan.duplicates,
        nul_bytes=plan.nul_bytes,
        split=plan.rule,
        source=spec.served(cache) or spec.source,
        licence=spec.licence,
        attribution=spec.attribution,
        provenance=spec.identity(),
        entropy=None if spec.entropy is None else spec.entropy * bytes_per_token,
        record=spec.record if closed else None,
        answer=spec.answer if closed else None,
    )
    (directory / "manifest.json").write_text(json.dumps(manifest.to_dict(), indent=1), encoding="utf-8")


def _write(
    spec: corpora.CorpusSpec,
    plan: SplitPlan,
    coder: tokenizers.Tokenizer,
    directory: Path,
    dtype: str,
    cache: Path | None,
) -> tuple[_Written, _Written]:
    written = {"train": _Written(), "test": _Written()}
    separator = np.array([coder.separator], dtype=dtype).tobytes()
    with (directory / "train.bin").open("wb") as train, (directory / "test.bin").open("wb") as test:
        files = {"train": train, "test": test}
        for split, text in split_documents(spec.documents(cache), plan):
            ids = coder.encode(text).astype(dtype)
            files[split].write(ids.tobytes())
            files[split].write(separator)
            written[split].documents += 1
            written[split].tokens += len(ids) + 1
            written[split].bytes += len(text.encode()) + 1
    return written["train"], written["test"]


def _require_enough(corpus: str, tokenizer: str, n_vocab: int, train_tokens: int) -> None:
    if train_tokens < n_vocab:
        raise AllometryError(
            f"tokenizer {tokenizer!r} has {n_vocab} ids, but {corpus!r} only {train_tokens} training tokens",
            hint="use the tokenizer bytes, a smaller bpe:V, or more text",
        )


FOLDER = "data"
_FILES = ("train.bin", "test.bin", "manifest.json")


def missing(names: Iterable[str]) -> list[str]:
    """Return those of the named token sets that this machine's cache does not have."""
    return [name for name in names if not is_complete(_path(name))]


def publish(sets: Iterable[TokenSet], place: Place) -> None:
    """Send token sets to a store, unless they are there; the manifest is sent last."""
    there = place.names(FOLDER)
    for each in sets:
        for file in _FILES:
            name = f"{FOLDER}/{each.path.name}/{file}"
            if name not in there:
                place.upload(each.path / file, name)


def settle(names: Mapping[str, str], place: Place) -> Path:
    """Return a cache in which token sets are found by `key(corpus, tokenizer)`, as `names` has them.

    Those that this machine lacks are fetched from the store, once; what the store lacks too is left out, and
    will be made from the corpus.
    """
    for name in missing(names.values()):
        with contextlib.suppress(FileNotFoundError):
            build_once(_path(name), partial(_fetch, name, place), complete=is_complete)
    where = {each: str(_path(name)) for each, name in names.items() if is_complete(_path(name))}
    digest = hashlib.sha256(json.dumps(where, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_root() / "placed" / digest
    if not (folder / NAMES).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / NAMES, where)
    return folder


def _fetch(name: str, place: Place, aside: Path) -> None:
    for file in _FILES:
        place.download(f"{FOLDER}/{name}/{file}", aside / file)


def _path(name: str) -> Path:
    return cache_root() / "tokens" / name
