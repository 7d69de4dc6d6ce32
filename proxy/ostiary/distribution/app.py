"""A bundle server in OPA's own protocol, as an ASGI application.

    GET /<name>.tar.gz     the bundle: 304 where the client has it already (If-None-Match), and, where it asks to wait
                           (`Prefer: …;wait=N`), not before N seconds have passed without another one
    PUT /<name>.tar.gz     publish one (If-Match, If-None-Match)
    GET, PUT /<name>.tar.gz.rollback
                           the statement beside it, by which proxies go back to it
    POST /status           what an OPA's status plugin says
    GET /status            which OPA has which revision, for publishers
    GET /livez             whether this runs

OPA polls for long when two things meet: its configuration says `long_polling_timeout_seconds`, and the bundle came with
the content type `application/vnd.openpolicyagent.bundles`, by which a server says that it knows how to wait. Its
preferences are separated by semicolons, where RFC 7240 has commas; both are read. A request without a tag that is
published now is answered at once, so an OPA that starts, or was cut off while a bundle was published, has it at once.

Bundles and statements are passed on as they are: a signature, if there is one, is OPA's and the proxies' to verify.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ostiary.addresses import unmapped
from ostiary.decision.rollback import LARGEST_STATEMENT, MEDIA_TYPE, SUFFIX
from ostiary.distribution import archives, reports
from ostiary.distribution.access import Access, Role
from ostiary.distribution.archives import NAME, BundleRefused
from ostiary.distribution.protocol import NAMES
from ostiary.distribution.reports import NoReport, Reports
from ostiary.distribution.store import Condition, NotExpected, Older, Published, Store

_log = logging.getLogger("ostiary.distribution")

BUNDLE: Final = "application/vnd.openpolicyagent.bundles"
REVISION: Final = "ostiary-revision"
"""A header of answers: the revision of the bundle, so that who publishes need not get it."""
FORCE: Final = "ostiary-force"
"""A header of requests: `older` lets an older bundle take the place of a newer one."""

LONGEST_WAIT: Final = 600
"""Seconds that anybody may ask to wait."""
_PIECE: Final = 256 * 1024
_REPORTS: Final = 32
"""Reports that are read at a time: each may take its largest size in memory."""
_READING: Final = 10.0
"""Seconds that a report, or a statement, may take to come."""
_UPLOAD: Final = 300.0
"""Seconds that a bundle may take to come."""

_WAIT: Final = re.compile(r"(?:^|[;,])\s*wait\s*=\s*\"?([0-9]{1,9})", re.ASCII)
_TAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"|\*', re.ASCII)


class BundleServer:
    """`application` is what is served; call `end` when it is to stop, so that nobody keeps it waiting."""

    def __init__(self, store: Store, *, access: Access, reports: Reports) -> None:
        self._store = store
        self._access = access
        self._reports = reports
        self._reading = asyncio.Semaphore(_REPORTS)
        self._waiting: dict[str, int] = {}
        routes = [
            Route("/livez", self._livez),
            Route("/status", self._rollout, methods=["GET"]),
            Route("/status", self._status, methods=["POST"]),
            Route("/status/{partition:path}", self._status, methods=["POST"]),
            Route(f"/{{name}}{SUFFIX}", self._get_statement, methods=["GET"]),
            Route(f"/{{name}}{SUFFIX}", self._put_statement, methods=["PUT"]),
            Route("/{name}", self._get, methods=["GET"]),
            Route("/{name}", self._put, methods=["PUT"]),
        ]
        self.application = Starlette(routes=routes, exception_handlers={HTTPStatus.NOT_FOUND: _not_found})
        self.application.router.redirect_slashes = False

    def end(self) -> None:
        self._store.end()

    def waiting(self, name: str) -> int:
        """How many clients wait for another bundle of this name."""
        return self._waiting.get(name, 0)

    async def _livez(self, _: Request) -> Response:
        return JSONResponse({"live": True}, headers={"cache-control": "no-store"})

    # bundles

    async def _get(self, request: Request) -> Response:
        if self._role(request) is None:
            return _unauthorized()
        name = request.path_params["name"]
        known = _tags(request.headers.getlist("if-none-match"))
        wait = 0.0 if request.method == "HEAD" else _wait(request.headers.getlist("prefer"))
        published = self._store.get(name)
        if published is not None and wait and _has(known, published):
            # Of a name that is published: others are as many as somebody can think of.
            await self._wait(request, name, self._store.change(name), wait)
            published = self._store.get(name)
        if published is None:
            return _problem(404, "no such bundle is published")
        if _has(known, published):
            return Response(status_code=304, headers=_about(published))
        return _BundleResponse(published)

    async def _wait(self, request: Request, name: str, change: asyncio.Future[None], seconds: float) -> None:
        """Until another bundle has this name, the time is over, or the client has gone."""
        gone = asyncio.ensure_future(_gone(request))
        self._waiting[name] = self._waiting.get(name, 0) + 1
        try:
            await asyncio.wait({gone, change}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            self._waiting[name] -= 1
            if not self._waiting[name]:
                del self._waiting[name]

    async def _put(self, request: Request) -> Response:
        refused = self._publisher(request)
        if refused is not None:
            return refused
        name = request.path_params["name"]
        if not NAME.fullmatch(name):
            return _problem(404, "a bundle's name has letters, digits, '.', '_' and '-', and ends in .tar.gz")
        try:
            condition = _condition(request)
        except ValueError as error:
            return _problem(400, str(error))
        content = await _received(request, "bundle", most=archives.LARGEST, seconds=_UPLOAD)
        if isinstance(content, Response):
            return content
        return await self._publish(request, name, content, condition)

    async def _publish(self, request: Request, name: str, content: bytes, condition: Condition) -> Response:
        force = request.headers.get(FORCE) == "older"
        created = self._store.get(name) is None
        try:
            archive = await self._store.publish(name, content, condition=condition, force=force)
        except BundleRefused as error:
            return _problem(422, f"the bundle is refused: {error}")
        except Older as error:
            return _problem(409, str(error))
        except NotExpected:
            return _problem(412, "another bundle is published by now")
        except OSError as error:
            _log.error("%s cannot be published: %s", name, error)
            return _problem(507, f"it cannot be written: {error.strerror}")
        headers = {"etag": archive.tag, REVISION: str(archive.revision)}
        return JSONResponse({"revision": str(archive.revision)}, status_code=201 if created else 200, headers=headers)

    # statements, each beside a bundle

    async def _get_statement(self, request: Request) -> Response:
        if self._role(request) is None:
            return _unauthorized()
        name = request.path_params["name"]
        try:
            content = await self._store.statement(name) if NAME.fullmatch(name) else None
        except OSError as error:
            _log.error("the statement beside %s cannot be read: %s", name, error)
            return _problem(500, "it cannot be read")
        if content is None:
            return _problem(404, "no such statement is published")
        return Response(content, headers={"content-type": MEDIA_TYPE, "cache-control": "no-cache"})

    async def _put_statement(self, request: Request) -> Response:
        refused = self._publisher(request)
        if refused is not None:
            return refused
        name = request.path_params["name"]
        if not NAME.fullmatch(name):
            return _problem(404, "a statement is called as its bundle, with .rollback behind it")
        content = await _received(request, "statement", most=LARGEST_STATEMENT, seconds=_READING)
        if isinstance(content, Response):
            return content
        try:
            statement = await self._store.publish_statement(name, content)
        except BundleRefused as error:
            return _problem(422, f"the statement is refused: {error}")
        except OSError as error:
            _log.error("the statement beside %s cannot be published: %s", name, error)
            return _problem(507, f"it cannot be written: {error.strerror}")
        return JSONResponse({"from": str(statement.back_from), "to": str(statement.to), "expires": statement.expires})

    # reports

    async def _status(self, request: Request) -> Response:
        if self._role(request) is None:
            return _unauthorized()
        body = await _received(request, "report", most=reports.LARGEST, seconds=_READING, turns=self._reading)
        if isinstance(body, Response):
            return body
        try:
            self._reports.take(body, address=_peer(request))
        except NoReport as error:
            return _problem(400, f"it is no report: {error}")
        return JSONResponse({}, headers={"cache-control": "no-store"})

    async def _rollout(self, request: Request) -> Response:
        if not self._access.open:
            refused = self._publisher(request)
            if refused is not None:
                return refused
        bundles = {
            one.name: {
                "revision": str(one.archive.revision),
                "etag": one.archive.tag,
                "bytes": len(one.archive.content),
                "since": one.since,
                "waiting": self.waiting(one.name),
            }
            for one in self._store.all()
        }
        proxies = [{**one.document(), "published": one.published_as(bundles)} for one in self._reports.latest()]
        return JSONResponse({"bundles": bundles, "proxies": proxies}, headers={"cache-control": "no-store"})

    def _role(self, request: Request) -> Role | None:
        names = request.scope.get("extensions", {}).get(NAMES)
        given = request.headers.getlist("authorization")
        if len(given) > 1:
            return None
        return self._access.role(given[0] if given else None, names)

    def _publisher(self, request: Request) -> Response | None:
        """Why the sender is no publisher; None if it is."""
        role = self._role(request)
        if role == "publisher":
            return None
        if not self._access.publishes:
            return _problem(403, "this server knows no publishers")
        return _unauthorized() if role is None else _problem(403, "only a publisher may do that")


class _BundleResponse(Response):
    """In pieces, so that a slow client has one of them in memory, and not the rest of the bundle."""

    def __init__(self, published: Published) -> None:
        super().__init__(headers={**_about(published), "content-type": BUNDLE})
        self._content = published.archive.content
        del self.headers["content-length"]
        self.headers["content-length"] = str(len(self._content))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        for begin in range(0, len(self._content), _PIECE):
            end = begin + _PIECE
            more = end < len(self._content)
            await send({"type": "http.response.body", "body": self._content[begin:end], "more_body": more})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _received(
    request: Request, what: str, *, most: int, seconds: float, turns: asyncio.Semaphore | None = None
) -> bytes | Response:
    """The body, or the answer to one that is longer than that, or does not come whole in time. The wait for one of the
    `turns`, where there are some, is within that time."""
    try:
        async with asyncio.timeout(seconds), turns or contextlib.nullcontext():
            body = await _body(request, most)
    except (ClientDisconnect, TimeoutError):
        return _problem(408, f"the {what} did not come whole")
    return _problem(413, f"a {what} has {most} bytes at most") if body is None else body


async def _body(request: Request, most: int) -> bytes | None:
    """The body, or None if it is longer than that."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > most:
        return None
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            return None
    return bytes(body)


