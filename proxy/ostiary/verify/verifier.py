"""Accepting the proxy's credentials, and nothing else: asynchronously (`Verifier`) or not (`verify_token`)."""

from __future__ import annotations

from collections.abc import Callable

from ostiary.clock import Clock, SystemClock
from ostiary.verify.binding import Binding
from ostiary.verify.jwks import RemoteKeys
from ostiary.verify.keys import KeySet, KeySource
from ostiary.verify.refusals import CredentialInvalid
from ostiary.verify.replay import MemoryReplayStore, ReplayStore
from ostiary.verify.token import Claims, Expectation, Token

_LEEWAY = 5.0


class Verifier:
    """Verifies the credentials of one service.

    `issuer` is the proxy's, `audience` the name of this service in the permission map: both compared exactly. The
    keys come from exactly one of `jwks_url` (with `host_header`, if the proxy is reached by address: see `RemoteKeys`)
    and `keys` (a `KeySet`, or any `KeySource`). `leeway` is in seconds (0 to 30), for clocks that differ. `replays`
    remembers single-use credentials, by default in this process alone: see `ReplayStore`.
    """

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        jwks_url: str | None = None,
        host_header: str | None = None,
        keys: KeySource | None = None,
        leeway: float = _LEEWAY,
        replays: ReplayStore | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._expected = Expectation(issuer=issuer, audience=audience, leeway=leeway)
        self._clock = clock or SystemClock()
        self._remote: RemoteKeys | None = None
        if keys is None and jwks_url is not None:
            keys = self._remote = RemoteKeys(jwks_url, host=host_header, clock=self._clock)
        elif keys is None or jwks_url is not None or host_header is not None:
            raise ValueError("a verifier takes its keys from a jwks_url or is given keys: exactly one of them")
        self._keys: KeySource = keys
        self._replays: ReplayStore = MemoryReplayStore(clock=self._clock) if replays is None else replays
        self._binding = Binding()

    @property
    def audience(self) -> str:
        return self._expected.audience

    async def verify(self, method: str, raw_path: bytes, query: bytes, authorization: bytes | str | None) -> Claims:
        """The claims of the credential, if it is valid for exactly this request; else raises `Refused`.

        `raw_path` and `query` are the bytes of the request line before and after the `?`, not decoded.
        `authorization` is the value of that header, None without one. A request with two of them is for the caller
        to refuse. A single-use credential is used up by this call, and only if all else is right.
        """
        token = Token.parse(authorization)
        claims = token.claims(await self._keys.key(token.key_id), self._expected, self._clock.now())
        self._binding.check(claims, method, raw_path, query)
        if claims.single_use and not await self._replays.spend(claims.jti, claims.expires_at + self._expected.leeway):
            raise CredentialInvalid("used before")
        return claims

    async def aclose(self) -> None:
        """End what runs in the background. The middleware does this when the application shuts down."""
        if self._remote is not None:
            await self._remote.aclose()


def verify_token(
    authorization: bytes | str | None,
    *,
    method: str,
    raw_path: bytes,
    query: bytes,
    keys: KeySet,
    issuer: str,
    audience: str,
    leeway: float = _LEEWAY,
    first_use: Callable[[str, float], bool] | None = None,
    clock: Clock | None = None,
) -> Claims:
    """`Verifier.verify` for code that is not asynchronous, with given keys.

    `first_use` remembers single-use credentials (`MemoryReplayStore.first_use`). Without it they are refused:
    what cannot be remembered can be replayed.
    """
    expected = Expectation(issuer=issuer, audience=audience, leeway=leeway)
    token = Token.parse(authorization)
    claims = token.claims(keys.get(token.key_id), expected, (clock or SystemClock()).now())
    Binding(capacity=1).check(claims, method, raw_path, query)
    if claims.single_use and (first_use is None or not first_use(claims.jti, claims.expires_at + leeway)):
        raise CredentialInvalid("used before, or nothing remembers whether it was")
    return claims
