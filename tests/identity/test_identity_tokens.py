"""Which tokens identify somebody, and why each of the others does not. The detail is for the audit."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from typing import Any

import pytest

from ostiary.clock import ManualClock
from ostiary.errors import IdentityInvalid
from ostiary.identity import ListenerAuthenticator
from ostiary.models import Identity
from ostiary.problem import Problems
from support.identity import ABSENT, Issuer, SigningKey, b64, bearing

ATTACKER = SigningKey(material="attacker")


async def refusal(authenticator: ListenerAuthenticator, token: str | bytes) -> str:
    with pytest.raises(IdentityInvalid) as caught:
        await authenticator.identify(bearing(token))
    return caught.value.detail


async def test_a_good_token_identifies_its_subject(
    authenticator: ListenerAuthenticator, issuer: Issuer, clock: ManualClock
) -> None:
    token = issuer.token(claims={"groups": ["support"], "tenant": {"id": 7}, "roles": ["admin"]})
    assert await authenticator.identify(bearing(token)) == Identity(
        issuer="https://idp.test",
        subject="web",
        method="jwt",
        expires_at=int(clock.now()) + 300,
        claims={"groups": ["support"], "tenant": {"id": 7}},
        token_id="t-1",
        leeway=10,
    )


async def test_only_configured_claims_are_copied(authenticator: ListenerAuthenticator, issuer: Issuer) -> None:
    """JWT-055: a role the client chose is not in what policy sees."""
    identity = await authenticator.identify(bearing(issuer.token(claims={"roles": ["admin"], "scope": "*"})))
    assert identity.claims == {}


HEADERS = [
    pytest.param({"alg": "none"}, "header: alg", id="JWT-003 alg none with a signature"),
    pytest.param({"alg": "None"}, "header: alg", id="alg None"),
    pytest.param({"alg": "HS256"}, "header: alg", id="symmetric alg"),
    pytest.param({"alg": "rs256"}, "header: alg", id="alg in another case"),
    pytest.param({"alg": ["RS256"]}, "header: alg", id="JWT-010 alg is a list"),
    pytest.param({"alg": None}, "header: alg", id="alg null"),
    pytest.param({"alg": ABSENT}, "header: alg", id="alg missing"),
    pytest.param({"alg": ""}, "header: alg", id="alg empty"),
    pytest.param({"kid": "k1' UNION SELECT 'x' --"}, "header: kid", id="JWT-013 kid SQL"),
    pytest.param({"kid": "k1\nlevel=info msg=ok"}, "header: kid", id="JWT-014 kid with a newline"),
    pytest.param({"kid": "k1\n"}, "header: kid", id="kid with a final newline"),
    pytest.param({"kid": "../../dev/null"}, "header: kid", id="kid path"),
    pytest.param({"kid": ABSENT}, "header: kid", id="JWT-015 kid missing"),
    pytest.param({"kid": None}, "header: kid", id="kid null"),
    pytest.param({"kid": 5}, "header: kid", id="JWT-016 kid integer"),
    pytest.param({"kid": ["k1"]}, "header: kid", id="kid list"),
    pytest.param({"kid": ""}, "header: kid", id="kid empty"),
    pytest.param({"kid": "k" * 129}, "header: kid", id="kid too long"),
    pytest.param({"kid": "other"}, "key: unknown kid", id="kid unknown"),
    pytest.param({"kid": "k2"}, "signature", id="kid of another key of the set"),
    pytest.param({"jku": "https://evil.test/jwks.json"}, "header: jku is refused", id="JWT-017 jku"),
    pytest.param({"jwk": ATTACKER.jwk}, "header: jwk is refused", id="embedded jwk"),
    pytest.param({"x5u": "https://evil.test/c.pem"}, "header: x5u is refused", id="JWT-018 x5u"),
    pytest.param({"x5c": ["MIIB"]}, "header: x5c is refused", id="JWT-020 x5c"),
    pytest.param({"crit": ["exp"]}, "header: crit is refused", id="crit"),
    pytest.param({"crit": []}, "header: crit is refused", id="crit empty"),
    pytest.param({"zip": "DEF"}, "header: zip is refused", id="zip"),
    pytest.param({"b64": True}, "header: b64 is refused", id="b64"),
    pytest.param({"jku": None}, "header: jku is refused", id="jku null is jku all the same"),
    pytest.param({"typ": "secevent+jwt"}, "header: typ", id="another type"),
    pytest.param({"typ": "text/JWT"}, "header: typ", id="another media type"),
    pytest.param({"typ": ABSENT}, "header: typ", id="typ missing"),
    pytest.param({"typ": None}, "header: typ", id="typ null"),
    pytest.param({"typ": ["JWT"]}, "header: typ", id="typ list"),
    pytest.param({"typ": "JWT "}, "header: typ", id="typ with a space"),
    pytest.param({"typ": ""}, "header: typ", id="typ empty"),
    pytest.param({"typ": "at\u212a"}, "header: typ", id="typ outside of ASCII"),
]


@pytest.mark.parametrize(("overrides", "detail"), HEADERS)
async def test_a_header_member_refuses(
    authenticator: ListenerAuthenticator, issuer: Issuer, overrides: dict[str, Any], detail: str
) -> None:
    given = {name: value() if callable(value) else value for name, value in overrides.items()}
    assert await refusal(authenticator, issuer.token(header=given)) == detail


@pytest.mark.parametrize("member", ["jku", "jwk", "x5u", "x5c"])
async def test_a_token_that_brings_its_own_key_is_refused_before_any_key_is_looked_at(
    authenticator: ListenerAuthenticator, issuer: Issuer, member: str
) -> None:
    (before,) = authenticator.health()
    token = issuer.token(header={member: ATTACKER.jwk(), "kid": "new"}, sign=ATTACKER.sign)
    assert await refusal(authenticator, token) == f"header: {member} is refused"
    (after,) = authenticator.health()
    assert after.attempts == before.attempts


@pytest.mark.parametrize("typ", ["JWT", "jwt", "application/jwt", "at+jwt", "application/AT+JWT"])
async def test_types_are_compared_as_media_types(
    authenticator: ListenerAuthenticator, issuer: Issuer, typ: str
) -> None:
    """RFC 7515 section 4.1.9: `application/` may be left out; case means nothing."""
    assert (await authenticator.identify(bearing(issuer.token(header={"typ": typ})))).subject == "web"


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
async def test_an_algorithm_that_the_key_is_not_bound_to_is_refused(
    authenticator: ListenerAuthenticator, issuer: Issuer, algorithm: str
) -> None:
    """JWT-008: a correct signature by the right key, in another algorithm than the key's."""
    token = issuer.token(header={"alg": algorithm}, sign=lambda text: issuer.key.sign(text, algorithm))
    assert await refusal(authenticator, token) == "header: alg"


