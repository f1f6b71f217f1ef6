"""Which links are worth fetching, when two links are the same page, and which addresses a crawl may connect to.

The excluded domains and file types are those of OpenWebText2 (EleutherAI 2020) and, for over-18 and picture
sites, of jcpeterson/openwebtext (2019): pictures, video, sound, social sites and shops, whose pages hold no
running text. Wikipedia is left out because it is a common source of evaluation sets (Radford et al. 2019,
section 2.1).
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import parse_qsl, urlencode, urlsplit

from allometry.core.errors import AllometryError, missing_extra

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_NEVER: tuple[Network, ...] = (
    ipaddress.IPv4Network("192.0.0.0/24"),  # some versions of Python call a few of its addresses global
    ipaddress.IPv4Network("168.63.129.16/32"),  # the host of a virtual machine on Azure
    ipaddress.IPv6Network("fec0::/10"),  # site-local, until 2004
    ipaddress.IPv6Network("3fff::/20"),  # for documentation (RFC 9637)
)
_ISATAP = (0x00005EFE, 0x02005EFE)
"""The middle of an IPv6 address that holds an IPv4 address in its last 32 bits (RFC 5214)."""


class AddressRule:
    """Public addresses are allowed, and those in `allow` ("127.0.0.1/32")."""

    def __init__(self, allow: Iterable[str] = ()) -> None:
        self._allow: list[Network] = []
        for text in allow:
            try:
                self._allow.append(ipaddress.ip_network(text))
            except ValueError as error:
                raise AllometryError(
                    f"not a network: {text!r} ({error})", hint="write it like 127.0.0.1 or 10.1.0.0/16"
                ) from None

    def allows(self, text: str) -> bool:
        """Return whether an address (as text, no name) may be connected to; False for what is no address."""
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return False
        return all(self._allows_one(each) for each in (address, *_embedded(address)))

    def _allows_one(self, address: Address) -> bool:
        if any(address.version == network.version and address in network for network in self._allow):
            return True
        if any(address.version == network.version and address in network for network in _NEVER):
            return False
        return address.is_global and not address.is_multicast and not address.is_reserved


def _embedded(address: Address) -> list[Address]:
    """Return the IPv4 addresses that an IPv6 address stands for: mapped, 6to4, Teredo, NAT64, compatible."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    inner: list[Address | None] = [address.ipv4_mapped, address.sixtofour]
    inner += list(address.teredo or ())
    if address in _NAT64 or address in _COMPATIBLE or int(address) >> 32 & 0xFFFFFFFF in _ISATAP:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in inner if each is not None]


MIN_LENGTH = 9
"""Shorter URLs are rejected: "http://a" is 8 characters (OpenWebText2)."""

MAX_LENGTH = 2048


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


EXCLUDED_NAMES = _words(
    """
    imgur instagram gfycat giphy reddituploads redditmedia twimg magaimg flickr imgflip youtube youtubedoubler
    vimeo twitch streamable bandcamp soundcloud reddit gyazo github xkcd twitter spotify facebook gunprime
    voyagefusion rollingstone google timeanddate walmart roanoke spotrac wikipedia battleforthenet deviantart
    pornhub pinterest erome ebay
    """
)
"""Registered names without their suffix: "google" stands for google.com, google.co.uk and their
subdomains."""

EXCLUDED_DOMAINS = _words(
    "redd.it discord.gg sli.mg youtu.be itunes.apple.com strawpoll.me flic.kr t.co x.com fb.me"
)
"""Whole domains; their subdomains are excluded too."""

EXCLUDED_EXTENSIONS = _words(
    """
    png jpg jpeg gif gifv pdf mp4 mp3 ogv webm webp doc docx log csv dat iso bin exe apk jar app ppt pps pptx
    xml gz xz bz2 tgz tar zip wma mov wmv 3gp svg rar wav avi 7z txt py css js json woff woff2 ttf eot ico mkv
    flac ogg epub dmg
    """
)
"""Extensions of the last part of the path, query left out, in lower case."""

_EXTENSION = re.compile(r"\.([A-Za-z0-9]{1,5})$")


def url_problem(url: str, *, extra_domains: frozenset[str] = frozenset(), local: bool = False) -> str | None:
    """Return why a link is not worth fetching ("extension", "domain", ...), or None if it is.

    `extra_domains` are excluded besides the built-in ones; `local` accepts hosts that are bare addresses or
    names without a dot (for crawls of one's own servers).
    """
    if not MIN_LENGTH <= len(url) <= MAX_LENGTH:
        return "length"
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        return "space"
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return "malformed"
    if parts.scheme.lower() not in ("http", "https"):
        return "scheme"
    if parts.username is not None or not host:
        return "malformed"
    if not _is_address(host) and not _is_name(host):
        return "malformed"
    if not local and ("." not in host or _is_address(host)):
        return "host"
    if is_excluded_host(host, extra_domains):
        return "domain"
    match = _EXTENSION.search(parts.path)
    return "extension" if match and match[1].lower() in EXCLUDED_EXTENSIONS else None


