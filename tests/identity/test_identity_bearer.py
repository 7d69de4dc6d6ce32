"""The bearer token is taken from one place, in one form."""

from __future__ import annotations

import pytest

from ostiary.errors import HeaderDuplicated, IdentityInvalid, IdentityMissing, TokenInQuery
from ostiary.identity.bearer import MAX_TOKEN_BYTES, bearer_token
from support.identity import bearing, exchange

AUTHORIZATION = b"authorization"


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER", b"bEaReR"])
def test_the_scheme_is_known_in_any_case(scheme: bytes) -> None:
    assert bearer_token(exchange((AUTHORIZATION, scheme + b" a.b.c"))) == b"a.b.c"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"Bearer  a.b.c", id="AUTHN-002 two spaces"),
        pytest.param(b"Bearer ", id="AUTHN-005 empty"),
        pytest.param(b"Bearer", id="no space"),
        pytest.param(b"Bearer a.b.c x", id="AUTHN-006 trailing junk"),
        pytest.param(b"Bearer a.b.c ", id="trailing space"),
        pytest.param(b"Bearer\ta.b.c", id="tab"),
        pytest.param(b" Bearer a.b.c", id="leading space"),
        pytest.param(b"", id="empty header"),
        pytest.param(b"\xff\xfe a.b.c", id="scheme is no token"),
        pytest.param(b"Bearer " + b"a" * (MAX_TOKEN_BYTES + 1), id="too long"),
    ],
)
def test_anything_but_scheme_space_token_is_invalid(value: bytes) -> None:
    with pytest.raises(IdentityInvalid):
        bearer_token(exchange((AUTHORIZATION, value)))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"Basic d2ViOnB3", id="AUTHN-007 Basic"),
        pytest.param(b"DPoP a.b.c", id="DPoP"),
        pytest.param(b"BearerX a.b.c", id="a longer scheme"),
        pytest.param(b"Negotiate", id="a scheme alone"),
    ],
)
def test_another_scheme_is_no_credential_for_this_listener(value: bytes) -> None:
    """RFC 6750 section 3.1: no error code for an authentication method that is not supported."""
    with pytest.raises(IdentityMissing):
        bearer_token(exchange((AUTHORIZATION, value)))


def test_no_authorization_is_no_credential() -> None:
    with pytest.raises(IdentityMissing):
        bearer_token(exchange((b"host", b"proxy.test")))


@pytest.mark.parametrize(
    "header", [b"x-authorization", b"proxy-authorization", b"x-forwarded-access-token", b"cookie", b"x-id-token"]
)
def test_a_credential_elsewhere_is_not_looked_at(header: bytes) -> None:
    elsewhere = exchange((header, b"Bearer a.b.c"), query=b"access_token=a.b.c", method="POST")
    with pytest.raises(IdentityMissing):
        bearer_token(elsewhere)


@pytest.mark.parametrize("second", [b"Bearer a.b.c", b"Bearer evil", b"Basic eDp5", b""])
def test_two_authorization_headers_are_refused_whatever_they_say(second: bytes) -> None:
    with pytest.raises(HeaderDuplicated):
        bearer_token(exchange((AUTHORIZATION, b"Bearer a.b.c"), (AUTHORIZATION, second)))


def test_the_longest_token_is_taken() -> None:
    assert len(bearer_token(bearing("a" * MAX_TOKEN_BYTES))) == MAX_TOKEN_BYTES


TOKEN = b"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ3ZWIifQ.c2lnbmF0dXJl"
ENCODED = b"".join(b"%%%02x" % byte for byte in TOKEN)


@pytest.mark.parametrize(
    "target",
    [
        (b"/orders", b"note=" + TOKEN),
        (b"/orders", TOKEN),
        (b"/orders", b"a=b&x=1" + TOKEN + b"2"),
        (b"/orders", b"note=" + ENCODED),
        (b"/files/" + TOKEN, b""),
        (b"/files/%65" + TOKEN[1:] + b"/x", b""),
    ],
    ids=["parameter", "bare", "inside", "encoded", "segment", "encoded segment"],
)
def test_a_token_that_the_target_repeats_is_refused(target: tuple[bytes, bytes]) -> None:
    """It would reach the policy's input, the audit and the upstream, whatever name the parameter has."""
    given = exchange((AUTHORIZATION, b"Bearer " + TOKEN))
    given.raw_path, given.raw_query = target
    with pytest.raises(TokenInQuery):
        bearer_token(given)


def test_a_target_may_share_parts_with_the_token() -> None:
    given = exchange((AUTHORIZATION, b"Bearer " + TOKEN), query=b"note=" + TOKEN[:-1] + b"&enc=%20" + TOKEN[1:])
    assert bearer_token(given) == TOKEN
