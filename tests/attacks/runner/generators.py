"""A case's `generator:` text to what is done, by its `kind`. A kind, a member or a phrase that is not known here is
`Unintelligible`: an error that names the case, and never a skip.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import resource
import select
import signal
import socket
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from attacks.runner import access, amounts, faults, sequences
from attacks.runner.access_words import in_words
from attacks.runner.bundles import bundle_variant
from attacks.runner.corpus import Case, Spec, Unintelligible, encoded, filled
from attacks.runner.faults import KeyFaultPlan, key_stages, opa_faults, upstream_reply
from attacks.runner.fixture import DEADLINE
from attacks.runner.forgery import Forge
from attacks.runner.labs import Findings, Lab, Place, no_more_disk
from attacks.runner.listeners import EVERYWHERE, XFCC, confirmed, env_listener, forwarded_by_peers
from attacks.runner.plans import Attempt, Plan, exact, tagged, whole, with_token
from attacks.runner.service import Received, Reply
from attacks.runner.slow import slow_client
from attacks.runner.verdicts import judged
from attacks.runner.wire import Answer, Conversation, Garbled, connected

Generator = Callable[[Case, Spec], Plan]

_KINDS: Final[dict[str, Generator]] = {}

_SECRET: Final = re.compile(rb"(?i)(?:bearer +|access_token=)([^\s\"&]{8,})")

_DISK_FULL: Final = re.compile(
    r"(?:disk |sink |log |directory |file ?system |write |is )*(?:enospc|full|un-?writable|not writable|erofs"
    r"|read-?only|efbig|eio|edquot|eacces|eperm|permission denied|no space(?: left)?(?: on device)?|(?:over )?quota"
    r"|fail(?:s|ed)?|error|down|unavailable)(?: disk| sink| file ?system| directory)?"
)
_PLAIN_LISTENERS: Final = frozenset({"jwt", "bearer", "token", "plain", "http"})


def generator(kind: str) -> Callable[[Generator], Generator]:
    def register(make: Generator) -> Generator:
        _KINDS[kind] = make
        return make

    return register


def planned(case: Case) -> Plan:
    """What is done for the case. Raises `Unintelligible`."""
    told = case.generated
    if told is None:
        return _message(case)
    spec = Spec(told)
    kind = spec.need("kind")
    make = _KINDS.get(kind)
    if make is None:
        raise Unintelligible(f"{kind!r} is not a kind of generator that this runner has")
    plan = make(case, spec)
    spec.done()
    return plan


# One message.


def _message(case: Case) -> Plan:
    raw = exact(case)

    async def attempt(lab: Lab) -> Findings:
        """Whole, and then line by line: what one read brings is nobody's choice but the client's. So a chunked body
        that is clean as far as it has come may be on its way to the service by then, where it has no end."""
        found = []
        for split in (False, True):
            message, secrets = with_token(raw, lab)
            pieces: Iterable[bytes] = message.splitlines(keepends=True) if split else [message]
            wrong = await sent(lab, case, message, secrets, pieces=pieces, streamed=split and _is_chunked(message))
            found += [f"line by line: {one}" for one in wrong] if split else wrong
        if "listeners" in lab.known:
            found += await forwarded_by_peers(lab, case, with_token(raw, lab)[0])
        return found

    if case.kind == "header.xfcc" and case.expected == "reject-4xx":
        return Plan(case=case, attempt=attempt, lab="listeners", place=EVERYWHERE, wire=True)

    # What is to be closed may be closed by a deadline.
    lab = "closing" if case.expected == "connection-closed" else "plain"
    return Plan(case=case, attempt=attempt, lab=lab, wire=True)


async def sent(
    lab: Lab, case: Case, message: bytes, secrets: list[str], *, pieces: Iterable[bytes] | None = None, **more: Any
) -> Findings:
    """The findings of one message. Whatever it presents as a credential must be found nowhere."""
    presented = [found.decode("latin-1") for found in _SECRET.findall(message)]
    return await lab.attack(
        [message] if pieces is None else pieces,
        expected=case.expected,
        kind=case.kind,
        secrets=[*secrets, *presented],
        **more,
    )


def _is_chunked(message: bytes) -> bool:
    """Whether its head says so and nothing else of its framing."""
    lines = message.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    framing = [line for line in lines if line.startswith((b"transfer-encoding", b"content-length"))]
    return framing == [b"transfer-encoding: chunked"]


@generator("raw")
def _raw(case: Case, spec: Spec) -> Plan:
    request = whole(spec.need("request"))
    return _plain(case, lambda lab: with_token(request, lab))


def _plain(case: Case, make: Callable[[Lab], tuple[bytes, list[str]]], *, forges: bool = False) -> Plan:
    async def attempt(lab: Lab) -> Findings:
        message, secrets = await asyncio.to_thread(make, lab)
        return await sent(lab, case, message, secrets)

    return Plan(case=case, attempt=attempt, wire=True, forges=forges)


@generator("jwt")
def _jwt(case: Case, spec: Spec) -> Plan:
    request, recipe = whole(spec.need("request")), spec.take("token", "jwt")
    if recipe is None and b"{JWT}" not in request:
        raise Unintelligible("there is no 'token'")
    recipe = dict(recipe or {})
    Forge().forged(recipe)  # understood, or an error now

    def make(lab: Lab) -> tuple[bytes, list[str]]:
        forged = lab.forge.forged(recipe)
        return filled(request, JWT=forged, TOKEN=forged), [forged]

    return _plain(case, make, forges="raw" not in recipe)


@generator("header")
def _header(case: Case, spec: Spec) -> Plan:
    request = spec.need("request")
    headers = {name: str(value) for name, value in dict(spec.take("headers", default={})).items()}
    if not headers:
        name, value = spec.need("name", "header"), spec.take("value", default="")
        repeat = spec.take("value_repeat", "repeat")
        if repeat is not None:
            start, piece, times = repeat if len(repeat) == 3 else ("", *repeat)
            value = start + piece * int(times)
        headers = {name: value}
    message = whole(request, headers={name: amounts.repeated(value) for name, value in headers.items()})
    return _plain(case, lambda lab: with_token(message, lab))


@generator("header-size")
def _header_size(case: Case, spec: Spec) -> Plan:
    request = spec.need("request")
    added: list[tuple[str, str]] = []
    one = spec.take("add_header", "header")
    many = spec.take("add_headers", "headers")
    longer, target = spec.take("path_length", "path"), spec.take("target_length", "query_length", "target", "query")
    for told in (one, many):
        if told is not None:
            added += _sized_headers(told)
    if not added and target is None and longer is None:
        raise Unintelligible("nothing is added")
    message = whole(request)
    if longer is not None:
        method, path, rest = message.split(b" ", 2)
        way, mark, query = path.partition(b"?")
        message = b" ".join((method, way + b"p" * _length(longer) + mark + query, rest))
    if target is not None:
        method, path, rest = message.split(b" ", 2)
        message = b" ".join((method, path + (b"?" if b"?" not in path else b"&") + b"q" * _length(target), rest))
    head, _, body = message.partition(b"\r\n\r\n")
    lines = b"".join(encoded(f"{name}: {value}\r\n") for name, value in added)
    message = head + b"\r\n" + lines + b"\r\n" + body
    return _plain(case, lambda lab: with_token(message, lab))


def _length(told: Any) -> int:
    return int(Spec(dict(told)).need("length", "size") if isinstance(told, dict) else told)


@generator("target-size")
@generator("uri-size")
@generator("url-size")
@generator("query-size")
def _target_size(case: Case, spec: Spec) -> Plan:
    told = {"request": spec.need("request"), "target": spec.need("length", "size", "bytes")}
    return _header_size(case, Spec(told))


@generator("path-size")
def _path_size(case: Case, spec: Spec) -> Plan:
    told = {"request": spec.need("request"), "path": spec.need("length", "size", "bytes")}
    return _header_size(case, Spec(told))


@generator("header-count")
@generator("headers")
def _header_count(case: Case, spec: Spec) -> Plan:
    request, count = spec.need("request"), int(spec.need("count", "add_headers", "headers"))
    told = {"count": count, "name": spec.take("name", default="X-{i}"), "length": int(spec.take("length", default=1))}
    message = whole(request, headers=dict(_sized_headers(told)))
    return _plain(case, lambda lab: with_token(message, lab))


@generator("concurrent")
@generator("parallel")
def _concurrent(case: Case, spec: Spec) -> Plan:
    """So many of one request, each on a connection of its own: what is expected of one is expected of all."""
    request, count = whole(spec.need("request")), int(spec.need("count", "times", "requests"))

    async def attempt(lab: Lab) -> Findings:
        mark, left, statuses = lab.mark(), iter(range(count)), list[int]()

        async def ask() -> None:
            for _ in left:
                statuses.append((await lab.ask(with_token(request, lab)[0])).status)

        await asyncio.gather(*(ask() for _ in range(50)))
        served = case.expected == "forwarded-normalised"
        right = {"forwarded-normalised": (200, 200), "deny-403": (403, 403), "reject-4xx": (400, 499)}
        least, most = right.get(case.expected, (400, 599))
        found = [f"some were answered {one}" for one in sorted(set(statuses)) if not least <= one <= most]
        seen = len(lab.service.since(mark[0])) if lab.service is not None else served * count
        if seen != served * count:
            found.append(f"the service saw {seen} of {count} requests")
        message, secrets = with_token(request, lab)
        return found + await sent(lab, case, message, secrets)

    return Plan(case=case, attempt=attempt, wire=True)


@generator("pipeline")
def _pipeline(case: Case, spec: Spec) -> Plan:
    """Many requests at once on one connection: those that are answered are answered in order, and none is lost
    silently: the connection is closed behind the last answer."""
    request, count = whole(spec.need("request")), int(spec.need("count"))

    async def attempt(lab: Lab) -> Findings:
        message, _ = with_token(request, lab)
        mark, statuses = lab.mark(), []
        async with connected(lab.address) as client:
            sending = asyncio.create_task(client.send(message * count))
            with contextlib.suppress(Garbled):
                while len(statuses) < count and (answer := await client.answer()) is not None:
                    statuses.append(answer.status)
                    if answer.closes:
                        break
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        found = [f"some were answered {status}" for status in sorted(set(statuses)) if not 200 <= status < 500]
        served = statuses.count(200)
        if lab.service is not None and len(lab.service.since(mark[0])) < served:
            found.append(f"{served} were answered, and the service saw {len(lab.service.since(mark[0]))}")
        if case.expected == "reject-4xx" and served == count:
            found.append("all were served")
        if not statuses:
            found.append("none was answered")
        return found + await lab.served()

    return Plan(case=case, attempt=attempt, wire=True)


def _sized_headers(told: Any) -> Iterator[tuple[str, str]]:
    """One header of a length, or many of them. Raises `Unintelligible`."""
    if isinstance(told, list):
        for one in told:
            yield from _sized_headers(one)
        return
    if isinstance(told, int):
        told = {"count": told}
    spec = Spec(dict(told))
    count = int(spec.take("count", "times", default=1))
    name, length = spec.take("name", "prefix", default="X-Big"), spec.take("length", "size", "value_length")
    value = spec.take("value", default="a" * int(length if length is not None else 1))
    same = bool(spec.take("same_name", "same", default=False))
    spec.done()
    for number in range(count):
        if "{" in name:
            yield re.sub(r"\{\w*\}", str(number), name), value
        else:
            yield (name if count == 1 or same else f"{name}-{number}"), value


@generator("trailers")
def _trailers(case: Case, spec: Spec) -> Plan:
    count = spec.need("count", "trailers")
    return _chunked(case, Spec({"body": '{"sku":"a"}', **spec.rest(), "trailers": count}))


@generator("chunks")
@generator("chunked")
def _chunked(case: Case, spec: Spec) -> Plan:
    inner = Spec({"request": "POST /orders", **spec.rest(), "chunked": True})
    plan = _body(case, inner)
    inner.done()
    return plan


@generator("body")
def _body(case: Case, spec: Spec) -> Plan:
    request = spec.need("request", "request_line")
    headers = dict(spec.take("headers", default={}))
    kind, parts = spec.take("content_type"), spec.take("parts")
    told = spec.take("body")
    chunked = spec.take("chunked", "transfer_encoding", "transfer", default=False)
    if isinstance(told, str) and told.startswith("chunked "):
        told, chunked = told.removeprefix("chunked "), True
    size, extension = spec.take("chunk_size", "size"), int(spec.take("chunk_extension", default=0))
    trailers = int(spec.take("trailers", default=0))
    declared, fields = spec.take("content_length", "length"), spec.take("fields")
    chunks, depth = spec.take("chunks", "count"), spec.take("json_depth", "depth")
    if depth is not None and told is None:
        told = f"nested:{int(depth)}"
    if chunks is not None and told is None:
        told, size, chunked = f"{int(chunks) * int(size or 1)} bytes", int(size or 1), True
    policy = spec.take("policy")
    # A policy that reads bodies is refused the request all the same if the body is over the limit.
    if policy is not None and not re.fullmatch(r"(denies|forbids|refuses) \S+( field)?", policy):
        raise Unintelligible(f"{policy!r} is no policy that this runner has")
    if parts is not None:
        content = amounts.Filling(_PART, int(parts), b"--boundary--\r\n")
        kind = kind or "multipart/form-data"
        kind = kind if "boundary" in kind else f"{kind}; boundary=boundary"
    elif fields is not None:
        content = amounts.Filling(b"a=b&", int(fields))
        kind = kind or "application/x-www-form-urlencoded"
    elif told is None and declared is None:
        raise Unintelligible("there is neither 'body' nor 'parts'")
    else:
        if isinstance(told, str) and re.fullmatch(r"\w+\(.*\)", told):
            amounts.body(re.sub(r"\d[\d _,]*", "1 ", told))  # understood, or an error now
        told, content = "" if told is None else told, None
    if kind is not None:
        headers.setdefault("Content-Type", kind)

    async def attempt(lab: Lab) -> Findings:
        filling = content or await asyncio.to_thread(amounts.body, told)
        length = filling.length if declared is None else int(declared)
        framing = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(length)}
        head, secrets = with_token(whole(request, headers={**headers, **framing}, body=True) + b"\r\n", lab)
        pieces = filling.pieces()
        if chunked:
            pieces = _chunks(pieces, size and int(size), b";" + b"e" * extension if extension else b"", trailers)
        pieces = itertools.chain((head,), pieces)
        return await sent(lab, case, head, secrets, pieces=pieces, streamed=bool(chunked))

    return Plan(case=case, attempt=attempt, wire=True)


def _chunks(pieces: Iterable[bytes], size: int | None, extension: bytes, trailers: int) -> Iterator[bytes]:
    """Chunks of a size, each with the extension, and so many trailers behind the last; many small ones at a time."""
    chunks = bytearray()
    for piece in pieces:
        for start in range(0, len(piece), size or len(piece)):
            part = piece[start : start + size] if size else piece
            chunks += b"%x%s\r\n%s\r\n" % (len(part), extension, part)
            if len(chunks) >= 1 << 16:
                yield bytes(chunks)
                chunks.clear()
    yield bytes(chunks)
    yield b"0\r\n"
    for number in range(trailers):
        yield b"X-Trailer-%d: a\r\n" % number
    yield b"\r\n"


_PART: Final = b'--boundary\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n'


@generator("flood")
def _flood(case: Case, spec: Spec) -> Plan:
    request, count, recipe = whole(spec.need("request")), int(spec.need("count")), spec.take("token", default={})
    demands = _demands(spec.take("assert", default=""))
    Forge().forged(recipe)
    source = "127.0.0.9"

    async def attempt(lab: Lab) -> Findings:
        forge = Forge()
        known = lab.forge.token()
        found = await lab.served(token=known, source=source)
        fetched = _fetches(lab)
        mark = lab.mark()
        statuses: list[int] = []

        async def ask() -> None:
            async with connected(lab.address, source=source) as client:
                while len(statuses) < count:
                    statuses.append(0)
                    index = len(statuses) - 1
                    forged = await asyncio.to_thread(forge.forged, recipe)
                    await client.send(filled(request, JWT=forged, TOKEN=forged))
                    answer = await client.answer()
                    statuses[index] = answer.status if answer else 0
                    forge.made.clear()
                    if answer is None or answer.closes:
                        return

        with contextlib.suppress(Garbled):
            while len(statuses) < count:
                await asyncio.gather(*(ask() for _ in range(8)))
        odd = sorted({status for status in statuses if not 400 <= status < 500})
        if case.expected == "reject-4xx" and odd:
            found.append(f"of {count} requests some were answered {odd}")
        if lab.service is not None and lab.service.since(mark[0]):
            found.append("the service was reached")
        if "fetches" in demands and _fetches(lab) - fetched > demands["fetches"]:
            found.append(f"the issuer's keys were fetched {_fetches(lab) - fetched} times")
        if "served" in demands:
            found += await lab.served(token=known, source=source) + await lab.served()
        return found

    return Plan(case=case, attempt=attempt, wire="fetches" not in demands, forges=True, last=True)


def _fetches(lab: Lab) -> int:
    return sum(lab.keys.fetched.values()) if lab.keys else 0


def _demands(told: str) -> dict[str, int]:
    """What has to hold besides: each clause is known, or an error."""
    found = {}
    for clause in filter(None, (part.strip().lower() for part in told.split(","))):
        if fetches := re.match(r"at most (\d+) jwks fetch", clause):
            found["fetches"] = int(fetches[1])
        elif re.search(r"(legitimate|good|valid|other).*(keep working|served|accepted)", clause):
            found["served"] = 1
        else:
            raise Unintelligible(f"{clause!r} is nothing that this runner looks at")
    return found


@generator("timing")
def _timing(case: Case, spec: Spec) -> Plan:
    """Two credentials, one wrong in its first byte and one in its last: neither is told from the other."""
    request, samples = spec.need("request"), min(int(spec.take("samples", default=500)), 600)
    compared = str(spec.take("token", "tokens", "compare", "variants", default="first and last"))
    if not re.search(r"(?i)first.*last|last.*first", compared):
        raise Unintelligible(f"{compared!r} are no credentials that this runner compares")
    message = whole(request)

    async def attempt(lab: Lab) -> Findings:
        good = lab.forge.token()
        first, last = "A" + good[1:], good[:-4] + "AAAA"
        mark, seconds = lab.mark(), {first: [], last: []}
        answers: set[tuple[int, bytes]] = set()
        samples_left = [token for _, token in itertools.product(range(samples // 2), seconds)]
        while samples_left:
            async with connected(lab.address, source="127.0.0.8") as client:
                while samples_left:
                    token = samples_left[-1]
                    began = time.perf_counter()
                    await client.send(filled(message, TOKEN=token))
                    answer = await client.answer()
                    if answer is None:
                        break  # it was idle for too long, or has carried enough
                    samples_left.pop()
                    seconds[token].append(time.perf_counter() - began)
                    answers.add((answer.status, re.sub(rb"[0-9a-f]{32}", b"", answer.body)))
        found = [f"answered {status}" for status, _ in answers if not 400 <= status < 500]
        if len(answers) != 1:
            found.append(f"{len(answers)} different answers")
        quartiles = [statistics.quantiles(times, n=4) for times in seconds.values()]
        apart = abs(quartiles[0][1] - quartiles[1][1])
        if apart > max(upper - lower for lower, _, upper in quartiles):
            found.append(f"the medians are {apart * 1e6:.0f} µs apart, more than half of the samples spread")
        if lab.service is not None and lab.service.since(mark[0]):
            found.append("the service was reached")
        return found + await lab.served()

    return Plan(case=case, attempt=attempt, wire=True)


# The service's part.


@generator("upstream")
def _upstream(case: Case, spec: Spec) -> Plan:
    request, told = whole(spec.need("request")), faults.response_told(spec.need("upstream_response", "response"))
    times = int(spec.take("repeat", default=1))
    slow = bool(told.pop("slow", False))
    error = told.pop("error", "hang" if told.pop("hang", False) else None)
    if slow:
        told.setdefault("delay_s", 1)
    if error is not None:
        return _upstream_error(case, request, str(error))
    upstream_reply({**told, "body": None} if "body" in told else told)  # understood, or an error now

    async def attempt(lab: Lab) -> Findings:
        raw, body, manner = await asyncio.to_thread(upstream_reply, told)
        found = []
        for _ in range(times):
            message, secrets = with_token(request, lab)
            known: list[str] = []
            reply = replying(raw or b"", known, **manner)
            found += await sent(lab, case, message, secrets, reply=reply, relayed=_relayed(body, known))
            found += await lab.served()
            found += _no_cookies(lab)
        return found

    return Plan(case=case, attempt=attempt, service=True)


def replying(told: bytes, credentials: list[str], *, close: bool = False, delay: float = 0.0) -> Reply:
    """Answers so, with the credential that came in place of `{AUTHORIZATION}`. It is put into `credentials`."""

    async def reply(received: Received, writer: asyncio.StreamWriter) -> bool:
        credential = "".join(received.values("authorization"))
        credentials.append(credential.partition(" ")[2])
        raw = _with_credential(told, credential)
        await asyncio.sleep(delay)
        for start in range(0, len(raw), 1 << 16):
            writer.write(raw[start : start + (1 << 16)])
            await writer.drain()
        return not close

    return reply


def _with_credential(told: bytes, credential: str) -> bytes:
    """The answer with the credential in it, as long as it says that it is."""
    head, blank, body = told.partition(b"\r\n\r\n")
    longer = _echoed(body, credential)
    length = b"Content-Length: %d" % len(body)
    head = head.replace(length, b"Content-Length: %d" % len(longer)) if len(longer) != len(body) else head
    return _echoed(head, credential) + blank + longer


def _echoed(told: bytes, credential: str) -> bytes:
    return re.sub(rb"\{(?:AUTHORIZATION|CREDENTIAL|UPSTREAM_\w+)\}", credential.encode("latin-1"), told)


def _relayed(body: bytes | None, credentials: list[str]) -> Callable[[Answer], str | None]:
    """An answer of the service comes as it was, or not at all: a 502 of the proxy."""

    def judge(answer: Answer) -> str | None:
        if answer.status in (502, 503, 504):
            return None if answer.problem is not None else "the refusal is no problem document"
        hop = [name for name, _ in answer.headers if name in ("connection", "keep-alive", "upgrade", "trailer")]
        if hop and not answer.closes:
            return f"the service's {hop[0]} was relayed"
        told = [value for _, value in answer.headers]
        if any(credential and credential in value for credential in credentials for value in told):
            return "the swapped credential was relayed in a header"
        if len(answer.values("ostiary-decision-id")) != 1 or "forged" in told:
            return "the decision's id was relayed from the service"
        if b"EVIL" in answer.body or any("EVIL" in value for value in told):
            return "an answer that nobody asked for was relayed"
        if (
            body is not None
            and not answer.bodiless
            and answer.body not in [body, *(_echoed(body, f"Bearer {one}") for one in credentials)]
        ):
            return f"a body of {len(body)} bytes was relayed as {len(answer.body)}"
        return None

    return judge


def _no_cookies(lab: Lab) -> Findings:
    if lab.service is None:
        return []
    carried = [one for one in lab.service.received if one.values("cookie")]
    return ["a request carried a cookie that the proxy kept"] if carried else []


def _upstream_error(case: Case, request: bytes, told: str) -> Plan:
    """What keeps the service from answering, or the proxy from asking it. Raises `Unintelligible`."""
    if re.search(r"(?i)credential", told):
        return _no_credential(case, request)
    if re.search(r"(?i)refused|unreachable|\bdown\b|no route", told):
        return _elsewhere(case, request, "http://127.0.0.1:1")
    if re.search(r"(?i)tls|certificate|handshake", told):
        return _elsewhere(case, request, "https://127.0.0.1:1")
    if re.search(r"(?i)time ?out|hang|never|slow", told):
        return _unanswered(case, request, replying(b"", [], delay=8.0))
    if re.search(r"(?i)truncat|half|middle|mid-", told):
        return _broken_off(case, request)
    if re.search(r"(?i)reset|clos|drop|disconnect|abort", told):
        return _unanswered(case, request, replying(b"", [], close=True))
    raise Unintelligible(f"{told!r} is no error that this runner can cause")


def _unanswered(case: Case, request: bytes, reply: Reply) -> Plan:
    async def attempt(lab: Lab) -> Findings:
        message, secrets = with_token(request, lab)
        return await sent(lab, case, message, secrets, reply=reply) + await lab.served()

    return Plan(case=case, attempt=attempt, service=True)


def _broken_off(case: Case, request: bytes) -> Plan:
    """The service ends its connection in the middle of a body. The client has the head by then, and is to see that the
    rest never comes; nobody else is to see anything of it."""
    reply = replying(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", [], close=True)

    async def attempt(lab: Lab) -> Findings:
        if lab.service is None:
            return ["the service is not this runner's"]
        mark, message = lab.mark(), with_token(request, lab)[0]
        lab.service.reply = reply
        try:
            conversation = await conversed(lab, message)
        finally:
            lab.service.reply = None
        broken = conversation.garbage == "the answer ends before its body does"
        refused = conversation.statuses == [502]
        found = [] if broken or refused else ["the client was not told that the body is not whole"]
        if len(lab.service.since(mark[0])) != 1:
            found.append("the service did not see exactly one request")
        return found + await lab.served()

    return Plan(case=case, attempt=attempt, service=True)


def _elsewhere(case: Case, request: bytes, origin: str) -> Plan:
    """The service is configured to be where it is not."""

    async def attempt(lab: Lab) -> Findings:
        message, secrets = with_token(request, lab)
        return await _alone(lab, case, message, secrets)

    return Plan(case=case, attempt=attempt, place=Place(origin=origin))


def _missing_credential(case: Case, request: bytes, told: str) -> Plan:
    if not re.fullmatch(r"(?i)(?:is )?(?:missing|none|absent|unavailable|gone|removed|empty|fails|lost)", told.strip()):
        raise Unintelligible(f"{told!r} is no state of a credential that this runner can cause")
    return _no_credential(case, request)


def _no_credential(case: Case, request: bytes) -> Plan:
    """What a credential is for cannot be looked up: OPA decides, and does not tell what endpoints there are."""

    async def attempt(lab: Lab) -> Findings:
        message, secrets = with_token(request, lab)
        found = await _alone(lab, case, message, secrets)
        mark = lab.mark()
        conversation = await conversed(lab, with_token(request, lab)[0])
        reasons = [(answer.problem or {}).get("reasons") for answer in conversation.answers]
        if reasons != [["credential-unavailable"]]:
            found.append(f"the reason given is {reasons}")
        if lab.service is not None and lab.service.since(mark[0]):
            found.append("the service was reached")
        lab.known["opa"].catalog_down = False
        return found

    return Plan(case=case, attempt=attempt, lab="opa", place=Place(catalog_down=True))


@generator("early-answer")
def _early_answer(case: Case, spec: Spec) -> Plan:
    """The service answers in the middle of an upload. What follows of the upload looks like requests: on a connection
    that is used again, others would be given their answers."""
    request, status = spec.need("request"), int(spec.take("status", default=200))
    length = 256 << 10
    head = whole(request, headers={"Content-Length": str(length)}, body=True) + b"\r\n"
    smuggled = b"GET /orders/admin/users HTTP/1.1\r\nHost: orders\r\n\r\n"

    async def attempt(lab: Lab) -> Findings:
        service = lab.service
        if service is None:
            return ["the service is not this runner's"]
        found: Findings = []
        for _ in range(5):
            mark = lab.mark()
            service.early = faults.http(b"early", status=status)
            async with connected(lab.address) as client:
                await client.send(with_token(head, lab)[0] + smuggled)
                answer = await client.answer()
                if answer is None or answer.status not in (status, 502):
                    found.append(f"answered {answer and answer.status}")
                rest = smuggled * ((length - len(smuggled)) // len(smuggled))
                sending = asyncio.create_task(client.send(rest + b"x" * (length - len(smuggled) - len(rest))))
                after = await asyncio.gather(*(lab.served() for _ in range(8)))
                found += [wrong for wrongs in after for wrong in wrongs]
                await sending
            seen = [one.target for one in service.since(mark[0])]
            if seen != ["/orders"]:
                found.append(f"the service saw requests for {seen}")
        return found + await lab.served()

    return Plan(case=case, attempt=attempt, service=True)


# What is around the proxy.


@generator("env")
def _env(case: Case, spec: Spec) -> Plan:
    listener = spec.take("listener")
    headers, forwarded = dict(spec.take("headers", default={})), spec.take("xfcc")
    headers |= {} if forwarded is None else {XFCC: str(forwarded)}
    request, recipe = whole(spec.take("request", default="GET /orders/123"), headers=headers), spec.take("token")
    bound = spec.take("cnf", "token_cnf", "confirmation")
    if bound is not None:
        recipe = confirmed(recipe, bound)
    if recipe is not None:
        Forge().forged(recipe)  # understood, or an error now
    if listener is not None and listener not in _PLAIN_LISTENERS:
        return env_listener(
            case, str(listener), spec.take("peer", "client", "client_cert", "cert", "certificate"), request, recipe
        )
    for name, make in (("opa", _env_opa), ("jwks", _env_jwks), ("audit", _env_audit), ("dns", _env_dns)):
        if spec.has(name):
            return make(case, request, recipe, spec.take(name))
    for name in ("clock", "time"):
        if spec.has(name):
            return _env_clock(case, request, recipe, str(spec.take(name)))
    for name in ("worker", "workers", "signal"):
        if spec.has(name):
            return _env_worker(case, request, recipe, str(spec.take(name)))
    for name in ("grants", "grant_store"):
        if spec.has(name):
            return access.planned(case, in_words([f"grant store {spec.take(name)}", "use"]))
    if spec.has("upstream"):
        return _upstream_error(case, request, str(spec.take("upstream")))
    for name in ("credential", "credentials", "signing_key", "swap"):
        if spec.has(name):
            return _missing_credential(case, request, str(spec.take(name)))
    variables = spec.take("env", "environ", "environment", "vars", default=None)
    if variables is None:
        variables = {name: spec.take(name) for name in spec.names if name.isupper() or name.endswith("_proxy")}
    if isinstance(variables, str) and "=" in variables:
        variables = dict([variables.split("=", 1)])
    if not variables and (listener is not None or bound is not None):
        return Plan(case=case, attempt=_once(case, request, recipe), wire=True, forges=bound is not None)
    if not variables or not isinstance(variables, dict):
        raise Unintelligible("nothing around the proxy is said to be different")
    environment = {name: str(value) for name, value in variables.items()}
    return Plan(case=case, attempt=_once(case, request, recipe), place=Place(environment=environment))


def _once(case: Case, request: bytes, recipe: Mapping[str, Any] | None) -> Attempt:
    async def attempt(lab: Lab) -> Findings:
        message, secrets = _prepared(lab.forge, request, recipe)
        return await sent(lab, case, message, secrets)

    return attempt


def _prepared(forge: Forge, request: bytes, recipe: Mapping[str, Any] | None) -> tuple[bytes, list[str]]:
    token = forge.forged(recipe)
    return filled(request, TOKEN=token, JWT=token), [token]


def _env_opa(case: Case, request: bytes, recipe: Mapping[str, Any] | None, told: str) -> Plan:
    opa_faults(told)  # understood, or an error now

    async def attempt(lab: Lab) -> Findings:
        found = []
        for fault in opa_faults(told, lab.known["revision"]):
            message, secrets = _prepared(lab.forge, request, recipe)
            lab.known["opa"].fault = fault
            try:
                found += await _alone(lab, case, message, secrets)
            finally:
                lab.known["opa"].fault = None
            found += await lab.served()
        return found

    return Plan(case=case, attempt=attempt, lab="opa")


async def _alone(lab: Lab, case: Case, message: bytes, secrets: list[str], *, tag: str = "") -> Findings:
    """One message and nothing behind it: what is wrong around the proxy would meet that too. `tag` is in the target of
    one that is tried beside others."""
    mark = lab.mark()
    conversation = await conversed(lab, message)
    evidence = await lab.evidence(mark, conversation, message, secrets)
    evidence.kind = case.kind
    evidence.received = evidence.received and [one for one in evidence.received if tag in one.target]
    return judged(case.expected, evidence)


async def conversed(lab: Lab, message: bytes, *, source: str | None = None) -> Conversation:
    conversation = Conversation()
    async with connected(lab.address, source=source, tls=lab.tls) as client:
        await client.send(message)
        try:
            answer = await client.answer()
        except (Garbled, TimeoutError) as error:
            conversation.garbage = str(error) or "no answer"
        else:
            if answer is not None:
                conversation.answers.append(answer)
            conversation.ended = answer is None
    return conversation


_DISK_FAULTS: Final = {
    r"(?:file |descriptor |sink |is )*closed|ebadf": "write EBADF",
    r"(?:pipe |sink )*(?:closed|broken)(?: pipe)?|epipe": "write EPIPE",
    r"(?:fsync|sync|flush)(?: fails| failed| error| eio)?|eio on fsync": "fsync EIO",
    r"(?:very )?slow(?: disk| sink| writes?)?|(?:disk |sink )?(?:hangs?|blocks|blocked|stalls|stuck)": "write 8",
}


def _env_disk(case: Case, request: bytes, recipe: Mapping[str, Any] | None, fault: str) -> Plan:
    """Whatever the audit's file does: without a record there is no access, and with one again there is."""

    async def attempt(lab: Lab) -> Findings:
        before = await lab.served()
        message, secrets = _prepared(lab.forge, request, recipe)
        mark = lab.mark()
        lab.known["machine"].disk(fault)
        try:
            conversation = await conversed(lab, message)
        finally:
            lab.known["machine"].disk(None)
        evidence = await lab.evidence(mark, conversation, message, secrets, recorded=False)
        after: Findings = []
        for _ in range(40):
            if not (after := await lab.served()):
                break
            await asyncio.sleep(0.25)
        return before + judged(case.expected, evidence) + after

    place = Place(extra={"audit": {"path": "audit/", "sync": True}})
    return Plan(case=case, attempt=attempt, lab="machine", place=place, last=True)


