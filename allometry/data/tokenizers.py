"""Text to token ids and back: bytes, BPE trained on the corpus, and GPT-2's vocabulary.

Every document ends with one separator token, so that a model learns where texts begin. Ids are the same in every
process and for ever: they depend on the tokenizer's name and, for a trained one, on its training text alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from allometry.errors import AllometryError, unknown

Ids = npt.NDArray[np.uint32]


class Tokenizer(Protocol):
    """What a tokenizer is to the rest: a vocabulary of `n_vocab` ids, of which `separator` ends a document."""

    @property
    def n_vocab(self) -> int:
        """Number of ids."""

    @property
    def separator(self) -> int:
        """The id that ends a document; no text contains it."""

    def encode(self, text: str) -> npt.NDArray[Any]:
        """The ids of a text, without separator."""

    def decode(self, ids: npt.ArrayLike) -> str:
        """The text of ids; separators show as a blank line, bytes that are not UTF-8 as the replacement character."""


@dataclass(frozen=True)
class Bytes:
    """The 256 byte values of UTF-8. The byte 0, which texts are cleaned of, is the separator."""

    n_vocab: int = 256
    separator: int = 0

    def encode(self, text: str) -> npt.NDArray[np.uint8]:
        """The bytes of the text."""
        return np.frombuffer(text.encode(), dtype=np.uint8)

    def decode(self, ids: npt.ArrayLike) -> str:
        """The text of the bytes."""
        return np.asarray(ids, dtype=np.uint8).tobytes().decode(errors="replace").replace("\0", "\n\n")


def canonical(tokenizer: str, corpus: str) -> tuple[str, str | None]:
    """The tokenizer's full name and the corpus that it is trained on: "bpe:512" on sotu is ("bpe:512@sotu", "sotu").

    Raises AllometryError for a name that is not a tokenizer.
    """
    head, at, trained_on = tokenizer.partition("@")
    if head in ("bytes", "gpt2"):
        if at:
            raise AllometryError(f"tokenizer {tokenizer!r}: {head} is not trained", hint=f"write {head}")
        return head, None
    raise unknown("tokenizer", tokenizer, ["bytes", "gpt2", "bpe:V", "bpe:V@CORPUS"])


def build(tokenizer: str, corpus: str) -> Tokenizer:
    """The tokenizer of that name for a corpus."""
    canonical(tokenizer, corpus)
    return Bytes()
