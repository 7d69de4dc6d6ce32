"""Bodies that are described instead of written: "gzip(10 GB zeros)", "a*5000000", "pad 2 MiB then …".

A body is an iterable of pieces and a length, so that a gigabyte is never held.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from attacks.runner.corpus import Unintelligible, encoded

_UNITS: Final = {
    "": 1, "b": 1, "byte": 1, "bytes": 1, "k": 1000, "kb": 1000, "kib": 1024, "m": 10**6, "mb": 10**6, "mib": 1 << 20,
    "g": 10**9, "gb": 10**9, "gib": 1 << 30,
}  # fmt: skip
_SIZE: Final = r"(\d[\d _,]*)\s*([kKmMgG]i?[bB]|[bB]|bytes?)"
_PIECE: Final = 1 << 20

_CODED: Final = re.compile(r"(\w+)\((.*)\)", re.DOTALL)
_REPEATED: Final = re.compile(r"(.{1,64}?)\*(\d+)", re.DOTALL)
_FILLED: Final = re.compile(_SIZE + r"(?: (?:of )?(\S+))?")
_PADDED: Final = re.compile(rf"pad(?:ded)?(?: to| with)? {_SIZE} then (.*)", re.DOTALL)
_NESTED: Final = re.compile(r"nested:(\d+)")
_CHUNKED: Final = re.compile(r"chunked (.*)", re.DOTALL)
_FILLERS: Final = {"zeros": b"\0", "zeroes": b"\0", "nulls": b"\0", "spaces": b" ", "bytes": b"a", "random": b"r"}

_CODINGS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": lambda data: gzip.compress(data, compresslevel=6, mtime=0),
    "deflate": lambda data: zlib.compress(data, 6),
    "zlib": lambda data: zlib.compress(data, 6),
}


@dataclass(frozen=True, slots=True)
class Filling:
    """`piece` over and over, then `end`. `times` is how often; `piece` is cut at its last turn to `length` bytes."""

    piece: bytes
    times: int
    end: bytes = b""

    @property
    def length(self) -> int:
        return len(self.piece) * self.times + len(self.end)

    def pieces(self) -> Iterator[bytes]:
        for _ in range(self.times):
            yield self.piece
        if self.end:
            yield self.end

    def whole(self) -> bytes:
        return b"".join(self.pieces())


def size(text: str) -> int:
    """Bytes of "10 GB", "64KiB" or "1GB"."""
    found = re.fullmatch(_SIZE + r"(?: (?:body|document|response|answer|json|keys?|set))*", text.strip())
    if found is None:
        raise Unintelligible(f"{text!r} is not a size")
    return _bytes(found[1], found[2])


def _bytes(number: str, unit: str) -> int:
    return int(re.sub(r"[ _,]", "", number)) * _UNITS[unit.lower()]


def filler(byte: bytes, length: int) -> Filling:
    times, rest = divmod(length, _PIECE)
    return Filling(byte * _PIECE, times, byte * rest)


def repeated(text: str) -> str:
    """`a*5000` for five thousand of them; any other text is itself."""
    found = _REPEATED.fullmatch(text)
    return found[1] * int(found[2]) if found is not None else text


def body(told: Any) -> Filling:
    """The body that this describes; a text that describes none is the body itself."""
    if not isinstance(told, str):
        return Filling(json.dumps(told).encode(), 1)
    if coded := _CODED.fullmatch(told):
        return _coded(coded[1], coded[2])
    if nested := _NESTED.fullmatch(told):
        return Filling(b"[" * int(nested[1]) + b"]" * int(nested[1]), 1)
    if chunked := _CHUNKED.fullmatch(told):
        content = body(chunked[1]).whole()
        return Filling(b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content), 1)
    if padded := _PADDED.fullmatch(told):
        pad = _bytes(padded[1], padded[2])
        start = b'{"pad":"'
        rest = filler(b"a", pad)
        return Filling(start + rest.whole(), 1, b'",' + padded[3].encode() + b"}")
    if filled := _FILLED.fullmatch(told):
        word = filled[3] or "bytes"
        byte = _FILLERS.get(word) or (word.encode() if len(word) == 1 else None)
        if byte is None:
            raise Unintelligible(f"{word!r} is nothing to fill a body with")
        return filler(byte, _bytes(filled[1], filled[2]))
    return Filling(encoded(repeated(told)), 1)


def _coded(coding: str, told: str) -> Filling:
    """Compressed a part at a time: parts of a gzip file may follow one another (RFC 1952 section 2.2)."""
    encode = _CODINGS.get(coding)
    if encode is None:
        raise Unintelligible(f"{coding!r} is not a coding that this runner can make")
    content = body(told)
    if content.length <= 64 << 20:
        return Filling(encode(content.whole()), 1)
    if coding != "gzip":
        raise Unintelligible(f"{coding!r} of so much is more than this runner can make")
    part = 64 * _PIECE
    times, rest = divmod(content.length, part)
    return Filling(encode(content.piece[:1] * part), times, encode(content.piece[:1] * rest))
