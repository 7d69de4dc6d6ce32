"""W3C Trace Context (https://www.w3.org/TR/trace-context/): what a request brings, and what it takes along.

A header that is not in the form of the recommendation, or there more than once, is dropped as if it had not been sent:
a caller's mistake about traces is no reason to refuse its request. `tracestate` means nothing without `traceparent`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

Header = tuple[bytes, bytes]

TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"

_VERSION_0: Final = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_LATER: Final = re.compile(rb"(?!ff|00)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-[\x21-\x7e]*)?")
"""A later version begins like this one, and may go on (section 3.2.4)."""
_LONGEST: Final = 512
_SAMPLED: Final = 0x01


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The span that a request says it is part of."""

    trace_id: int
    span_id: int
    sampled: bool


def parent_of(headers: Iterable[Header]) -> Parent | None:
    """What the `traceparent` of a request says; None if there is none to go by."""
    found = [value for name, value in headers if name == TRACEPARENT]
    if len(found) != 1 or len(found[0]) > _LONGEST:
        return None
    parts = _VERSION_0.fullmatch(found[0]) or _LATER.fullmatch(found[0])
    if parts is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in parts.groups())
    if not trace_id or not span_id:
        return None
    return Parent(trace_id=trace_id, span_id=span_id, sampled=bool(flags & _SAMPLED))


def carrying(
    headers: Iterable[Header], *, trace_id: int, span_id: int, sampled: bool, known: bool
) -> tuple[Header, ...]:
    """The headers with the `traceparent` of this span in place of whatever came. `known` is whether what came was well
    formed: only then its `tracestate` goes along."""
    ours = f"00-{trace_id:032x}-{span_id:016x}-{_SAMPLED if sampled else 0:02x}".encode("ascii")
    kept = [(name, value) for name, value in headers if name != TRACEPARENT and (known or name != TRACESTATE)]
    return (*kept, (TRACEPARENT, ours))
