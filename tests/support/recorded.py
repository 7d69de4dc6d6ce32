"""Decisions that a real OPA made of real bundles, in audit files that the real log wrote."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from ostiary.decision.contract import parse_decision
from ostiary.errors import AccessError, PolicyUnavailable
from ostiary.models import AccessRequest, Identity, Target
from ostiary.opa.client import OpaClient
from ostiary.opa.sidecar import ManagedOpa
from ostiary.target import decode_query
from support.audit import credential, exchange, file_log

NOON = 1_790_078_400
"""A Tuesday, 12:00 UTC."""


def asked(
    method: str,
    path: str,
    *,
    subject: str = "web",
    source: str = "10.0.0.7",
    time: int = NOON,
    endpoint: str | None = None,
    claims: dict[str, Any] | None = None,
    service: str = "orders",
) -> AccessRequest:
    """A request as the proxy would ask about it; `endpoint` is what it predicted."""
    path, _, query = path.partition("?")
    segments = tuple(path[1:].split("/"))
    return AccessRequest(
        identity=Identity(
            issuer="https://idp.test", subject=subject, method="jwt", expires_at=time + 60, claims=claims or {}
        ),
        method=method,
        target=Target(
            service=service, segments=segments, path=path, query=query or None, pairs=decode_query(query.encode())
        ),
        time=time,
        source_ip=source,
        endpoint=endpoint,
    )


async def record(
    directory: Path, bundle: Path, requests: Sequence[AccessRequest | AccessError], *, opa: Path, down: int = 0
) -> list[str]:
    """Decide and record each, as the pipeline does; an error is a refusal before anything was asked. The decision ids.

    Of the last `down` requests OPA gives no answer.
    """
    log = file_log(directory)
    ids = []
    async with AsyncExitStack() as stack:
        managed = await stack.enter_async_context(ManagedOpa(binary=opa, bundle=bundle))
        client = await stack.enter_async_context(OpaClient(address=managed.address, deadline=10))
        await log.start()
        stack.push_async_callback(log.close)
        for number, request in enumerate(requests, 1):
            carried = exchange()
            with log.record(carried) as written:
                ids.append(carried.id)
                try:
                    if isinstance(request, AccessError):
                        raise request
                    written.resolved(request.target)
                    written.identified(request.identity)
                    if number > len(requests) - down:
                        raise PolicyUnavailable("OPA is down")
                    decision = parse_decision(await client.query(request.document()), request)
                    written.decided(request, decision)
                    decision.enforce()
                    await written.commit(credential())
                    await carried.respond(200, [], b"{}")
                except AccessError as refusal:
                    written.refused(refusal)
    return ids
