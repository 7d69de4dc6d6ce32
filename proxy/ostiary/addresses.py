"""Addresses: which are this machine's, and the one form in which every part compares and records those of peers."""

from __future__ import annotations

import ipaddress
from typing import Final

_HOST_BITS: Final = 64  # of an IPv6 address, the half that its owner chooses freely (RFC 4291 section 2.5.4)


def is_loopback(host: str) -> bool:
    """Whether a host, without brackets, is `localhost` or an address of loopback: no name that may lead elsewhere."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_localhost(host: str) -> bool:
    """The same, or one of the names below `localhost` that are this machine's (RFC 6761 section 6.3)."""
    return is_loopback(host) or host.endswith(".localhost")


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
