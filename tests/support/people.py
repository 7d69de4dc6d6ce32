"""People who use the API of the proxy's own host, and requests that take a grant."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx

from ostiary.models import Json
from support.proxy import OWN_HOST, RunningProxy

ASKED: Final = {"service": "orders", "endpoints": ["delete-order"], "duration": 600, "reason": "order 42 was a test"}


class Person:
    """Somebody, at one proxy."""

    def __init__(self, client: httpx.AsyncClient, proxy: RunningProxy, subject: str) -> None:
        self._client = client
        self._base = proxy.url("/access")
        self._headers = {"host": OWN_HOST, "authorization": f"Bearer {proxy.token(subject)}"}

    async def get(self, path: str) -> tuple[int, Json]:
        answer = await self._client.get(f"{self._base}/{path}", headers=self._headers)
        return answer.status_code, answer.json()

    async def post(self, path: str, key: str | None = None, **body: Json) -> tuple[int, Json]:
        headers = self._headers | ({} if key is None else {"idempotency-key": key})
        answer = await self._client.post(f"{self._base}/{path}", headers=headers, json=body)
        return answer.status_code, answer.json()


@asynccontextmanager
async def people(proxy: RunningProxy) -> AsyncIterator[tuple[Person, Person, Person]]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield Person(client, proxy, "web"), Person(client, proxy, "lead"), Person(client, proxy, "reporting")


async def statuses(
    proxy: RunningProxy, *, subject: str = "web", method: str = "DELETE", times: int = 16
) -> Counter[int]:
    """Of requests on connections of their own, so that all workers are asked."""
    headers = proxy.headers(subject)
    async with httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        answers = [client.request(method, proxy.url("/orders/42"), headers=headers) for _ in range(times)]
        return Counter([answer.status_code for answer in await asyncio.gather(*answers)])