def _env_audit(case: Case, request: bytes, recipe: Mapping[str, Any] | None, told: str) -> Plan:
    for pattern, fault in _DISK_FAULTS.items():
        if re.fullmatch(pattern, told.strip().lower()):
            return _env_disk(case, request, recipe, fault)
    if not _DISK_FULL.fullmatch(told.strip().lower()):
        raise Unintelligible(f"{told!r} is no fault of the audit that this runner can cause")

    async def attempt(lab: Lab) -> Findings:
        if lab.proxy is None:
            return ["the proxy is not this runner's"]
        found = []
        with no_more_disk(lab.proxy):
            for _ in range(3):
                message, _ = _prepared(lab.forge, request, recipe)
                mark = lab.mark()
                conversation = await conversed(lab, message)
                evidence = await lab.evidence(mark, conversation, message, recorded=False)
                found += judged(case.expected, evidence)
        await asyncio.sleep(DEADLINE)
        for _ in range(20):
            after = await lab.served()
            if not after:
                return found
            await asyncio.sleep(0.25)
        return found + after

    return Plan(case=case, attempt=attempt, lab="opa", last=True)


def _env_dns(case: Case, request: bytes, recipe: Mapping[str, Any] | None, told: str) -> Plan:
    """A name that resolves to the last address that is told of. It is that address, written as a number: resolvers take
    it for a name and answer without a server, so that the proxy meets what a rebinding server would make it meet."""
    found = re.findall(r"(\d+)\.(\d+)\.(\d+)\.(\d+)", told.split()[-1] if "::" in told else told)
    if not found:
        return _env_resolver(case, request, recipe, told)
    number = int.from_bytes(bytes(int(part) for part in found[-1]), "big")
    address = ".".join(found[-1])

    async def attempt(lab: Lab) -> Findings:
        message, secrets = _prepared(lab.forge, request, recipe)
        mark = lab.mark()
        wrong = await _alone(lab, case, message, secrets)
        assert lab.audit is not None
        said = b"".join(lab.audit.read()[mark[1] :]).decode()
        if f"{address} is no address of an upstream" not in said:
            wrong.append("the audit does not say that the address was refused before it was connected to")
        return wrong

    return Plan(case=case, attempt=attempt, place=Place(origin=f"http://{number}:80"))