def _numbers(now: int) -> list[tuple[str, Any]]:
    return [
        ("missing", ABSENT),
        ("null", None),
        ("true", True),
        ("string", str(now)),
        ("float", float(now)),
        ("negative", -1),
        ("list", [now]),
        ("object", {}),
    ]


@pytest.mark.parametrize("claim", ["exp", "iat"])
@pytest.mark.parametrize("index", range(8))
async def test_a_date_that_is_not_an_integer_is_refused(
    authenticator: ListenerAuthenticator, issuer: Issuer, clock: ManualClock, claim: str, index: int
) -> None:
    """JWT-031, JWT-032: dates are whole numbers, and there."""
    _, value = _numbers(int(clock.now()) + 60)[index]
    assert await refusal(authenticator, issuer.token(claims={claim: value})) == f"claim: {claim}"


@pytest.mark.parametrize("value", [None, True, "1", 1.5, -1, []])
async def test_an_nbf_that_is_not_an_integer_is_refused(
    authenticator: ListenerAuthenticator, issuer: Issuer, value: Any
) -> None:
    assert await refusal(authenticator, issuer.token(claims={"nbf": value})) == "claim: nbf"


CLAIMS = [
    pytest.param({"aud": ABSENT}, "claim: aud", id="JWT-040 aud missing"),
    pytest.param({"aud": "other-proxy"}, "claim: aud", id="JWT-041 aud of another"),
    pytest.param({"aud": ["other", "proxy"]}, "claim: aud", id="JWT-042 aud mixed"),
    pytest.param({"aud": ["proxy", "proxy"]}, "claim: aud", id="aud twice"),
    pytest.param({"aud": []}, "claim: aud", id="aud empty list"),
    pytest.param({"aud": [["proxy"]]}, "claim: aud", id="aud nested"),
    pytest.param({"aud": "prox"}, "claim: aud", id="aud prefix"),
    pytest.param({"aud": "Proxy"}, "claim: aud", id="aud case"),
    pytest.param({"aud": {"proxy": 1}}, "claim: aud", id="aud object"),
    pytest.param({"aud": None}, "claim: aud", id="aud null"),
    pytest.param({"iss": "https://idp"}, "claim: iss", id="JWT-043 iss prefix"),
    pytest.param({"iss": "https://idp.test/"}, "claim: iss", id="JWT-044 iss trailing slash"),
    pytest.param({"iss": "HTTPS://idp.test"}, "claim: iss", id="iss case"),
    pytest.param({"iss": ["https://idp.test"]}, "claim: iss", id="iss list"),
    pytest.param({"iss": {"https://idp.test": 1}}, "claim: iss", id="iss object"),
    pytest.param({"iss": ABSENT}, "claim: iss", id="iss missing"),
    pytest.param({"iss": None}, "claim: iss", id="iss null"),
    pytest.param({"iss": ""}, "claim: iss", id="iss empty"),
    pytest.param({"sub": ABSENT}, "claim: sub", id="sub missing"),
    pytest.param({"sub": None}, "claim: sub", id="sub null"),
    pytest.param({"sub": 7}, "claim: sub", id="sub number"),
    pytest.param({"sub": ""}, "claim: sub", id="sub empty"),
    pytest.param({"sub": "web\n"}, "claim: sub", id="sub newline"),
    pytest.param({"sub": "web\x00"}, "claim: sub", id="sub NUL"),
    pytest.param({"sub": " web"}, "claim: sub", id="sub leading space"),
    pytest.param({"sub": "web "}, "claim: sub", id="sub trailing space"),
    pytest.param({"sub": "w\u00e9b"}, "claim: sub", id="sub outside of ASCII"),
    pytest.param({"sub": "w" * 256}, "claim: sub", id="sub too long"),
    pytest.param({"sub": ["web"]}, "claim: sub", id="sub list"),
    pytest.param({"jti": 7}, "claim: jti", id="jti number"),
    pytest.param({"jti": None}, "claim: jti", id="jti null"),
    pytest.param({"jti": ""}, "claim: jti", id="jti empty"),
    pytest.param({"jti": "a\nb"}, "claim: jti", id="jti newline"),
    pytest.param({"jti": "j" * 257}, "claim: jti", id="jti too long"),
    pytest.param(
        {"cnf": {"x5t#S256": "A" * 43}},
        "claim: cnf, bound to a certificate, and this listener asks for none",
        id="JWT-067 cnf",
    ),
    pytest.param({"cnf": None}, "claim: cnf", id="cnf null"),
]


