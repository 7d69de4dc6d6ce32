"""Which headers go through, in both directions. `docs/headers.md` says the same; here it is held to that."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.errors import CredentialUnavailable, MessageMalformed, TargetMalformed, UpstreamFailed
from ostiary.exchange import Exchange, Header
from ostiary.models import Credential, Target
from ostiary.upstream import UpstreamSettings, headers
from ostiary.upstream.request import RequestWriter
from ostiary.upstream.response import ResponseHead, ResponseReader
from support.shipped import upstream_settings
from support.upstream import OK, SECRET, answers, credential, forwarding, fronted

DOCUMENT = Path(__file__).parents[2] / "docs" / "headers.md"
SETTINGS = upstream_settings(host="orders.internal", port=8080)
PLAIN = [
    b"host",
    b"via",
    b"authorization",
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"ostiary-decision-id",
]


def sent(
    *given: Header,
    credential: Credential | None = None,
    method: str = "GET",
    settings: UpstreamSettings = SETTINGS,
) -> list[Header]:
    """The header lines that the upstream receives for a request with these."""
    scope = {
        "method": method, "raw_path": b"/", "query_string": b"", "headers": list(given), "client": ("192.0.2.1", 1),
    }  # fmt: skip
    exchange = Exchange(scope, _never, _never)  # type: ignore[arg-type]
    head = RequestWriter(settings).write(exchange, _target("/"), credential or _credential()).head
    line, *fields = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert line == method.encode() + b" / HTTP/1.1"
    return [(name, value) for name, _, value in (field.partition(b": ") for field in fields)]


def relayed(*given: Header, decorations: tuple[Header, ...] = (), status: int = 200) -> list[Header]:
    reader = ResponseReader(SETTINGS, internal=["orders.internal:8080", "10.0.0.10:9090"])
    return reader.relayed(ResponseHead(status, "1.1", list(given)), credential(), list(decorations))


def _target(path: str, query: str | None = None) -> Target:
    return Target(service="orders", segments=(), path=path, query=query, pairs=())


def _credential(**fields: object) -> Credential:
    return credential(**fields)  # type: ignore[arg-type]


async def _never(*_: object) -> None:
    raise AssertionError("nothing is read or sent")


SECTIONS = {
    "HOP_BY_HOP": headers.HOP_BY_HOP,
    "FRAMING": headers.FRAMING,
    "CREDENTIALS": headers.CREDENTIALS,
    "IDENTITY": headers.IDENTITY,
    "OVERRIDES": headers.OVERRIDES,
    "ADDRESSES": headers.ADDRESSES,
    "PREFIXES": frozenset(headers.PREFIXES),
    "SUFFIXES": frozenset(headers.SUFFIXES),
    "KEEPABLE_NAMES": headers.KEEPABLE_NAMES,
    "KEEPABLE_SUFFIXES": frozenset(headers.KEEPABLE_SUFFIXES),
    "NAMESAKES": headers.NAMESAKES,
    "ADDED": frozenset(headers.ADDED),
    "RESPONSE_HOP_BY_HOP": headers.RESPONSE_HOP_BY_HOP,
    "RESPONSE_CHALLENGES": headers.RESPONSE_CHALLENGES,
    "RESPONSE_ROUTING": headers.RESPONSE_ROUTING,
    "RESPONSE_OURS": headers.RESPONSE_OURS,
}


@pytest.mark.parametrize("name", SECTIONS)
def test_the_document_and_the_code_list_the_same_names(name: str) -> None:
    rows = dict(re.findall(r"^\| ([A-Z_]+) \| (.*?) \|", DOCUMENT.read_text(), re.MULTILINE))
    listed = [entry.strip("*") for entry in re.findall(r"`([^`]+)`", rows[name])]
    assert sorted(listed) == sorted(entry.decode() for entry in SECTIONS[name])


def test_the_document_lists_nothing_else() -> None:
    assert set(re.findall(r"^\| ([A-Z_]+) \|", DOCUMENT.read_text(), re.MULTILINE)) == set(SECTIONS)


@pytest.mark.parametrize("name", sorted(headers.REMOVED | headers.KEEPABLE_NAMES))
def test_a_listed_header_never_goes_upstream(name: bytes) -> None:
    value = {b"content-length": b"0", b"transfer-encoding": b"chunked"}.get(name, b"spoofed")
    assert (name, b"spoofed") not in sent((name, value))
    assert b"spoofed" not in [value for _, value in sent((b"x-" + name, b"spoofed"))]


@pytest.mark.parametrize("prefix", headers.PREFIXES)
def test_a_header_that_begins_as_a_family_does_never_goes_upstream(prefix: bytes) -> None:
    names = (prefix, prefix + b"anything", b"x-" + prefix + b"anything")
    assert b"spoofed" not in [value for _, value in sent(*((name, b"spoofed") for name in names))]


@pytest.mark.parametrize("suffix", [*headers.SUFFIXES, *headers.KEEPABLE_SUFFIXES])
def test_a_header_that_ends_as_a_family_does_never_goes_upstream(suffix: bytes) -> None:
    names = (b"anything" + suffix, b"x-anything" + suffix, b"x~anything" + suffix)
    assert b"spoofed" not in [value for _, value in sent(*((name, b"spoofed") for name in names))]


def test_no_list_says_what_a_family_says() -> None:
    """So that the lists stay short. Credentials are listed whose ending a service could keep."""
    names = headers.REMOVED - headers.HOP_BY_HOP - {b"authorization"}
    assert [name for name in sorted(names) if name.startswith(headers.PREFIXES)] == []
    assert [name for name in sorted(names) if name.endswith(headers.SUFFIXES)] == []
    assert [name for name in sorted(headers.KEEPABLE_NAMES) if name.endswith(headers.KEEPABLE_SUFFIXES)] == []


@pytest.mark.parametrize(
    "name",
    [
        b"x_caller_identity", b"x.caller.identity", b"remote_user", b"remote.user", b"x~forwarded~for", b"x!real!ip",
        b"authorization_", b"content_length", b"x-api+key", b"transfer.encoding", b"x_anything", b"any.thing",
    ],
)  # fmt: skip
def test_an_alias_of_a_listed_header_never_goes_upstream(name: bytes) -> None:
    assert [key for key, _ in sent((name, b"spoofed"))] == PLAIN


@pytest.mark.parametrize(
    "name",
    [
        b"x-caller-identity", b"x-auth-request-user", b"x-forwarded-user", b"x-remote-user", b"x-forwarded-host",
        b"x-forwarded-prefix", b"x-forwarded-port", b"forwarded", b"true-client-ip", b"x-original-url",
        b"x-rewrite-url", b"x-accel-redirect", b"x-forwarded-client-cert", b"x-http-method-override",
        b"x-http-method", b"x-method-override", b"proxy", b"x-api-key", b"api-key", b"cookie", b"te", b"trailer",
        b"keep-alive", b"proxy-connection", b"proxy-authorization", b"dpop", b"x-envoy-internal",
        b"ostiary-decision-id", b"impersonate-user", b"impersonate-extra-scopes", b"x-goog-authenticated-user-email",
        b"x-webauth-user", b"x-consumer-username", b"x-custom-ip-authorization", b"x-originating-ip", b"script-name",
        b"access-token", b"token", b"x-subject-token", b"x-pomerium-claim-email", b"x-authentik-username",
        b"tailscale-user-login", b"cf-access-authenticated-user-email", b"remote-email", b"x-amzn-mtls-clientcert",
        b"l5d-client-id", b"oidc-claim-sub", b"shib-identity-provider", b"iv-user", b"x-apigateway-api-userinfo",
        b"x-bearer-token", b"x-plex-token", b"x-csrf-token", b"x-auth", b"x-auth0-user", b"x-authz-user", b"x-group",
        b"x-real-client-ip", b"x-azure-client-ip", b"remote-ip", b"x-scope-orgid", b"x-hasura-role",
        b"x-hasura-admin-secret", b"x-jwt-payload", b"x-client-verify", b"x-client-s-dn", b"x-amzn-oidc-anything",
        b"oidc-sub", b"auth-user", b"username", b"x-tenant-id", b"x-impersonate-user", b"sudo", b"x-on-behalf-of",
        b"api-token", b"session-token", b"jwt", b"bearer", b"x-http-host-override", b"forwarded-host",
        b"x-forward-for", b"x-originally-forwarded-for", b"x-request-uri", b"x-path-info", b"x-original",
        b"x-http-verb-override", b"method-override", b"x-method", b"x-ostiary-user", b"x-ostiary",
    ],
)  # fmt: skip
def test_a_header_seen_in_an_attack_never_goes_upstream(name: bytes) -> None:
    assert b"spoofed" not in [value for _, value in sent((name, b"spoofed"))]


@pytest.mark.parametrize(
    "name",
    [
        b"accept", b"accept-encoding", b"accept-profile", b"access-control-request-headers", b"api-version", b"b3",
        b"access-control-request-method", b"baggage", b"cache-control", b"cdn-loop", b"ce-source", b"ce-subject",
        b"content-digest", b"content-encoding", b"content-type", b"date", b"from", b"hx-current-url",
        b"idempotency-key", b"if-match", b"if-none-match", b"if-unmodified-since", b"last-event-id", b"max-forwards",
        b"mcp-session-id", b"origin", b"prefer", b"priority", b"range", b"referer", b"sec-ch-ua", b"sec-fetch-site",
        b"sec-fetch-user", b"signature", b"signature-input", b"soapaction", b"stripe-signature", b"traceparent",
        b"tracestate", b"upload-offset", b"user-agent", b"webhook-signature", b"x-amz-date", b"x-amz-target",
        b"x-amzn-trace-id", b"x-api-version", b"x-b3-traceid", b"x-client-version", b"x-cloud-trace-context",
        b"x-correlation-id", b"x-device-id", b"x-github-event", b"x-goog-api-client", b"x-hub-signature-256",
        b"x-ms-client-request-id", b"x-request-id", b"x-requested-with", b"x-session-id", b"x-upload-content-type",
    ],
)  # fmt: skip
def test_a_header_that_applications_need_goes_through(name: bytes) -> None:
    assert (name, b"theirs") in sent((name, b"theirs"))


KEPT = upstream_settings(
    keep_headers=frozenset({b"x-tenant-id", b"x-csrf-token", b"cookie", b"x-forwarded-user", b"x-real-ip"})
)


def test_what_a_service_keeps_goes_to_it_by_that_name_alone_and_what_no_service_gets_does_not() -> None:
    names = [
        b"x-tenant-id", b"x-csrf-token", b"tenant-id", b"x~tenant~id", b"x_tenant_id", b"x-xsrf-token", b"cookie",
        b"x-forwarded-user", b"x-real-ip",
    ]  # fmt: skip
    got = sent(*((name, b"theirs") for name in names), settings=KEPT)
    assert [name for name, value in got if value == b"theirs"] == [b"x-tenant-id", b"x-csrf-token"]


def test_what_a_service_keeps_is_not_what_its_credential_stands_in_for() -> None:
    strategy = credential(header=(b"X-Csrf-Token", b"k" * 20), remove=frozenset({b"x-tenant-id"}))
    got = sent((b"x-csrf-token", b"mine"), (b"x-tenant-id", b"mine"), credential=strategy, settings=KEPT)
    assert (b"mine" in dict(got).values(), dict(got)[b"X-Csrf-Token"]) == (False, b"k" * 20)


def test_what_a_service_keeps_does_not_carry_the_callers_own_token() -> None:
    token = b"eyJhbGciOiJFUzI1NiJ9.e30.c2ln"
    got = sent((b"authorization", b"Bearer " + token), (b"x-csrf-token", token), settings=KEPT)
    assert token not in b"".join(value for _, value in got)


def test_other_headers_go_through_as_they_are_and_in_order() -> None:
    given = [(b"accept", b"a"), (b"x-request-id", b"1"), (b"accept", b"b"), (b"traceparent", b"00-1"), (b"range", b"r")]
    assert [pair for pair in sent(*given) if pair[0] not in PLAIN] == given


def test_what_connection_names_is_removed_from_the_clients_headers_only() -> None:
    names = b"X-Custom, x-forwarded-for , authorization,ostiary-decision-id, x-forwarded-host, via"
    got = sent((b"host", b"orders.test"), (b"x-custom", b"1"), (b"accept", b"*/*"), (b"connection", names))
    assert [name for name, _ in got] == [
        b"host", b"via", b"x-forwarded-host", b"accept", b"authorization", b"x-forwarded-for", b"x-forwarded-proto",
        b"ostiary-decision-id",
    ]  # fmt: skip


def test_the_callers_own_token_does_not_pass_under_another_name() -> None:
    token = b"eyJhbGciOiJFUzI1NiJ9.e30.c2ln"
    got = sent((b"x-debug", b"token=" + token), (b"authorization", b"Bearer " + token), (b"accept", b"a"))
    assert [name for name, _ in got if name not in PLAIN] == [b"accept"]
    assert token not in b"".join(value for _, value in got)


def test_what_a_credential_stands_in_for_is_removed_with_its_aliases() -> None:
    strategy = credential(header=(b"X-Partner-Key", b"k" * 20), remove=frozenset({b"x-partner-user"}))
    got = sent(
        (b"x-partner-key", b"mine"),
        (b"x_partner_key", b"mine"),
        (b"x~partner~key", b"mine"),
        (b"x-partner-user", b"ann"),
        (b"authorization", b"Bearer mine"),
        credential=strategy,
    )
    assert [name for name, _ in got] == [name if name != b"authorization" else b"X-Partner-Key" for name in PLAIN]


@pytest.mark.parametrize("header", [(b"authorization", b""), (b"authorization", b"a\r\nx: y"), (b"x: y\r\nz", b"a")])
def test_a_credential_that_is_no_header_is_not_sent(header: Header) -> None:
    with pytest.raises(CredentialUnavailable):
        sent(credential=credential(header=header))


@pytest.mark.parametrize("path", ["", "orders", "/a b", "/a\r\nx: y", "/a\x00", "/é", "/\ud800", "http://evil/"])
def test_a_target_that_is_no_request_line_is_not_sent(path: str) -> None:
    scope = {"method": "GET", "raw_path": b"/", "query_string": b"", "headers": [], "client": None}
    with pytest.raises(TargetMalformed):
        RequestWriter(SETTINGS).write(Exchange(scope, _never, _never), _target(path), credential())  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [b"", b"-1", b"+1", b"1, 1", b"0x1", b"1" * 5000, "\u0663".encode()])
def test_a_length_that_is_no_number_is_400(value: bytes) -> None:
    with pytest.raises(MessageMalformed):
        sent((b"content-length", value), method="POST")


def test_where_a_request_came_from_is_told_from_the_socket() -> None:
    got = sent((b"host", b"orders.test"), (b"x-forwarded-for", b"127.0.0.1"))
    assert [value for name, value in got if name == b"x-forwarded-for"] == [b"192.0.2.1"]


@given(name=st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-_.~!#$%&'*+^`|", min_size=1, max_size=24))
def test_a_remembered_judgement_is_the_judgement(name: str) -> None:
    rules, raw = headers.HeaderRules(), name.encode()
    first = rules.keeps(raw)
    assert rules.keeps(raw) is first is headers.HeaderRules().keeps(raw)
    if first:
        plain = headers.folded(raw)
        assert plain not in headers.REMOVED
        assert plain in headers.NAMESAKES or not plain.startswith(headers.PREFIXES)
        assert b"_" not in raw
        assert b"." not in raw


def test_what_is_remembered_of_names_is_bounded() -> None:
    rules = headers.HeaderRules()
    kept = [rules.keeps(b"x-name-%d" % number) for number in range(10_000)]
    assert (all(kept), len(rules.known)) == (True, 4096)


@pytest.mark.parametrize("name", sorted(headers.RESPONSE_REMOVED - {b"transfer-encoding"}))
def test_a_listed_response_header_is_not_relayed(name: bytes) -> None:
    assert relayed((name.title(), b"anything"), (b"ETag", b"e")) == [(b"etag", b"e")]


def test_what_connection_names_in_a_response_is_not_relayed() -> None:
    given = [(b"Connection", b"close, X-Hop , content-length"), (b"x-hop", b"1"), (b"content-length", b"0")]
    assert relayed(*given, (b"x-end", b"2")) == [(b"content-length", b"0"), (b"x-end", b"2")]


def test_other_response_headers_are_relayed_as_they_are_and_in_order() -> None:
    given = [(b"Server", b"s"), (b"Set-Cookie", b"a=b"), (b"X-A", b"1"), (b"Set-Cookie", b"c=d"), (b"Date", b"d")]
    assert relayed(*given) == [(name.lower(), value) for name, value in given]


def test_a_response_header_that_repeats_the_credential_is_dropped() -> None:
    assert relayed(
        (b"X-Debug", b"got Bearer " + SECRET + b"-0"), (b"Set-Cookie", b"t=" + SECRET + b"-0"), (b"X-A", b"1")
    ) == [(b"x-a", b"1")]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (b"/orders/1", b"/orders/1"),
        (b"orders/1", b"orders/1"),
        (b"http://orders.internal:8080/orders/1?a=b#c", b"/orders/1?a=b#c"),
        (b"HTTP://orders.internal:8080", b"/"),
        (b"https://orders.internal:8080?a=b", b"/?a=b"),
        (b"//orders.internal:8080/x", b"/x"),
        (b"http://user@orders.internal:8080/x", b"/x"),
        (b"http://Orders.Internal:8080/x", b"/x"),
        (b"http://orders.internal:8080//evil.test/x", None),
        (b"http://orders.internal:8080/\\evil.test/x", None),
        (b"http://10.0.0.10:9090/x", None),
        (b"http://orders.internal:8080\\evil.test/x", None),
        (b"http:\\\\orders.internal:8080\\x", None),
        (b"http:10.0.0.10:9090/x", None),
        (b"/\\user@10.0.0.10:9090/x", None),
        (b"/\\elsewhere.test/x", b"/\\elsewhere.test/x"),
        (b"https://elsewhere.test/x", b"https://elsewhere.test/x"),
        (b"http://169.254.169.254/latest/", b"http://169.254.169.254/latest/"),
    ],
)
@pytest.mark.parametrize("name", [b"Location", b"Content-Location"])
def test_an_internal_location_is_made_relative_or_dropped(name: bytes, location: bytes, expected: bytes | None) -> None:
    assert relayed((name, location), status=302) == ([] if expected is None else [(name.lower(), expected)])


def test_where_the_proxy_answers_for_cors_the_upstream_does_not() -> None:
    upstream = [(b"Access-Control-Allow-Origin", b"*"), (b"Access-Control-Max-Age", b"9"), (b"Vary", b"Accept")]
    ours = ((b"access-control-allow-origin", b"https://app.test"), (b"vary", b"Origin"))
    assert relayed(*upstream, decorations=ours) == [(b"vary", b"Accept")]
    assert relayed(*upstream) == [(name.lower(), value) for name, value in upstream]


@pytest.mark.parametrize("status", [401, 407])
def test_a_refusal_of_the_swapped_credential_is_a_failure_of_the_upstream(status: int) -> None:
    with pytest.raises(UpstreamFailed):
        relayed((b"content-length", b"0"), status=status)


async def test_a_redirect_is_relayed_and_not_followed() -> None:
    response = b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest/\r\ncontent-length: 0\r\n\r\n"
    async with forwarding(answers(response)) as (front, upstream):
        answer = await front.call()
    assert (answer.status, answer.values("location")) == (302, ["http://169.254.169.254/latest/"])
    assert len(upstream.requests) == 1


async def test_cookies_of_one_caller_never_reach_another_and_bodies_are_not_decoded() -> None:
    response = (
        b"HTTP/1.1 200 OK\r\nset-cookie: session=victim\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nzzzz"
    )
    async with forwarding(answers(response)) as (front, upstream):
        got = [await front.call(headers="Cookie: mine=1\r\n") for _ in range(2)]
    assert [(a.values("set-cookie"), a.values("content-encoding"), a.body) for a in got] == [
        (["session=victim"], ["gzip"], b"zzzz")
    ] * 2
    assert [seen.values("cookie") for seen in upstream.requests] == [[], []]


async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with forwarding(answers(OK)) as (front, _):
        assert (await front.call()).status == 200


async def test_an_authority_of_the_upstream_itself_is_not_told() -> None:
    async with fronted(upstream_settings(host="127.0.0.1", port=1)) as front:
        answer = await front.call()
    assert (answer.status, b"127.0.0.1" in answer.body) == (502, False)
