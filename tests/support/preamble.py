"""PROXY protocol preambles, right or wrong in any way, and the listener's settings that believe them."""

from __future__ import annotations

import ipaddress
import struct
from typing import Literal, TypeAlias

from ostiary.server import Proxies
from ostiary.server.preamble import SIGNATURE

Header: TypeAlias = Literal["proxy-v2", "x-forwarded-for", "forwarded"]

LOCAL = SIGNATURE + b"\x20\x00\x00\x00"


def preamble(
    client: str = "203.0.113.9",
    port: int = 4711,
    *,
    version: int = 2,
    command: int = 1,
    family: int | None = None,
    fields: bytes = b"",
    length: int | None = None,
) -> bytes:
    address = ipaddress.ip_address(client)
    server = ipaddress.ip_address("192.0.2.1" if address.version == 4 else "2001:db8::1")
    body = address.packed + server.packed + struct.pack("!HH", port, 443) + fields
    if family is None:
        family = 0x11 if address.version == 4 else 0x21
    return (
        SIGNATURE + struct.pack("!BBH", version << 4 | command, family, len(body) if length is None else length) + body
    )


def pinned(header: Header, *networks: str) -> Proxies:
    return Proxies(networks=tuple(map(ipaddress.ip_network, networks or ("127.0.0.1/32",))), header=header)
