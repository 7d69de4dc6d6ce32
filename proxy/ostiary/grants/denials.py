"""Denials that can be lifted, as the AuthZEN Access Request and Approval profile has them (`access_request`).

Nothing is kept of a denial. What has to be known of it when somebody asks for access is in its binding token, which is
brought back: a compact JWS (RFC 7515) with the claims that the profile recommends. It is sealed with HMAC, since who
seals it is who opens it, for a tenth of what a signature costs: denials come in floods. The key is derived from the
signing key, so that the workers of a machine, its next start and the replicas that share that key all have it.

A token is good for the identity that was denied, and nobody else; for the bundle that denied; and for ten minutes. It
opens nothing by itself: it is what is asked for, which is judged like any other request.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

import orjson

from ostiary.clock import written_instant
from ostiary.credential.jwk import base64url
from ostiary.exchange import Exchange
from ostiary.grants.own_host import OwnHost
from ostiary.grants.refusals import DenialExpired, DenialUnbound
from ostiary.models import AccessRequest, Decision, Json, Owner

LIFETIME: Final = 600
"""Seconds from a denial to when nothing can be asked for by it any more."""
TASKS: Final = "/access/tasks"
"""Where access is asked for with a denial."""
ASKING: Final = "/access/tasks.schema.json"
"""What has to be said with it, as JSON Schema."""

_HEADER: Final = base64url(orjson.dumps({"alg": "HS256", "typ": "ostiary-denial+jwt"}))
_MAX_TOKEN: Final = 16_384


class Denial(NamedTuple):
    """What was denied: to whom, as which caller, where, and by which bundle. `id` is the decision's. Times are in whole
    Unix seconds. A tuple, which is made in a fourth of the time of a record: every denial makes one."""

    id: str
    issuer: str
    subject: str
    caller: str
    service: str
    endpoint: str
    method: str
    revision: str
    denied_at: int
    expires_at: int

    @property
    def owner(self) -> Owner:
        return (self.issuer, self.subject)

    def expect(self, *, now: int, revision: str) -> None:
        """Raise `DenialExpired` if its time is up, or the bundle that counts, `revision`, is not what denied."""
        if now >= self.expires_at:
            raise DenialExpired("its time is up")
        if revision != self.revision:
            raise DenialExpired("the policy has changed since")

    def evaluated(self) -> dict[str, Json]:
        """Subject, resource and action in the words of AuthZEN, as a request for access may repeat them."""
        return {
            "subject": {"type": "workload", "id": self.subject, "properties": {"issuer": self.issuer}},
            "resource": {"type": "service", "id": self.service, "properties": {"endpoint": self.endpoint}},
            "action": {"name": self.method},
        }


class DenialSeal:
    """Makes binding tokens, and opens those that were made with the same key and name."""

    def __init__(self, key: bytes, *, name: str) -> None:
        self._mac_of_nothing = hmac.new(key, digestmod="sha256")
        self._name = name

    def seal(self, denial: Denial) -> str:
        claims = {
            "iss": self._name,
            "aud": self._name,
            "iat": denial.denied_at,
            "exp": denial.expires_at,
            "evaluation_id": denial.id,
            **denial.evaluated(),
            "caller": denial.caller,
            "revision": denial.revision,
        }
        message = _HEADER + b"." + base64url(orjson.dumps(claims))
        return (message + b"." + self._mac(message)).decode("ascii")

    def open(self, token: str, *, owner: Owner) -> Denial:
        """The denial, if it was this owner's. Raises `DenialUnbound` for what is no token of ours or somebody else's,
        and says no more than that."""
        message, _, mac = token.rpartition(".")
        # The header is compared and not read: there is one algorithm, and no other that a token could ask for.
        if len(token) > _MAX_TOKEN or not token.isascii() or not message.startswith(f"{_HEADER.decode()}."):
            raise DenialUnbound
        if not hmac.compare_digest(self._mac(message.encode()), mac.encode()):
            raise DenialUnbound
        # What we sealed is as we make it: it needs no second look.
        claims = orjson.loads(urlsafe_b64decode(message[len(_HEADER) + 1 :] + "=="))
        denial = Denial(
            id=claims["evaluation_id"],
            issuer=claims["subject"]["properties"]["issuer"],
            subject=claims["subject"]["id"],
            caller=claims["caller"],
            service=claims["resource"]["id"],
            endpoint=claims["resource"]["properties"]["endpoint"],
            method=claims["action"]["name"],
            revision=claims["revision"],
            denied_at=claims["iat"],
            expires_at=claims["exp"],
        )
        if claims["aud"] != self._name or denial.owner != owner:
            raise DenialUnbound
        return denial

    def _mac(self, message: bytes) -> bytes:
        mac = self._mac_of_nothing.copy()  # which costs less than to begin anew
        mac.update(message)
        return base64url(mac.digest())


_written = lru_cache(maxsize=8)(written_instant)
"""All denials of a second have the same two instants."""


class Invitations:
    """Implements `Recourse`: a denial that a grant would lift says where to ask for one, and with what."""

    def __init__(self, *, seal: DenialSeal, own_host: OwnHost) -> None:
        self._seal = seal
        self._own_host = own_host

    def offered(self, exchange: Exchange, request: AccessRequest, decision: Decision) -> Mapping[str, Json] | None:
        requestable = decision.requestable
        if requestable is None or decision.allow is True:
            return None
        expires_at = request.time + LIFETIME
        denial = Denial(
            id=exchange.id,
            issuer=request.identity.issuer,
            subject=request.identity.subject,
            caller=str(requestable["caller"]),
            service=str(requestable["service"]),
            endpoint=str(requestable["endpoint"]),
            method=request.method,
            revision=decision.revision,
            denied_at=request.time,
            expires_at=expires_at,
        )
        origin = self._own_host.origin(exchange)
        return {
            "requestable": requestable,
            "evaluation_id": denial.id,
            "evaluated_at": _written(denial.denied_at),
            "access_request": {
                "endpoint": f"{origin}{TASKS}",
                "expires_at": _written(expires_at),
                "binding_token": self._seal.seal(denial),
                "request_schema_url": f"{origin}{ASKING}",
            },
        }