_NAMED: Final = "upstream.test"


def _env_resolver(case: Case, request: bytes, recipe: Mapping[str, Any] | None, told: str) -> Plan:
    """What a resolver says of the service's name: an IPv6 address, that there is none, or nothing at all."""
    words = told.lower()
    names: dict[str, str] | None = {}
    if six := re.findall(r"(?<![\w:])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:])", words):
        names = {_NAMED: six[-1]}
    elif re.fullmatch(r"(?:time ?d? ?outs?|hangs?|servfail|down|unreachable|no answer|never answers?|refused)", words):
        names = None
    elif not re.fullmatch(
        r"nx ?domain|no such (?:name|host)|not found|unknown(?: name| host)?|empty|no address", words
    ):
        raise Unintelligible(f"{told!r} has no address")

    async def attempt(lab: Lab) -> Findings:
        lab.known["machine"].resolve(names)
        message, secrets = _prepared(lab.forge, request, recipe)
        return await _alone(lab, case, message, secrets)

    return Plan(case=case, attempt=attempt, lab="machine", place=Place(origin=f"http://{_NAMED}:80"))


def _env_clock(case: Case, request: bytes, recipe: Mapping[str, Any] | None, told: str) -> Plan:
    """The proxy's clock is set while it runs, and the request has a token from before. Set back, it is set right again;
    set forward, it stays: no proxy that has seen a time goes behind it. Raises `Unintelligible`."""
    text = re.sub(r"(?i)\b(?:set|moved?|jumps?|steps?|stepped|by|is|the|clock)\b", "", told)
    text = re.sub(r"(?i)\bback(?:wards?)?\b", "-", re.sub(r"(?i)\b(?:forwards?|ahead)\b", "+", text))
    away = access.seconds(re.sub(r"\s+|(?<=h)ours?|(?<=m)in(?:utes?)?|(?<=d)ays?", "", text))

    async def attempt(lab: Lab) -> Findings:
        before = await lab.served()
        message, secrets = _prepared(lab.forge, request, recipe)
        lab.known["machine"].step(away)
        lab.forge.ahead += max(away, 0)
        try:
            found = await _alone(lab, case, message, secrets)
        finally:
            lab.known["machine"].step(-min(away, 0))
        return before + found + await lab.served()

    return Plan(case=case, attempt=attempt, lab="machine", last=True)


