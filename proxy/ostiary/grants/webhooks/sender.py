"""One attempt to tell somebody: a POST, and what became of it.

The connection is the one that keys of issuers are fetched over (`identity.fetch`): no redirects, no proxy and no
authorities from the environment, no cookies, and a look at the address that was really connected to. Of the answer its
head is read and nothing else: no receiver can make a proxy read at length.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from ostiary.addresses import REFUSED, Refused
from ostiary.grants.webhooks.notices import EVENTS, Event, Notice
from ostiary.grants.webhooks.signature import read_secrets, signed
from ostiary.grants.webhooks.templates import Template
from ostiary.identity.fetch import CONNECTION_ERRORS, AddressRefused, GuardedTransport

DEADLINE: Final = 10.0
"""Seconds for all of an attempt."""
_SECRET_FILE: Final = 4 * 1024
_GONE: Final = 3600.0
"""Seconds. Standard Webhooks has a receiver that is gone told nothing more; whoever configured it may have erred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Somebody who is told. `name` is what it is called in logs and metrics; its `url` may be a secret. Without
    `services` it is told of all, and of what is about no single one. `secrets` are read from `secret_file` each time,
    if there is one. `give_up_after` is how old what is told may become, in seconds."""

    name: str
    url: str = field(repr=False)
    template: Template
    secret: str = field(repr=False, default="")
    secret_file: Path | None = None
    ca_file: Path | None = None
    events: frozenset[Event] = frozenset(EVENTS)
    services: frozenset[str] | None = None
    give_up_after: int = 86_400

    def wants(self, notice: Notice) -> bool:
        return notice.event in self.events and (self.services is None or notice.service in self.services)

    def keys(self) -> tuple[bytes, ...]:
        """What is signed with. Blocks; raises `OSError`, `ValueError`."""
        if self.secret_file is None:
            return read_secrets(self.secret) if self.secret else ()
        with self.secret_file.open("rb") as file:
            return read_secrets(file.read(_SECRET_FILE).decode("ascii", "replace"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`failure` says why it was not taken, None if it was. `wait` is for how long it wants nothing, in seconds."""

    failure: str | None = None
    wait: float | None = None


class Sender:
    """`deadline` is in seconds; `now` is this machine's clock, which receivers compare with theirs; `refused` is what
    is never connected to."""

    def __init__(
        self, *, deadline: float = DEADLINE, now: Callable[[], float] = time.time, refused: Refused = REFUSED
    ) -> None:
        self._deadline = deadline
        self._now = now
        self._refused = refused

    async def send(self, webhook: Webhook, notice: Notice) -> Outcome:
        """Post it. Whatever goes wrong is an outcome."""
        body = webhook.template.body(notice)
        try:
            async with asyncio.timeout(self._deadline):
                keys, tls = await asyncio.to_thread(_prepared, webhook)
                return await self._post(webhook, tls, body, signed(notice.id, int(self._now()), body, keys))
        except TimeoutError:
            return Outcome(failure=f"did not answer within {self._deadline:g} s")
        except AddressRefused:
            return Outcome(failure="leads to an address that is never connected to")
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, *CONNECTION_ERRORS) as error:
            # The library's text may quote the URL, which may be a secret.
            return Outcome(failure=f"cannot be reached: {type(error).__name__}")
        except (OSError, ValueError) as error:
            return Outcome(failure=f"cannot be told: {error}")

    async def _post(
        self, webhook: Webhook, tls: ssl.SSLContext | None, body: bytes, headers: dict[str, str]
    ) -> Outcome:
        headers |= {"content-type": "application/json", "user-agent": "ostiary", "accept-encoding": "identity"}
        transport = GuardedTransport(tls=tls, refused=self._refused, loopback_only=tls is None)
        async with (
            httpx.AsyncClient(
                transport=transport, trust_env=False, follow_redirects=False, timeout=self._deadline
            ) as client,
            client.stream("POST", webhook.url, content=body, headers=headers) as response,
        ):
            if response.is_success:
                return Outcome()
            wait = _GONE if response.status_code == 410 else _wait(response.headers.get("retry-after"), self._now())
            return Outcome(failure=f"answered {response.status_code}", wait=wait)


def _prepared(webhook: Webhook) -> tuple[tuple[bytes, ...], ssl.SSLContext | None]:
    """The keys, and how the receiver is known; no TLS on loopback. Files are read each time: they are rotated."""
    keys = webhook.keys()
    if urlsplit(webhook.url).scheme != "https":
        return keys, None
    if webhook.ca_file is None:
        return keys, httpx.create_ssl_context(trust_env=False)
    try:
        return keys, ssl.create_default_context(cafile=webhook.ca_file)
    except (OSError, ssl.SSLError):
        raise OSError(f"the CA file {webhook.ca_file} cannot be used") from None


def _wait(text: str | None, now: float) -> float | None:
    """`Retry-After`, in seconds: a number of them, or a date (RFC 9110 section 10.2.3)."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(parsedate_to_datetime(text).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None
