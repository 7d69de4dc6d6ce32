"""Health, and OPA's own word, on a listener that only this machine's operators reach.

`/livez` answers as long as the supervisor runs. `/readyz` is 200 only while a request could be allowed, and returns
what it looked at, as JSON: see `health`. `/health` is always 200, and has every fact besides. The look is taken when
it is asked for. `/metrics` is for Prometheus: docs/telemetry.md.

`POST /status` is where OPA's status plugin can report to. The report is not believed: it is a hint to look at OPA now,
which says itself what is true. It can be passed on to a bundle server, with what the proxy makes of that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ostiary.admin.health import Health
from ostiary.decision.verdict import LARGEST_REPORT

_FRESH: Final = {"cache-control": "no-store"}


def admin_application(
    look: Callable[[], Awaitable[Health]],
    *,
    policy_nudged: Callable[[], None],
    scrape: Callable[[str], Awaitable[tuple[bytes, str]]],
    reported: Callable[[bytes], None] | None = None,
) -> Starlette:
    """`look` is asked at each `GET /readyz` and `GET /health`, `scrape` at each `GET /metrics`, with its Accept header,
    for the document and its content type; `policy_nudged` is called at each `POST /status`, and `reported` with the
    report, unless that is too long."""

    async def livez(_: Request) -> JSONResponse:
        return JSONResponse({"live": True}, headers=_FRESH)

    async def readyz(_: Request) -> JSONResponse:
        seen = await look()
        return JSONResponse(seen.summary(), status_code=200 if seen.ready else 503, headers=_FRESH)

    async def health(_: Request) -> JSONResponse:
        return JSONResponse((await look()).document(), headers=_FRESH)

    async def metrics(request: Request) -> Response:
        document, content_type = await scrape(request.headers.get("accept", ""))
        return Response(document, media_type=content_type, headers=_FRESH)

    async def status(request: Request) -> JSONResponse:
        policy_nudged()
        if reported is not None and (report := await _report(request)) is not None:
            reported(report)
        return JSONResponse({}, headers=_FRESH)

    routes = [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/status", status, methods=["POST"]),
        Route("/status/{partition:path}", status, methods=["POST"]),  # `status.partition_name` of OPA's configuration
    ]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return app


async def _report(request: Request) -> bytes | None:
    """None if it is too long, or did not come whole."""
    report = bytearray()
    try:
        async for piece in request.stream():
            report += piece
            if len(report) > LARGEST_REPORT:
                return None
    except ClientDisconnect:
        return None
    return bytes(report)