_SIGNALS: Final = {
    "killed": "SIGKILL",
    "crashes": "SIGKILL",
    "crashed": "SIGKILL",
    "dies": "SIGKILL",
    "dead": "SIGKILL",
}


def _env_worker(case: Case, request: bytes, recipe: Mapping[str, Any] | None, told: str) -> Plan:
    """The workers are sent a signal while a request is on its way to them: it ends with them, or the next is as any.

    Raises `Unintelligible`.
    """
    name = _SIGNALS.get(told.strip().lower(), told.strip().upper())
    if name not in ("SIGKILL", "SIGTERM", "SIGABRT", "SIGSEGV"):
        raise Unintelligible(f"{told!r} is nothing that happens to a worker of this runner")

    async def attempt(lab: Lab) -> Findings:
        if lab.proxy is None:
            return ["the proxy is not this runner's"]
        message, secrets = _prepared(lab.forge, request, recipe)
        mark, conversation = lab.mark(), Conversation()
        async with connected(lab.address) as client:
            await client.send(message[:-2])
            await asyncio.sleep(0.2)
            for pid in lab.proxy.worker_pids:
                os.kill(pid, signal.Signals[name])
            conversation.ended = await client.ended()
        found = await lab.served()
        if case.expected in ("connection-closed", "not-forwarded"):
            evidence = await lab.evidence(mark, conversation, message, secrets, recorded=False)
            return found + judged(case.expected, evidence)
        return found + await _alone(lab, case, message, secrets)

    return Plan(case=case, attempt=attempt, lab="machine", last=True)


