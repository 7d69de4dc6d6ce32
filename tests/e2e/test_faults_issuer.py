"""An issuer whose keys cannot be had: those whose key is known go on for a day and no longer, nobody else gets in, and
what the issuer publishes once it is back counts at once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from ostiary.clock import SystemClock
from ostiary.demo.issuer import AUDIENCE, ISSUER
from support.faults import changed_proxy, eventually
from support.forwarding import Client, connected, replies, response
from support.identity import Issuer, KeyServer, SigningKey, answer, jwks, raw_server
from support.machine import Machine
from support.proxy import RunningProxy, Trusted
from support.upstream import RawUpstream

HOUR = 3600
OLD = SigningKey(id="old", algorithm="ES256", material="old")
NEW = SigningKey(id="new", algorithm="ES256", material="new")


class Rotating:
    """Signs with the key that is in use, at the machine's time."""

    def __init__(self) -> None:
        self.key = OLD
        self.ahead = 0

    def token(self, subject: str, **claims: Any) -> str:
        now = int(time.time()) + self.ahead
        issuer = Issuer(clock=SystemClock(), issuer=ISSUER, key=self.key)
        return issuer.token(claims={"sub": subject, "aud": AUDIENCE, "iat": now, "exp": now + 600, **claims})

    def jwks(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(jwks(OLD))
        return document


@pytest.fixture
def machine() -> Iterator[Machine]:
    with TemporaryDirectory(prefix="ost-", dir="/tmp") as place:
        yield Machine(Path(place))


@asynccontextmanager
async def trusting(
    machine: Machine, keys: KeyServer
) -> AsyncIterator[tuple[RunningProxy, Rotating, Client, RawUpstream]]:
    """A proxy whose issuer publishes at an address, and a connection to it. Its policy never goes stale."""
    signer = Rotating()
    async with (
        raw_server(keys) as server,
        RawUpstream(replies(response())).running() as upstream,
        changed_proxy(
            upstreams={"orders": upstream.port},
            changes={"key_file: jwks.json": f'jwks_url: "http://127.0.0.1:{server.port}/jwks"'},
            opa_extra="max_policy_age: 8760h",
            trusted=Trusted(signer=signer),
            environment=machine.environment,
        ) as proxy,
        connected(proxy.port) as client,
    ):
        yield proxy, signer, client, upstream


async def asks(proxy: RunningProxy, client: Client) -> tuple[int, str]:
    """The status, and the decision's id."""
    lines = f"Host: orders.localhost\r\nAuthorization: Bearer {proxy.token()}\r\n"
    await client.send(f"GET /orders/42 HTTP/1.1\r\n{lines}\r\n".encode())
    got = await client.response()
    if got.status != 200:
        return got.status, json.loads(got.body)["decision_id"]
    return 200, ""


def _closes(keys: KeyServer) -> None:
    keys.raw = b""


def _hangs(keys: KeyServer) -> None:
    keys.delay = 3600


def _fails(keys: KeyServer) -> None:
    keys.raw = answer(b"<html>", status="503 Service Unavailable")


def _is_empty(keys: KeyServer) -> None:
    keys.raw = answer(b"")


def _has_no_keys(keys: KeyServer) -> None:
    keys.raw = answer(b'{"keys": []}')


def _leads_elsewhere(keys: KeyServer) -> None:
    keys.raw = answer(b"", status="302 Found", headers=b"location: http://127.0.0.1:9/jwks\r\n")


def _has_symmetric_keys(keys: KeyServer) -> None:
    keys.raw = answer(b'{"keys": [{"kty": "oct", "kid": "new", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQ"}]}')


@pytest.mark.parametrize(
    "outage",
    [_closes, _hangs, _fails, _is_empty, _has_no_keys, _leads_elsewhere, _has_symmetric_keys],
    ids=lambda one: one.__name__.strip("_"),
)
async def test_an_outage_of_hours(opa_binary: Path, machine: Machine, outage: Any) -> None:
    keys = KeyServer(jwks(OLD))
    async with trusting(machine, keys) as (proxy, signer, client, upstream):

        def later(seconds: int) -> None:
            machine.pass_time(seconds)
            signer.ahead += seconds

        assert (await asks(proxy, client))[0] == 200
        outage(keys)

        later(5 * HOUR)
        assert (await asks(proxy, client))[0] == 200  # its key is known, and that was long ago
        signer.key = NEW
        refused, decision = await asks(proxy, client)
        assert refused == 401
        (line,) = await proxy.recorded(decision, lines=1)
        assert (line["kind"], line["reasons"], line["detail"]) == ("refusal", ["identity-invalid"], "key: unknown kid")
        signer.key = OLD
        assert (await asks(proxy, client))[0] == 200

        later(20 * HOUR)
        assert (await asks(proxy, client))[0] == 401  # nobody knows what became of that key meanwhile
        without = await asyncio.to_thread(proxy.health)
        assert (without[0], without[1]["keys"]) == (503, "none")
        assert len(upstream.requests) == 3

        keys.document, keys.raw, keys.delay = jwks(NEW), None, 0
        signer.key = NEW
        async with asyncio.timeout(60):
            while (await asks(proxy, client))[0] != 200:
                later(60)  # past the cool-down: one attempt each half minute is all that an issuer has to bear
        assert (await asyncio.to_thread(proxy.health))[0] == 200
        signer.key = OLD
        assert (await asks(proxy, client))[0] == 401
        assert len(upstream.requests) == 4


async def test_a_key_that_is_rotated_in_is_believed_at_once_and_one_rotated_out_no_longer(
    opa_binary: Path, machine: Machine
) -> None:
    """However warm the caches are. Nobody is refused in between."""
    keys = KeyServer(jwks(OLD))
    async with trusting(machine, keys) as (proxy, signer, client, upstream):
        for _ in range(5):
            assert (await asks(proxy, client))[0] == 200
        keys.document = jwks(OLD, NEW)
        machine.pass_time(60)
        signer.ahead += 60
        for signer.key in (NEW, OLD, NEW):
            assert (await asks(proxy, client))[0] == 200
        keys.document = jwks(NEW)
        machine.pass_time(60)
        signer.ahead += 60
        signer.key = SigningKey(id="other", algorithm="ES256", material="other")
        assert (await asks(proxy, client))[0] == 401  # an unknown key makes it look
        signer.key = OLD
        assert (await asks(proxy, client))[0] == 401
        signer.key = NEW
        assert (await asks(proxy, client))[0] == 200
        assert len(upstream.requests) == 9


async def test_workers_that_are_restarted_in_an_outage_know_what_the_others_did(
    opa_binary: Path, machine: Machine
) -> None:
    keys = KeyServer(jwks(OLD))
    async with trusting(machine, keys) as (proxy, signer, client, upstream):
        assert (await asks(proxy, client))[0] == 200
        _fails(keys)
        os.kill(proxy.pid, signal.SIGUSR2)
        await eventually(lambda: "all workers were restarted" in proxy.log_text(), seconds=60)
        async with connected(proxy.port) as anew:
            assert (await asks(proxy, anew))[0] == 200
            signer.key = NEW
            assert (await asks(proxy, anew))[0] == 401
        assert len(upstream.requests) == 2
