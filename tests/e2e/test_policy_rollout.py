"""Which bundles the whole proxy uses, with hot caches and over restarts: none that fails its probe, none that is older
than what was active, and none that nobody has confirmed for too long."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ostiary import assets
from ostiary.decision.revision import Revision
from ostiary.decision.rollback import Statement
from ostiary.opa.rollback import sign_statement
from ostiary.policy.archive import pack
from ostiary.policy.bundle import build_bundle
from support.distribution import PUBLISHER, READER, aside, bundle_server, long_polling, opa_client, token_file
from support.faults import asked, changed_proxy, eventually, free_port, status_of
from support.forwarding import replies, response
from support.metrics import samples, scrape, total
from support.proxy import PERMISSIONS, RunningProxy, running_proxy
from support.upstream import RawUpstream

UNAVAILABLE = (503, ["policy-unavailable"])
ALLOWS_ANYBODY = """package ostiary.authz

decision := object.union(_found, {"allow": _allow, "reasons": []})

_allow := count(input) > 0

_found := {
	"caller": "web", "service": "orders", "endpoint": input.resource.properties.endpoint, "permission": "web/all",
	"grant": null, "credential": {"lifetime": 60, "per_call": false}, "expires_at": null,
	"cache": {"max_age": 5, "vary": []}, "requestable": null, "observed": false, "shadow": null,
} if count(input) > 0 else := {}

