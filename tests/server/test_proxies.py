"""Proxies in front: whom they are believed to speak for, and who is not believed."""

from __future__ import annotations

import ipaddress
import time
from typing import Any

import pytest

from ostiary.errors import HeaderMalformed, MessageMalformed
from ostiary.server import Proxies
from ostiary.server.preamble import PREAMBLE_BYTES, SIGNATURE, Preamble, read_preamble
from ostiary.server.refused import TARGET_SHOWN
from support.preamble import LOCAL, Header, pinned, preamble
from support.server import Recorder, eventually, listener
from support.shipped import listener_limits

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"


# PROXY protocol, version 2.


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (preamble(), Preamble(("203.0.113.9", 4711), 28)),
        (preamble("2001:DB8::9", 1), Preamble(("2001:db8::9", 1), 52)),
        (preamble("::ffff:10.0.0.7"), Preamble(("10.0.0.7", 4711), 52)),
        (preamble(fields=b"\x04\x00\x02\x00\x00"), Preamble(("203.0.113.9", 4711), 33)),
        (LOCAL, Preamble(None, 16)),
        (preamble(command=0), Preamble(None, 28)),
        (preamble(command=0, family=0x00), Preamble(None, 28)),
    ],
)
def test_a_preamble_says_for_whom_the_connection_is(raw: bytes, told: Preamble) -> None:
    for cut in range(len(raw)):
        assert read_preamble(raw[:cut]) is None
    assert read_preamble(raw) == told
    assert read_preamble(raw + GET) == told


@pytest.mark.parametrize(
    "raw",
    [
        GET,
        b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n",
        b"\r\n" + GET,
        SIGNATURE[:5] + b"x",
        preamble(version=1),
        preamble(version=3),
        preamble(command=2),
        preamble(family=0x00),
        preamble(family=0x12),
        preamble(family=0x22),
        preamble(family=0x31),
        preamble(length=11),
        preamble("2001:db8::9", length=35),
        preamble(length=PREAMBLE_BYTES - 15),
    ],
)
def test_what_is_no_preamble_for_a_tcp_client_is_refused(raw: bytes) -> None:
    with pytest.raises(MessageMalformed):
        read_preamble(raw)


@pytest.mark.parametrize("size", [1, 1000])
def test_the_client_of_a_preamble_is_the_client(size: int) -> None:
    app = Recorder()
    raw = preamble(fields=b"\xea" * 100) + GET + GET
    with listener(app, proxies=pinned("proxy-v2")) as served, served.connect() as client:
        for start in range(0, len(raw), size):
            client.send(raw[start : start + size])
        assert [client.response().status, client.response().status] == [200, 200]
        client.send(b"GET /b HTTP/1.1\r\n\r\n")
        assert client.response().status == 400
        assert [seen.scope["client"] for seen in app.seen] == [("203.0.113.9", 4711)] * 2
        assert [facts.peer for _, facts in served.refused] == ["203.0.113.9"]


def test_a_proxy_that_speaks_for_itself_has_its_own_address() -> None:
    app = Recorder()
    with listener(app, proxies=pinned("proxy-v2")) as served, served.connect() as client:
        client.send(LOCAL + GET)
        assert client.response().status == 200
        assert [seen.scope["client"] for seen in app.seen] == [client.sock.getsockname()]


