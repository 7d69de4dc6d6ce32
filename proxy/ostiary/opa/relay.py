"""OPA's status reports on their way through the proxy to a bundle server.

OPA's status plugin has one receiver. That is the proxy, which so learns at once of another bundle. The report is passed
on with what the proxy makes of that bundle (`verdict`), and once more when that changes afterwards; nobody waits for
it. Only the latest counts: one that could not be passed on is tried again, with a pause that doubles, until another
takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import httpx
import orjson

from ostiary.decision.verdict import MEMBER, Verdict
from ostiary.identity.fetch import read_token
from ostiary.identity.keys import KeySourceError
from ostiary.opa.background import Background
from ostiary.strictjson import NotStrict, read_object

_log = logging.getLogger("ostiary.opa")

_DEADLINE: Final = 10.0


class ReportRelay(Background):
    """Open (`async with`) as long as the proxy runs. `url` is the bundle server's; token and authorities are read each
    time. `judged` looks at OPA and says what the proxy makes of it. `first_pause` and `longest_pause` are in seconds.
    """

    _name = "ostiary-report-relay"

    def __init__(
        self,
        *,
        url: str,
        judged: Callable[[], Awaitable[Verdict]],
        token_file: Path | None = None,
        ca_file: Path | None = None,
        first_pause: float = 1.0,
        longest_pause: float = 30.0,
    ) -> None:
        self._url = f"{url.rstrip('/')}/status"
        self._judged = judged
        self._token_file = token_file
        self._ca_file = ca_file
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._latest: bytes | None = None
        self._said: Verdict | None = None
        self._new = asyncio.Event()
        self._told = False

    def pass_on(self, report: bytes) -> None:
        """Pass this on soon, in the place of what was not passed on yet."""
        self._latest = report
        self._new.set()

    def look_again(self, verdict: Verdict) -> None:
        """Pass the latest report on once more, if this is not what was said with it."""
        if self._latest is not None and verdict != self._said:
            self._new.set()

    async def _run(self) -> None:
        pause = self._first_pause
        while True:
            await self._new.wait()
            report = self._latest or b""
            self._said = await self._judged()  # after the report came, so that it is about what that says
            if report is self._latest:  # else another came meanwhile, and is next
                self._new.clear()
            refused = await self._post(_with(report, self._said))
            if refused is None:
                pause, self._told = self._first_pause, False
                continue
            if not self._told:
                self._told = True
                _log.warning("reports of OPA's are not passed on to %s: %s", self._url, refused)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._new.wait()
            pause = min(pause * 2, self._longest_pause)
            self._new.set()

    async def _post(self, report: bytes) -> str | None:
        """Why it was not taken; None if it was."""
        try:
            headers, context = await asyncio.to_thread(self._prepare)
            async with (
                asyncio.timeout(_DEADLINE),
                httpx.AsyncClient(trust_env=False, follow_redirects=False, verify=context or False) as client,
            ):
                response = await client.post(self._url, content=report, headers=headers)
        except TimeoutError:
            return "it did not answer in time"
        except KeySourceError as error:
            return str(error)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return f"{type(error).__name__}: {error}"
        return None if response.is_success else f"it says {response.status_code}"

    def _prepare(self) -> tuple[dict[str, str], ssl.SSLContext | None]:
        """The headers of a report, and how the server is known; no TLS on loopback.

        Blocks; raises `OSError`, and `KeySourceError` where the token cannot be read.
        """
        headers = {"content-type": "application/json"}
        if self._token_file is not None:
            headers["authorization"] = f"Bearer {read_token(self._token_file)}"
        if not self._url.startswith("https:"):
            return headers, None
        return headers, ssl.create_default_context(cafile=None if self._ca_file is None else str(self._ca_file))


def _with(report: bytes, verdict: Verdict) -> bytes:
    """What is no object is passed on as it is: the server says what is wrong with it."""
    try:
        document = read_object(report)
    except NotStrict:
        return report
    return orjson.dumps({**document, MEMBER: verdict.document()})
