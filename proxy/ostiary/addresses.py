"""Addresses: which are this machine's, which are never connected to, and the one form in which every part compares and
records those of peers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final, TypeAlias

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Refused: TypeAlias = tuple[tuple[Network, str], ...]
"""Networks that are not connected to, each with what it is. The first that an address is in counts."""

SOCKET_PATH_BYTES: Final = 103
"""The longest path of a unix socket that every system has room for: `sun_path` holds 104 bytes on macOS and 108 on
Linux, its final NUL included."""

_METADATA: Final = "an instance metadata service"

REFUSED: Final[Refused] = tuple(
    (ipaddress.ip_network(network), what)
    for network, what in (
        ("100.100.100.200/32", _METADATA),  # Alibaba Cloud
        ("168.63.129.16/32", _METADATA),  # Azure's wire server
        ("192.0.0.192/32", _METADATA),  # Oracle Cloud
        ("fd00:ec2::/32", _METADATA),  # AWS over IPv6: ::254, and ::23 for what runs in its clusters
        ("fd20:ce::254/128", _METADATA),  # Google Cloud over IPv6
        ("169.254.0.0/16", "link-local"),  # RFC 3927; 169.254.169.254 is nearly everybody's metadata service
        ("fe80::/10", "link-local"),  # RFC 4291
        ("224.0.0.0/4", "multicast"),
        ("ff00::/8", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("0.0.0.0/8", "unspecified"),  # "this host" (RFC 1122 section 3.2.1.3): connects to this very machine
        ("::/128", "unspecified"),
    )
)
"""Where neither a service nor an issuer lives, and much of value does (SECURITY section 8)."""

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
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


def refusal(address: str, *, refused: Refused = REFUSED) -> str | None:
    """Why this address may not be connected to, or None if it may, whatever a name resolves to (SSRF by DNS). Text that
    is no address is refused."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "no IP address"
    reached = (ip, *_embedded(ip))
    return next((what for network, what in refused if any(one in network for one in reached)), None)


def _embedded(ip: IpAddress) -> Iterable[ipaddress.IPv4Address]:
    """The IPv4 addresses that may really be reached by way of this one: what is sent to it is translated, or wrapped in
    IPv4, where the system or the network does that. A NAT64 with a prefix of its own cannot be told from here."""
    if isinstance(ip, ipaddress.IPv4Address) or ip.is_loopback:
        return ()
    if ip.ipv4_mapped is not None:  # RFC 4291 section 2.5.5.2
        return (ip.ipv4_mapped,)
    if ip.sixtofour is not None:  # RFC 3056
        return (ip.sixtofour,)
    if ip.teredo is not None:  # RFC 4380: its server, and the client that has it
        return ip.teredo
    if ip in _NAT64 or ip in _COMPATIBLE:  # RFC 6052; RFC 4291 section 2.5.5.1
        return (ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF),)
    return ()
