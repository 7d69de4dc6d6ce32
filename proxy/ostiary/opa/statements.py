"""Where the statement of a rollback is had from: a file of this machine, or a server.

It is asked for only where a bundle is older than what was active, and that is looked at again four times a second. So
a server is asked once in a while, and what it said last holds until then: whoever publishes the statement before the
older bundle waits for nothing. What is had is anybody's until its signature says whose it is (`rollback`).
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final, Protocol

from ostiary.decision.rollback import LARGEST_STATEMENT, MEDIA_TYPE
from ostiary.identity.keys import KeySourceError, NoSuchDocument
from ostiary.opa.rollback import StatementError

_DEADLINE: Final = 3.0
"""Seconds for one attempt."""
_PAUSE: Final = 10.0
"""Seconds between the end of one attempt and the next."""


class StatementSource(Protocol):
    """`str` of it says where that is."""

    async def read(self) -> bytes | None:
        """The document, or so much of it that it is seen to be too long; None without one. Raises `StatementError`."""


class StatementFile:
    """A file, which may come and go."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    async def read(self) -> bytes | None:
        return await asyncio.to_thread(self._content)

    def _content(self) -> bytes | None:
        try:
            with self._path.open("rb") as file:
                return file.read(LARGEST_STATEMENT + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StatementError(f"it cannot be read: {error.strerror}") from error


class StatementAddress:
    """A URL: https, or http on loopback; a 404 says that there is none. `deadline` is for one attempt, `pause` lies
    between the end of one and the next; both in seconds. Token and authorities are read each time."""

    def __init__(
        self,
        url: str,
        *,
        token_file: Path | None = None,
        ca_file: Path | None = None,
        deadline: float = _DEADLINE,
        pause: float = _PAUSE,
    ) -> None:
        from ostiary.identity.fetch import DocumentFetcher  # imported here: with httpx, a tenth of a start

        self._url = url
        self._fetcher = DocumentFetcher(accept=MEDIA_TYPE, ca_file=ca_file, token_file=token_file)
        self._deadline = deadline
        self._pause = pause
        self._said: bytes | StatementError | None = None
        self._again = time.monotonic()
        self._asking = asyncio.Lock()

    def __str__(self) -> str:
        return self._url

    async def read(self) -> bytes | None:
        async with self._asking:
            if time.monotonic() >= self._again:
                self._said = await self._ask()
                self._again = time.monotonic() + self._pause
        if isinstance(self._said, StatementError):
            raise self._said
        return self._said

    async def _ask(self) -> bytes | StatementError | None:
        try:
            async with asyncio.timeout(self._deadline):
                return await self._fetcher.get(self._url)
        except NoSuchDocument:
            return None
        except KeySourceError as error:
            return StatementError(f"it cannot be had: {error}")
        except TimeoutError:
            return StatementError(f"it cannot be had: no answer within {self._deadline:g} s")
