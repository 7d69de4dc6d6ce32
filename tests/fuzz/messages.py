"""Whole connections: is there a request that policy judged as one thing and the upstream received as another?

What the client sent is read a second time by h11. Whatever gets through the listener must be what h11 reads there, in
order; what policy is asked must be what the reference makes of that; and what the upstreams receive, read by h11 and by
httptools, must be what was decided: once, whole, with the body that the client sent, and nothing else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Hashable, Iterator
from urllib.parse import unquote_to_bytes

import uvloop

from fuzz import reference
from fuzz.proxy import BEHAVIOURS, CLIENT, PREAMBLE, SERVICES, FuzzedProxy, Seen
from fuzz.streams import TOKEN, WORDS, stream
from fuzz.target import demand
from fuzz.wire import Message, answers, by_h11, received

_CONTROL = 4
"""Bytes of a case that say how its stream is cut, what the upstream does, and whether a load balancer is in front."""
_PIECES = 500
_HOSTS = {b"orders.test": "orders", b"billing.test": "billing", b"ostiary.localhost": "ostiary"}


class Messages:
    name = "messages"
    share = 0.48
    words = WORDS

    def __init__(self, proxy: FuzzedProxy | None = None) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._proxy = proxy or FuzzedProxy()
        self._runner.run(self._proxy.start())

    def make(self, rng: random.Random) -> bytes:
        return rng.randbytes(_CONTROL) + stream(rng)

    def close(self) -> None:
        self._runner.run(self._proxy.close())
        self._runner.close()

    def check(self, case: bytes) -> Hashable:
        control, raw = case[:_CONTROL].ljust(_CONTROL, b"\0"), case[_CONTROL:].replace(TOKEN, self._proxy.token)
        behaviour = BEHAVIOURS[control[1] % len(BEHAVIOURS)]
        pinned = control[3] % 4 == 1
        pieces = _cut(PREAMBLE + raw if pinned else raw, control)
        seen = self._runner.run(self._proxy.run(pieces, behaviour=behaviour, pinned=pinned))
        demand(not self._proxy.errors, "an error of nobody's", self._proxy.errors)
        sent, why = by_h11(raw)
        self._let_in(seen, sent, why)
        self._judged(seen)
        self._received(seen, sent, behaviour)
        self._answered(seen)
        return (
            behaviour,
            tuple(sorted({(refusal.reason, str(refusal)[:24]) for refusal, _ in seen.refused})),
            tuple(
                sorted(
                    {
                        (document["kind"], document.get("outcome"), *(document.get("reasons") or ()))
                        for document in seen.documents
                    }
                )
            ),
            min(len(seen.scopes), 3),
        )

    def _let_in(self, seen: Seen, sent: list[Message], why: str | None) -> None:
        demand(
            len(seen.scopes) <= len(sent), "let in what h11 does not read as a request", seen.scopes[len(sent) :], why
        )
        for scope, message in zip(seen.scopes, sent, strict=False):
            query = b"?" + scope["query_string"] if scope["query_string"] or message.target.endswith(b"?") else b""
            # h11 gives the coding in lower case.
            headers = [
                (name, value.lower() if name == b"transfer-encoding" else value) for name, value in scope["headers"]
            ]
            found = (scope["method"].encode(), scope["raw_path"] + query, headers)
            demand(
                found == (message.method, message.target, message.headers), "let in as something else", found, message
            )
            demand(scope["client"] == CLIENT, "another client", scope["client"])
        demand(len(seen.refused) <= 1, "refused more than once", seen.refused)

    def _judged(self, seen: Seen) -> None:
        """Each question is one of the exchanges, in order, as the reference reads it."""
        exchanges = iter(seen.scopes)
        for request in seen.judged:
            for scope in exchanges:
                meant = _meant(scope)
                if meant is not None and (meant[0] == "ostiary") <= (request.target.service == "ostiary"):
                    asked = (request.target.service, request.target.segments, request.target.query, request.method)
                    if asked == (*meant, scope["method"]):
                        break
            else:
                demand(False, "judged what nobody sent", request.target, request.method, seen.scopes)
            demand(request.target.path == reference.written(request.target.segments), "another path", request.target)

    def _received(self, seen: Seen, sent: list[Message], behaviour: str) -> None:
        decided = {document["decision_id"]: document for document in seen.documents if document["kind"] == "decision"}
        order = list(dict.fromkeys(document["decision_id"] for document in seen.documents))
        demand(len(order) == len(seen.scopes), "not one record for each request", order, len(seen.scopes))
        finished: set[str] = set()
        for service in SERVICES:
            for raw in seen.received[service]:
                for message in received(raw):
                    (identifier,) = (value.decode() for value in message.values(b"ostiary-decision-id"))
                    demand(identifier in decided, "received what was not decided", message)
                    self._check_received(message, decided[identifier], sent[order.index(identifier)], service)
                    repeated = behaviour in ("gone", "surplus") and message.method in (b"GET", b"HEAD", b"OPTIONS")
                    demand(repeated or identifier not in finished, "received twice", message)
                    if message.complete:
                        finished.add(identifier)

    def _check_received(self, message: Message, document: dict[str, object], sent: Message, service: str) -> None:
        target = document["input"]["resource"]  # type: ignore[index]
        path = reference.written(tuple(target["properties"]["segments"]))
        query = b"?" + sent.target.partition(b"?")[2] if sent.target.partition(b"?")[2] else b""
        demand(target["id"] == service == document["service"], "another service", document, service)
        demand(message.target == path.encode() + query, "another target than was decided", message, document)
        demand(
            message.method.decode() == document["method"] == document["input"]["action"]["name"],
            "another method",
            message,
        )  # type: ignore[index]
        demand(sent.body.startswith(message.body), "another body", message.body[:200], sent.body[:200])
        if message.complete:
            demand(
                sent.complete and sent.body == message.body,
                "a body that is not whole",
                message.body[:200],
                sent.body[:200],
            )
        head = b"\n".join(name + b":" + value for name, value in message.headers) + message.target
        demand(
            self._proxy.token not in head and self._proxy.token not in unquote_to_bytes(head),
            "the caller's token",
            head,
        )
        for once in (b"host", b"via", b"authorization", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"):
            demand(len(message.values(once)) == 1, "a header that is there once", once, message.headers)
        demand(message.values(b"x-forwarded-for") == [b"203.0.113.9"], "another client", message.headers)
        framings = len(message.values(b"content-length")) + len(message.values(b"transfer-encoding"))
        demand(framings <= 1, "two framings", message.headers)

    def _answered(self, seen: Seen) -> None:
        methods = [scope["method"].encode() for scope in seen.scopes]
        if len(seen.refused) == 1:
            refused = seen.refused[0][1]
            methods.append((refused.method or "").encode())
        found = answers(seen.written, methods, closed=True)
        demand(len(found) <= len(methods), "more answers than requests", found, methods)
        order = list(dict.fromkeys(document["decision_id"] for document in seen.documents))
        order += [facts.id for _, facts in seen.refused]
        for answer, identifier in zip(found, order, strict=False):
            told = answer.value(b"ostiary-decision-id")
            # A refusal comes in place of the answer to the request whose body was wrong.
            expected = {identifier, *(facts.id for _, facts in seen.refused)}
            demand(told is not None and told.decode() in expected, "the answer to another request", answer, identifier)
            echo = answer.value(b"x-echo")
            demand(echo in (None, told), "an answer that an upstream gave to another", answer, identifier)
            if echo is not None and answer.complete and answer.body:
                demand(answer.body == b"answer to " + echo, "another body", answer)
        if seen.refused:
            demand(seen.closed, "open after a refusal")


def _meant(scope: dict[str, object]) -> tuple[str, tuple[str, ...], str | None] | None:
    """What a request is aimed at, by the reference; None if it is to be refused."""
    host = next(value for name, value in scope["headers"] if name == b"host").lower()  # type: ignore[attr-defined]
    service = _HOSTS.get(host.removesuffix(b":80"))
    if service is None:
        return None
    try:
        raw: bytes = scope["query_string"]  # type: ignore[assignment]
        return service, reference.segments(scope["raw_path"]), reference.query(raw)  # type: ignore[arg-type]
    except reference.RefusedError:
        return None


def _cut(raw: bytes, control: bytes) -> Iterator[bytes]:
    """Whole, byte by byte, in equal pieces, or anywhere; in five hundred pieces at most, or it takes too long."""
    rng = random.Random(control)
    how = control[0] % 4
    at = 0
    while at < len(raw):
        if how == 0:
            size = len(raw)
        elif how == 1:
            size = 1
        elif how == 2:
            size = 1 + control[2]
        else:
            size = rng.choice((1, 2, 10, 100, 1000, 30000))
        size = max(size, len(raw) // _PIECES)
        yield raw[at : at + size]
        at += size
