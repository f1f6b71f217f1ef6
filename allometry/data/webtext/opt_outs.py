"""What a page says about its use for training: `noai` for robots, and reservations of text and data mining.

Read are the `X-Robots-Tag` header and `<meta name="robots">` (directive `noai`, as DeviantArt introduced it
in 2022), and the three places of the TDM Reservation Protocol (W3C community group report, 2024): the header
`TDM-Reservation`, `<meta name="tdm-reservation">`, and a site's `/.well-known/tdmrep.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from protego import Protego

AGENT = "allometry-webtext"
"""Our name in rules that are for some robots only."""

WELL_KNOWN = "/.well-known/tdmrep.json"
MAX_WELL_KNOWN = 512 * 1024


def header_opt_out(headers: Iterable[tuple[str, str]]) -> str | None:
    """Return the header of a response that reserves its text ("x-robots-tag: noai"), None if none does."""
    for name, value in headers:
        lowered = name.lower()
        if lowered == "x-robots-tag" and _says_noai(value):
            return "x-robots-tag: noai"
        if lowered == "tdm-reservation" and value.strip() == "1":
            return "tdm-reservation: 1"
    return None


def html_opt_out(tree: Any) -> str | None:
    """Return the meta element of a page (an lxml tree) that reserves its text, None if none does."""
    for node in tree.iter("meta"):
        name, content = (node.get("name") or "").strip().lower(), node.get("content") or ""
        if name in ("robots", AGENT) and _says_noai(content):
            return f"meta {name}: noai"
        if name == "tdm-reservation" and content.strip() == "1":
            return "meta tdm-reservation: 1"
    return None


def _says_noai(value: str) -> bool:
    """Tell whether directives hold `noai` for all robots or for ours: "noindex, noai", "bot: noai"."""
    agent = ""
    for directive in value.lower().split(","):
        name, colon, rest = directive.partition(":")
        if colon and name.strip() not in _VALUED:
            agent, directive = name.strip(), rest
        if directive.strip() == "noai" and agent in ("", "*", AGENT):
            return True
    return False


_VALUED = frozenset({"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"})
"""Directives that have a value after a colon; what else stands before one is the name of a robot."""


def site_rules(body: bytes) -> Protego | None:
    """Read a `tdmrep.json`: rules that disallow the paths that are reserved. None if it is none.

    Paths are patterns as in robots.txt, of which the longest that matches counts.
    """
    from protego import Protego  # comes with Scrapy, and only the crawl reads these rules

    try:
        entries = json.loads(body[:MAX_WELL_KNOWN].decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(entries, list):
        return None
    lines = ["User-agent: *"]
    for entry in entries:
        location = entry.get("location") if isinstance(entry, dict) else None
        if isinstance(location, str) and location.startswith("/") and location.isprintable():
            reserved = str(entry.get("tdm-reservation")) == "1"
            lines.append(f"{'Disallow' if reserved else 'Allow'}: {location}")
    return Protego.parse("\n".join(lines))
