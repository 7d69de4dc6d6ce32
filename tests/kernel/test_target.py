"""The canonicaliser, and the resolver over it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ostiary.errors import AccessError, TargetMalformed
from ostiary.exchange import Exchange
from ostiary.models import Target
from ostiary.target import (
    CREDENTIAL_PARAMETERS,
    Targets,
    _canonicalise_any,
    canonicalise,
    check_query,
    decode_query,
    encode,
)
from support.server import attacks, message


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(AccessError) as refused:
        call(*arguments)
    return refused.value.reason


@pytest.mark.parametrize(
    ("raw", "segments", "path"),
    [
        (b"/", ("",), "/"),
        (b"/orders", ("orders",), "/orders"),
        (b"/orders/", ("orders", ""), "/orders/"),
        (b"/orders/%31", ("orders", "1"), "/orders/1"),
        (b"/orders/%61dmin/x", ("orders", "admin", "x"), "/orders/admin/x"),
        (b"/a%7eb%2Dc%5f", ("a~b-c_",), "/a~b-c_"),
        (b"/a.b/..c/.d/e..", ("a.b", "..c", ".d", "e.."), "/a.b/..c/.d/e.."),
        (b"/a%2eb", ("a.b",), "/a.b"),
        (b"/a:b@c", ("a:b@c",), "/a%3Ab%40c"),
        (b"/a%3ab%40c", ("a:b@c",), "/a%3Ab%40c"),
        (b"/!$&'()*+,=", ("!$&'()*+,=",), "/%21%24%26%27%28%29%2A%2B%2C%3D"),
        (b"/%22%3c%3e%5b%5d%5e%60%7b%7c%7d", ('"<>[]^`{|}',), "/%22%3C%3E%5B%5D%5E%60%7B%7C%7D"),
        (b"/caf%c3%a9", ("café",), "/caf%C3%A9"),
        (b"/%e6%97%a5%e6%9c%ac", ("日本",), "/%E6%97%A5%E6%9C%AC"),
        (b"/%f0%9f%98%80", ("\U0001f600",), "/%F0%9F%98%80"),
        (b"/%ef%bc%9f", ("\uff1f",), "/%EF%BC%9F"),  # a wide question mark is a character like others
    ],
)
def test_a_path_has_one_reading(raw: bytes, segments: tuple[str, ...], path: str) -> None:
    assert (canonicalise(raw), encode(segments)) == (segments, path)


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"*", b"orders", b"http://h/a", b"@h/a", b"//", b"//a", b"/a//b", b"/a//"),
        *(b"/.", b"/..", b"/a/./b", b"/a/../b", b"/a/..", b"/%2e", b"/.%2e/a", b"/%2E%2e", b"/...", b"/a/%2e%2e%2e"),
        *(
            b"/a%2fb",
            b"/%2F",
            b"/a%5cb",
            b"/a\\b",
            b"/a;b",
            b"/a%3bb",
            b"/;/a",
            b"/a%25b",
            b"/%252e",
            b"/a?b",
            b"/a%3fb",
        ),
        *(b"/a#b", b"/a%23b", b"/a b", b"/a%20b", b"/a%00", b"/a\x00", b"/a%0d%0ab", b"/a%09", b"/a%1b[31m", b"/a%7f"),
        *(
            b"/a\x7f",
            b"/a\n",
            b"/%",
            b"/%a",
            b"/%zz",
            b"/a%u0061",
            b"/a%2",
            b"/%%41",
            b"/{a}",
            b'/"a"',
            b"/<a>",
            b"/[a]",
        ),
        *(
            b"/a|b",
            b"/a^b",
            b"/a`b",
            b"/caf\xc3\xa9",
            b"/\xff",
            b"/%ff",
            b"/%c3",
            b"/%c0%ae",
            b"/%c0%af",
            b"/%e0%80%ae",
        ),
        *(
            b"/%ed%a0%80",
            b"/%f4%90%80%80",
            b"/%c2%80",
            b"/%c2%a0",
            b"/%c2%ad",
            b"/%e2%80%a8",
            b"/%e2%80%8b",
            b"/%e2%80%ae",
        ),
        *(b"/%e2%80%8f", b"/%ef%bb%bf", b"/%e3%80%80", b"/cafe%cc%81", b"/%ee%80%80", b"/%cd%b8", b"/%e2%84%aa"),
        *(b"/%ef%bc%8e%ef%bc%8e", b"/%e2%80%a5", b"/%e2%80%a4", b"/%ef%bc%8f", b"/a%ef%bc%bcb", b"/%e2%84%80"),
    ],
)
def test_what_has_more_than_one_reading_is_refused(raw: bytes) -> None:
    assert refusal(canonicalise, raw) == "target-malformed"


def test_a_path_is_no_longer_than_the_limit() -> None:
    assert canonicalise(b"/" + b"a" * 8191)
    assert refusal(canonicalise, b"/" + b"a" * 8192) == "target-too-long"


_CANONICAL = re.compile(r"/(?:[A-Za-z0-9._~/-]|%[0-9A-F]{2})*")

fragments = st.sampled_from(
    [
        *(
            b"/",
            b"/",
            b"/",
            b"a",
            b"Z",
            b"9",
            b".",
            b"..",
            b"-",
            b"~",
            b"_",
            b"%",
            b"%2f",
            b"%2e",
            b"%41",
            b"%7E",
            b"%25",
        ),
        *(
            b";",
            b"%3b",
            b"\\",
            b"%5C",
            b":",
            b"@",
            b"+",
            b",",
            b"%c3%a9",
            b"%CC%81",
            b"e",
            b"%e2%80%ae",
            b"%00",
            b"%20",
            b"%ff",
        ),
        *(b"\xc3\xa9", b"{", b"%7b", b"%ef%bc%8f", b"%ef%bc%8e"),
    ]
)
text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
paths = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=40).map(lambda raw: b"/" + raw),
    st.lists(fragments, max_size=12).map(b"".join),
    st.lists(fragments, max_size=12).map(lambda pieces: b"/" + b"".join(pieces)),
    text.map(lambda segment: encode([segment]).encode()),
    st.from_regex(rb"(?:/[A-Za-z0-9._~-]{1,5}){1,5}/?", fullmatch=True),
)


def read(canonicaliser: Callable[[bytes], tuple[str, ...]], raw: bytes) -> tuple[str, ...] | None:
    try:
        return canonicaliser(raw)
    except TargetMalformed:
        return None


@settings(max_examples=1000, deadline=None)
@given(paths)
@example(b"/a/./b")
@example(b"/.a/")
@example(b"/")
@example(b"/a\n")
def test_every_byte_string_is_refused_or_is_a_fixed_point(raw: bytes) -> None:
    """What comes out encodes to exactly what is forwarded, and that comes out unchanged."""
    segments = read(canonicalise, raw)
    assert segments == read(_canonicalise_any, raw)  # the short way and the long one
    if segments is None:
        return
    path = encode(segments)
    assert _CANONICAL.fullmatch(path)
    assert canonicalise(path.encode("ascii")) == segments
    assert encode(canonicalise(path.encode("ascii"))) == path
    assert path.split("/")[1:] == [encode([segment])[1:] for segment in segments]
    for place, segment in enumerate(segments):
        assert segment != "" or place == len(segments) - 1
        assert set(segment).isdisjoint("/\\;%?# ")
        assert segment.strip(".") or segment == ""
        assert segment.isprintable()


@settings(max_examples=500, deadline=None)
@given(st.lists(text, min_size=1, max_size=4))
def test_two_paths_that_differ_are_forwarded_as_different_ones(segments: list[str]) -> None:
    again = read(canonicalise, encode(segments).encode())
    assert again is None or again == tuple(segments)


# Queries.


@pytest.mark.parametrize(
    ("raw", "pairs"),
    [
        (b"", ()),
        (b"a=1", (("a", "1"),)),
        (b"a=1&b=2&a=3", (("a", "1"), ("b", "2"), ("a", "3"))),
        (b"a", (("a", ""),)),
        (b"a=", (("a", ""),)),
        (b"=a", (("", "a"),)),
        (b"a=b=c", (("a", "b=c"),)),
        (b"%61=%62%20c%2B%26%3d", (("a", "b c+&="),)),
        (b"q=caf%C3%A9", (("q", "café"),)),
        (b"/../admin", (("/../admin", ""),)),
        (b"a[]=1", (("a[]", "1"),)),
        *(
            (raw, None)
            for raw in (b"a+b", b"a=1+1", b"a;b", b"a=1;b=2", b"a&&b", b"a&", b"&a", b"%", b"a=%zz", b"a=%4")
        ),
        *((raw, None) for raw in (b"a=%ff", b"a=%c0%ae", b"a=%00", b"a=%0a", b"%7f=a", b"a=%e2%80%ae", b"a=%c2%85")),
    ],
)
def test_a_query_is_decoded_only_where_all_would_agree(raw: bytes, pairs: Any) -> None:
    assert decode_query(raw) == pairs


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=30))
def test_a_decoded_query_says_what_its_bytes_say(raw: bytes) -> None:
    pairs = decode_query(raw)
    if pairs is None or raw == b"":
        return
    assert len(pairs) == raw.count(b"&") + 1
    again = "&".join(f"{encode([name])[1:]}={encode([value])[1:]}" for name, value in pairs)
    assert decode_query(again.encode()) == pairs


@pytest.mark.parametrize(
    "raw", [b"a b", b"a#b", b"a\x00", b"a\n", b"\x7f", b"caf\xc3\xa9", b"%00", b"a=%0D%0A", b"%1f", b"%7F"]
)
def test_a_query_holds_no_controls_and_nothing_beyond_ascii(raw: bytes) -> None:
    assert refusal(check_query, raw) == "target-malformed"


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"a=b", b"/../admin", b'a[]={}|\\^`"<>', b"%zz", b"a=%25", b"page_token=x", b"token=x", b"auth=x"),
        *(b"key=x", b"code=x", b"sig=x", b"id_token_hint=x", b"SAMLResponse=x", b"access_token_type=x", b"a[token]=x"),
        *(b"filter[user.id]=x", b"a[]=x", b"api=key", b"access[]=token", b"jwts=x", b"passwords=x"),
    ],
)
def test_every_other_query_is_forwarded_as_it_came(raw: bytes) -> None:
    check_query(raw)


@pytest.mark.parametrize(
    "raw",
    [
        *(f"{name}=x".encode() for name in sorted(CREDENTIAL_PARAMETERS)),
        *(b"access_token", b"a=1&access_token=x", b"a;access_token=x", b"%61ccess%5Ftoken=x", b"ACCESS_TOKEN=x"),
        *(b"access.token=x", b"access-token=x", b"access_token[]=x", b"+access_token=x", b"%20access_token=x"),
        *(b"%zz&access_token=x", b"access%20token=x", b"%E2%84%AA&acces%73_to%E2%84%AAen=x"),
        *(b"accessToken=x", b"ACCESSTOKEN=x", b"api_key=x", b"apiKey=x", b"api-key=x", b"X-Api-Key=x", b"x_jwt=x"),
        *(b"session_token=x", b"client_assertion=x", b"clientAssertion=x", b"X-Amz-Security-Token=x", b"dpop=x"),
        *(b"a[access_token]=x", b"a%5Baccess_token%5D=x", b"a[b][apiKey][]=x", b"a[access_token][b]=x", b"a.jwt=x"),
        *(b"a[0].access_token=x", b"[access_token=x"),
    ],
)
def test_a_credential_in_the_query_is_refused_however_it_is_spelt(raw: bytes) -> None:
    assert refusal(check_query, raw) == "token-in-query"


def test_the_document_lists_the_same_parameters() -> None:
    text = (Path(__file__).parents[2] / "docs" / "threats.md").read_text(encoding="utf-8")
    names = re.findall("`([^`]+)`", text.partition("A query is refused for the names ")[2].partition(":")[0])
    assert sorted(re.sub("[^a-z]", "", name.lower().removeprefix("x-")) for name in names) == sorted(
        CREDENTIAL_PARAMETERS
    )


# Resolving.

TARGETS = Targets(
    hosts={"orders.localhost": "orders", "Shop.test": "orders", "[::1]": "billing"},
    own_host="ostiary.localhost",
    ports=frozenset({8080, 443}),
    target_bytes=100,
)


def exchange(*hosts: bytes, path: bytes = b"/", query: bytes = b"") -> Exchange:
    async def nothing(*_: Any) -> Any:
        raise AssertionError("a target is resolved without a body")

    scope = {
        "method": "GET",
        "raw_path": path,
        "query_string": query,
        "headers": [(b"a", b"b"), *((b"host", host) for host in hosts)],
    }
    return Exchange(scope, nothing, nothing)


@pytest.mark.parametrize(
    ("host", "service"),
    [
        (b"orders.localhost", "orders"),
        (b"ORDERS.localhost", "orders"),
        (b"orders.localhost:8080", "orders"),
        (b"orders.LOCALHOST:443", "orders"),
        (b"shop.test", "orders"),
        (b"[::1]:8080", "billing"),
        (b"ostiary.localhost", "ostiary"),
        (b"Ostiary.localhost:8080", "ostiary"),
    ],
)
def test_a_listed_host_is_its_service(host: bytes, service: str) -> None:
    assert TARGETS.resolve(exchange(host)).service == service


@pytest.mark.parametrize(
    ("hosts", "reason"),
    [
        ([], "message-malformed"),
        ([b"orders.localhost", b"orders.localhost"], "header-duplicated"),
        *(
            ([host], "host-unknown")
            for host in (
                *(
                    b"evil.test",
                    b"169.254.169.254",
                    b"orders",
                    b"localhost",
                    b"orders.localhost.",
                    b".orders.localhost",
                ),
                *(
                    b"orders.localhost:80",
                    b"orders.localhost:08080",
                    b"orders.localhost:1",
                    b"[::2]",
                    b"x.orders.localhost",
                ),
            )
        ),
        *(
            ([host], "header-malformed")
            for host in (
                *(b"", b" ", b"orders.localhost ", b"orders.localhost evil", b"orders.localhost,evil.test", b"\t"),
                *(b"orders.localhost:", b"orders.localhost:x", b"orders.localhost:80@evil.test", b"u@orders.localhost"),
                *(
                    b"orders.localhost/a",
                    b"orders.localhost/a#",
                    b"orders.localhost?",
                    b"http://orders.localhost",
                    b"caf\xe9",
                ),
                *(
                    b"orders.localhost:8080:8080",
                    b"orders.localhost\n",
                    b"orders.localhost\x00",
                    b"[::1",
                    b"[g]",
                    b"::1",
                ),
            )
        ),
    ],
)
def test_any_other_host_is_refused(hosts: list[bytes], reason: str) -> None:
    assert refusal(TARGETS.resolve, exchange(*hosts)) == reason


def test_a_target_is_all_that_is_used_of_a_request_line() -> None:
    assert TARGETS.resolve(exchange(b"shop.test", path=b"/a/%62:", query=b"q=%31&r=")) == Target(
        service="orders",
        segments=("a", "b:"),
        path="/a/b%3A",
        query="q=%31&r=",
        pairs=(("q", "1"), ("r", "")),
    )
    assert TARGETS.resolve(exchange(b"shop.test", path=b"/a/b/")) == Target(
        service="orders", segments=("a", "b", ""), path="/a/b/", query=None, pairs=()
    )
    assert TARGETS.resolve(exchange(b"shop.test", query=b"a+b")).request_target == "/?a+b"
    assert TARGETS.resolve(exchange(b"shop.test", query=b"a+b")).pairs is None


@pytest.mark.parametrize(
    ("path", "query", "reason"),
    [
        (b"/a/../b", b"", "target-malformed"),
        (b"/a", b"a#b", "target-malformed"),
        (b"/a", b"access_token=x", "token-in-query"),
        (b"/" + b"a" * 100, b"", "target-too-long"),
        (b"/" + b"a" * 50, b"a" * 50, "target-too-long"),
    ],
)
def test_a_target_that_is_not_canonical_is_refused(path: bytes, query: bytes, reason: str) -> None:
    assert refusal(TARGETS.resolve, exchange(b"shop.test", path=path, query=query)) == reason


@settings(max_examples=500, deadline=None)
@given(paths)
def test_the_resolver_reads_a_path_as_the_canonicaliser_does(raw: bytes) -> None:
    segments = read(canonicalise, raw)
    if segments is None:
        assert refusal(TARGETS.resolve, exchange(b"shop.test", path=raw)) == "target-malformed"
        return
    target = TARGETS.resolve(exchange(b"shop.test", path=raw))
    assert (target.segments, target.path) == (segments, encode(segments))


@pytest.mark.parametrize(
    ("hosts", "own_host"),
    [
        ({"a": "ostiary"}, "o"),
        ({"a": "x", "A": "y"}, "o"),
        ({"o": "x"}, "O"),
        *(({host: "x"}, "o") for host in ("", "a.", ".a", "a..b", "a b", "a:80", "u@a", "*.a", "é.test", "a/b")),
    ],
)
def test_a_list_of_hosts_that_is_ambiguous_is_refused(hosts: dict[str, str], own_host: str) -> None:
    with pytest.raises(ValueError, match=r"host|reserved"):
        Targets(hosts=hosts, own_host=own_host, ports=frozenset())


# The cases of attacks.json, at this level: the request line alone.

PATH_CASES = [case for case in attacks() if case["class"].startswith("path.")]


def _target(case: dict[str, Any]) -> tuple[bytes, bytes]:
    line = message(case["raw_request"]).partition(b"\r\n")[0]
    path, _, query = line.split(b" ", 1)[1].rpartition(b" ")[0].partition(b"?")
    return path, query


# Clean paths to things that do not exist in the fixture: refused there by the policy, not by their form.
ELSEWHERE = {
    *("PATH-063", "PATH-082", "PATH-123", "PATH-125", "PATH-126", "PATH-128"),  # no endpoint matches them
}


@pytest.mark.parametrize("case", PATH_CASES, ids=lambda case: case["id"])
def test_every_path_attack(case: dict[str, Any]) -> None:
    path, query = _target(case)
    sent = exchange(b"shop.test", path=path, query=query)
    if case["expected"] == "reject-4xx" and case["id"] not in ELSEWHERE:
        assert refusal(TARGETS.resolve, sent) in ("target-malformed", "token-in-query")
    else:
        target = TARGETS.resolve(sent)
        assert canonicalise(target.path.encode()) == target.segments


@pytest.mark.parametrize(
    ("raw", "accepted"),
    [
        (b"/a" * 128, True),
        (b"/a" * 129, False),
        (b"/%61" * 128, True),
        (b"/%61" * 129, False),
        (b"/a" * 127 + b"/", True),
        (b"/a" * 128 + b"/", False),
    ],
)
def test_a_path_has_a_bounded_number_of_segments(raw: bytes, accepted: bool) -> None:
    """Each costs time before anybody is identified, here and in the policy."""
    if accepted:
        assert len(canonicalise(raw)) == 128
    else:
        assert refusal(canonicalise, raw) == "target-malformed"


@pytest.mark.parametrize("separator", [b"&", b";"])
@pytest.mark.parametrize("parameter", [b"a", b"", b"a=b", b"%61"])
def test_a_query_has_a_bounded_number_of_parameters(parameter: bytes, separator: bytes) -> None:
    """More are refused, not left undecoded: a rule that denies for a parameter could not see it."""
    check_query(separator.join([parameter] * 256))
    assert refusal(check_query, separator.join([parameter] * 257)) == "target-malformed"


def test_a_target_that_is_remembered_is_what_would_be_found_again() -> None:
    """It is told by Host, path and query together; what was refused, or is long, is not remembered."""
    targets = Targets(hosts={"a.test": "a", "b.test": "b"}, own_host="o.test", ports=frozenset({80}))
    asked = [
        (host, path, query)
        for host in (b"a.test", b"b.test", b"A.test:80")
        for path in (b"/x", b"/%78", b"/x/")
        for query in (b"", b"x", b"y=%78")
    ]
    fresh = [
        Targets(hosts={"a.test": "a", "b.test": "b"}, own_host="o.test", ports=frozenset({80})).resolve(
            exchange(host, path=path, query=query)
        )
        for host, path, query in asked
    ]
    first = [targets.resolve(exchange(host, path=path, query=query)) for host, path, query in asked]
    again = [targets.resolve(exchange(host, path=path, query=query)) for host, path, query in asked]
    assert first == again == fresh
    assert all(one is other for one, other in zip(first, again, strict=True))
    for path in (b"/..", b"/.."):
        assert refusal(targets.resolve, exchange(b"a.test", path=path)) == "target-malformed"
    assert refusal(targets.resolve, exchange(b"c.test", path=b"/x")) == "host-unknown"
    long = exchange(b"a.test", path=b"/" + b"x" * 250)
    assert targets.resolve(long) is not targets.resolve(long)


def test_a_flood_of_targets_does_not_grow_the_memory() -> None:
    targets = Targets(hosts={"a.test": "a"}, own_host="o.test", ports=frozenset())
    for number in range(3000):
        assert targets.resolve(exchange(b"a.test", path=b"/%d" % number)).path == f"/{number}"
    assert len(targets._known) <= 1024
