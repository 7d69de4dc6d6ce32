"""An authorizer that says what it was told to say: for tests, and for measuring the proxy without a policy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from ostiary.errors import AccessError, PolicyUnavailable
from ostiary.models import AccessRequest, CachePolicy, CredentialProfile, Decision

Line: TypeAlias = Decision | AccessError | Callable[[AccessRequest], Decision]
"""One answer of the script: given, raised, or made from the request."""

_REMEMBERED: Final = 1000
_REVISION: Final = "1-scripted"


class ScriptedAuthorizer:
    """Implements `interfaces.Authorizer`: one line of the script for each request, in order.

    After the last line it refuses with `PolicyUnavailable`, or starts again with `repeat=True`. `asked` holds the last
    1000 requests.
    """

    def __init__(self, script: Iterable[Line], *, repeat: bool = False) -> None:
        self._script = tuple(script)
        self._repeat = repeat
        self._next = 0
        self.asked: deque[AccessRequest] = deque(maxlen=_REMEMBERED)

    async def decide(self, request: AccessRequest) -> Decision:
        self.asked.append(request)
        if self._repeat and self._next == len(self._script):
            self._next = 0
        if self._next >= len(self._script):
            raise PolicyUnavailable("the script is at its end")
        line = self._script[self._next]
        self._next += 1
        if isinstance(line, AccessError):
            raise line
        return line if isinstance(line, Decision) else line(request)


def allow(
    *,
    caller: str = "web",
    endpoint: str = "get-order",
    lifetime: int = 60,
    per_call: bool = False,
    max_age: int = 0,
    revision: str = _REVISION,
) -> Callable[[AccessRequest], Decision]:
    """A line that allows any request as a standing permission of `caller` would. `lifetime`, `max_age`: seconds."""

    def line(request: AccessRequest) -> Decision:
        service = request.target.service
        return Decision(
            allow=True,
            reasons=(),
            caller=caller,
            service=service,
            endpoint=endpoint,
            permission=f"{caller}/{service}/{endpoint}/00000000",
            grant=None,
            credential=CredentialProfile(lifetime=lifetime, per_call=per_call),
            expires_at=None,
            cache=CachePolicy(max_age=max_age, vary=()),
            requestable=None,
            observed=False,
            revision=revision,
        )

    return line


def deny(*reasons: str) -> Callable[[AccessRequest], Decision]:
    """A line that denies any request for these reasons (`permission-missing` if none is given)."""
    given = reasons or ("permission-missing",)

    def line(request: AccessRequest) -> Decision:
        service = request.target.service
        return Decision(
            allow=False,
            reasons=given,
            caller=None,
            service=service,
            endpoint=None,
            permission=None,
            grant=None,
            credential=None,
            expires_at=None,
            cache=CachePolicy(max_age=0, vary=()),
            requestable=None,
            observed=False,
            revision=_REVISION,
        )

    return line
