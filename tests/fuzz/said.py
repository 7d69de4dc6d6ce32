"""What proxies in front say: preamble and headers, against readings of their own."""

from __future__ import annotations

import ipaddress
import random
import struct
from collections.abc import Hashable

from fuzz.target import demand
from ostiary.errors import HeaderMalformed, MessageMalformed
from ostiary.server import Proxies
from ostiary.server.preamble import PREAMBLE_BYTES, SIGNATURE, read_preamble

NETWORKS = (ipaddress.ip_network("10.0.0.0/29"), ipaddress.ip_network("2001:db8::/64"))
HOPS = (
    b"203.0.113.9", b"10.0.0.1", b"10.0.0.2", b"203.0.113.9:4711", b"[2001:db8:1::9]:1", b"2001:db8::1",
    b"::ffff:10.0.0.1",
    b"unknown", b"_x", b"1.2.3", b"01.2.3.4", b"[::1]", b"::1", b"fe80::1%eth0", b"", b"1.2.3.4:99999", b"[1.2.3.4]",
)  # fmt: skip


class Preambles:
    name = "preambles"
    share = 0.05
    words = (SIGNATURE, b"\x20", b"\x21", b"\x11", b"\x00\x0c", b"\x00\x24", b"PROXY TCP4 ")

    def make(self, rng: random.Random) -> bytes:
        family = rng.choice((0, 0x11, 0x21, 0x12, 0x31))
        body = rng.randbytes(rng.choice((0, 11, 12, 13, 35, 36, 60)))
        kinds = rng.choice((0x20, 0x21, 0x21, 0x21, 0x11, 0x22))
        return SIGNATURE + struct.pack("!BBH", kinds, family, len(body)) + body + b"GET / HTTP/1.1\r\n"

    def check(self, case: bytes) -> Hashable:
        try:
            found = read_preamble(case)
        except MessageMalformed as refusal:
            # Refused at the first wrong byte, and not later: a piece of it is incomplete or refused, never taken.
            for cut in range(0, len(case), max(1, len(case) // 16)):
                demand(self._taken(case[:cut]) is None, "a piece of what is refused is taken", case, cut)
            return refusal.detail.rstrip("0123456789abcdefx ")
        if found is None:
            return None
        demand(16 <= found.size <= min(len(case), PREAMBLE_BYTES), "another size", case)
        for cut in (found.size - 1, found.size // 2, found.size):
            demand(self._taken(case[:cut]) == (found if cut == found.size else None), "cut, it says else", case, cut)
        demand(case[:12] == SIGNATURE and case[12] in (0x20, 0x21), "not version 2", case)
        if case[12] == 0x20:
            demand(found.client is None, "LOCAL has a client", case)
            return "local"
        demand(found.client is not None, "PROXY has none", case)
        address, port = found.client or ("", 0)
        width = 4 if case[13] == 0x11 else 16
        plain = ipaddress.ip_address(case[16 : 16 + width])
        mapped = plain.ipv4_mapped if isinstance(plain, ipaddress.IPv6Address) else None
        demand(ipaddress.ip_address(address) == (mapped or plain), "another address", case)
        demand(port == int.from_bytes(case[16 + 2 * width : 18 + 2 * width], "big"), "another port", case)
        return width

    def _taken(self, data: bytes) -> object:
        try:
            return read_preamble(data)
        except MessageMalformed:
            return None

    def close(self) -> None: ...


class Hops:
    """A case is a first line that says which header, and a value of it in each further one."""

    name = "hops"
    share = 0.05
    words = (*HOPS, b"for=", b";", b",", b'"', b"\\", b"by=", b"proto=https", b"[", b"]")

    def make(self, rng: random.Random) -> bytes:
        hops = [rng.choice(HOPS) for _ in range(rng.choice((1, 2, 3, 40)))]
        if rng.random() < 0.5:
            lines = [b", ".join(hops[: len(hops) // 2]), b",".join(hops[len(hops) // 2 :])]
            return b"\r\n".join([b"x-forwarded-for", *(line for line in lines if line or rng.random() < 0.1)])
        quoted = [b"for=" + (hop if b":" not in hop and rng.random() < 0.8 else b'"' + hop + b'"') for hop in hops]
        return b"\r\n".join(
            [b"forwarded", b", ".join(quoted) + rng.choice((b"", b";by=10.0.0.1", b';x="a, for=1.1.1.1"'))]
        )

    def check(self, case: bytes) -> Hashable:
        kind, *values = case.split(b"\r\n")
        listed = kind == b"x-forwarded-for"
        proxies = Proxies(networks=NETWORKS, header="x-forwarded-for" if listed else "forwarded")
        headers = [(b"host", b"h"), *((proxies.header.encode(), value) for value in values)]
        try:
            address, port = proxies.client(headers)
        except HeaderMalformed as refusal:
            return kind == b"x-forwarded-for", refusal.detail
        demand(0 <= port <= 65535, "a port", port)
        ip = ipaddress.ip_address(address)
        demand(str(ip) == address and getattr(ip, "ipv4_mapped", None) is None, "more than one spelling", address)
        if listed:
            demand((address, port) == self._reference(values), "another hop", address, values)
        else:
            demand(b"for" in b"".join(values).lower(), "for whom", values)
        return listed, port > 0, ip.version, any(ip in network for network in NETWORKS)

    def _reference(self, values: list[bytes]) -> tuple[str, int]:
        hops = [hop.strip(" \t") for value in values for hop in value.decode("latin-1").split(",")]
        for place, hop in reversed(list(enumerate(hops))):
            if hop.startswith("["):
                host, _, port = hop[1:].partition("]")
                port = port.removeprefix(":")
            elif hop.count(":") == 1:
                host, _, port = hop.partition(":")
            else:
                host, port = hop, ""
            ip = ipaddress.ip_address(host)
            if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
                ip = ip.ipv4_mapped
            if place == 0 or not any(ip in network for network in NETWORKS):
                return str(ip), int(port or "0")
        raise AssertionError(hops)

    def close(self) -> None: ...
