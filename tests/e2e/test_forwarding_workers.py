"""Several workers are one proxy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from support.forwarding import replies, reserved_port, response
from support.proxy import OWN_HOST, running_proxy
from support.upstream import RawUpstream


async def test_two_workers_share_a_port_a_key_and_an_opa(opa_binary: Path) -> None:
    """Whichever worker takes a connection: the same key signs, and each request is in the audit with its two lines."""
    with reserved_port() as port:
        async with (
            running_proxy(upstreams={"orders": port}, workers=2) as proxy,
            RawUpstream(replies(response()), port=port).running() as upstream,
        ):
            assert len(proxy.worker_pids) == 2
            headers = proxy.headers()

            async def ask(client: httpx.AsyncClient) -> tuple[int, str, str]:
                allowed = await client.get(proxy.url("/orders/42"), headers=headers)
                keys = await client.get(proxy.url("/.well-known/jwks.json"), headers={"host": OWN_HOST})
                return allowed.status_code, allowed.headers["ostiary-decision-id"], keys.text

            every_time_anew = httpx.Limits(max_keepalive_connections=0)
            async with httpx.AsyncClient(trust_env=False, limits=every_time_anew) as client:
                # One after the other, a single worker could take them all.
                found = [one for _ in range(4) for one in await asyncio.gather(*(ask(client) for _ in range(16)))]
            assert {status for status, _, _ in found} == {200}
            assert len({keys for _, _, keys in found}) == 1
            assert len({seen.values("ostiary-decision-id")[0] for seen in upstream.requests}) == 64
            for _, decision, _ in found:
                lines = await proxy.recorded(decision, lines=2)
                assert [line["kind"] for line in lines] == ["decision", "completion"]
            written = {path.name.split("-")[1] for path in proxy.audit.glob("*.ndjson") if path.stat().st_size}
            assert written == {"w0", "w1"}