@pytest.mark.parametrize(("overrides", "detail"), CLAIMS)
async def test_a_claim_refuses(
    authenticator: ListenerAuthenticator, issuer: Issuer, overrides: dict[str, Any], detail: str
) -> None:
    assert await refusal(authenticator, issuer.token(claims=overrides)) == detail


@pytest.mark.parametrize("overrides", [{"aud": ["proxy"]}, {"jti": ABSENT}, {"sub": "w" * 255}, {"sub": "CN=a b"}])
async def test_what_is_also_accepted(
    authenticator: ListenerAuthenticator, issuer: Issuer, overrides: dict[str, Any]
) -> None:
    identity = await authenticator.identify(bearing(issuer.token(claims=overrides)))
    assert identity.subject == overrides.get("sub", "web")


TIMES = [
    # relative to now: iat, exp, nbf, and the refusal; the leeway is 10 s, the longest lifetime one hour
    pytest.param(-100, -10, None, "claim: exp, expired", id="expired, leeway used up"),
    pytest.param(-100, -9, None, None, id="expired within the leeway"),
    pytest.param(3600, 3700, None, "claim: iat, in the future", id="JWT-039 iat in the future"),
    pytest.param(11, 100, None, "claim: iat, in the future", id="iat just beyond the leeway"),
    pytest.param(10, 100, None, None, id="iat within the leeway"),
    pytest.param(0, 3600, None, None, id="the longest lifetime"),
    pytest.param(0, 3601, None, "claim: exp, the lifetime is too long or none", id="a lifetime too long"),
    pytest.param(0, 10**12, None, "claim: exp, the lifetime is too long or none", id="the year 33658"),
    pytest.param(5, 5, None, "claim: exp, the lifetime is too long or none", id="no lifetime"),
    pytest.param(0, 100, 11, "claim: nbf, not yet valid", id="nbf beyond the leeway"),
    pytest.param(0, 100, 10, None, id="nbf within the leeway"),
]


