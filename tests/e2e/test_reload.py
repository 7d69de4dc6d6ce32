"""SIGHUP: another configuration is taken into use whole, without costing a request, or not at all."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ostiary.config import Config, load_config
from ostiary.reloading import changed
from support.faults import asked, eventually
from support.forwarding import replies, response
from support.load import under_load
from support.metrics import scrape, total
from support.proxy import RunningProxy, running_proxy
from support.upstream import RawUpstream, Seen, UpstreamConnection


def rewrite(proxy: RunningProxy, old: str, new: str) -> None:
    path = proxy.place / "ostiary.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


async def reloaded(proxy: RunningProxy, *, says: str) -> None:
    """SIGHUP, and wait until the log says so once more."""
    before = proxy.log_text().count(says)
    os.kill(proxy.pid, signal.SIGHUP)
    await eventually(lambda: proxy.log_text().count(says) > before)


def configuration(proxy: RunningProxy) -> dict[str, Any]:
    """What `/health` says of it."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(proxy.admin), verify=False), trust_env=False) as client:
        found: dict[str, Any] = client.get("http://localhost/health").json()["configuration"]
        return found


CURRENT = {"state": "current", "mistakes": []}
RELOADED = "the configuration was reloaded"
STAYS = "the configuration stays as it was"


def requests_of(proxy: RunningProxy) -> Callable[[], bytes]:
    headers = f"Host: orders.localhost\r\nAuthorization: Bearer {proxy.token()}\r\n"
    post = f"POST /orders HTTP/1.1\r\n{headers}Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n4\r\nmore\r\n0\r\n\r\n"
    turns = itertools.cycle([f"GET /orders/42 HTTP/1.1\r\n{headers}\r\n".encode(), post.encode()])
    return lambda: next(turns)


async def test_a_reload_under_load_costs_no_request(opa_binary: Path) -> None:
    """Twice, to another service and back. Requests go to the one or to the other; afterwards only to the other.

    OPA has time: what twice the workers do to a busy machine is not what is looked at.
    """
    async with (
        RawUpstream(replies(response(b"one"))).running() as one,
        RawUpstream(replies(response(b"two"))).running() as two,
        running_proxy(upstreams={"orders": one.port}, workers=2, opa_extra="deadline: 5s") as proxy,
        under_load(proxy.port, requests_of(proxy)) as load,
    ):
        opa = proxy.opa_pid
        for old, new in ((one, two), (two, one)):
            await load.more(50)
            before = proxy.worker_pids
            rewrite(proxy, f":{old.port}", f":{new.port}")
            await reloaded(proxy, says=RELOADED)
            now = proxy.worker_pids
            assert (len(now), set(now) & set(before)) == (2, set())
            seen = len(old.requests)
            await load.more(50)
            assert len(old.requests) == seen
        assert proxy.opa_pid == opa
        assert await asyncio.to_thread(configuration, proxy) == CURRENT
        refusals = [line for line in proxy.audit_lines() if line["kind"] == "refusal"]
        assert [(line["reasons"], line["detail"]) for line in refusals] == []
    assert load.failures == []
    assert set(load.statuses) == {200}


async def test_a_request_that_is_under_way_ends_as_it_began(opa_binary: Path) -> None:
    """It is answered by the service that it was sent to, though that is no service any more."""
    going = asyncio.Event()

    async def slow(connection: UpstreamConnection, seen: Seen) -> None:
        await going.wait()
        await connection.send(response(b"old"))

    async with (
        RawUpstream(slow).running() as old,
        RawUpstream(replies(response(b"new"))).running() as new,
        running_proxy(upstreams={"orders": old.port}) as proxy,
        httpx.AsyncClient(trust_env=False, timeout=60) as client,
    ):
        first = asyncio.create_task(client.get(proxy.url("/orders/42"), headers=proxy.headers()))
        async with asyncio.timeout(60):
            while not old.requests:  # noqa: ASYNC110 - the list is no event
                await asyncio.sleep(0.01)
        rewrite(proxy, f":{old.port}", f":{new.port}")
        before = set(proxy.worker_pids)
        os.kill(proxy.pid, signal.SIGHUP)
        await eventually(lambda: bool(set(proxy.worker_pids) - before))
        await eventually(lambda: fetched(proxy) == b"new")
        assert not first.done()
        going.set()
        assert (await first).content == b"old"
        await eventually(lambda: RELOADED in proxy.log_text())


