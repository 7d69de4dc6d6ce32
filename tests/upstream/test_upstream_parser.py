"""Reading responses: what comes of them does not depend on how the bytes are cut up on their way."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.exchange import Header
from ostiary.upstream.parser import ResponseParser

STREAMS = [
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-a: 1\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nx-trailer: 1\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: a\r\n\r\nHTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\netag: a\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\nxyz",
    b"HTTP/1.1 302 Found\r\nlocation: /x\rset-cookie: a\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbroken off",
    b"HTTP/1.1 200 OK\r\nx-big: " + b"a" * 400 + b"\r\ncontent-length: 0\r\n\r\n",
]


@dataclass
class Outcome:
    status: int | None
    headers: list[Header]
    body: bytes
    complete: bool
    failed: bool
    persistent: bool


def read(pieces: list[bytes], *, to_head: bool = False, body_limit: int | None = None) -> Outcome:
    """What a connection that brings these pieces and then ends gives; it stops feeding where the connection does."""
    parser = ResponseParser(header_limit=300, body_limit=body_limit)
    parser.expect(to_head=to_head)
    body = b""
    for piece in pieces:
        if parser.complete:
            parser.persistent = False  # surplus: the connection ends without looking at it
            break
        going_on = parser.feed(piece)
        body += b"".join(parser.pieces)
        parser.pieces.clear()
        if not going_on:
            break
    persistent = parser.persistent and parser.complete
    parser.ended(None)
    head = parser.head
    failed = parser.failure is not None
    if head is None:
        return Outcome(None, [], body, parser.complete, failed, persistent)
    return Outcome(head.status, head.headers, body, parser.complete, failed, persistent)


@given(stream=st.sampled_from(STREAMS), cuts=st.lists(st.integers(0, 500), max_size=12), to_head=st.booleans())
def test_how_a_response_is_cut_up_changes_nothing(stream: bytes, cuts: list[int], to_head: bool) -> None:
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    pieces = [stream[begin:end] for begin, end in itertools.pairwise(edges)]
    whole, cut_up = read([stream], to_head=to_head), read(pieces, to_head=to_head)
    assert (cut_up.status, cut_up.headers, cut_up.body) == (whole.status, whole.headers, whole.body)
    assert (cut_up.complete, cut_up.failed, cut_up.persistent) == (whole.complete, whole.failed, whole.persistent)


@given(st.binary(max_size=200))
def test_whatever_bytes_come_nothing_but_the_state_changes(noise: bytes) -> None:
    outcome = read([noise])
    assert outcome.complete != outcome.failed
    assert not (outcome.failed and outcome.persistent)


@given(st.binary(max_size=100), st.integers(0, 100))
def test_whatever_follows_a_complete_response_the_connection_is_not_kept(noise: bytes, cut: int) -> None:
    stream = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    outcome = read([stream + noise])
    assert (outcome.status, outcome.body, outcome.complete) == (200, b"ok", True)
    assert outcome.persistent == (not noise.strip(b"\r\n"))


@pytest.mark.parametrize("beginning", [b"RTSP/1.0", b"ICE/1.0", b"\nHTTP/1.1", b"\r\n\r\nHTTP/1.1"])
def test_a_response_begins_as_one_in_http(beginning: bytes) -> None:
    """The parser takes these."""
    outcome = read([beginning + b" 200 OK\r\ncontent-length: 2\r\n\r\nok"])
    assert (outcome.status, outcome.complete, outcome.failed, outcome.persistent) == (None, False, True, False)


@pytest.mark.parametrize(("limit", "complete"), [(5, True), (4, False)])
def test_a_body_may_be_as_long_as_its_limit(limit: int, complete: bool) -> None:
    assert read([b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"], body_limit=limit).complete is complete


def test_a_parser_reads_one_response_after_the_other() -> None:
    parser = ResponseParser(header_limit=300, body_limit=None)
    for number, to_head in enumerate([False, True, True, False]):
        parser.expect(to_head=to_head)
        parser.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-number: %d\r\n\r\n" % number)
        if not to_head:
            parser.feed(b"ok")
        head = parser.head
        assert head is not None
        assert (head.headers[1], parser.complete, parser.persistent) == ((b"x-number", b"%d" % number), True, True)