decisions := [decided | some one in input.evaluations; decided := decision with input as one]
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose name leaves room for that of a unix socket."""
    with TemporaryDirectory(prefix="ost-", dir="/tmp") as directory:
        yield Path(directory)


class Shelf:
    """Bundles of the default map, by sequence, and an OPA that is started with one of them."""

    def __init__(self, opa: Path, place: Path) -> None:
        self._opa, self._place = opa, place
        self._built: dict[int, Path] = {}
        self.socket = place / "opa.sock"

    def bundle(self, sequence: int, *, rogue: bool = False) -> Path:
        if sequence not in self._built:
            policy = self._place / "policy"
            policy.mkdir(exist_ok=True)
            (policy / "permissions.yaml").write_text(PERMISSIONS)
            out = self._place / f"bundle-{sequence}"
            self._built[sequence] = build_bundle(
                policy, out, opa=self._opa, sequence=sequence, rego_root=assets.rego()
            ).path
            if rogue:
                (out / "ostiary" / "authz" / "authz.rego").write_text(ALLOWS_ANYBODY)
        return self._built[sequence]

    def revision(self, sequence: int) -> Revision:
        found = Revision.parse(json.loads((self.bundle(sequence) / ".manifest").read_text())["revision"])
        assert found is not None
        return found

    @asynccontextmanager
    async def serving(self, sequence: int, *, rogue: bool = False) -> AsyncIterator[None]:
        self.socket.unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(
            self._opa, "run", "--server", "--skip-version-check", "--log-level=error", "--ignore=*_test.rego",
            "--addr", f"unix://{self.socket}", "--bundle", self.bundle(sequence, rogue=rogue),
        )  # fmt: skip
        try:
            await eventually(self.socket.exists)
            yield
        finally:
            process.kill()
            await process.wait()


def health(proxy: RunningProxy) -> dict[str, Any]:
    return proxy.health()[1]


def deletes(proxy: RunningProxy) -> int:
    """What nobody may do."""
    with httpx.Client(trust_env=False) as client:
        return client.delete(proxy.url("/orders/42"), headers=proxy.headers()).status_code


def is_refused(proxy: RunningProxy, words: str) -> Callable[[], bool]:
    def holds() -> bool:
        found = health(proxy)
        return found["policy"] == "refused" and words in found["refused"] and status_of(proxy) == 503

    return holds


def serves(proxy: RunningProxy, revision: Revision) -> Callable[[], bool]:
    """Not only by what one of the workers has kept."""

    def holds() -> bool:
        found = health(proxy)
        return (found["policy"], found["revision"], status_of(proxy)) == ("serving", str(revision), 200)

    return holds


async def test_an_opa_of_another_with_bundles_that_may_not_be_used(opa_binary: Path, place: Path) -> None:
    """Two workers, and hot caches: what a refused bundle says is believed by neither, from the first request on."""
    shelf = Shelf(opa_binary, place)
    key = ec.generate_private_key(ec.SECP256R1())
    (place / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (place / "key.pub.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    statement = place / "shop.rollback"
    verification = f"verification: {{key_file: {place / 'key.pub.pem'}, key_id: release}}"
    rollback = f"rollback: {{statement: {statement}, {verification}}}"
    async with RawUpstream(replies(response())).running() as upstream, contextlib.AsyncExitStack() as stack:
        async with shelf.serving(3):
            proxy = await stack.enter_async_context(
                changed_proxy(
                    upstreams={"orders": upstream.port},
                    changes={
                        "{managed: {bundle: bundle}}": f'{{url: "unix://{shelf.socket}", {rollback}}}',
                        "workers: 1": "workers: 2",
                    },
                )
            )
            for _ in range(20):
                assert await asyncio.to_thread(asked, proxy) == (200, [])
            assert await asyncio.to_thread(deletes, proxy) == 403

        # One that allows anybody anything, under a higher sequence. What the good one allowed a moment ago may go on.
        async with shelf.serving(4, rogue=True):
            began = time.monotonic()
            while time.monotonic() - began < 6:
                assert await asyncio.to_thread(deletes, proxy) in (403, 503)
                assert await asyncio.to_thread(status_of, proxy, subject="reporting") == 503
                assert await asyncio.to_thread(status_of, proxy) in (200, 503)
            await eventually(is_refused(proxy, "fails its probe"))
            assert await asyncio.to_thread(asked, proxy) == UNAVAILABLE
            assert await asyncio.to_thread(deletes, proxy) == 503
            assert "fails its probe: it allows what it has to deny" in proxy.log_text()
        assert not [one for one in upstream.requests if one.line.startswith("DELETE")]

        async with shelf.serving(5):
            await eventually(serves(proxy, shelf.revision(5)))
            assert "refused" not in await asyncio.to_thread(health, proxy)

        # An older one, until a signed statement says so; and what that took back does not return.
        async with shelf.serving(3):
            await eventually(is_refused(proxy, "does not follow"))
            said = Statement(back_from=shelf.revision(5), to=shelf.revision(3), scope="ostiary", expires=2**40)
            statement.write_bytes(
                sign_statement(said, key=place / "key.pem", key_id="release", algorithm="ES256", now=0)
            )
            await eventually(serves(proxy, shelf.revision(3)))
        async with shelf.serving(5):
            await eventually(is_refused(proxy, "was taken back"))
        async with shelf.serving(6):
            await eventually(serves(proxy, shelf.revision(6)))
        remembered = json.loads((proxy.place / "state" / "policy.json").read_text())["bundles"]
        assert [(one["highest"], one["active"]) for one in remembered.values()] == [(str(shelf.revision(6)),) * 2]


async def test_a_fleet_goes_back_by_a_statement_that_its_bundle_server_has(opa_binary: Path, place: Path) -> None:
    """OPA and proxy each have it from `ostiary bundle serve`; nobody touches the machine that they run on."""
    shelf, published = Shelf(opa_binary, place), place / "published"
    published.mkdir()
    readers, publishers = token_file(place / "readers", READER), token_file(place / "publishers", PUBLISHER)
    key = ec.generate_private_key(ec.SECP256R1())
    (place / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (place / "key.pub.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (place / "token").write_text(f"{READER}\n")
    said = Statement(back_from=shelf.revision(4), to=shelf.revision(3), scope="ostiary", expires=2**40)
    (place / "back").write_bytes(
        sign_statement(said, key=place / "key.pem", key_id="release", algorithm="ES256", now=0)
    )

    async def publish(sequence: int, *options: object) -> None:
        archive = place / f"{sequence}.tar.gz"
        pack(shelf.bundle(sequence), archive)
        command = [sys.executable, "-m", "ostiary", "bundle", "publish", archive, url, "--token-file", publishers]
        ran = await asyncio.create_subprocess_exec(*map(str, [*command, *options]), stdout=subprocess.DEVNULL)
        assert await ran.wait() == 0

    async with RawUpstream(replies(response())).running() as upstream, contextlib.AsyncExitStack() as stack:
        serving = bundle_server(published, "--reader-tokens", readers, "--publisher-tokens", publishers)
        server = await stack.enter_async_context(aside(serving))
        url = f"http://127.0.0.1:{server.port}/shop.tar.gz"
        await publish(3)
        polling = opa_client(opa_binary, place / "opa", long_polling(server.port, token=READER))
        opa = await stack.enter_async_context(aside(polling))
        verification = f"verification: {{key_file: {place}/key.pub.pem, key_id: release}}"
        rollback = f'rollback: {{url: "{url}.rollback", token_file: {place}/token, {verification}}}'
        proxy = await stack.enter_async_context(
            changed_proxy(
                upstreams={"orders": upstream.port},
                changes={"{managed: {bundle: bundle}}": f'{{url: "unix://{opa.socket}", {rollback}}}'},
            )
        )
        assert await asyncio.to_thread(asked, proxy) == (200, [])
        await publish(4)
        await eventually(serves(proxy, shelf.revision(4)))

        await publish(3, "--force")
        await eventually(is_refused(proxy, "does not follow"))
        assert health(proxy)["refused"].endswith(", which was active before")
        await publish(3, "--rollback", place / "back")
        await eventually(serves(proxy, shelf.revision(3)))
        assert "as a signed statement says" in proxy.log_text()
        await publish(5)
        await eventually(serves(proxy, shelf.revision(5)))


async def test_a_release_is_not_done_while_a_proxy_refuses_it(opa_binary: Path, place: Path) -> None:
    """OPA has it and says so; the proxy adds that it does not use it, and goes on naming the one that counts."""
    shelf, published = Shelf(opa_binary, place), place / "published"
    published.mkdir()
    readers, publishers = token_file(place / "readers", READER), token_file(place / "publishers", PUBLISHER)
    (place / "token").write_text(f"{READER}\n")
    pack(shelf.bundle(3), published / "shop.tar.gz")
    admin_port = free_port()
    async with RawUpstream(replies(response())).running() as upstream, contextlib.AsyncExitStack() as stack:
        serving = bundle_server(published, "--reader-tokens", readers, "--publisher-tokens", publishers)
        server = await stack.enter_async_context(aside(serving))
        url = f"http://127.0.0.1:{server.port}"
        config = long_polling(server.port, token=READER, proxy="orders-1")
        config["services"]["proxy"] = {"url": f"http://127.0.0.1:{admin_port}"}
        config["status"] = {"service": "proxy"}
        opa = await stack.enter_async_context(aside(opa_client(opa_binary, place / "opa", config)))
        report_to = f'report_to: {{url: "{url}", token_file: {place}/token}}'
        proxy = await stack.enter_async_context(
            changed_proxy(
                upstreams={"orders": upstream.port},
                changes={"{managed: {bundle: bundle}}": f'{{url: "unix://{opa.socket}", {report_to}}}'},
                admin_port=admin_port,
            )
        )

        async def rollout(*options: str) -> tuple[int, str, str]:
            """Its exit status, the state of the one proxy, and what is said besides."""
            command = [sys.executable, "-m", "ostiary", "bundle", "rollout", url, "--token-file", str(publishers)]
            ran = await asyncio.create_subprocess_exec(
                *command, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            out, said = await ran.communicate()
            assert ran.returncode is not None
            return ran.returncode, out.decode().splitlines()[1].split()[3], said.decode()

        pack(shelf.bundle(4), published / "shop.tar.gz")
        assert await rollout("--wait", "60") == (0, "current", "")
        pack(shelf.bundle(5, rogue=True), published / "shop.tar.gz")
        await eventually(lambda: health(proxy).get("policy") == "refused")
        status, state, said = await rollout("--wait", "3")
        assert (status, state) == (1, "refused")
        assert said.startswith(
            f"orders-1: the bundle {shelf.revision(5)} fails its probe: it allows what it has to deny"
        )
        metrics = (await asyncio.to_thread(scrape, proxy)).text
        assert [one.labels["revision"] for one in samples(metrics) if one.name == "ostiary_policy_info"] == [
            str(shelf.revision(4))
        ]
        assert total(metrics, "ostiary_policy_refused") == 1
        assert health(proxy)["revision"] == str(shelf.revision(4))
        pack(shelf.bundle(6, rogue=True), published / "shop.tar.gz")
        await eventually(lambda: str(shelf.revision(6)) in health(proxy).get("refused", ""))
        pack(shelf.bundle(7), published / "shop.tar.gz")
        assert await rollout("--wait", "60") == (0, "current", "")
        assert await asyncio.to_thread(asked, proxy) == (200, [])
        assert total((await asyncio.to_thread(scrape, proxy)).text, "ostiary_policy_refused") == 0  # one look more
        log = proxy.log_text()
        for told in (
            f"the bundle {shelf.revision(4)} is active, it was {shelf.revision(3)}",
            f"OPA is refused: the bundle {shelf.revision(5)} fails",
            f"OPA is refused: the bundle {shelf.revision(6)} fails",
            f"the bundle {shelf.revision(7)} is active, it was {shelf.revision(4)}",
        ):
            assert log.count(told) == 1, told


async def test_a_bundle_that_changes_under_its_revision_is_not_used_any_more(opa_binary: Path, place: Path) -> None:
    """OPA is started again with the same revision, and other rules: seen at the next look."""
    shelf = Shelf(opa_binary, place)
    async with RawUpstream(replies(response())).running() as upstream, contextlib.AsyncExitStack() as stack:
        async with shelf.serving(3):
            proxy = await stack.enter_async_context(
                changed_proxy(
                    upstreams={"orders": upstream.port},
                    changes={"{managed: {bundle: bundle}}": f'{{url: "unix://{shelf.socket}"}}'},
                )
            )
            assert await asyncio.to_thread(asked, proxy) == (200, [])
        (shelf.bundle(3) / "ostiary" / "authz" / "authz.rego").write_text(ALLOWS_ANYBODY)
        async with shelf.serving(3):
            await eventually(lambda: health(proxy)["policy"] == "refused")
            assert await asyncio.to_thread(deletes, proxy) == 503
            assert await asyncio.to_thread(asked, proxy) == UNAVAILABLE  # not from the cache either


async def test_a_new_bundle_of_another_opa_costs_no_request(opa_binary: Path, place: Path) -> None:
    """The first request that meets it waits until the supervisor has looked, which is soon."""
    shelf = Shelf(opa_binary, place)
    async with RawUpstream(replies(response())).running() as upstream, contextlib.AsyncExitStack() as stack:
        async with shelf.serving(3):
            proxy = await stack.enter_async_context(
                changed_proxy(
                    upstreams={"orders": upstream.port},
                    changes={"{managed: {bundle: bundle}}": f'{{url: "unix://{shelf.socket}"}}'},
                    config_extra="limits: {cached_decisions: 0}\n",
                )
            )
            assert await asyncio.to_thread(asked, proxy) == (200, [])
        async with shelf.serving(4):
            began = time.monotonic()
            await eventually(lambda: answers(shelf))
            assert await asyncio.to_thread(asked, proxy) == (200, [])
            if time.monotonic() - began < 1:  # the supervisor looks by itself only every five seconds
                decided = [line for line in proxy.audit_lines() if line["kind"] == "decision"][-1]
                assert decided["revision"] == str(shelf.revision(4))


def answers(shelf: Shelf) -> bool:
    """Whether the OPA that was just started has its bundle."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(shelf.socket), verify=False), trust_env=False) as client:
        try:
            return client.get("http://opa/health?bundles").status_code == 200
        except httpx.TransportError:
            return False


