"""Who asks and who answers, by the API of the proxy's own host, at every worker by turns."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from benchmarks.messages import get
from benchmarks.revoke.connection import Answer, Connection, connected
from benchmarks.revoke.proxies import Proxy


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A grant, and how the last approval was answered."""

    id: str
    approval: Answer


class People:
    """`web`, who asks, and `lead`, who answers."""

    def __init__(self, proxy: Proxy, connections: list[Connection]) -> None:
        self._tokens = {name: proxy.issuer.token(name) for name in ("web", "lead")}
        self._connections = itertools.cycle(connections)

    async def give(self, service: str, endpoint: str) -> Given:
        wanted = {"service": service, "endpoints": [endpoint], "duration": 3600, "reason": "a trial"}
        record = json.loads((await self._post("web", "requests", wanted, status=201)).body)
        approval = await self._post("lead", f"requests/{record['id']}/approve", {"digest": record["digest"]})
        return Given(id=record["id"], approval=approval)

    async def revoke(self, id: str) -> Answer:  # noqa: A002 - as the API names it
        return await self._post("lead", f"requests/{id}/revoke", {"reason": "the trial is over"})

    async def _post(self, subject: str, path: str, body: dict[str, Any], *, status: int = 200) -> Answer:
        content = json.dumps(body).encode()
        fields = (
            f"POST /access/{path} HTTP/1.1",
            "Host: ostiary.localhost",
            f"Authorization: Bearer {self._tokens[subject]}",
            "Content-Type: application/json",
            f"Content-Length: {len(content)}",
        )
        answer = await next(self._connections).ask("\r\n".join((*fields, "", "")).encode() + content)
        if answer.status != status:
            raise SystemExit(f"{path}: {answer.status} {answer.body.decode(errors='replace')}")
        return answer


@contextlib.asynccontextmanager
async def people(proxy: Proxy) -> AsyncIterator[People]:
    asking = get("/orders/42", proxy.issuer.token("web"))
    connections = [
        await connected(proxy.port, worker, workers=proxy.workers, asking=asking) for worker in proxy.workers
    ]
    try:
        yield People(proxy, connections)
    finally:
        for one in connections:
            one.close()
