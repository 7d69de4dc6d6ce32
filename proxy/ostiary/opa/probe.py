"""Waiting for an OPA that can be trusted with decisions: healthy, with the right bundle, and right in what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from ostiary.decision.revision import Revision
from ostiary.errors import PolicyUnavailable
from ostiary.opa.client import OpaClient
from ostiary.opa.vetting import BundleRefused, OpaNotReady, examine

_PAUSE: Final = 0.02  # seconds between two looks
_LONG_PAUSE: Final = 0.5  # where another bundle has to come

__all__ = ["OpaNotReady", "wait_until_ready"]


async def wait_until_ready(
    client: OpaClient,
    *,
    accept: Callable[[Revision], Awaitable[None]],
    patience: float,
    another_may_come: bool = False,
) -> Revision:
    """The active revision, once this OPA is healthy, `accept` takes its bundle, and that has answered as it must.

    `accept` raises `PolicyUnavailable` while another bundle is awaited. The questions also pay for preparing the query,
    which OPA does after each activation. Raises `OpaNotReady` after `patience` seconds, or at once where the bundle is
    refused, but for an OPA that may get another one by itself (`another_may_come`).
    """
    reason = "it was not asked"
    try:
        async with asyncio.timeout(patience):
            while True:
                pause = _PAUSE
                try:
                    return await _look(client, accept)
                except PolicyUnavailable as unavailable:
                    reason = unavailable.detail
                except BundleRefused as refused:
                    if not another_may_come:
                        raise
                    reason, pause = str(refused), _LONG_PAUSE
                await asyncio.sleep(pause)
    except TimeoutError as error:
        raise OpaNotReady(f"OPA at {client.address} was not ready within {patience:g} s: {reason}") from error


async def _look(client: OpaClient, accept: Callable[[Revision], Awaitable[None]]) -> Revision:
    await client.check_health()
    found = await client.revision()
    revision = Revision.parse(found)
    if revision is None:
        raise PolicyUnavailable(f"its bundle has the revision {found!r}, which is not <sequence>-<digest>")
    await accept(revision)
    await examine(client, revision)
    return revision
