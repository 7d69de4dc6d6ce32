"""What the claims of a token must say (RFC 7519 section 4.1, RFC 8725), before and after its signature is checked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from ostiary.errors import IdentityInvalid
from ostiary.identity.settings import IssuerSettings
from ostiary.marks import Mark, subject_mark
from ostiary.models import Identity, Json
from ostiary.spiffe import SpiffeId

SUBJECT: Final = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")
"""Printable ASCII without a space at either end: what looks the same in a log is the same."""

TOKEN_ID: Final = re.compile(r"[!-~]{1,256}")
"""A `jti`."""


def identity_of(claims: Mapping[str, Json], settings: IssuerSettings, now: float) -> Identity:
    """The identity that these claims state, if they hold at `now` (Unix seconds). Raises `IdentityInvalid`.

    The leeway lets clocks differ: a token is accepted until `exp` plus leeway. `expires_at` is `exp`; in the
    leeway after it, when this clock says that `exp` is past, it is the instant at which acceptance ends, so that it
    is always ahead of `now`.
    """
    if settings.use == "jwt" and claims.get("iss") != settings.issuer:
        raise IdentityInvalid("claim: iss")
    audience = claims.get("aud")
    if audience != settings.audience and audience != [settings.audience]:
        raise IdentityInvalid("claim: aud")
    expires_at, leeway = _check_times(claims, settings, now)
    token_id = claims.get("jti")
    if "jti" in claims and (not isinstance(token_id, str) or TOKEN_ID.fullmatch(token_id) is None):
        raise IdentityInvalid("claim: jti")
    subject = claims.get("sub")
    if not isinstance(subject, str):
        raise IdentityInvalid("claim: sub")
    if settings.use == "jwt-svid":
        if trust_domain_of(claims) != settings.issuer:
            raise IdentityInvalid("claim: sub, no workload of this trust domain")
    elif SUBJECT.fullmatch(subject) is None:
        raise IdentityInvalid("claim: sub")
    return Identity(
        issuer=settings.issuer,
        subject=subject,
        method=settings.use,
        expires_at=expires_at,
        claims={name: claims[name] for name in settings.claims if name in claims},
        token_id=token_id,
        leeway=leeway,
        proved_by=_acting(claims, settings.issuer),
    )


def _acting(claims: Mapping[str, Json], issuer: str) -> tuple[Mark, ...]:
    """Who acts for the subject, and for whom they act in turn (`act`, RFC 8693 section 4.1). Policy sees none of it,
    but what a blocked actor was given is blocked with it. One that names no issuer may be of the token's own, or of
    that of the actor that it stands in: which, nobody has written, so it has the marks of both."""
    found: list[Mark] = []
    nearest = issuer
    while "act" in claims:
        claims = claims["act"]
        if not isinstance(claims, dict):
            raise IdentityInvalid("claim: act")
        nearest, subject = claims.get("iss", nearest), claims.get("sub")
        if subject is None:
            continue
        if not isinstance(subject, str) or not isinstance(nearest, str):
            raise IdentityInvalid("claim: act")
        found.append(subject_mark(nearest, subject))
        if "iss" not in claims and nearest != issuer:
            found.append(subject_mark(issuer, subject))
    return tuple(found)


def trust_domain_of(claims: Mapping[str, Json]) -> str | None:
    """The trust domain that the subject is of, as an ID; None for a subject that is no SPIFFE ID."""
    subject = claims.get("sub")
    try:
        return SpiffeId.parse(subject).issuer if isinstance(subject, str) else None
    except ValueError:
        return None


def _check_times(claims: Mapping[str, Json], settings: IssuerSettings, now: float) -> tuple[int, int]:
    """When it expires, and for how many seconds after that it is accepted."""
    leeway = int(settings.leeway)
    expires = _date(claims, "exp")
    # A JWT-SVID needs no `iat` (JWT-SVID section 3): its lifetime is then counted from now.
    issued = math.floor(now) if settings.use == "jwt-svid" and "iat" not in claims else _date(claims, "iat")
    if now >= expires + leeway:
        raise IdentityInvalid("claim: exp, expired")
    if issued > now + leeway:
        raise IdentityInvalid("claim: iat, in the future")
    lifetime = expires - issued
    if lifetime > settings.max_lifetime or (lifetime <= 0 and "iat" in claims):
        raise IdentityInvalid("claim: exp, the lifetime is too long or none")
    if "nbf" in claims and _date(claims, "nbf") > now + leeway:
        raise IdentityInvalid("claim: nbf, not yet valid")
    return (expires, leeway) if now < expires else (expires + leeway, 0)


def _date(claims: Mapping[str, Json], name: str) -> int:
    value = claims.get(name)
    # Exactly an integer: True is 1 to Python, and PyJWT reads "123" and 1.5 as dates.
    if type(value) is not int or value < 0:
        raise IdentityInvalid(f"claim: {name}")
    return value
