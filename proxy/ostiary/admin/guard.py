"""A listener on loopback is within reach of every web page that is open on the machine: its requests are kept out.

A page sends them to a name of its own that leads to 127.0.0.1 by then (DNS rebinding), and reads the answers as its own
origin's. The name is in `Host`, which pages cannot set. What a page sends to another origin than its own and may change
something has `Origin`, and no client that belongs here sends that.

`GET /metrics` is answered whatever its Host: what stands before it for scrapers elsewhere, kube-rbac-proxy, passes on
the Host that they ask for.
"""

from __future__ import annotations

import re
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ostiary.addresses import is_localhost

_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*))(?::[0-9]*)?")
"""RFC 9110 section 7.2: a host, an IPv6 address in brackets, and a port."""


class OwnHostOnly:
    """Before an application on a loopback TCP socket. A request without Host is none of a page's: probes send such."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(scope) if scope["type"] == "http" else None
        await (self._application if refusal is None else refusal)(scope, receive, send)


def _refusal(scope: Scope) -> JSONResponse | None:
    headers = Headers(scope=scope)
    if "origin" in headers:
        return _problem(403, "web pages are not answered here: the request has an Origin")
    scrape = scope["path"] == "/metrics" and scope["method"] in ("GET", "HEAD")
    if not scrape and not all(map(_own, headers.getlist("host"))):
        return _problem(421, "the Host is another than localhost or an address of loopback")
    return None


def _own(host: str) -> bool:
    found = _HOST.fullmatch(host)
    return found is not None and is_localhost((found[1] or found[2] or "").lower())


def _problem(status: int, title: str) -> JSONResponse:
    return JSONResponse(
        {"type": "about:blank", "status": status, "title": title},
        status_code=status,
        headers={"cache-control": "no-store"},
        media_type="application/problem+json",
    )