@pytest.mark.parametrize("raw", [GET, b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n" + GET, preamble(family=0) + GET])
def test_a_pinned_proxy_that_says_nothing_is_refused(raw: bytes) -> None:
    app = Recorder()
    with listener(app, proxies=pinned("proxy-v2")) as served, served.connect() as client:
        client.send(raw)
        assert client.response().status == 400
        assert client.closed()
        assert [(refusal.reason, facts.phase, facts.peer, facts.target) for refusal, facts in served.refused] == [
            ("message-malformed", "connection", "127.0.0.1", None)
        ]
    assert app.seen == []


@pytest.mark.parametrize("header", ["proxy-v2", "x-forwarded-for", "forwarded"])
def test_who_is_not_pinned_is_who_it_is(header: Header) -> None:
    """With a preamble it is refused, with headers it is not believed."""
    app = Recorder()
    with listener(app, proxies=pinned(header, "127.0.0.9/32")) as served:
        with served.connect() as client:
            client.send(preamble() + GET)
            assert client.response().status in (400, 405)
        with served.connect() as client:
            client.send(b"GET /a HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 10.0.0.7\r\nForwarded: for=10.0.0.7\r\n\r\n")
            assert client.response().status == 200
            assert [seen.scope["client"] for seen in app.seen] == [client.sock.getsockname()]
    assert [facts.peer for _, facts in served.refused] == ["127.0.0.1"]


@pytest.mark.parametrize(("begin", "status"), [(b"", None), (SIGNATURE, 408), (preamble(), None)])
def test_a_preamble_has_a_deadline_that_bytes_do_not_move(begin: bytes, status: int | None) -> None:
    limits = listener_limits(header_timeout=0.3, linger=0.1)
    with listener(Recorder(), limits, proxies=pinned("proxy-v2")) as served:
        started = time.monotonic()  # before there is a connection, whose time begins when the server has it
        with served.connect() as client:
            for byte in (begin[i : i + 1] for i in range(len(begin))):
                client.send(byte)
            if status is None:
                assert client.closed()
            else:
                assert client.response().status == status
        assert 0.25 < time.monotonic() - started < 5.0
    assert served.reasons == ([] if status is None else ["request-timeout"])


def test_connections_through_a_preamble_count_for_their_clients() -> None:
    limits = listener_limits(connections_per_peer=2, connections=5, linger=0.1)

    def statuses(proxy_says: list[bytes]) -> list[int]:
        with listener(Recorder(), limits, proxies=pinned("proxy-v2")) as served:
            found = []
            opened = []
            for said in proxy_says:
                context = served.connect()
                client = context.__enter__()
                opened.append(context)
                client.send(said + GET)
                found.append(client.response().status)
            for context in opened:
                context.__exit__(None, None, None)
            eventually(lambda: not served.server.server_state.connections)
            assert served.server.server_state.connections == set()
            return found

    assert statuses([preamble(), preamble(), preamble(), preamble("203.0.113.10"), LOCAL]) == [200, 200, 503, 200, 200]
    assert statuses([LOCAL] * 4) == [200] * 4
    assert statuses([preamble(f"2001:db8:0:1::{n}") for n in (1, 2, 3)]) == [200, 200, 503]  # one /64, one owner


# Headers.


def told(header: Header, *values: str, networks: tuple[str, ...] = ("10.0.0.0/29", "2001:db8::/64")) -> tuple[str, int]:
    return pinned(header, *networks).client([(b"host", b"h"), *((header.encode(), value.encode()) for value in values)])


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["203.0.113.9"], ("203.0.113.9", 0)),
        (["1.1.1.1, 203.0.113.9"], ("203.0.113.9", 0)),
        (["nonsense, 203.0.113.9"], ("203.0.113.9", 0)),
        (["203.0.113.9, 10.0.0.1,10.0.0.2"], ("203.0.113.9", 0)),
        (["1.1.1.1", "203.0.113.9", "10.0.0.1"], ("203.0.113.9", 0)),
        (["10.0.0.1, 10.0.0.2"], ("10.0.0.1", 0)),
        (["203.0.113.9:4711"], ("203.0.113.9", 4711)),
        (["2001:DB8:1::9"], ("2001:db8:1::9", 0)),
        (["::1.2.3.4"], ("::102:304", 0)),
        (["[2001:db8:1::9]"], ("2001:db8:1::9", 0)),
        (["[2001:db8:1::9]:4711, 2001:db8::1"], ("2001:db8:1::9", 4711)),
        (["::ffff:203.0.113.9"], ("203.0.113.9", 0)),
        (["203.0.113.9,::ffff:10.0.0.1"], ("203.0.113.9", 0)),
        (["203.0.113.9" + ", 10.0.0.1" * 31], ("203.0.113.9", 0)),
    ],
)
def test_the_last_hop_that_is_not_pinned_is_the_client(values: list[str], client: tuple[str, int]) -> None:
    assert told("x-forwarded-for", *values) == client


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ["203.0.113.9,"],
        ["203.0.113.9", ""],
        ["unknown"],
        ["_hidden"],
        ["203.0.113.09"],
        ["203.0.113"],
        ["203.0.113.9:"],
        ["203.0.113.9:65536"],
        ["203.0.113.9:1:2"],
        ["203.0.113.9 10.0.0.1"],
        ["[2001:db8:1::9"],
        ["[203.0.113.9]:1:2"],
        ["2001:db8:1::9%eth0"],
        ['"203.0.113.9"'],
        ["nonsense, 10.0.0.1"],
        ["203.0.113.9" + ", 10.0.0.1" * 32],
    ],
)
def test_a_hop_that_is_no_address_is_refused(values: list[str]) -> None:
    with pytest.raises(HeaderMalformed):
        told("x-forwarded-for", *values)


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["for=203.0.113.9"], ("203.0.113.9", 0)),
        (["For=203.0.113.9;proto=https;by=10.0.0.1"], ("203.0.113.9", 0)),
        (['host=h ; FOR="203.0.113.9:4711"'], ("203.0.113.9", 4711)),
        (['for="[2001:db8:1::9]:4711", for=10.0.0.1;by="[2001:db8::1]"'], ("2001:db8:1::9", 4711)),
        (["for=unknown", "for=203.0.113.9 , for=10.0.0.1"], ("203.0.113.9", 0)),
        (['by="a, for=1.1.1.1",for=203.0.113.9'], ("203.0.113.9", 0)),
        (["for=10.0.0.1"], ("10.0.0.1", 0)),
    ],
)
def test_forwarded_says_the_same_in_its_own_words(values: list[str], client: tuple[str, int]) -> None:
    assert told("forwarded", *values) == client


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ["for=unknown"],
        ["for=_hidden, for=10.0.0.1"],
        ["proto=https"],
        ["for=203.0.113.9;for=203.0.113.9"],
        ["for=203.0.113.9,"],
        ["for=203.0.113.9;"],
        ["for= 203.0.113.9"],
        ["for=2001:db8:1::9"],
        ['for="2001:db8:1::9"'],
        ['for="', 'for="[2001:db8:1::9]"'],
        ['for=1.1.1.1;x="', "for=203.0.113.9"],
        ['for=1.1.1.1;x="', 'for="[2001:db8:1::9]";by="[2001:db8::1]"'],
        ['for="203.0.113.\\9"'],
    ],
)
def test_a_forwarded_that_is_malformed_or_hides_who_is_refused(values: list[str]) -> None:
    with pytest.raises(HeaderMalformed):
        told("forwarded", *values)