def fetched(proxy: RunningProxy) -> bytes:
    """On a connection of its own. One that the old worker takes would wait for the old service."""
    try:
        return httpx.get(proxy.url("/orders/42"), headers=proxy.headers(), trust_env=False, timeout=0.5).content
    except httpx.TransportError:
        return b""


def tells_reasons(proxy: RunningProxy) -> bool:
    answer = httpx.delete(proxy.url("/orders/42"), headers=proxy.headers(), trust_env=False)
    assert answer.status_code == 403
    return "reasons" in answer.json()


async def test_a_configuration_that_is_wrong_changes_nothing(opa_binary: Path) -> None:
    """Whatever is wrong with it, each time all of it is said, and the proxy goes on as it was."""
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, workers=2) as proxy,
    ):
        path, before = proxy.place / "ostiary.yaml", proxy.worker_pids
        good = path.read_text()
        (proxy.place / "half.json").write_text('{"keys": [{"kty": "EC", "crv"')
        (proxy.place / "half.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIB")
        wrong = {
            f"{good}limit: {{}}\nerrors: {{detail: ful}}\n": ["limit: unknown key", "'ful' is not"],
            "listen: [": ["ostiary.yaml:2: not YAML"],
            good.replace("key_file: jwks.json", "key_file: none.json"): ["none.json: the key_file of the issuer"],
            good.replace("key_file: jwks.json", "key_file: half.json"): ["half.json: the key_file of the issuer"],
            good.replace("key_file: jwks.json", 'jwks_url: "https://idp.test/jwks", ca_file: half.pem'): [
                "half.pem: the ca_file of the issuer"
            ],
            good.replace("workers: 2", "workers: 3").replace("127.0.0.1:0", "127.0.0.1:9"): [
                "ostiary.yaml:1: listen.data cannot be changed while the proxy runs",
                "ostiary.yaml:3: workers cannot be changed while the proxy runs",
            ],
            good.replace("bundle: bundle", "bundle: other"): ["opa.managed.bundle cannot be changed"],
            f"{good}state: elsewhere\n": ["state cannot be changed while the proxy runs: restart it"],
            f"{good}signing: {{key_file: none.pem}}\n": ["none.pem"],
        }
        for text, words in wrong.items():
            path.write_text(text)
            await reloaded(proxy, says=STAYS)
            await eventually(lambda: len(configuration(proxy)["mistakes"]) > 0)
            found = await asyncio.to_thread(configuration, proxy)
            assert found["state"] == "refused"
            for word in words:
                assert any(word in line for line in found["mistakes"]), (word, found["mistakes"])
            assert len(found["mistakes"]) == len(words)
            assert all(f"{STAYS}: {line}" in proxy.log_text() for line in found["mistakes"])
            assert await asyncio.to_thread(asked, proxy) == (200, [])
        # What only a worker finds out: its audit cannot be written. The second one is not even started.
        (proxy.place / "file").write_text("")
        path.write_text(good.replace("audit: {path: audit/}", "audit: {path: file}"))
        await reloaded(proxy, says=STAYS)
        assert any("did not start" in line for line in configuration(proxy)["mistakes"])
        assert proxy.worker_pids == before
        assert (await asyncio.to_thread(proxy.health))[0] == 200

        path.write_text(good + "errors: {detail: minimal}\n")
        await reloaded(proxy, says=RELOADED)
        assert await asyncio.to_thread(configuration, proxy) == CURRENT
        assert not await asyncio.to_thread(tells_reasons, proxy)
        assert set(proxy.worker_pids) & set(before) == set()


