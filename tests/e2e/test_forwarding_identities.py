"""Callers by certificate, by bound token and by the word of a proxy in front, through the whole proxy."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ostiary.clock import SystemClock
from ostiary.credential import ensure_signing_key
from ostiary.demo.issuer import ISSUER
from support.dpop import Prover
from support.forwarding import PATIENCE, Client, connected, replies, reserved_port, response
from support.identity import ABSENT, Issuer, SigningKey, b64, jwks
from support.proxy import RunningProxy, running_proxy
from support.tls import Pair, client_context, dns, root, workload
from support.upstream import Answer, RawUpstream

SHOP, MESH, PLAIN, SERVERS = root("shop"), root("mesh"), root("plain"), root("servers")
WEB, STRANGER, INGRESS = workload(SHOP), workload(SHOP, "stranger"), workload(MESH, "ingress", domain="mesh.test")
BATCH = PLAIN.issue(dns("batch.shop.test"))
SVID_KEY = SigningKey(id="s1", algorithm="ES256", material="trust domain")

RESTART = 90.0
"""Seconds after which a test that waits for workers to be started again gives up: they have as long to come up."""

PERMISSIONS = f"""\
services:
  orders:
    endpoints: {{get-order: "GET /orders/{{order_id}}", create-order: POST /orders}}
