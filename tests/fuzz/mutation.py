"""Changing bytes a little, and making a case that found something smaller."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

_INTERESTING = (
    b"\x00", b"\r", b"\n", b"\r\n", b"\t", b" ", b"\x7f", b"\x80", b"\xff", b"%", b"%2f", b"%00", b"/", b".",
    b"..", b";", b",", b":", b'"', b"\\", b"#", b"?", b"&", b"=", b"+", b"-", b"_", b"0", b"-1",
    b"4294967296", b"18446744073709551616", b"\xc3\xa9", b"\xe2\x80\xae", b"\xef\xbc\x8f",
)  # fmt: skip


def mutate(case: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes] = ()) -> bytes:
    """One to six changes, mostly few. `others` are cases that pieces are taken of."""
    for _ in range(min(rng.choice((1, 1, 1, 2, 2, 3, 4, 6)), 6)):
        case = rng.choice(_CHANGES)(case, rng, words, others)
    return case[:65536]


def _place(case: bytes, rng: random.Random) -> int:
    return rng.randint(0, len(case))


def _stretch(case: bytes, rng: random.Random) -> tuple[int, int]:
    begin = _place(case, rng)
    return begin, min(len(case), begin + int(rng.expovariate(1 / 8)) + 1)


def _flip(case: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    if not case:
        return case
    at = rng.randrange(len(case))
    return case[:at] + bytes([case[at] ^ (1 << rng.randrange(8))]) + case[at + 1 :]


def _set(case: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    at = _place(case, rng)
    return case[:at] + bytes([rng.randrange(256)]) + case[at + 1 :]


def _put(case: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    at = _place(case, rng)
    return case[:at] + rng.choice(rng.choice((_INTERESTING, tuple(words) or _INTERESTING))) + case[at:]


def _replace(case: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    begin, end = _stretch(case, rng)
    return case[:begin] + rng.choice(rng.choice((_INTERESTING, tuple(words) or _INTERESTING))) + case[end:]


def _remove(case: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    begin, end = _stretch(case, rng)
    return case[:begin] + case[end:]


def _double(case: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    begin, end = _stretch(case, rng)
    return case[:end] + case[begin:end] * rng.choice((1, 1, 1, 2, 50)) + case[end:]


def _move(case: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    begin, end = _stretch(case, rng)
    rest = case[:begin] + case[end:]
    at = _place(rest, rng)
    return rest[:at] + case[begin:end] + rest[at:]


def _splice(case: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    other = rng.choice(others) if others else case
    return case[: _place(case, rng)] + other[_place(other, rng) :]


def _line(case: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """Lines mean something in most of what is fuzzed: double one, drop one, or swap two."""
    lines = case.split(b"\r\n" if b"\r\n" in case else b"\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    what = rng.randrange(3)
    if what == 0:
        lines.insert(other, lines[at])
    elif what == 1:
        del lines[at]
    else:
        lines[at], lines[other] = lines[other], lines[at]
    return (b"\r\n" if b"\r\n" in case else b"\n").join(lines)


_CHANGES: Sequence[Callable[[bytes, random.Random, Sequence[bytes], Sequence[bytes]], bytes]] = (
    _flip, _set, _put, _put, _replace, _replace, _remove, _double, _move, _splice, _line,
)  # fmt: skip


def shrink(case: bytes, still: Callable[[bytes], bool], tries: int = 2000) -> bytes:
    """A smaller case for which `still` holds, by leaving pieces out, large ones first."""
    size = len(case) // 2
    while size and tries > 0:
        at = 0
        while at < len(case) and tries > 0:
            tries -= 1
            smaller = case[:at] + case[at + size :]
            if still(smaller):
                case = smaller
            else:
                at += size
        size //= 2
    return case