async def test_a_stale_policy_is_stale_after_a_restart_too(opa_binary: Path, place: Path) -> None:
    """What is published is gone; the bundle that was active last serves, and is as old as it was."""
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(place / "p", upstreams={"orders": upstream.port}, opa_extra="max_policy_age: 3s") as proxy,
    ):
        assert await asyncio.to_thread(asked, proxy) == (200, [])
        proxy.bundle.rename(place / "away")
        await eventually(lambda: asked(proxy) == (503, ["policy-stale"]))
        assert await asyncio.to_thread(proxy.stop) == 0
        async with started_again(proxy) as again:
            assert await asyncio.to_thread(asked, again) == (503, ["policy-stale"])
            assert (await asyncio.to_thread(health, again))["policy"] == "stale"
            assert "the one that was active last is" in again.log_text()
            (place / "away").rename(proxy.bundle)
            await eventually(lambda: status_of(again) == 200)


def start(proxy: RunningProxy) -> RunningProxy:
    log = proxy.place / "log-again"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ostiary", "run"], cwd=proxy.place, stdout=output, stderr=subprocess.STDOUT
        )
    return replace(proxy, process=process, log=log)


@asynccontextmanager
async def started_again(proxy: RunningProxy) -> AsyncIterator[RunningProxy]:
    """The same proxy, in a process of its own that need not become ready."""
    again = start(proxy)
    try:
        await eventually(lambda: "serving on" in again.log_text())
        again.port = int(again.log_text().partition("serving on 127.0.0.1:")[2].partition(" ")[0])
        yield again
    finally:
        assert await asyncio.to_thread(again.stop) == 0
