"""The addresses of peers: the one form in which every part compares, counts and records them."""

from __future__ import annotations

import ipaddress
from typing import Final

_HOST_BITS: Final = 64  # of an IPv6 address, the half that its owner chooses freely (RFC 4291 section 2.5.4)


def unmapped(address: str) -> str:
    """`::ffff:10.0.0.7`, which a dual-stack socket reports, is 10.0.0.7 to every network condition."""
    if not address.lower().startswith("::ffff:"):
        return address
    mapped = ipaddress.IPv6Address(address).ipv4_mapped
    return address if mapped is None else str(mapped)


def owner(address: str) -> str:
    """What a limit for each peer counts: an IPv4 address, or a /64 of IPv6, of which one peer has all addresses."""
    if ":" not in address:
        return address
    try:
        ip = int(ipaddress.IPv6Address(address.partition("%")[0]))
    except ValueError:
        return address
    return f"{ip >> _HOST_BITS:x}/64"
