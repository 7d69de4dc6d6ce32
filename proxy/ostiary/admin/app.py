"""Health, and OPA's own word, on a listener that only this machine's operators reach.

`/livez` answers as long as the supervisor runs. `/readyz` is 200 only while a request could be allowed: OPA serves a
policy that is not stale, every worker accepts, and nothing drains. It returns what it looked at, as JSON; the look is
taken when it is asked.

`POST /status` is where OPA's status plugin can report to. The report is not read: it is a hint to look at OPA now,
which says itself what is true.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

_FRESH: Final = {"cache-control": "no-store"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the supervisor knows. `policy` is `starting`, `serving`, `stale` or `down`; `revision` its latest one.

    `tls` is `current`, or `outdated` where the listener's files have changed to something that cannot be used and what
    they held before is in use; None without TLS. Requests are served in either case.
    """

    draining: bool
    policy: str
    revision: str | None
    workers: int
    workers_ready: int
    tls: str | None = None

    @property
    def ready(self) -> bool:
        return not self.draining and self.policy == "serving" and self.workers_ready == self.workers


def admin_application(health: Callable[[], Awaitable[Health]], *, policy_nudged: Callable[[], None]) -> Starlette:
    """`health` is asked at each `GET /readyz`, `policy_nudged` is called at each `POST /status`."""

    async def livez(_: Request) -> JSONResponse:
        return JSONResponse({"live": True}, headers=_FRESH)

    async def readyz(_: Request) -> JSONResponse:
        seen = await health()
        document = {"ready": seen.ready, **asdict(seen)}
        if seen.tls is None:
            del document["tls"]
        return JSONResponse(document, status_code=200 if seen.ready else 503, headers=_FRESH)

    async def status(_: Request) -> JSONResponse:
        policy_nudged()
        return JSONResponse({}, headers=_FRESH)

    routes = [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/status", status, methods=["POST"]),
        Route("/status/{partition:path}", status, methods=["POST"]),  # `status.partition_name` of OPA's configuration
    ]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return app