@pytest.mark.parametrize(("iat", "exp", "nbf", "detail"), TIMES)
async def test_times(
    authenticator: ListenerAuthenticator,
    issuer: Issuer,
    clock: ManualClock,
    iat: int,
    exp: int,
    nbf: int | None,
    detail: str | None,
) -> None:
    now = int(clock.now())
    token = issuer.token(claims={"iat": now + iat, "exp": now + exp, "nbf": ABSENT if nbf is None else now + nbf})
    if detail is not None:
        assert await refusal(authenticator, token) == detail
        return
    identity = await authenticator.identify(bearing(token))
    assert identity.expires_at == (now + exp if exp > 0 else now + exp + 10)
    assert identity.expires_at > now


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        pytest.param("Infinity", "payload: not JSON", id="JWT-034 Infinity"),
        pytest.param("NaN", "payload: not JSON", id="NaN"),
        pytest.param("1e999", "payload: a number is out of range", id="overflow"),
        pytest.param("9" * 5000, "payload: a number is out of range", id="JWT-036 5000 digits"),
        pytest.param("18446744073709551616", "payload: a number is out of range", id="beyond 64 bits"),
        pytest.param('"\\ud800"', "payload: text is not Unicode", id="lone surrogate"),
        pytest.param("[" * 100 + "]" * 100, "payload: nested too deep", id="nested too deep"),
        pytest.param("[" * 2500 + "]" * 2500, "payload: nested too deep", id="nested beyond the stack"),
        pytest.param('{"a":1,"a":2}', "payload: a member occurs twice", id="nested duplicate"),
        pytest.param('"a\nb"', "payload: not JSON", id="control character"),
        pytest.param('"\\q"', "payload: not JSON", id="unknown escape"),
    ],
)
async def test_json_that_could_be_read_in_two_ways_is_refused(
    authenticator: ListenerAuthenticator, issuer: Issuer, text: str, detail: str
) -> None:
    claims = json.dumps(issuer.claims())[:-1] + f', "x": {text}}}'
    assert await refusal(authenticator, issuer.token(claims=claims.encode())) == detail


@pytest.mark.parametrize(
    ("payload", "detail"),
    [
        pytest.param(b"[1]", "payload: not a JSON object", id="JWT-054 array"),
        pytest.param(b'"text"', "payload: not a JSON object", id="string"),
        pytest.param(b"null", "payload: not a JSON object", id="null"),
        pytest.param(b"{} {}", "payload: not JSON", id="two values"),
        pytest.param(b"\xff\xfe{\x00}\x00", "payload: not JSON", id="UTF-16"),
        pytest.param(b"\xef\xbb\xbf{}", "payload: not JSON", id="byte order mark"),
        pytest.param(b'{"a": "\xff"}', "payload: not JSON", id="not UTF-8"),
        pytest.param(b"garbage", "payload: not JSON", id="garbage"),
    ],
)
async def test_a_payload_that_is_no_object_is_refused(
    authenticator: ListenerAuthenticator, issuer: Issuer, payload: bytes, detail: str
) -> None:
    assert await refusal(authenticator, issuer.token(claims=payload)) == detail


async def test_duplicate_members_are_refused_however_they_are_spelled(
    authenticator: ListenerAuthenticator, issuer: Issuer
) -> None:
    """JWT-047: a parser that takes the last and one that takes the first see two subjects."""
    claims = json.dumps(issuer.claims())[:-1]
    for second in (',"sub":"admin"}', ',"\\u0073ub":"admin"}', ',"sub":"web"}'):
        token = issuer.token(claims=(claims + second).encode())
        assert await refusal(authenticator, token) == "payload: a member occurs twice"
    header = json.dumps(issuer.header())[:-1] + ',"alg":"RS256"}'
    assert await refusal(authenticator, issuer.token(header=header.encode())) == "header: a member occurs twice"


async def test_signatures(authenticator: ListenerAuthenticator, issuer: Issuer) -> None:
    """A signature that is missing, cut, of another key or of another text proves nothing."""
    good = issuer.token()
    head, _, signature = good.split(".")
    other = b64(json.dumps(issuer.claims(sub="admin")).encode())
    refused = [
        issuer.token(sign=ATTACKER.sign),
        issuer.token(sign=lambda _: os.urandom(256)),
        issuer.token(sign=lambda text: issuer.key.sign(text)[:-1]),
        issuer.token(sign=lambda text: issuer.key.sign(text) + b"\x00"),
        issuer.token(sign=lambda _: bytes(256)),
        f"{head}.{other}.{signature}",
    ]
    for token in refused:
        assert await refusal(authenticator, token) == "signature"


