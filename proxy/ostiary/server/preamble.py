"""The PROXY protocol, version 2: what a proxy in front says of a connection before anything else is sent on it.

The specification is HAProxy's, doc/proxy-protocol.txt, section 2.2. Version 1, a line of text, is refused: it has to be
guessed apart from a request. Choices where the specification leaves one:

* What is not a TCP connection over IPv4 or IPv6 (UNSPEC, a unix socket, datagrams) is refused unless the command is
  LOCAL: taken for the proxy's own connection, a client of unknown address would have the proxy's.
* The additional fields (TLV) are skipped, the checksum among them; a whole preamble has at most `PREAMBLE_BYTES`.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final, NamedTuple

from ostiary.addresses import unmapped
from ostiary.errors import MessageMalformed

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"

PREAMBLE_BYTES: Final = 4096
"""The longest preamble, its additional fields included. Those in use are of some hundred bytes."""

_FIXED: Final = 16  # bytes: signature, version and command, family, length
_VERSION: Final = 2
_LOCAL, _PROXY = 0, 1
_TCP4, _TCP6 = 0x11, 0x21


class Preamble(NamedTuple):
    """`client` is None where the proxy speaks for itself (LOCAL). What follows `size` bytes is the connection's."""

    client: tuple[str, int] | None
    size: int


def read_preamble(data: bytes) -> Preamble | None:
    """The preamble that these bytes begin with, None while it is incomplete; else `MessageMalformed`, at the first
    byte that is wrong."""
    if data[: len(SIGNATURE)] != SIGNATURE[: len(data)]:
        raise MessageMalformed("a pinned proxy did not begin with a PROXY protocol preamble, version 2")
    if len(data) < _FIXED:
        return None
    version_command, family, length = struct.unpack_from("!BBH", data, len(SIGNATURE))
    version, command = divmod(version_command, 16)
    size = _FIXED + length
    if version != _VERSION or command not in (_LOCAL, _PROXY):
        raise MessageMalformed(f"PROXY protocol version {version}, command {command}")
    if size > PREAMBLE_BYTES:
        raise MessageMalformed(f"a PROXY protocol preamble of {size} bytes")
    if command == _PROXY and family not in (_TCP4, _TCP6):
        raise MessageMalformed(f"a PROXY protocol preamble for family and protocol {family:#04x}")
    width = {_TCP4: 4, _TCP6: 16}.get(family, 0)  # of an address, in bytes
    if command == _PROXY and length < 2 * width + 4:
        raise MessageMalformed("a PROXY protocol preamble without room for its addresses")
    if len(data) < size:
        return None
    if command == _LOCAL:
        return Preamble(None, size)
    address = ipaddress.ip_address(data[_FIXED : _FIXED + width])
    (port,) = struct.unpack_from("!H", data, _FIXED + 2 * width)
    return Preamble((unmapped(str(address)), port), size)
