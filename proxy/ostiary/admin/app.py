"""Health, on a listener that only this machine's operators reach.

`/livez` answers as long as the supervisor runs. `/readyz` is 200 only while a request could be allowed: OPA serves
and every worker accepts. Both return what they looked at, as JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the supervisor knows. `policy` is OPA's state: `starting`, `serving` or `down`."""

    policy: str
    revision: str | None
    workers: int
    workers_ready: int

    @property
    def ready(self) -> bool:
        return self.policy == "serving" and self.workers_ready == self.workers


def admin_application(health: Callable[[], Health]) -> Starlette:
    async def livez(request: Request) -> JSONResponse:
        return JSONResponse({"live": True})

    async def readyz(request: Request) -> JSONResponse:
        seen = health()
        return JSONResponse({"ready": seen.ready, **asdict(seen)}, status_code=200 if seen.ready else 503)

    app = Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz)])
    app.router.redirect_slashes = False
    return app