def _env_jwks(case: Case, request: bytes, recipe: Mapping[str, Any] | None, told: str) -> Plan:
    stages = key_stages(told, recipe)
    name = re.sub(r"[^a-z0-9]", "-", case.id.lower())
    later = case.expected == "forwarded-normalised" or any(stage.later for stage in stages)
    if not later or len(stages) == 1:
        plans = [KeyFaultPlan(name=name, stages=stages, later=later)]
    else:
        # Each on an issuer of its own, as the outcome of its next refresh: the cool-down between two is half a minute.
        plans = [KeyFaultPlan(name=f"{name}-{i}", stages=[stage], later=True) for i, stage in enumerate(stages)]

    async def one(lab: Lab, fault: KeyFaultPlan) -> Findings:
        assert lab.keys is not None
        forge = Forge(issuer=lab.known["issuers"][fault.name], ahead=lab.forge.ahead)
        if fault.later:
            if wrong := await _with_good_keys(lab, forge, request):
                return wrong
            lapse = fault.stages[0].lapse
            if lapse:
                lab.keys.faults[fault.name] = fault.stages[0].fault
                lab.known["machine"].pass_time(lapse)
                lab.forge.ahead = forge.ahead = forge.ahead + lapse
            else:
                await _refreshed(lab, fault, forge)
        message, secrets = _prepared(forge, request, recipe)
        message, tag = tagged(message)
        return await _alone(lab, case, message, secrets, tag=tag)

    async def attempt(lab: Lab) -> Findings:
        found = await asyncio.gather(*(one(lab, fault) for fault in plans))
        return [wrong for wrongs in found for wrong in wrongs]

    lapses = any(stage.lapse for stage in stages)  # for all that are tried on this proxy
    return Plan(case=case, attempt=attempt, lab="keys", keys=plans, slow=later, last=lapses)


