"""Text to token ids and back: bytes, BPE trained on the corpus, GPT-2's vocabulary, and a corpus's own
symbols.

Every document ends with one separator token, so that a model learns where texts begin. Ids are the same in
every process and for ever: they depend on the tokenizer's name and, for a trained one, on its training text
alone. BPE is trained with `tokenizers` and encoded with `tiktoken`, which gives the same ids several times
faster.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from allometry.core.env import cache_root
from allometry.core.errors import AllometryError, unknown
from allometry.core.units import parse_count
from allometry.data import corpora
from allometry.data.cache import build_once, slug
from allometry.data.spec import TOKENIZERS
from allometry.data.split import plan_split, split_documents

if TYPE_CHECKING:
    import tiktoken

GPT2_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
"""SHA-256 of GPT-2's ranks (r50k_base), as published with tiktoken."""

SMALLEST_BPE = 258
"""256 bytes, one merge, the separator."""

LARGEST_BPE = 1_000_000

_SEPARATOR = "<|endoftext|>"
_FORMAT = 1


class Tokenizer(Protocol):
    """The interface of every tokenizer: a vocabulary of `n_vocab` ids; the id `separator` ends a document."""

    @property
    def n_vocab(self) -> int:
        """Number of ids."""

    @property
    def separator(self) -> int:
        """The id that ends a document; no text contains it."""

    def encode(self, text: str) -> npt.NDArray[Any]:
        """Return the ids of a text, without separator."""

    def decode(self, ids: npt.ArrayLike) -> str:
        """Return the text of ids; a separator shows as a blank line, a byte that is not UTF-8 as U+FFFD."""


@dataclass(frozen=True)
class Bytes:
    """The 256 byte values of UTF-8. The byte 0, which texts are cleaned of, is the separator."""

    n_vocab: int = 256
    separator: int = 0

    def encode(self, text: str) -> npt.NDArray[np.uint8]:
        """Return the bytes of the text."""
        return np.frombuffer(text.encode(), dtype=np.uint8)

    def decode(self, ids: npt.ArrayLike) -> str:
        """Return the text of the bytes."""
        return np.asarray(ids, dtype=np.uint8).tobytes().decode(errors="replace").replace("\0", "\n\n")


class Symbols:
    """A closed vocabulary: each word is one id, in the order of `words`; the next id is the separator."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words
        self.separator = len(words)
        self.n_vocab = len(words) + 1
        self._ids = {word: number for number, word in enumerate(words)}

    def encode(self, text: str) -> npt.NDArray[np.uint16]:
        """Return the ids of the words of the text; AllometryError for a word that is not in the vocabulary."""
        words = text.split()
        if strange := [word for word in words if word not in self._ids]:
            raise AllometryError(
                f"{strange[0]!r} is none of the corpus's {len(self.words)} symbols",
                hint="use the tokenizer bytes for other text",
            )
        return np.array([self._ids[word] for word in words], dtype=np.uint16)

    def decode(self, ids: npt.ArrayLike) -> str:
        """Return the words, separated by spaces; each separator ends a line."""
        shown = (*self.words, "\n")
        return " ".join(shown[number] for number in np.asarray(ids).tolist()).replace(" \n ", "\n")


class BytePairs:
    """Byte-pair encoding: `ranks` maps each token's bytes to its id; the next id is the separator."""

    def __init__(self, name: str, ranks: dict[bytes, int]) -> None:
        self.ranks = ranks
        self.separator = len(ranks)
        self.n_vocab = len(ranks) + 1
        self._encoding = _encoding(name, ranks)

    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        """Return the ids of the text; text that looks like the separator is ordinary text."""
        return self._encoding.encode_to_numpy(text, disallowed_special=())

    def decode(self, ids: npt.ArrayLike) -> str:
        """Return the text of the ids."""
        return self._encoding.decode(np.asarray(ids).tolist()).replace(_SEPARATOR, "\n\n")


def _encoding(name: str, ranks: dict[bytes, int]) -> tiktoken.Encoding:
    import tiktoken
    from tiktoken_ext.openai_public import r50k_pat_str

    return tiktoken.Encoding(
        name,
        pat_str=r50k_pat_str,
        mergeable_ranks=ranks,
        special_tokens={_SEPARATOR: len(ranks)},
        explicit_n_vocab=len(ranks) + 1,
    )


def full_name(tokenizer: str, corpus: str) -> str:
    """Return the tokenizer with the corpus that it comes from: "bpe:512" for sotu is "bpe:512@sotu".

    Raises AllometryError for a name that is no tokenizer and for a vocabulary size that BPE cannot have.
    """
    head, at, trained_on = tokenizer.partition("@")
    if head in ("bytes", "gpt2"):
        if at:
            raise AllometryError(
                f"tokenizer {tokenizer!r}: {head} is not trained on anything", hint=f"write {head}"
            )
        return head
    if head == "symbols":
        _symbols(trained_on or corpus)
        return f"symbols@{trained_on or corpus}"
    if not head.startswith("bpe:"):
        if tokenizer in TOKENIZERS:
            return tokenizer
        known = ["bytes", "gpt2", "bpe:V", "bpe:V@CORPUS", "symbols", *TOKENIZERS.all()]
        raise unknown("tokenizer", tokenizer, known)
    return f"bpe:{_vocabulary_size(head)}@{trained_on or corpus}"


