"""Which addresses a crawl may connect to. A link must not make the crawler talk to the machines around it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from allometry.core.errors import AllometryError

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
