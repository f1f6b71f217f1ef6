"""Text in other encodings than UTF-8: detected and shown to the user, never converted on a guess."""

from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path

from allometry.core.errors import AllometryError
from allometry.data.formats import opened

_SAMPLE = 200_000
"""Bytes from which an encoding is guessed."""

_SHOWN = 60
"""Characters of a sample."""

_CANDIDATES = 3


def check_encoding(name: str) -> str:
    """Return the name of an encoding as Python knows it; AllometryError for an unknown one."""
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise AllometryError(
            f"unknown encoding {name!r}", hint="write it like cp1251, gb18030, shift_jis or utf-16"
        ) from None


def encoding_for(path: Path, wanted: str | None) -> str:
    """Return the encoding to read a file in: UTF-8 if its bytes are certainly that, else `wanted`, or UTF-8."""
    if wanted is None or wanted == "utf-8":
        return "utf-8"
    with opened(path) as file:
        content = file.read()
    return "utf-8" if _is_utf8(content) and not content.isascii() else wanted


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def first_bad_byte(path: Path, encoding: str = "utf-8") -> int | None:
    """Return the position of the first byte that is not text in an encoding; None if there is none."""
    with opened(path) as file:
        content = file.read()
    try:
        content.decode(encoding)
    except UnicodeDecodeError as error:
        return error.start
    return None


def not_in_encoding(path: Path, encoding: str = "utf-8") -> AllometryError:
    """Return the error for a file that is not in the encoding that it is read in, with samples in other encodings.

    The candidates are those of `charset_normalizer`, which are guesses: the user sees a sample of each and
    chooses.
    """
    shown = "UTF-8" if encoding == "utf-8" else encoding
    message = f"{path} is not {shown}: byte {first_bad_byte(path, encoding)} cannot be decoded"
    found = candidates(path)
    if not found:
        return AllometryError(
            message, hint="find out its encoding, and name it: files:PATH,encoding=NAME, as in cp1252"
        )
    samples = "; ".join(f"{name}: “{sample}”" for name, sample in found)
    first = found[0][0]
    return AllometryError(
        message,
        hint=f"choose the encoding in which it reads right ({samples}): files:{path},encoding={first}",
    )


def candidates(path: Path) -> list[tuple[str, str]]:
    """Return encodings that a file may be in, the most likely first, each with a sample of the text in it."""
    from charset_normalizer import from_bytes

    with opened(path) as file:
        content = file.read(_SAMPLE)
    found: dict[str, str] = {}
    for match in from_bytes(content):
        sample = _sample(str(match))
        if sample not in found.values() and match.encoding not in ("utf_8", "ascii"):
            found[match.encoding] = sample
    western = _western(content)
    if western is not None and all(_is_latin(sample) for sample in found.values()):
        found = {"cp1252": western} | {name: sample for name, sample in found.items() if sample != western}
    return list(found.items())[:_CANDIDATES]


def _western(content: bytes) -> str | None:
    """Return a sample of the text in the usual encoding of Western Europe; None if it has no words in it."""
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    strange = [letter for letter in text if not letter.isascii()]
    words = sum(letter.isalpha() or letter in "€‘’“”–—…«»°§£©" for letter in strange)
    return _sample(text) if words > 0.9 * len(strange) else None


def _is_latin(text: str) -> bool:
    """Return whether all letters of a text are of the Latin alphabet."""
    return all("LATIN" in unicodedata.name(letter, "") for letter in text if letter.isalpha())


def _sample(text: str) -> str:
    """Return the first words that are not plain ASCII, with their surroundings, in one line."""
    plain = " ".join(text.lstrip("\ufeff").split())
    at = next((number for number, letter in enumerate(plain) if not letter.isascii()), 0)
    return plain[max(0, at - _SHOWN // 3) :][:_SHOWN]
