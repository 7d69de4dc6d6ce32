"""Parts for tests of credentials: requests and decisions to swap for, a catalog over a mapping, tokens taken apart."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ostiary.clock import Clock, ManualClock
from ostiary.credential import MintedSwapper, Minter, SigningKey
from ostiary.errors import CredentialUnavailable
from ostiary.models import (
    AccessRequest,
    CachePolicy,
    Credential,
    CredentialProfile,
    Decision,
    Identity,
    Target,
)

ISSUER = "https://ostiary.localhost"
NOW = 1_790_000_000


@dataclass(frozen=True)
class Facts:
    """An `EndpointTemplate`."""

    method: str
    path: str
    beside: tuple[str, ...] = ()


ENDPOINTS = {
    ("orders", "get-order"): Facts("GET", "/orders/{order_id}", ("/orders/admin",)),
    ("orders", "list-orders"): Facts("GET", "/orders"),
    ("orders", "head-order"): Facts("HEAD", "/orders/{order_id}", ("/orders/admin",)),
    ("billing", "charge"): Facts("POST", "/charges"),
}


class Catalog:
    """An `EndpointCatalog` over a mapping. Remembers which revisions it was asked for."""

    def __init__(self, endpoints: Mapping[tuple[str, str], Facts] | None = None) -> None:
        self._endpoints = ENDPOINTS if endpoints is None else endpoints
        self.revisions: list[str] = []

    async def template(self, service: str, endpoint: str, revision: str) -> Facts:
        self.revisions.append(revision)
        try:
            return self._endpoints[service, endpoint]
        except KeyError:
            raise CredentialUnavailable(f"no endpoint {service}/{endpoint}") from None


def access_request(
    *,
    issuer: str = "https://idp.test",
    subject: str = "web",
    token_ends: int = NOW + 3600,
    service: str = "orders",
    method: str = "GET",
    path: str = "/orders/42",
    query: str | None = None,
) -> AccessRequest:
    return AccessRequest(
        identity=Identity(issuer=issuer, subject=subject, method="jwt", expires_at=token_ends),
        method=method,
        target=Target(
            service=service, segments=tuple(path[1:].split("/")), path=path, query=query, pairs=None if query else ()
        ),
        time=NOW,
        source_ip="127.0.0.1",
    )


def allow(
    *,
    caller: str | None = "web",
    service: str | None = "orders",
    endpoint: str | None = "get-order",
    permission: str | None = "web/orders/get-order/00000000",
    grant: str | None = None,
    lifetime: int = 60,
    per_call: bool = False,
    expires_at: int | None = None,
    revision: str = "1-aa",
    allowed: bool = True,
    profile: bool = True,
) -> Decision:
    return Decision(
        allow=allowed,
        reasons=(),
        caller=caller,
        service=service,
        endpoint=endpoint,
        permission=permission,
        grant=grant,
        credential=CredentialProfile(lifetime=lifetime, per_call=per_call) if profile else None,
        expires_at=expires_at,
        cache=CachePolicy(max_age=5, vary=()),
        requestable=None,
        observed=False,
        revision=revision,
    )


def swapper(
    key: SigningKey, *, clock: Clock | None = None, lifetime: int = 300, catalog: Catalog | None = None
) -> MintedSwapper:
    return MintedSwapper(
        minter=Minter(key=key, issuer=ISSUER),
        catalog=catalog or Catalog(),
        clock=clock or ManualClock(NOW),
        lifetime=lifetime,
    )


def token_of(credential: Credential) -> str:
    name, value = credential.header
    assert name == b"authorization"
    scheme, token = value.decode().split(" ")
    assert scheme == "Bearer"
    return token


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def documents(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and payload, the signature not looked at."""
    header, payload, _ = token.split(".")
    return json.loads(decoded(header)), json.loads(decoded(payload))


def signed(key: SigningKey, header: object, payload: object) -> str:
    """A token with any header and payload; bytes are taken as they are."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    message = ".".join(encoded(part) for part in parts)
    return f"{message}.{encoded(key.sign(message.encode()))}"
