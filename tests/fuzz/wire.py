"""Readings of bytes by other parsers: what a client sent by h11, what an upstream received by h11 and by httptools, and
what a client was answered, to the letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import h11
import httptools

from fuzz.target import FindingError, demand

_LARGE = 2**20


@dataclass
class Message:
    """A request. `complete` is whether its body came entirely."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    complete: bool = False

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


def by_h11(raw: bytes) -> tuple[list[Message], str | None]:
    """The requests in a stream, and why no more could be read of it. Empty lines before a request are ignored."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_LARGE)
    found: list[Message] = []
    rest = _without_empty_lines(raw)
    connection.receive_data(rest)
    connection.receive_data(b"")
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                found.append(Message(event.method, event.target, list(event.headers)))
            elif isinstance(event, h11.Data):
                found[-1].body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                found[-1].complete = True
                connection.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is h11.MUST_CLOSE or connection.their_state is h11.MUST_CLOSE:
                    return found, "close"
                if connection.their_state is not h11.DONE or connection.our_state is not h11.DONE:
                    return found, "another protocol"
                rest = _without_empty_lines(connection.trailing_data[0])
                connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_LARGE)
                connection.receive_data(rest)
                connection.receive_data(b"")
            elif event is h11.PAUSED:
                return found, "another protocol"
            else:  # the end of the stream
                return found, None
    except h11.RemoteProtocolError as error:
        return found, str(error)
    except h11.LocalProtocolError:  # a CONNECT that was answered
        return found, "another protocol"


def _without_empty_lines(raw: bytes) -> bytes:
    return raw.lstrip(b"\r\n")


class _Collector:
    def __init__(self) -> None:
        self.found: list[Message] = []
        self.parser = httptools.HttpRequestParser(self)
        self._in_head = False

    def on_message_begin(self) -> None:
        self._in_head = True
        self.found.append(Message(b"", b"", []))

    def on_url(self, url: bytes) -> None:
        self.found[-1].target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self.found[-1].headers.append((name.lower(), value))
        else:
            raise FindingError("a trailer goes upstream")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self.found[-1].method = self.parser.get_method()

    def on_body(self, body: bytes) -> None:
        self.found[-1].body += body

    def on_message_complete(self) -> None:
        self.found[-1].complete = True


def by_httptools(raw: bytes) -> list[Message]:
    collector = _Collector()
    try:
        collector.parser.feed_data(raw)
    except httptools.HttpParserError as error:
        raise FindingError(f"an upstream cannot read what it received: {error!r}: {raw!r}") from None
    return [message for message in collector.found if message.method]


def received(raw: bytes) -> list[Message]:
    """What an upstream received on one connection: two parsers have to agree, and to understand all of it."""
    one, why = by_h11(raw)
    other = by_httptools(raw)
    demand(why is None or (why == "close" and len(one) == len(other)) or not _whole(one), "not clean for h11", why, raw)
    demand(one == other, "two parsers read two things", one, other, raw)
    return one


def _whole(messages: Sequence[Message]) -> bool:
    """Whether nothing was cut off: a proxy that gives up an exchange closes the connection in the middle of it."""
    return bool(messages) and messages[-1].complete


@dataclass
class Answer:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    complete: bool

    def value(self, name: bytes) -> bytes | None:
        found = [value for key, value in self.headers if key == name]
        demand(len(found) <= 1, "an answer's header twice", name, self)
        return found[0] if found else None


def answers(raw: bytes, methods: Sequence[bytes], *, closed: bool) -> list[Answer]:
    """The answers to requests of these methods, of which the last may be cut off."""
    found: list[Answer] = []
    rest = raw
    while rest:
        head, end, rest = rest.partition(b"\r\n\r\n")
        if not end:
            demand(closed, "half a head", head)
            break
        status, *lines = head.split(b"\r\n")
        words = status.split(b" ", 2)
        demand(words[0] == b"HTTP/1.1" and words[1].isdigit(), "a status line", status, raw[-300:])
        code = int(words[1])
        if code == 100:
            continue
        headers = [(line.partition(b": ")[0].lower(), line.partition(b": ")[2]) for line in lines]
        answer = Answer(code, headers, b"", complete=False)
        found.append(answer)
        method = methods[len(found) - 1] if len(found) <= len(methods) else b""
        rest = _body(answer, rest, bodiless=method == b"HEAD" or code in (204, 304))
    return found


def _body(answer: Answer, rest: bytes, *, bodiless: bool) -> bytes:
    """Take the body off what follows the head."""
    length, coding = answer.value(b"content-length"), answer.value(b"transfer-encoding")
    demand(length is None or coding is None, "two framings", answer)
    if bodiless:
        answer.complete = True
        return rest
    if coding is not None:
        demand(coding == b"chunked", "a coding", answer)
        while True:
            size, end, after = rest.partition(b"\r\n")
            if not end:
                return b""
            count = int(size, 16)
            if len(after) < count + 2:
                return b""
            demand(after[count : count + 2] == b"\r\n", "a chunk's end", after[:100])
            answer.body += after[:count]
            rest = after[count + 2 :]
            if count == 0:
                answer.complete = True
                return rest
    if length is None:
        answer.body, answer.complete = rest, True
        return b""
    answer.body, rest = rest[: int(length)], rest[int(length) :]
    answer.complete = len(answer.body) == int(length)
    return rest