def host_of(url: str) -> str:
    """Return the name of a URL's host, in lower case and without a final dot ("a.com." is "a.com")."""
    return (urlsplit(url).hostname or "").rstrip(".")


def _is_name(host: str) -> bool:
    """Return whether DNS can hold a name: labels of 1 to 63 bytes, 253 in all, in its ASCII form."""
    try:
        encoded = host.encode("idna").decode("ascii")
    except UnicodeError:
        return False
    return len(encoded) <= 253 and all(0 < len(label) <= 63 for label in encoded.split("."))


def is_excluded_host(host: str, extra_domains: frozenset[str] = frozenset()) -> bool:
    """Return whether pages of this host are left out."""
    labels = host.lower().rstrip(".").split(".")
    suffixes = {".".join(labels[start:]) for start in range(len(labels))}
    if suffixes & EXCLUDED_DOMAINS or suffixes & extra_domains:
        return True
    return registered_domain(host).split(".")[0] in EXCLUDED_NAMES


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


@lru_cache(maxsize=1)
def _suffixes() -> object:
    """Load the public suffix list that is inside the package: no network."""
    try:
        import tldextract
    except ImportError as error:
        raise missing_extra("tldextract", "webtext", "telling domains apart") from error
    return tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)


@lru_cache(maxsize=100_000)
def registered_domain(host: str) -> str:
    """Return the registered domain of a host: "news.bbc.co.uk" -> "bbc.co.uk". Hosts without one stand for
    themselves.
    """
    found = _suffixes()(host)  # type: ignore[operator]
    return f"{found.domain}.{found.suffix}" if found.suffix and found.domain else host.lower()


def canonical(url: str) -> str:
    """Return the form in which two links to one page are equal: host and path cleaned by courlan, the
    parameters sorted and those of trackers and sessions dropped, without scheme, fragment and a final slash.

    The query is not left to courlan, which drops every parameter whose name begins like a tracker's ("game",
    "eid", "source") and so merges different pages. Raises ValueError for what is no URL.
    """
    try:
        from courlan import clean_url
    except ImportError as error:
        raise missing_extra("courlan", "webtext", "canonical URLs") from error
    bare, _, query = _SESSION_IN_PATH.sub("", without_final_dot(url.strip()).partition("#")[0]).partition("?")
    cleaned = clean_url(bare)
    if not cleaned:
        raise ValueError(f"no URL: {url!r}")
    pairs = [pair for pair in parse_qsl(query, keep_blank_values=True) if not _TRACKING.fullmatch(pair[0])]
    kept = urlencode(sorted(pairs, key=lambda pair: pair[0]))
    return cleaned.partition("://")[2].rstrip("/") + (f"?{kept}" if kept else "")


def without_final_dot(url: str) -> str:
    """Return a URL whose host has no final dot: "http://a.com./x" is "http://a.com/x"."""
    return _FINAL_DOT.sub(r"\1", url)


_FINAL_DOT = re.compile(r"^([a-z][a-z0-9+.-]*://[^/?#:]*?)\.+(?=[/?#:]|$)", re.IGNORECASE)
_SESSION_IN_PATH = re.compile(r";(?:jsessionid|phpsessid|sessionid)=[^/?#;]*", re.IGNORECASE)
_TRACKING = re.compile(
    r"utm_\w+|(?:gcl|dcl|fbcl|ycl|twcl|msclk|gbra|wbra)id|igsh(?:id)?|_openstat|vero_id|oly_\w+_id"
    r"|mc_[ce]id|mkt_tok|_hsenc|_hsmi|__hs\w+|_ga|_gl|pk_\w+|mtm_\w+|itm_\w+|ga_\w+|at_\w+"
    r"|phpsessid|jsessionid|aspsessionid\w*|sessionid|cfid|cftoken",
    re.IGNORECASE,
)
"""Names of parameters that identify the visitor or the referrer, not the page."""


def url_id(canonical_url: str) -> str:
    """Return the id of a page: 16 hexadecimal digits of a hash of its canonical URL (45 million collide with p <
    1e-4).
    """
    return hashlib.blake2b(canonical_url.encode("utf-8", "replace"), digest_size=8).hexdigest()


def part_of(host: str, parts: int) -> int:
    """Return the part of a host, by hash of its registered domain, so that only one crawler visits it."""
    hashed = hashlib.blake2b(registered_domain(host).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(hashed, "big") * parts >> 64