def _about(published: Published) -> dict[str, str]:
    archive = published.archive
    return {"etag": archive.tag, REVISION: str(archive.revision), "cache-control": "no-cache"}


def _wait(preferences: list[str]) -> float:
    """Seconds that the client wants to wait."""
    found = _WAIT.search(";".join(preferences))
    return 0.0 if found is None else float(min(int(found[1]), LONGEST_WAIT))


def _tags(fields: list[str]) -> frozenset[str]:
    return frozenset(found.removeprefix("W/") for field in fields for found in _TAG.findall(field))


def _has(known: frozenset[str], published: Published) -> bool:
    return published.archive.tag in known or "*" in known


def _condition(request: Request) -> Condition:
    """Raises `ValueError`."""
    match = request.headers.getlist("if-match")
    none = request.headers.getlist("if-none-match")
    if none and [field.strip() for field in none] != ["*"]:
        raise ValueError("If-None-Match of a publication is '*'")
    tags = None
    if match:
        tags = tuple(found for field in match for found in _TAG.findall(field) if not found.startswith("W/"))
    return Condition(match=tags, absent=bool(none))


def _peer(request: Request) -> str:
    return "" if request.client is None else unmapped(request.client.host)


async def _not_found(_: Request, __: Exception) -> Response:
    return _problem(404, "there is nothing here")


def _unauthorized() -> Response:
    """Nothing more is read of a stranger, who could send a body that never ends."""
    return _problem(401, "a token or a client certificate is missing, or is none that is known",
                    headers={"www-authenticate": 'Bearer realm="ostiary"', "connection": "close"})  # fmt: skip


def _problem(status: int, detail: str, *, headers: Mapping[str, str] | None = None) -> Response:
    """RFC 9457."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "status": status,
        "title": HTTPStatus(status).phrase,
        "detail": detail,
    }
    return JSONResponse(
        document,
        status_code=status,
        headers={"cache-control": "no-store", **(headers or {})},
        media_type="application/problem+json",
    )