async def test_a_worker_that_dies_after_a_reload_comes_back_with_what_was_reloaded(opa_binary: Path) -> None:
    async with (
        RawUpstream(replies(response(b"ok"))).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, config_extra="errors: {detail: full}\n") as proxy,
    ):
        rewrite(proxy, "detail: full", "detail: minimal")
        for _ in range(3):  # what is asked for while it is being done is done afterwards
            os.kill(proxy.pid, signal.SIGHUP)
        await eventually(lambda: RELOADED in proxy.log_text())
        await eventually(lambda: len(proxy.worker_pids) == 1)
        os.kill(proxy.worker_pids[0], signal.SIGKILL)
        await eventually(lambda: fetched(proxy) == b"ok")
        assert not await asyncio.to_thread(tells_reasons, proxy)
        os.kill(proxy.pid, signal.SIGHUP)  # and an end is no problem meanwhile
        assert await asyncio.to_thread(proxy.stop) == 0


async def test_how_old_the_policy_may_be_is_reloaded_everywhere(opa_binary: Path) -> None:
    """Requests, readiness and metrics go by the same age, before and afterwards."""
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, opa_extra="max_policy_age: 1h") as proxy,
    ):

        def found() -> tuple[list[str], str, float]:
            limit = total(scrape(proxy).text, "ostiary_policy_age_limit_seconds")
            return asked(proxy)[1], str(proxy.health()[1]["policy"]), limit

        assert await asyncio.to_thread(found) == ([], "serving", 3600)
        proxy.bundle.rename(proxy.place / "away")  # so that nobody confirms it
        rewrite(proxy, "max_policy_age: 1h", "max_policy_age: 1s")
        await reloaded(proxy, says=RELOADED)
        await eventually(lambda: found() == (["policy-stale"], "stale", 1))
        rewrite(proxy, "max_policy_age: 1s", "max_policy_age: 2h")
        await reloaded(proxy, says=RELOADED)
        await eventually(lambda: found() == ([], "serving", 7200))


CONFIG = """\
listen: {data: "127.0.0.1:8080", dpop: {algorithms: [ES256]}}
issuers:
  - {issuer: https://idp.test, audience: proxy, key_file: idp.pem, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build}}
"""


def config(place: Path, *changes: tuple[str, str]) -> Config:
    text = CONFIG
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (place / "ostiary.yaml").write_text(text)
    return load_config(place / "ostiary.yaml", {})


@pytest.mark.parametrize(
    ("old", "new", "places"),
    [
        ("8080", "8081", ["listen.data"]),
        ("dpop: {", "admin: 127.0.0.1:8081, dpop: {", ["listen.admin"]),
        ("dpop: {", "dpop: {proofs: 5000, ", ["listen.dpop.proofs"]),
        (", dpop: {algorithms: [ES256]}", "", ["listen.dpop.proofs"]),
        ("opa:", "workers: 2\nopa:", ["workers"]),
        ("opa:", "state: other\nopa:", ["state"]),
        ("bundle: build", "bundle: other, binary: /opt/opa", ["opa.managed.bundle", "opa.managed.binary"]),
        ("{managed: {bundle: build}}", '{url: "unix:///run/opa.sock"}', ["opa.managed", "opa.url"]),
        ("build}}", "build}, minimum_revision: 7}", ["opa.minimum_revision"]),
        ("build}}", "build}, deadline: 1s, max_policy_age: 1h}", []),
        ("9001", "9002", []),
        ("key_file: idp.pem", "key_file: other.pem", []),
        ("[ES256]}}", "[EdDSA]}, identity: [jwt], public_ports: [443]}", []),
    ],
)
def test_what_takes_a_restart_is_named(tmp_path: Path, old: str, new: str, places: list[str]) -> None:
    found = changed(config(tmp_path), config(tmp_path, (old, new)))
    assert [".".join(map(str, place)) for place in found] == places
