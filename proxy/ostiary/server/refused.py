"""Requests that the listener refuses before there is an exchange: what is known of them, and their answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from ostiary.errors import AccessError, MethodRefused
from ostiary.exchange import DECISION_ID, Header
from ostiary.problem import Problems
from ostiary.routes import METHODS

# More than the audit writes: it has to see a token whole to know it for one, and tokens have at most so many bytes.
TARGET_SHOWN: Final = 8192
HOST_SHOWN: Final = 8192

Phase: TypeAlias = Literal["connection", "head", "body"]

_SECRET_PART: Final = re.compile(rb"[?#]")
_USER_INFORMATION: Final = re.compile(rb"//[^/]*@")

# RFC 9110 section 15.5.6: a 405 says which methods there are.
_ALLOW: Final[Header] = (b"allow", ", ".join(sorted(METHODS)).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """What was understood of a request that the listener refused, for the audit.

    `id` is the decision id in the answer. `phase` is how far it came: with `body`, the application had started on it
    and its own exchange ends as a disconnected one. `target` is the raw path, still encoded, without what can hold
    secrets (query, fragment, user information), at most `TARGET_SHOWN` bytes; `host` has at most `HOST_SHOWN`. What was
    not understood is None.
    """

    id: str
    phase: Phase
    peer: str | None
    method: str | None = None
    target: bytes | None = None
    host: bytes | None = None


OnRefused: TypeAlias = Callable[[AccessError, Refused], None]
"""Told of every refusal before it is answered. It must not block. If it raises, the connection is dropped."""


def shown(target: bytes) -> bytes | None:
    """As much of a raw request target as may be recorded."""
    if not target:
        return None
    return _USER_INFORMATION.sub(b"//", _SECRET_PART.split(target, maxsplit=1)[0])[:TARGET_SHOWN]


def answer(problems: Problems, refusal: AccessError, exchange_id: str) -> tuple[list[Header], bytes]:
    """Headers and body of the answer, after which the connection closes."""
    body = problems.body(refusal, exchange_id)
    headers = [header for header in problems.headers(refusal) if header[0] != b"connection"]
    if isinstance(refusal, MethodRefused):
        headers.append(_ALLOW)
    headers.append((DECISION_ID, exchange_id.encode()))
    return [*headers, (b"content-length", str(len(body)).encode())], body