async def _with_good_keys(lab: Lab, forge: Forge, request: bytes) -> Findings:
    """Whether the keys are known before something is wrong with them. Asked again as `Lab.served` does."""
    for _ in range(3):
        answers = (await conversed(lab, _prepared(forge, request, None)[0])).answers
        if [answer.status for answer in answers] == [200]:
            return []
    said = [(answer.status, (answer.problem or {}).get("reasons")) for answer in answers]
    return [f"with good keys the answer was {said}"]


_COOL_DOWN: Final = 30.0
"""Seconds between two attempts to fetch keys (SECURITY section 5)."""


async def _refreshed(lab: Lab, fault: KeyFaultPlan, forge: Forge) -> None:
    """The keys were fetched again, and that went wrong: asked for with a key id that nobody has."""
    assert lab.keys is not None
    lab.keys.faults[fault.name] = fault.stages[0].fault
    fetched = lab.keys.fetched.get(fault.name, 0)
    until = time.monotonic() + 2 * _COOL_DOWN
    await asyncio.sleep(max(0.0, lab.known["began"] + _COOL_DOWN - time.monotonic()))
    while lab.keys.fetched.get(fault.name, 0) == fetched:
        if time.monotonic() > until:
            raise TimeoutError("the keys were not fetched again")
        unknown = forge.forged({"header": {"kid": os.urandom(6).hex()}, "sign": "random"})
        await conversed(lab, lab.request(token=unknown))
        await asyncio.sleep(0.3)
    await asyncio.sleep(0.3)


