"""Health, on a listener that only this machine's operators reach.

`/livez` answers as long as the supervisor runs. `/readyz` is 200 only while a request could be allowed: OPA serves a
policy that is not stale, every worker accepts, and nothing drains. It returns what it looked at, as JSON; the look is
taken when it is asked.
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
    """What the supervisor knows. `policy` is `starting`, `serving`, `stale` or `down`; `revision` its latest one."""

    draining: bool
    policy: str
    revision: str | None
    workers: int
    workers_ready: int

    @property
    def ready(self) -> bool:
        return not self.draining and self.policy == "serving" and self.workers_ready == self.workers


def admin_application(health: Callable[[], Awaitable[Health]]) -> Starlette:
    """`GET /livez` and `GET /readyz`; `health` is asked at each call of the latter."""

    async def livez(_: Request) -> JSONResponse:
        return JSONResponse({"live": True}, headers=_FRESH)

    async def readyz(_: Request) -> JSONResponse:
        seen = await health()
        document = {"ready": seen.ready, **asdict(seen)}
        return JSONResponse(document, status_code=200 if seen.ready else 503, headers=_FRESH)

    app = Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz)])
    app.router.redirect_slashes = False
    return app
