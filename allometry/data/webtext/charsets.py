"""Bytes of a web page to text, by the rules of browsers (WHATWG Encoding and HTML standards) through w3lib.

There "latin1" and "us-ascii" mean windows-1252, labels are read from headers with several parameters, and a
byte order mark beats every label. A page without any label gets the guess of charset-normalizer, which
comes with trafilatura.
"""

from __future__ import annotations

import re

from charset_normalizer import from_bytes
from w3lib.encoding import html_to_unicode

_GUESS_BYTES = 1 << 16
_FEW = 0.02
_BEYOND_ASCII = bytes(range(128, 256))
_MARKUP = re.compile(rb"(?s)<(script|style)\b.*?</\1|<[^>]*>")
_ON_THE_WEB = [
    "cp1250",
    "cp1251",
    "cp1252",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1256",
    "cp1257",
    "cp1258",
    "cp874",
    "koi8_r",
    "koi8_u",
    "iso8859_2",
    "gb18030",
    "big5",
    "cp932",
    "euc_jp",
    "cp949",
]
_WESTERN = frozenset(
    [
        "English",
        "French",
        "German",
        "Spanish",
        "Portuguese",
        "Italian",
        "Dutch",
        "Danish",
        "Swedish",
        "Norwegian",
        "Finnish",
        "Indonesian",
    ]
)
_ISO_2022_JP = re.compile(rb"\x1b(?:\$[@B]|\([BJI])")


def decode_html(body: bytes, content_type: str) -> tuple[str, str]:
    """Return the encoding and the text of a page. Never raises: undecodable bytes become U+FFFD."""
    order = utf_16_order(body[:1024])
    if order is not None:
        return order, _clean(body.decode(order, "replace"))
    if not _ISO_2022_JP.search(body[:_GUESS_BYTES]):
        try:
            # Correct even where a label says otherwise: text in other encodings is hardly ever valid UTF-8.
            return "utf-8", _clean(body.decode("utf-8-sig"))
        except UnicodeDecodeError:
            pass
    try:
        name, text = html_to_unicode(
            content_type or None, body, default_encoding="windows-1252", auto_detect_fun=_guess
        )
        if name == "utf-8" and not _is_mostly_utf_8(text):  # the label is wrong
            name = _guess(body) or "windows-1252"
            text = body.decode(name, "replace")
    except (LookupError, UnicodeError, ValueError):
        name, text = "windows-1252", body.decode("windows-1252", "replace")
    return name, _clean(text)


def _clean(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\0", "")


def _is_mostly_utf_8(decoded: str) -> bool:
    """Return whether text that was decoded as UTF-8 has more characters beyond ASCII than errors."""
    bad = decoded.count("\ufffd")
    beyond_ascii = len(decoded) - len(decoded.encode("ascii", "ignore"))
    return beyond_ascii > 2 * bad


def _guess(body: bytes) -> str | None:
    """Return the encoding that a page without a correct label probably has; None stands for windows-1252."""
    start = body[:_GUESS_BYTES]
    if _ISO_2022_JP.search(start):
        return "iso-2022-jp"
    if _is_mostly_utf_8(start.decode("utf-8", "replace")):
        return "utf-8"
    words = _MARKUP.sub(b" ", start)
    beyond_ascii = len(words) - len(words.translate(None, _BEYOND_ASCII))
    if beyond_ascii < _FEW * len(words):
        return None  # too few for a guess: English with typographic marks, as a rule
    found = from_bytes(words, cp_isolation=_ON_THE_WEB).best()
    if found is None or found.language in _WESTERN:
        return None  # several encodings have their letters at the same code points
    return str(found.encoding)


def utf_16_order(start: bytes) -> str | None:
    """Return "utf-16-le" or "utf-16-be" for the start of a text whose zero bytes stand in every other place
    only, as in UTF-16 without a byte order mark; None for anything else."""
    even, odd = start[::2].count(0), start[1::2].count(0)
    most = len(start) // 2
    if most and odd > 0.6 * most and not even:
        return "utf-16-le"
    if most and even > 0.6 * most and not odd:
        return "utf-16-be"
    return None
