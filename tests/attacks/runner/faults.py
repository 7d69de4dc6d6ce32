"""Key servers, OPAs and bundle servers that misbehave, and the words that cases have for it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from attacks.runner import amounts
from attacks.runner.corpus import Spec, Unintelligible, encoded, plain
from attacks.runner.forgery import KEY_ID, b64, curve_jwk, jwks, private_jwk, public_jwk

Fault = Callable[[asyncio.StreamWriter], Awaitable[None]]
"""Answers a request wrongly, or not at all."""

_STATUS: Final = re.compile(
    r"(?i)(?:http[ -]?|status[ -]?)?([1-5]\d\d)(?: error| response)?"
    r"(?:\s+(?:redirect(?:s|ed)?\s+)?(?:to\s+)?(\S+://\S+|/\S*))?"
)
_STATUS_BODY: Final = re.compile(
    r"(?i)(?:http[ -]?|status[ -]?)?([1-5]\d\d)(?: with(?: body)?| and|:)? ([{\[].*)", re.DOTALL
)
_BODY_STATUS: Final = re.compile(r"(?i)([{\[].*[}\]]) (?:with|and|but)(?: http| status)* ([1-5]\d\d)", re.DOTALL)
_NESTED: Final = re.compile(r"(?:(?:deep(?:ly)?|too deep) )?nest(?:ing|ed)(?: json)?(?::? ?(?P<depth>\d[\d _,]*))?")
_REDIRECT: Final = re.compile(r"redirect(?:s|ed)?(?:(?:\s+to)?\s+(\S+))?")
_MEMBER: Final = re.compile(r"(kty|use|alg|key_ops|kid|crv|e|n)=(\S+)(?: key)?")
_WITHOUT: Final = re.compile(r"(?:keys? )?(?:without|no|missing|lacks) (?:an? )?(kid|alg|use|kty|n|e)(?: member)?")
_LAPSE: Final = re.compile(
    r"(?:.*\b)?(?:down|unreachable|unavailable|gone|stale|refused|old|fails?)\b(?: since| for| of)?"
    r" (?:(?P<n>\d+(?:\.\d+)?) ?(?P<unit>min|m|h|hours?|d|days?)|(?P<word>hours|a day|days))(?: old)?"
)
_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400}
_MAX_AGE: Final = 86_400.0
"""Seconds for which the last good keys are used (docs/configuration.md)."""
_MANY: Final = re.compile(r"(\d[\d _,]*) (?:distinct |different )?keys")
_MOST_KEYS: Final = 5_000
"""Megabytes more than any proxy should take; to make more takes the runner time."""
_SLOW: Final = re.compile(
    r"(?:(?:answers? )?(?:slow|delay|sleep|after|late)s?(?:ed)?(?: by)?\s*:?\s*)?"
    r"(\d+(?:\.\d+)?) ?(ms|s|seconds)(?: late| delay)?"
)


def http(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    kind = "Content-Type: application/json\r\n"
    return f"HTTP/1.1 {status} X\r\n{kind}{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


def answering(raw: bytes) -> Fault:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    return answer


def pouring(length: int) -> Fault:
    """A body of so many bytes, as long as anybody reads it."""

    async def pour(writer: asyncio.StreamWriter) -> None:
        content = amounts.filler(b" ", length)
        writer.write(f"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode())
        for piece in content.pieces():
            writer.write(piece)
            await writer.drain()

    return pour


async def hanging(writer: asyncio.StreamWriter) -> None:
    """No answer, while anybody waits."""
    await asyncio.sleep(3600)


async def closing(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def dripping(writer: asyncio.StreamWriter) -> None:
    """The head at once, then a byte each half second."""
    writer.write(b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.5)


def _late(seconds: float) -> Fault:
    async def late(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)

    return late


def document_fault(told: str) -> Fault | None:
    """What is the same for every server of JSON documents; None for other words."""
    text = told.strip()
    words = re.sub(r"[-_ ]+", " ", text.lower())
    if re.fullmatch(
        r"(?:hangs?|never answers?|accepts? and never answers?|time ?s? ?outs?|timed out|timeouts?|silent|no answer"
        r"|slow)",
        words,
    ):
        return hanging
    if re.fullmatch(r"drips?|dripping|trickles?|trickling|slow(?:ly)? (?:body|bytes|byte by byte)|byte by byte", words):
        return dripping
    if re.fullmatch(
        r"(?:connection )?(?:resets?|close[sd]?|drops?|disconnects?|eof)(?: connection)?"
        r" (?:after (?:the )?head(?:er)?s?|mid body|half ?way|in the middle(?: of the body)?)",
        words,
    ):
        return answering(b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
    if nested := _NESTED.fullmatch(text.lower()):
        depth = int(re.sub(r"\D", "", nested["depth"] or "100000"))
        return answering(http(b'{"result":' + b"[" * depth + b"]" * depth + b"}"))
    if re.fullmatch(r"(?:connection )?(?:resets?|closes?|closed|eof|aborts?|drops?)(?: connection)?", words):
        return closing
    if re.fullmatch(r"(?:200 )?(?:with )?(?:an? )?(?:empty(?: body| response| answer)?|nothing|no body)", words):
        return answering(http(b""))
    if text.startswith("<") or re.fullmatch(
        r"(?:200 )?(?:with )?(?:not json|no json|non json|invalid json|garbage|(?:text/)?html|text(?:/plain)?"
        r"|plain text|malformed(?: json)?)",
        words,
    ):
        return answering(http(b"<html>it works</html>"))
    if re.fullmatch(r"(?:200 )?(?:truncated(?: json)?|cut off)", words):
        return answering(http(b'{"keys":[{"kty":"RSA","result":{"allow":tr'))
    if re.fullmatch(r"(?:200 )?(?:with )?(?:invalid|bad|not|broken|non) utf ?8(?: in .*)?", words):
        return answering(http(b'{"result":{"allow":true,"reasons":["\xff\xfe"]}}'))
    if re.fullmatch(r"(?:200 )?(?:gzip|gzip bomb|compressed|gzipped)", words):
        bomb = amounts.body("gzip(50 MB zeros)").whole()
        return answering(http(bomb, headers={"Content-Encoding": "gzip"}))
    if slow := _SLOW.fullmatch(words):
        return _late(float(slow[1]) / (1000 if slow[2] == "ms" else 1))
    if re.fullmatch(
        r"(?:infinite|endless|unbounded|never ending)(?: body| stream| answer| response| document)?", words
    ):
        return pouring(1 << 50)
    if redirect := _REDIRECT.fullmatch(text):
        return answering(http(b"", status=302, headers={"Location": redirect[1] or "http://127.0.0.1:1/"}))
    if body := _STATUS_BODY.fullmatch(text):
        return answering(http(body[2].encode(), status=int(body[1])))
    if body := _BODY_STATUS.fullmatch(text):
        return answering(http(body[1].encode(), status=int(body[2])))
    if status := _STATUS.fullmatch(text):
        location = {"Location": status[2] or "http://127.0.0.1:1/"} if status[1].startswith("3") else None
        return answering(http(b"{}", status=int(status[1]), headers=location))
    with contextlib.suppress(Unintelligible):
        return pouring(amounts.size(text))
    return None


# Keys.


@dataclass
class KeyStage:
    """What an issuer's address answers from one fetch on. `later`: a good set comes before it. `lapse`: and so many
    seconds pass meanwhile."""

    fault: Fault
    later: bool = False
    lapse: float = 0.0


@dataclass
class KeyFaultPlan:
    """What goes wrong with the keys of one issuer: its `stages`, and when they begin."""

    name: str
    stages: list[KeyStage]
    later: bool


def key_stages(told: str, recipe: Mapping[str, Any] | None) -> list[KeyStage]:
    """`500-then-empty`, `use=enc key`, … Raises `Unintelligible`."""
    return [_key_stage(part.strip(), recipe or {}) for part in re.split(r"[ -]then[ -]", told)]


def _is_json(text: str) -> bool:
    """Whether a text is, or is to be taken for, the document itself."""
    return re.match(r"[\[{\"]|(?:null|true|false|NaN|-?Infinity)$|$", text) is not None and not _BODY_STATUS.fullmatch(
        text
    )


def _key_stage(told: str, recipe: Mapping[str, Any]) -> KeyStage:
    if _is_json(told):
        return KeyStage(answering(http(told.encode("utf-8", "surrogatepass"))))
    words = re.sub(r"[-_ ]+", " ", told.lower())
    if words in ("good", "ok", "valid", "200", "good keys"):
        return KeyStage(answering(http(json.dumps(jwks()).encode())))
    if re.fullmatch(r"(?:200 )?(?:with )?(?:empty|no)(?: keys?| set| list)?", words):
        return KeyStage(answering(http(b'{"keys":[]}')))
    if re.fullmatch(r"down|unreachable|refused|connection refused|unavailable|gone", words):
        return KeyStage(closing)
    if re.search(r"\brotat|\bremoved?\b|without k1|\bdropped\b", words):
        return KeyStage(answering(http(json.dumps(jwks(public_jwk("new", kid="k2"))).encode())), later=True)
    if lapse := _LAPSE.fullmatch(words):
        seconds = float(lapse["n"] or 3) * _UNITS[(lapse["unit"] or lapse["word"].split()[-1])[0]]
        return KeyStage(closing, later=True, lapse=seconds)
    if re.fullmatch(
        r"(?:past|over|beyond|after)? ?(?:the )?max age(?: is)?(?: exceeded| passed| over)?|expired", words
    ):
        return KeyStage(closing, later=True, lapse=_MAX_AGE + 3600)
    if re.fullmatch(
        r"same kid(?:,)? (?:but )?(?:another|other|different|new) key|key (?:replaced|swapped|changed)", words
    ):
        return KeyStage(answering(http(json.dumps(jwks(public_jwk("attacker"))).encode())), later=True)
    if re.search(r"duplicate|same kid|one kid|twice", words):
        return _keys(public_jwk("attacker"), public_jwk())
    if re.search(r"\boct\b|(?<!a)symmetric|\bhmac\b|(?<!=)\bhs(?:256|384|512)\b", words):
        secret = str(recipe.get("sign", "hmac:secret")).partition(":")[2] or "secret"
        return _keys({"kty": "oct", "kid": KEY_ID, "k": b64(secret.encode()), "alg": "HS256", "use": "sig"})
    if re.search(r"\bprivate\b|\bd member\b", words):
        return _keys(private_jwk())
    if re.search(r"(?<!=)(?:\bec\b|\belliptic\b|\bp ?256\b|\bes256\b)", words):
        return _keys(curve_jwk())
    if without := _WITHOUT.fullmatch(words):
        return _keys(public_jwk(**{without[1]: None}))
    if re.search(r"\bweak\b|\b(?:rsa )?(?:512|768|1024)(?: ?bits?)?\b|\bsmall\b|\bshort key\b", words):
        return _keys(public_jwk("1024"))
    if re.search(r"\b(?:another|other|different|wrong) (?:issuer|key)\b|\battacker\b", words):
        return _keys(public_jwk("attacker" if "attacker" in words else "other"))
    if many := _MANY.fullmatch(words):
        count = min(int(re.sub(r"\D", "", many[1])), _MOST_KEYS)
        return _keys(*(public_jwk(kid=f"k{number}") for number in range(1, count + 1)))
    if member := _MEMBER.fullmatch(re.sub(r"(?i)^(?:rsa|an?) (?:key )?(?:with )?", "", told)):
        value: Any = [member[2]] if member[1] == "key_ops" else member[2]
        if member[1] in "en" and value.isdigit():
            value = b64(int(value).to_bytes(4, "big").lstrip(b"\0"))
        named = str(recipe.get("sign", "")).partition(":")[2].removesuffix("-key")
        material = named if named in ("enc", "attacker", "other", "old") else "issuer"
        return _keys(public_jwk(material, **{member[1]: value}))
    fault = document_fault(told)
    if fault is None:
        raise Unintelligible(f"{told!r} is nothing that a key server of this runner does")
    return KeyStage(fault)


def _keys(*keys: dict[str, Any]) -> KeyStage:
    return KeyStage(answering(http(json.dumps({"keys": list(keys)}).encode())))


@dataclass
class KeyServer:
    """Where issuers publish their keys: `/name` for each. `faults[name]` takes the place of the good set."""

    port: int = 0
    faults: dict[str, Fault] = field(default_factory=dict)
    good: dict[str, dict[str, Any]] = field(default_factory=dict)
    fetched: dict[str, int] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    """Paths that nobody publishes, and that were asked for."""

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[KeyServer]:
        async with _served(self._serve) as port:
            self.port = port
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        name = head.split(b" ")[1].decode("latin-1")[1:]
        if name not in self.good and name not in self.faults:
            self.others.append(name)
        self.fetched[name] = self.fetched.get(name, 0) + 1
        fault = self.faults.get(name)
        if fault is not None:
            await fault(writer)
        else:
            writer.write(http(json.dumps(self.good.get(name, jwks())).encode()))
            await writer.drain()


# OPA.


@dataclass
class OpaFault:
    """`answer` to each decision that is asked for; or, if `always`, to everything that is asked."""

    answer: Fault
    always: bool = False


def opa_faults(told: str, revision: str = "1-0000000000000000") -> list[OpaFault]:
    """What takes OPA's place. Several where the words leave more than one reading, each to be tried.

    `revision` is that of the active bundle, so that nothing but what is said can be at fault. Raises `Unintelligible`.
    """
    text = told.strip()
    if re.search(r"\bmis(?:match|rout)", text):
        stated = text.partition(" with ")[0].strip()
        own = [answering(http(stated.encode()))] if stated.startswith("{") else []
        return [OpaFault(fault) for fault in (*own, answering(http(json.dumps(_misrouted(revision)).encode())))]
    if _is_json(text):
        return [OpaFault(answering(http(text.encode()))), OpaFault(answering(http(_with_provenance(text, revision))))]
    words = text.lower()
    if re.fullmatch(r"(?:is )?(?:down|refused|connection refused|unreachable|stopped|killed|unavailable|gone)", words):
        return [OpaFault(closing, always=True)]
    if re.fullmatch(
        r"(?:is )?(?:undefined|empty|not ready)|(?:bundle (?:is )?)?not (?:yet )?(?:activated|loaded)"
        r"|no (?:bundle|policy|result)|(?:result )?missing(?: result)?",
        words,
    ):
        return [OpaFault(answering(http(b"{}")))]
    if re.fullmatch(
        r"(?:(?:a |an )?(?:stale|old(?:er)?|other|another|previous|wrong) (?:bundle|revision|policy))", words
    ):
        allow = json.dumps({**_misrouted("0-ffffffffffffffff"), "result": {**_allow("orders", "get-order")}})
        return [OpaFault(answering(http(allow.encode())))]
    fault = document_fault(text)
    if fault is None:
        raise Unintelligible(f"{told!r} is nothing that an OPA of this runner does")
    return [OpaFault(fault, always=fault is hanging)]


def _with_provenance(text: str, revision: str) -> bytes:
    """The same answer, and of which bundle it is."""
    inner = text.removesuffix("}")
    if not text.startswith("{") or inner == text:
        return text.encode()
    comma = "" if inner.strip() == "{" else ","
    return f'{inner}{comma}"provenance":{{"bundles":{{"main":{{"revision":"{revision}"}}}}}}}}'.encode()


def _misrouted(revision: str) -> dict[str, Any]:
    """A whole and well-formed allow, of another question."""
    return {"result": _allow("billing", "create-order"), "provenance": {"bundles": {"main": {"revision": revision}}}}


def _allow(service: str, endpoint: str) -> dict[str, Any]:
    return {
        "allow": True, "reasons": [], "caller": "web", "service": service, "endpoint": endpoint,
        "permission": f"web/orders/{endpoint}/00000000", "grant": None,
        "credential": {"lifetime": 60, "per_call": False}, "expires_at": None, "cache": {"max_age": 5, "vary": []},
        "requestable": None, "observed": False, "shadow": None,
    }  # fmt: skip


@dataclass
class OpaFront:
    """Stands where OPA does, and hands everything on to the real one but for a `fault`."""

    socket: Path
    real: Path
    fault: OpaFault | None = None
    catalog_down: bool = False
    asked: int = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[OpaFront]:
        async with _served(self._serve, socket=self.socket):
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            decision = b"/authz/decision" in head.partition(b"\r\n")[0]
            self.asked += decision
            fault = self.fault
            # The empty question is what the proxy looks at OPA with; it is no decision.
            if fault is not None and (fault.always or (decision and body != b'{"input":{}}')):
                await fault.answer(writer)
                writer.close()
                return
            if self.catalog_down and b"/map/endpoints" in head.partition(b"\r\n")[0]:
                writer.write(http(b"{}", status=500))
                continue
            writer.write(await self._forward(head + body))
            await writer.drain()

    async def _forward(self, raw: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self.real)
        try:
            writer.write(raw)
            head = await reader.readuntil(b"\r\n\r\n")
            if length := re.search(rb"(?i)\r\ncontent-length: *(\d+)", head):
                return head + await reader.readexactly(int(length[1]))
            body = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += b"%x\r\n" % size + await reader.readexactly(size + 2)
            return head + body + b"0\r\n" + await reader.readexactly(2)
        finally:
            writer.close()


# Bundles.


@dataclass
class BundleServer:
    """What is published, for an OPA that polls."""

    port: int = 0
    content: bytes = b""
    tag: int = 0
    taken: int = -1
    """The tag of what was fetched last, whole."""

    def publish(self, content: bytes) -> None:
        self.content = content
        self.tag += 1

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[BundleServer]:
        async with _served(self._serve) as port:
            self.port = port
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            tag = self.tag
            if f'"{tag}"'.encode() in head:
                writer.write(b'HTTP/1.1 304 X\r\nETag: "%d"\r\nContent-Length: 0\r\n\r\n' % tag)
            else:
                content = self.content
                kind = b"Content-Type: application/gzip\r\n"
                head = b'HTTP/1.1 200 X\r\nETag: "%d"\r\n%sContent-Length: %d\r\n\r\n' % (tag, kind, len(content))
                writer.write(head + content)
                await writer.drain()
                self.taken = tag
            await writer.drain()


def packed(files: Mapping[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo("/" + name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


@contextlib.asynccontextmanager
async def _served(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], *, socket: Path | None = None
) -> AsyncIterator[int]:
    """Serve on loopback, or on a unix socket; the port."""
    tasks: set[asyncio.Task[Any]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            await serve(reader, writer)
        writer.close()

    if socket is not None:
        server = await asyncio.start_unix_server(one, socket)
        port = 0
    else:
        server = await asyncio.start_server(one, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
    try:
        yield port
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # what was closed has ended then


# What services answer.


_LARGEST: Final = 256 << 20
"""Bytes of an answer, which is made whole before it is sent."""

_TERSE: Final = re.compile(r"([1-5]\d\d)(?:[ ,:]+([A-Za-z][A-Za-z-]*): ?(\S.*))?")


def response_told(told: Any) -> dict[str, Any]:
    """What a service is to answer, where that is a text: `302 Location: http://…`, or what a case has for an error.

    Raises `Unintelligible`.
    """
    if isinstance(told, dict):
        return dict(told)
    if terse := _TERSE.fullmatch(str(told).strip()):
        return {"status": int(terse[1]), "headers": {terse[2]: terse[3]} if terse[2] else {}}
    return {"error": str(told)}


def _pairs(headers: Any) -> dict[str, Any]:
    """Headers by name, with a list of values where one is there more than once."""
    if isinstance(headers, dict):
        return dict(headers)
    found: dict[str, Any] = {}
    for name, value in headers:
        found[name] = [*found[name], value] if name in found else [value]
    return found


def upstream_reply(told: Mapping[str, Any]) -> tuple[bytes | None, bytes | None, dict[str, Any]]:
    """The bytes of a response, its body if it has one that is to be relayed as it is, and how it is sent.

    Raises `Unintelligible`.
    """
    spec = Spec(dict(told))
    raw, repeat = spec.take("raw"), int(spec.take("repeat", "times", default=1))
    interim = list(spec.take("interim", "informational", default=[]))
    status = int(spec.take("status", default=200))
    headers = _pairs(spec.take("headers", default={}))
    for name in ("location", "set_cookie", "content_encoding", "www_authenticate"):
        if (value := spec.take(name)) is not None:
            headers["-".join(word.capitalize() for word in name.split("_"))] = value
    many = int(spec.take("headers_count", "header_count", default=0))
    headers |= {f"X-{number}": "a" for number in range(many)}
    body = spec.take("body")
    version = str(spec.take("version", "http_version", default="1.1")).removeprefix("HTTP/")
    for echoed in filter(None, [spec.take("echo", "reflect")]):
        headers = {**headers, "X-Echo": "{AUTHORIZATION}", "X-Echo-Of": str(echoed)}
    trailers = dict(spec.take("trailers", default={}))
    manner = {
        "close": spec.take("close", "then_close", default=False),
        "delay": float(spec.take("delay_s", "delay", "interval_s", default=0)),
    }
    spec.done()
    if raw is not None:
        return plain(raw) * repeat, None, manner
    content = amounts.body(body if body is not None else "the service's own words")
    names = {name.lower() for name in headers}
    if trailers:
        headers = {**headers, "Transfer-Encoding": "chunked"}
        fields = encoded("".join(f"{name}: {value}\r\n" for name, value in trailers.items()))
        coded = amounts.body(f"chunked {body or 'ok'}").whole()
        content = amounts.Filling(coded.removesuffix(b"\r\n") + fields + b"\r\n", 1)
        names.add("transfer-encoding")
    lines = [f"HTTP/{version} {status} X"]
    for name, value in headers.items():
        lines += [f"{name}: {amounts.repeated(one)}" for one in (value if isinstance(value, list) else [str(value)])]
    if content.length > _LARGEST:
        raise Unintelligible(f"{body!r} is more than a service of this runner answers")
    whole = content.whole() if status not in (204, 304) else b""
    if not names & {"content-length", "transfer-encoding"} and status not in (204, 304):
        lines.append(f"Content-Length: {len(whole)}")
    before = "".join(f"HTTP/1.1 {one} X\r\n\r\n" for one in interim)
    head = encoded(before + "\r\n".join(lines)) + b"\r\n\r\n"
    relayed = whole if not names & {"content-length", "transfer-encoding"} else None
    return head + whole, relayed, manner