@pytest.mark.parametrize("networks", [(), ("0.0.0.0/0",), ("10.0.0.0/8", "::/0")])
def test_somebody_is_pinned_and_never_everybody(networks: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="not all that there are"):
        Proxies(networks=tuple(map(ipaddress.ip_network, networks)), header="forwarded")


def request(*lines: str, target: str = "/a") -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: h", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("header", "lines", "others"),
    [
        ("x-forwarded-for", ("X-Forwarded-For: {}",), ("Forwarded: for=1.1.1.1",)),
        ("forwarded", ("Forwarded: for={}",), ("X-Forwarded-For: 1.1.1.1", "X-Real-IP: 1.1.1.1")),
    ],
)
def test_every_request_has_its_own_client(header: Header, lines: tuple[str, ...], others: tuple[str, ...]) -> None:
    """On one connection, pipelined or not; and only the configured header is read."""
    app = Recorder()
    clients = ["203.0.113.9", "203.0.113.10", "203.0.113.11"]
    with listener(app, proxies=pinned(header)) as served, served.connect() as client:
        sent = [request(*(line.format(address) for line in lines), *others) for address in clients]
        client.send(sent[0] + sent[1])
        assert [client.response().status, client.response().status] == [200, 200]
        client.send(sent[2])
        assert client.response().status == 200
        assert [seen.scope["client"] for seen in app.seen] == [(address, 0) for address in clients]


def refused_from(*sent: bytes) -> list[tuple[str, str | None, bytes | None]]:
    with listener(Recorder(), proxies=pinned("x-forwarded-for")) as served, served.connect() as client:
        for raw in sent:
            client.send(raw)
            answer = client.response()
        assert answer.status in (400, 414)
        assert client.closed()
        return [(refusal.reason, facts.peer, facts.target) for refusal, facts in served.refused]


def test_a_refusal_names_the_client_as_far_as_it_is_known() -> None:
    """Never that of the request before it on the connection."""
    good = request("X-Forwarded-For: 203.0.113.9")
    assert refused_from(request("X-Forwarded-For: 203.0.113.9", target="/x#y")) == [
        ("target-malformed", "203.0.113.9", b"/x")
    ]
    assert refused_from(good, request(target="/x")) == [("header-malformed", "127.0.0.1", b"/x")]
    assert refused_from(good, request("X-Forwarded-For: ?", target="/x")) == [("header-malformed", "127.0.0.1", b"/x")]
    shown = b"/" + b"x" * (TARGET_SHOWN - 1)
    assert refused_from(good, b"GET /" + b"x" * 9000) == [("target-too-long", "127.0.0.1", shown)]


def test_connections_of_a_pinned_proxy_are_counted_in_all_only() -> None:
    limits = listener_limits(connections_per_peer=1, connections=2, linger=0.1)
    found: list[Any] = []
    with listener(Recorder(), limits, proxies=pinned("x-forwarded-for")) as served:
        with served.connect() as one, served.connect() as two, served.connect() as three:
            for client in (one, two, three):
                client.send(request("X-Forwarded-For: 203.0.113.9"))
                found.append(client.response().status)
        eventually(lambda: not served.server.server_state.connections)
        with served.connect(source="127.0.0.2") as one, served.connect(source="127.0.0.2") as two:
            for client in (one, two):
                client.send(GET)
                found.append(client.response().status)
    assert found == [200, 200, 503, 200, 503]