def _symbols(corpus: str) -> tuple[str, ...]:
    """Return the closed vocabulary of a corpus; AllometryError if it has none."""
    symbols = corpora.resolve(corpus).symbols
    if not symbols:
        raise AllometryError(
            f"corpus {corpus!r} has no closed vocabulary for the tokenizer symbols",
            hint="use bytes, bpe:V or gpt2",
        )
    return symbols


def vocabulary_size(name: str) -> int:
    """Return the number of ids of the tokenizer with this full name, without loading it (a plugin's is made)."""
    if name in TOKENIZERS:
        return int(TOKENIZERS[name]().n_vocab)
    head = name.partition("@")[0]
    return {"bytes": 256, "gpt2": 50_257}.get(head) or _vocabulary_size(head)


def _vocabulary_size(head: str) -> int:
    size = parse_count(head.removeprefix("bpe:"), f"tokenizer {head!r}: vocabulary size")
    if not SMALLEST_BPE <= size <= LARGEST_BPE:
        raise AllometryError(
            f"tokenizer {head!r}: a BPE vocabulary has {SMALLEST_BPE} to {LARGEST_BPE} ids",
            hint="write it like bpe:1024, or use bytes, whose vocabulary is 256",
        )
    return size


def identity(name: str) -> Any:
    """Return what the ids of the tokenizer with this full name depend on, as JSON."""
    if name in TOKENIZERS and (plugin := TOKENIZERS.plugin(name)):
        return [name, plugin.tag]
    if not name.startswith(("bpe:", "symbols@")):
        return name
    head, _, trained_on = name.partition("@")
    return [_FORMAT, head, corpora.resolve(trained_on).identity()]


def load(name: str, *, cache: Path | None = None, progress: Callable[[str], None] | None = None) -> Tokenizer:
    """Load the tokenizer with this full name; a BPE that the cache lacks is trained on its corpus's training split.

    Raises AllometryError if the corpus has too little text for the vocabulary.
    """
    if name == "bytes":
        return Bytes()
    if name == "gpt2":
        return BytePairs("gpt2", _gpt2_ranks())
    if name in TOKENIZERS:
        made: Tokenizer = TOKENIZERS[name]()
        return made
    head, _, trained_on = name.partition("@")
    if head == "symbols":
        return Symbols(_symbols(trained_on))
    target = cache_root(cache) / "tokenizers" / slug(head, trained_on, identity=identity(name))

    def build(directory: Path) -> None:
        if progress:
            progress(f"training {name}")
        _train(_vocabulary_size(head), trained_on, directory, cache)

    build_once(target, build, complete=lambda path: (path / "tokenizer.json").is_file())
    return BytePairs(name, _ranks_of(target / "tokenizer.json"))


def _gpt2_ranks() -> dict[bytes, int]:
    content = files("allometry.data").joinpath("assets/gpt2.tiktoken").read_bytes()
    if hashlib.sha256(content).hexdigest() != GPT2_SHA256:
        raise AllometryError(
            "GPT-2's ranks in this installation are damaged", hint="pip install --force-reinstall allometry"
        )
    pairs = (line.split() for line in content.splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def _train(n_vocab: int, trained_on: str, directory: Path, cache: Path | None) -> None:
    from tokenizers import Tokenizer as Trainable
    from tokenizers import decoders, models, pre_tokenizers, trainers

    coder = Trainable(models.BPE())
    coder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    coder.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab - 1,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    coder.train_from_iterator(_training_texts(trained_on, cache), trainer)
    if coder.get_vocab_size() < n_vocab - 1:
        raise AllometryError(
            f"tokenizer bpe:{n_vocab} is larger than {trained_on!r} supports: its training text yields only "
            f"{coder.get_vocab_size() + 1} ids whose pairs occur twice or more",
            hint=f"use bpe:{_rounded_down(coder.get_vocab_size() + 1)} or less, bytes, or more text",
        )
    coder.add_special_tokens([_SEPARATOR])
    coder.save(str(directory / "tokenizer.json"))


def _training_texts(corpus: str, cache: Path | None) -> Iterator[str]:
    spec = corpora.resolve(corpus)
    plan = plan_split(lambda: spec.documents(cache), name=spec.name)
    return (text for split, text in split_documents(spec.documents(cache), plan) if split == "train")


def _rounded_down(n_vocab: int) -> int:
    """Return a vocabulary size with a margin, a power of two where there is one."""
    return max(SMALLEST_BPE, 1 << (n_vocab.bit_length() - 1)) if n_vocab >= 512 else n_vocab


def _ranks_of(path: Path) -> dict[bytes, int]:
    """Return the ranks of a byte-level BPE in the format of `tokenizers`: its vocabulary without the separator."""
    vocabulary = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    to_byte = {character: byte for byte, character in _byte_characters().items()}
    return {
        bytes(to_byte[c] for c in token): rank for token, rank in vocabulary.items() if token != _SEPARATOR
    }


def _byte_characters() -> dict[int, str]:
    """Return GPT-2's printable stand-in for each byte: itself if visible in Latin-1, else U+0100 and up in order."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
