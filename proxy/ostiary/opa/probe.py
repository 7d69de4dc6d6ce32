"""Waiting for an OPA that can be trusted with decisions: healthy, with the right bundle, warm, and able to say no."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ostiary.decision.revision import Revision
from ostiary.errors import PolicyUnavailable
from ostiary.opa.client import OpaClient

_PAUSE: Final = 0.02  # seconds between two looks


class OpaNotReady(Exception):
    """No OPA that could answer decisions. The message is one sentence, or OPA's own lines."""


async def wait_until_ready(client: OpaClient, *, expected: Callable[[], Revision] | None, patience: float) -> Revision:
    """The active revision, once this OPA is healthy, has the expected bundle, and has answered a first question.

    `expected` is asked again on each look, since a bundle may be replaced meanwhile; with None any revision will do.
    The question is empty (`{}`). It pays for preparing the query, which OPA does after each activation, and its answer
    is known: a bundle that does not deny it is refused. Raises `OpaNotReady` then, or after `patience` seconds.
    """
    reason = "it was not asked"
    try:
        async with asyncio.timeout(patience):
            while True:
                try:
                    return await _look(client, expected)
                except PolicyUnavailable as unavailable:
                    reason = unavailable.detail
                await asyncio.sleep(_PAUSE)
    except TimeoutError as error:
        raise OpaNotReady(f"OPA at {client.address} was not ready within {patience:g} s: {reason}") from error


async def _look(client: OpaClient, expected: Callable[[], Revision] | None) -> Revision:
    await client.check_health()
    found = await client.revision()
    revision = Revision.parse(found)
    if revision is None:
        raise PolicyUnavailable(f"its bundle has the revision {found!r}, which is not <sequence>-<digest>")
    if expected is not None and revision != (awaited := expected()):
        raise PolicyUnavailable(f"its bundle is {revision} where {awaited} is expected")
    answer = await client.query({})
    allow = answer.result.get("allow") if isinstance(answer.result, dict) else None
    if allow is True:
        raise OpaNotReady(f"the bundle {revision} allows the empty question, so it would allow anything")
    if allow is not False:
        raise OpaNotReady(f"the bundle {revision} does not decide: it holds no ostiary policy, or a broken one")
    return revision
