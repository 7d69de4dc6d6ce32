"""Proxies in front of this one, and what they say about the client that they speak for.

Believed of a pinned address only, and then demanded: a pinned proxy that does not say for whom it speaks is refused.
Taken for its own, such a request would have the proxy's address, which may well be in a network that a `source`
condition names. Nothing is pinned by default (CVE-2026-40575, CVE-2026-76835).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from ostiary.addresses import unmapped
from ostiary.errors import HeaderMalformed
from ostiary.exchange import Header

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Client: TypeAlias = tuple[str, int]
"""Address and port; the port is 0 where only the address is told."""

PREAMBLE: Final = "proxy-v2"
FORWARDED_FOR: Final = "x-forwarded-for"

_HOPS: Final = 32
"""Pinned proxies behind one another, at most. The client writes what stands before them and could make it long."""

# node of RFC 7239 section 6, where it is an address; X-Forwarded-For has IPv6 addresses without brackets as well.
_NODE: Final = re.compile(rb"(?:([0-9.]{7,15})|\[([0-9A-Fa-f:.]{2,45})\])(?::([0-9]{1,5}))?")
_BARE_IPV6: Final = re.compile(rb"[0-9A-Fa-f:.]{2,45}")

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR: Final = re.compile(
    rb"[ \t]*(%b)=(?:(%b)|\"((?:[^\"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t -~])*)\")[ \t]*([;,]|\Z)" % (_TOKEN, _TOKEN)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """Who is believed (`networks`), and where they say it (`header`)."""

    networks: Sequence[Network]
    header: Literal["proxy-v2", "x-forwarded-for", "forwarded"]

    def __post_init__(self) -> None:
        if not self.networks or any(network.prefixlen == 0 for network in self.networks):
            raise ValueError("pinned proxies have addresses, and not all that there are")

    def pins(self, address: str) -> bool:
        """Whether this is the address of a pinned proxy."""
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return any(ip in network for network in self.networks)

    def client(self, headers: Sequence[Header]) -> Client:
        """Whom a pinned proxy says that it speaks for: of the hops, the last that is no pinned proxy itself.

        What stands before that hop was written by the client or on its behalf. It is not looked at, but for the form
        of `Forwarded`, whose quotes could reach over what follows. If all are pinned, it is the first. Raises
        `HeaderMalformed` where the header is not there or that hop is no address. Names are in lower case.
        """
        wanted = self.header.encode()
        values = [value for name, value in headers if name == wanted]
        if not values:
            raise HeaderMalformed(f"a pinned proxy sent no {self.header}")
        value = b",".join(values)
        listed = self.header == FORWARDED_FOR
        hops = value.split(b",") if listed else _elements(value)
        for hop in hops[: -_HOPS - 1 : -1]:
            client = _forwarded_for(hop) if listed else _node(hop)
            if not self.pins(client[0]):
                return client
        if len(hops) > _HOPS:
            raise HeaderMalformed("no client among the last hops")
        return client


def _elements(value: bytes) -> list[bytes]:
    """The `for` of each element of a `Forwarded` (RFC 7239 section 4), b"" where it has none."""
    elements: list[bytes] = []
    forwarded: bytes | None = None
    at, end = 0, b","
    while end:
        pair = _PAIR.match(value, at)
        if pair is None:
            raise HeaderMalformed("Forwarded")
        name, token, quoted, end = pair.groups()
        if name.lower() == b"for":
            if forwarded is not None:
                raise HeaderMalformed("Forwarded says twice for whom")
            forwarded = quoted if token is None else token
        if end != b";":
            elements.append(forwarded or b"")
            forwarded = None
        at = pair.end()
    return elements


def _forwarded_for(hop: bytes) -> Client:
    hop = hop.strip(b" \t")
    if hop.startswith(b"[") or hop.count(b":") < 2:
        return _node(hop)
    if _BARE_IPV6.fullmatch(hop) is None:
        raise HeaderMalformed("a hop of X-Forwarded-For is not an address")
    return _address(hop), 0


def _node(node: bytes) -> Client:
    found = _NODE.fullmatch(node)
    if found is None:
        raise HeaderMalformed("a hop is not an address")
    port = int(found[3] or b"0")
    if port > 65535:
        raise HeaderMalformed("the port of a hop")
    return _address(found[1] or found[2]), port


def _address(text: bytes) -> str:
    try:
        return unmapped(str(ipaddress.ip_address(text.decode("ascii"))))
    except ValueError:
        raise HeaderMalformed("a hop is not an address") from None
