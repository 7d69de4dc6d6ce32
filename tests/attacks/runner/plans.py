"""What is done for a case: where, and how."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from attacks.runner.corpus import Case, Unintelligible, encoded, filled, plain, unescaped
from attacks.runner.faults import KeyFaultPlan
from attacks.runner.labs import Findings, Lab, Place

Attempt = Callable[[Lab], Awaitable[Findings]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`lab` names the kind of lab; cases with one `place` share one. On a proxy that runs already, `wire` needs nothing
    but the connection, `service` that the runner is the service, `forges` that tokens can be made. `slow`: it waits
    more than it works, beside others."""

    case: Case
    attempt: Attempt
    lab: str = "plain"
    place: Place = field(default_factory=Place)
    keys: KeyFaultPlan | None = None
    wire: bool = False
    service: bool = False
    forges: bool = False
    slow: bool = False
    last: bool = False
    """It leaves something behind that others should not meet."""

    @property
    def ordinary(self) -> bool:
        """Whether the proxy is to be as everybody's is."""
        return self.place == Place()


def exact(case: Case) -> bytes:
    """The bytes of a case that is one exact message, `{TOKEN}` in place."""
    return unescaped(case.raw_request)


def whole(told: str, *, headers: dict[str, str] | None = None, body: bool = False) -> bytes:
    """A request of a generator, which may be no more than `POST /orders`. Without a body, whose framing is to follow.

    Raises `Unintelligible`.
    """
    raw = plain(told)
    more = encoded("".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items()))
    if b"\r\n" in raw or b" HTTP/" in raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        return head.rstrip(b"\r\n") + b"\r\n" + more + (b"" if body else b"\r\n" + rest)
    words = raw.split(b" ")
    if len(words) != 2 or not words[1].startswith(b"/"):
        raise Unintelligible(f"{told!r} is no request")
    head = raw + b" HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer {TOKEN}\r\n" + more
    return head if body else head + b"\r\n"


def with_token(raw: bytes, lab: Lab, **values: str) -> tuple[bytes, list[str]]:
    """The message with a fresh good token, and the secrets in it."""
    token = values.get("TOKEN") or lab.forge.token()
    return filled(raw, **{"TOKEN": token, "JWT": token, **values}), [token, *values.values()]


def tagged(message: bytes) -> tuple[bytes, str]:
    """The message with a query that tells it from others."""
    tag = f"case={os.urandom(6).hex()}"
    method, target, rest = message.split(b" ", 2)
    return b" ".join((method, target + (b"&" if b"?" in target else b"?") + tag.encode(), rest)), tag