@pytest.mark.parametrize("pem", ["pem", "pem-crlf", "modulus"])
async def test_a_public_key_is_never_a_secret(authenticator: ListenerAuthenticator, issuer: Issuer, pem: str) -> None:
    """JWT-005: HS256 keyed with the public key, in several spellings."""
    secret = {
        "pem": issuer.key.pem(),
        "pem-crlf": issuer.key.pem().replace(b"\n", b"\r\n"),
        "modulus": issuer.key.jwk()["n"].encode(),
    }[pem]
    token = issuer.token(header={"alg": "HS256"}, sign=lambda text: hmac.digest(secret, text, hashlib.sha256))
    assert await refusal(authenticator, token) == "header: alg"


async def test_the_form_of_a_token(authenticator: ListenerAuthenticator, issuer: Issuer) -> None:
    """Three segments of unpadded base64url in its one spelling; nothing appended, nothing around."""
    good = issuer.token()
    head, body, signature = good.split(".")
    form = "token: not a compact JWS"
    last = {"A": "B", "Q": "R", "g": "h", "w": "x"}[signature[-1]]
    assert {
        "JWT-001 and JWT-026 empty signature": await refusal(authenticator, f"{head}.{body}."),
        "no signature": await refusal(authenticator, f"{head}.{body}"),
        "JWT-023 five segments": await refusal(authenticator, "a.b.c.d.e"),
        "JWT-028 padding": await refusal(authenticator, good + "=="),
        "padding in the header": await refusal(authenticator, f"{head}=.{body}.{signature}"),
        "AUTHN-010 quoted": await refusal(authenticator, f'"{good}"'),
        "newline": await refusal(authenticator, good + "\n"),
        "plus and slash": await refusal(authenticator, f"{head}.{body}.ab+/"),
        "not ASCII": await refusal(authenticator, good.encode() + b"\xe9"),
        "one character too many": await refusal(authenticator, f"{head}.{body}.abcde"),
        "trailing bits": await refusal(authenticator, good[:-1] + last),
        "AUDIT-009 words": await refusal(authenticator, "SECRET.LOOKING.STRING"),
    } == {
        "JWT-001 and JWT-026 empty signature": form,
        "no signature": form,
        "JWT-023 five segments": form,
        "JWT-028 padding": form,
        "padding in the header": form,
        "AUTHN-010 quoted": form,
        "newline": form,
        "plus and slash": form,
        "not ASCII": form,
        "one character too many": "signature: not base64url",
        "trailing bits": "signature: not base64url",
        "AUDIT-009 words": "header: not base64url",
    }


async def test_sizes(authenticator: ListenerAuthenticator, issuer: Issuer) -> None:
    """JWT-056, JWT-057: a large or deep token is refused by its length, before anything is parsed."""
    assert await refusal(authenticator, issuer.token(claims={"pad": "a" * 5_000_000})) == "credentials: too long"
    deep = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert await refusal(authenticator, issuer.token(claims=deep)) == "credentials: too long"


async def test_every_cause_has_one_body_and_one_challenge(authenticator: ListenerAuthenticator, issuer: Issuer) -> None:
    tokens = [
        issuer.token(header={"kid": "other"}),
        issuer.token(sign=ATTACKER.sign),
        issuer.token(claims={"aud": "other"}),
        issuer.token(claims={"iss": "https://elsewhere.test"}),
        "SECRET.LOOKING.STRING",
    ]
    problems = Problems()
    answers = set()
    for token in tokens:
        with pytest.raises(IdentityInvalid) as caught:
            await authenticator.identify(bearing(token))
        answers.add((problems.body(caught.value, "same"), tuple(problems.headers(caught.value))))
    ((body, headers),) = answers
    assert b"SECRET" not in body
    assert dict(headers)[b"www-authenticate"] == b'Bearer realm="ostiary", error="invalid_token"'


async def test_no_refusal_quotes_the_token(authenticator: ListenerAuthenticator, issuer: Issuer) -> None:
    secret = "hunter2"
    for overrides in ({"aud": secret}, {"iss": secret}, {"exp": secret}, {"sub": secret + "\n"}, {"jti": [secret]}):
        assert secret not in await refusal(authenticator, issuer.token(claims=overrides))
    for header in ({"alg": secret}, {"kid": secret + " "}, {"typ": secret}):
        assert secret not in await refusal(authenticator, issuer.token(header=header))