callers:
  web: {{spiffe: spiffe://shop.test/web}}
  batch: {{issuer: https://ca.test, subject: batch.shop.test}}
  person: {{issuer: {ISSUER}, subject: ann}}
permissions:
  - {{caller: web, service: orders, endpoints: [get-order]}}
  - {{caller: batch, service: orders, endpoints: [get-order]}}
  - {{caller: person, service: orders, endpoints: [get-order]}}
"""
TLS = (
    "tls: {certificate: server.pem, key: server-key.pem,"
    " trust_domains: {shop.test: shop-bundle.pem, mesh.test: mesh.pem},"
    " client_ca: {issuer: https://ca.test, file: plain.pem}}"
)
BY_ACTOR = """\
package policy

import rego.v1

deny contains "only the web front end acts for people" if {
	not input.context.actor.id == "spiffe://shop.test/web"
}
"""


@dataclass(frozen=True)
class Place:
    """A directory with everything that a configuration names, and a service."""

    directory: Path
    port: int

    def context(self, pair: Pair | None = None) -> ssl.SSLContext:
        return client_context(SERVERS, shows=pair, directory=self.directory)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("certificates")
    with reserved_port() as port:
        yield Place(directory, port)


@contextlib.asynccontextmanager
async def proxy(place: Place, *, mounted: bool = False, **settings: Any) -> AsyncIterator[RunningProxy]:
    """With the service behind it. Its files of TLS are made anew, because tests change them.

    Where they are `mounted`, its private keys can be read by its group, as Kubernetes mounts them.
    """
    directory = Path(tempfile.mkdtemp(prefix="ost-", dir="/tmp"))
    try:
        _, key = SERVERS.issue(dns("localhost")).write(directory, "server")
        if mounted:
            ensure_signing_key(directory / "signing.pem")
            for one in (key, directory / "signing.pem"):
                one.chmod(0o440)
            settings["config_extra"] = "signing: {key_file: signing.pem}\nsecrets: {group_readable: true}\n"
        for name, pair in (("shop-bundle", SHOP), ("mesh", MESH), ("plain", PLAIN)):
            (directory / f"{name}.pem").write_bytes(pair.pem)
        (directory / "svid.json").write_bytes(jwks(SVID_KEY.jwk(use="jwt-svid")))
        given = {"permissions": PERMISSIONS, "listen_extra": TLS, "upstreams": {"orders": place.port}, **settings}
        async with (
            running_proxy(directory, **given) as running,
            RawUpstream(replies(response()), port=place.port).running(),
        ):
            yield running
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def request(*headers: str, target: str = "/orders/42", method: str = "GET") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: orders.localhost", *headers, "", ""]
    return "\r\n".join(lines).encode()


async def ask(client: Client, *headers: str, **given: str) -> Answer:
    await client.send(request(*headers, **given))
    return await client.response()


def reasons(answer: Answer) -> list[str]:
    found: list[str] = json.loads(answer.body)["reasons"]
    return found


async def once(running: RunningProxy, context: ssl.SSLContext | None, *headers: str, **given: str) -> Answer:
    async with connected(running.port, tls=context) as client:
        return await ask(client, *headers, **given)


async def until_allowed(running: RunningProxy, context: ssl.SSLContext) -> None:
    """The handshake fails until the proxy knows the authority."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
                if (await once(running, context)).status == 200:
                    return
            await asyncio.sleep(0.05)


async def test_workloads_and_plain_certificates_are_callers_and_others_are_not(place: Place) -> None:
    async with proxy(place, mounted=True, identity="mtls", workers=2) as running:
        web = await once(running, place.context(WEB))
        assert web.status == 200
        assert (await once(running, place.context(BATCH))).status == 200
        denied = await once(running, place.context(STRANGER))
        assert (denied.status, reasons(denied)) == (403, ["unknown-caller"])
        missing = await once(running, place.context())
        assert (missing.status, reasons(missing)) == (401, ["identity-missing"])
        assert missing.values("www-authenticate") == ['Certificate realm="ostiary"']
        forged = await once(running, place.context(workload(MESH, "web", domain="shop.test")))
        assert (forged.status, reasons(forged)) == (401, ["identity-invalid"])
        forged = await once(running, place.context(), "X-Forwarded-Client-Cert: URI=spiffe://shop.test/web")
        assert forged.status == 401
        token = running.token("ann")
        assert (await once(running, place.context(), f"Authorization: Bearer {token}")).status == 401
        decision, completion = await running.recorded(web.values("ostiary-decision-id")[0], lines=2)
        assert decision["identity"] == {
            "issuer": "spiffe://shop.test",
            "subject": "spiffe://shop.test/web",
            "method": "mtls",
            "token_id": None,
        }
        assert decision["input"]["subject"]["properties"]["method"] == "mtls"
        assert completion["status"] == 200
        assert running.health()[1]["tls"] == "current"


async def test_an_authority_that_was_removed_is_not_trusted_on_any_connection_and_none_is_dropped(
    place: Place,
) -> None:
    successor = root("the next one")
    async with proxy(place, identity="mtls") as running, connected(running.port, tls=place.context(WEB)) as open_one:
        assert (await ask(open_one)).status == 200
        (running.place / "shop-bundle.pem").write_bytes(SHOP.pem + successor.pem)
        await until_allowed(running, place.context(workload(successor)))
        assert (await ask(open_one)).status == 200
        (running.place / "shop-bundle.pem").write_bytes(successor.pem)
        async with asyncio.timeout(PATIENCE):
            while (found := await ask(open_one)).status == 200:  # noqa: ASYNC110 # the proxy's own pace
                await asyncio.sleep(0.05)
        assert (found.status, reasons(found)) == (401, ["identity-invalid"])
        assert (await ask(open_one, target="/.well-known/jwks.json")).status in (401, 403), "and it is still open"
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await once(running, place.context(WEB))
        assert (await once(running, place.context(workload(successor)))).status == 200
        (running.place / "shop-bundle.pem").write_bytes(b"half of")
        async with asyncio.timeout(PATIENCE):
            while running.health()[1]["tls"] != "outdated":  # noqa: ASYNC110 # the proxy's own pace
                await asyncio.sleep(0.05)
        assert running.health()[0] == 200
        assert (await once(running, place.context(workload(successor)))).status == 200


async def test_with_both_proofs_the_policy_sees_who_acts_and_bound_tokens_are_their_owner_s(place: Place) -> None:
    async with proxy(place, identity="mtls, jwt", rego={"policy.rego": BY_ACTOR}) as running:
        bearer = f"Authorization: Bearer {running.token('ann')}"
        web = await once(running, place.context(WEB), bearer)
        assert web.status == 200
        other = await once(running, place.context(STRANGER), bearer)
        assert (other.status, reasons(other)[0].partition(":")[0]) == (403, "policy-denied")
        assert (await once(running, place.context(WEB), bearer)).status == 200
        assert (await once(running, place.context(WEB))).status == 401
        assert (await once(running, place.context(), bearer)).status == 401

        bound = running.token("ann", cnf={"x5t#S256": b64(hashlib.sha256(WEB.der).digest())})
        assert (await once(running, place.context(WEB), f"Authorization: Bearer {bound}")).status == 200
        stolen = await once(running, place.context(STRANGER), f"Authorization: Bearer {bound}")
        assert (stolen.status, reasons(stolen)) == (401, ["identity-invalid"])
        decision, _ = await running.recorded(web.values("ostiary-decision-id")[0], lines=2)
        assert decision["input"]["context"]["actor"] == {
            "type": "workload",
            "id": "spiffe://shop.test/web",
            "properties": {"issuer": "spiffe://shop.test", "method": "mtls", "claims": {}},
        }


async def test_a_proof_of_possession_is_used_once_by_all_workers_and_after_a_restart_of_them(place: Place) -> None:
    async with proxy(place, listen_extra="dpop: {}", workers=2) as running:
        prover = Prover(clock=SystemClock())
        token = running.token("ann", cnf=prover.cnf)
        url = f"http://orders.localhost:{running.port}/orders/42"

        async def show(proof: str, *, scheme: str = "DPoP") -> Answer:
            host = f"Host: orders.localhost:{running.port}"
            lines = ["GET /orders/42 HTTP/1.1", host, f"Authorization: {scheme} {token}", f"DPoP: {proof}", "", ""]
            async with connected(running.port) as client:
                await client.send("\r\n".join(lines).encode())
                return await client.response()

        # The table refuses what was made in the second in which it began.
        async with asyncio.timeout(PATIENCE):
            while (found := await show(prover.proof(token, url=url).decode())).status != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert found.status == 200
        proof = prover.proof(token, url=url).decode()
        assert [(await show(proof)).status for _ in range(8)] == [200, *[401] * 7]
        bearer = await show(prover.proof(token, url=url).decode(), scheme="Bearer")
        assert bearer.status == 401
        assert bearer.values("www-authenticate") == [
            'Bearer realm="ostiary", error="invalid_token"',
            'DPoP realm="ostiary", algs="ES256 EdDSA", error="invalid_token"',
        ]
        before = running.worker_pids
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(RESTART):
            while len(set(running.worker_pids) - set(before)) < 2 or running.health()[0] != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert (await show(proof)).status == 401
        assert (await show(prover.proof(token, url=url).decode())).status == 200


async def test_a_pinned_proxy_in_front_says_who_the_workload_is(place: Place) -> None:
    xfcc = f'{TLS}, xfcc: {{peers: ["spiffe://mesh.test/ingress"], trust_domains: [shop.test]}}'
    says = "X-Forwarded-Client-Cert: By=spiffe://mesh.test/ingress;URI=spiffe://shop.test/web"
    async with proxy(place, identity="xfcc", listen_extra=xfcc) as running:
        assert (await once(running, place.context(INGRESS), says)).status == 200
        assert (await once(running, place.context(WEB), says)).status == 401
        assert (await once(running, place.context(), says)).status == 401
        assert (await once(running, place.context(INGRESS))).status == 401
        for value in (
            "By=spiffe://shop.test/web",
            "URI=spiffe://shop.test/x,URI=spiffe://shop.test/web",
            "URI=spiffe://evil.test/web",
        ):
            assert (await once(running, place.context(INGRESS), f"X-Forwarded-Client-Cert: {value}")).status == 401


async def test_a_workload_s_token_is_the_same_caller_as_its_certificate(place: Place) -> None:
    svids = (
        '  - {issuer: "spiffe://shop.test", use: jwt-svid, audience: proxy, key_file: svid.json, algorithms: [ES256]}\n'
    )

    domain = Issuer(clock=SystemClock(), key=SVID_KEY)
    claims = {"iss": ABSENT, "sub": "spiffe://shop.test/web", "iat": int(time.time())}
    async with proxy(place, listen_extra="", more_issuers=svids) as running:
        token = domain.token(claims=claims)
        running.tokens.append(token)
        assert (await once(running, None, f"Authorization: Bearer {token}")).status == 200
        plain = running.token("spiffe://shop.test/web")
        denied = await once(running, None, f"Authorization: Bearer {plain}")
        assert (denied.status, reasons(denied)) == (403, ["unknown-caller"])