# Others.


@generator("bundle")
def _bundle(case: Case, spec: Spec) -> Plan:
    return bundle_variant(case, spec.need("variant"))


@generator("sequence")
def _sequence(case: Case, spec: Spec) -> Plan:
    steps = list(spec.need("steps"))
    if sequences.rotates_keys(steps):
        return _env_jwks(case, whole("GET /orders/123"), None, "rotated")
    return sequences.planned(case, steps)


@generator("access")
def _access(case: Case, spec: Spec) -> Plan:
    return access.planned(case, list(spec.need("steps")))


@generator("slowloris")
def _slowloris(case: Case, spec: Spec) -> Plan:
    return slow_client(case, spec)


@generator("idle")
def _idle(case: Case, spec: Spec) -> Plan:
    return slow_client(case, Spec({"part": "keep-alive", **spec.rest()}))


@generator("slow")
@generator("slow-read")
@generator("slowread")
def _slow(case: Case, spec: Spec) -> Plan:
    if not spec.has("part"):
        return slow_client(case, Spec({"part": "read", **spec.rest()}))
    return slow_client(case, spec)


@generator("connections")
def _connections(case: Case, spec: Spec) -> Plan:
    """One peer opens more than it may have; all of them end, and another peer is served meanwhile."""
    count = int(spec.need("count"))
    state = str(spec.take("state", default="idle"))
    if not re.fullmatch(r"(?i)(?:idle|open|silent|half-?open|keep-?alive|established)", state.strip()):
        raise Unintelligible(f"{state!r} is no state that this runner leaves connections in")
    spec.take("idle_s", "duration_s", "hold_s")  # they are held until they are ended
    spec.take("per_ip", "source", "peer")  # all are of one peer

    async def attempt(lab: Lab) -> Findings:
        many = asyncio.create_task(asyncio.to_thread(_occupied, lab.address, count))
        found: Findings = []
        while not many.done():
            found += await lab.served()
            await asyncio.sleep(0.2)
        left = await many
        if left:
            found.append(f"{left} of the connections were not closed")
        return found + await lab.served()

    return Plan(case=case, attempt=attempt, lab="dos", slow=True)


def _occupied(address: tuple[str, int], count: int) -> int:
    """Open so many connections from one address, and wait for the proxy to end them; how many it did not end.

    Plain sockets, in a thread: an event loop that has thousands of them to look after would be late for others.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = count if hard == resource.RLIM_INFINITY else min(count, hard - 1000)
    ended = select.poll()
    opened: dict[int, socket.socket] = {}
    try:
        for _ in range(room):
            one = socket.socket()
            one.setblocking(False)
            one.bind(("127.0.0.7", 0))
            one.connect_ex(address)
            opened[one.fileno()] = one
            ended.register(one, select.POLLIN | select.POLLRDHUP)
            _close_ended(ended, opened, 0)
        until = time.monotonic() + 30
        while opened and time.monotonic() < until:
            _close_ended(ended, opened, 200)
        return len(opened)
    finally:
        for one in opened.values():
            one.close()


def _close_ended(ended: select.poll, opened: dict[int, socket.socket], milliseconds: int) -> None:
    for number, _ in ended.poll(milliseconds):
        ended.unregister(number)
        opened.pop(number).close()
