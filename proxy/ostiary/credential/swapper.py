"""Which strategy a service has, and the reuse of credentials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from ostiary.bounded import BoundedMap
from ostiary.clock import Clock
from ostiary.credential.minted import latest_expiry
from ostiary.errors import CredentialUnavailable
from ostiary.interfaces import CredentialSwapper
from ostiary.models import AccessRequest, Credential, Decision


class Swapper:
    """A `CredentialSwapper` that gives each service to its own strategy. A service without one gets nothing.

    `made` counts the credentials of each service.
    """

    def __init__(self, strategies: Mapping[str, CredentialSwapper]) -> None:
        self._strategies = MappingProxyType(dict(strategies))
        self.made = dict.fromkeys(strategies, 0)

    async def swap(self, request: AccessRequest, decision: Decision) -> Credential:
        strategy = self._strategies.get(request.target.service)
        if strategy is None:
            raise CredentialUnavailable(f"the service {request.target.service!r} has no credential strategy")
        credential = await strategy.swap(request, decision)
        self.made[request.target.service] += 1
        return credential


_Key: TypeAlias = tuple[str, str, str | None, str, str | None, str, str | None, str | None, str | None, int, str]


@dataclass(frozen=True, slots=True)
class _Entry:
    credential: Credential = field(repr=False)
    half_life: float  # the Unix second from which it is not handed out again


class CachingSwapper:
    """A `CredentialSwapper` that hands out a credential again until half of its life has passed.

    Half, so that whoever receives one has at least as long to use it as it has been about. Never handed out again:
    per-call credentials, and one that would outlive the token or the permission of the request at hand, although it
    did not outlive those of the request it was made for. Requests that miss together each get their own.
    """

    def __init__(self, swapper: CredentialSwapper, *, clock: Clock, capacity: int = 10_000) -> None:
        self._swapper = swapper
        self._clock = clock
        self._entries: BoundedMap[_Key, _Entry] = BoundedMap(capacity)

    def __len__(self) -> int:
        """How many credentials are kept, those past their half-life included."""
        return len(self._entries)

    async def swap(self, request: AccessRequest, decision: Decision) -> Credential:
        profile = decision.credential
        if profile is None or profile.per_call or decision.allow is not True:
            return await self._swapper.swap(request, decision)
        # A tuple, never a concatenation. The method is the endpoint's, and the revision decides its template.
        key: _Key = (
            request.identity.issuer,
            request.identity.subject,
            decision.caller,
            request.target.service,
            decision.service,
            request.method,
            decision.endpoint,
            decision.permission,
            decision.grant,
            profile.lifetime,
            decision.revision,
        )
        entry = self._entries.get(key)
        now = self._clock.now()
        if (
            entry is not None
            and now < entry.half_life
            and entry.credential.expires_at <= latest_expiry(request, decision)
        ):
            return entry.credential
        credential = await self._swapper.swap(request, decision)
        if not credential.per_call:
            now = self._clock.now()
            self._entries.put(key, _Entry(credential, now + (credential.expires_at - now) / 2))
        return credential
