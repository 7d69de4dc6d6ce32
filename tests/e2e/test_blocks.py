"""Who is blocked is refused from the acknowledgement on, by every worker, whatever they have in their caches."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from ostiary.grants.openapi import openapi_document
from ostiary.models import Json
from support.forwarding import connected, replies, reserved_port, response
from support.openapi import Described
from support.proxy import ISSUER, OWN_HOST, PERMISSIONS, RunningProxy, running_proxy
from support.streams import cut, endless, flows
from support.upstream import RawUpstream

OPERATORS = f"""\
  security: {{issuer: {ISSUER}, subject: sec}}
  lead: {{issuer: {ISSUER}, subject: lead}}
operators: [security]
eligible:
  - {{caller: web, service: orders, endpoints: [delete-order], approvers: [lead], max_duration: 30m}}
permissions:
"""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with reserved_port() as reserved:
        yield reserved


@pytest.fixture(scope="module")
def proxy(opa_binary: Path, port: int) -> Iterator[RunningProxy]:
    with running_proxy(
        upstreams={"orders": port},
        workers=2,
        permissions=PERMISSIONS.replace("permissions:\n", OPERATORS),
        opa_extra="deadline: 5s",  # a busy machine is no reason to refuse
        config_extra='grants: {url: "sqlite:///grants.db"}\n',
    ) as running:
        yield running


DESCRIBED = Described(openapi_document())


def checked(answer: httpx.Response) -> tuple[int, Json]:
    """Status and body, which are what the OpenAPI document says."""
    path = answer.request.url.path
    if answer.status_code != 404:
        DESCRIBED.check(
            answer.request.method,
            path,
            status=answer.status_code,
            content_type=answer.headers["content-type"],
            body=answer.json(),
        )
    return answer.status_code, answer.json()


class Person:
    """Somebody who uses the API of the proxy's own host."""

    def __init__(self, client: httpx.AsyncClient, proxy: RunningProxy, subject: str) -> None:
        self._client = client
        self._base = proxy.url("/access")
        self._headers = {"host": OWN_HOST, "authorization": f"Bearer {proxy.token(subject)}"}

    async def get(self, path: str) -> tuple[int, Json]:
        return checked(await self._client.get(f"{self._base}/{path}", headers=self._headers))

    async def post(self, path: str, **body: Json) -> tuple[int, Json]:
        answer = await self._client.post(f"{self._base}/{path}", headers=self._headers, json=body)
        if answer.is_success:
            DESCRIBED.check_body("POST", answer.request.url.path, body)
        return checked(answer)

    async def block(self, **body: Json) -> Json:
        status, block = await self.post("blocks", reason="an incident", **body)
        assert status == 201, block
        return block

    async def lift(self, block: Json) -> None:
        assert (await self.post(f"blocks/{block['id']}/lift", reason="over"))[1]["state"] == "lifted"


@asynccontextmanager
async def incident(proxy: RunningProxy, port: int) -> AsyncIterator[tuple[Person, httpx.AsyncClient]]:
    limits = httpx.Limits(max_keepalive_connections=0)
    async with (
        RawUpstream(replies(response()), port=port).running(),
        httpx.AsyncClient(trust_env=False, limits=limits) as client,
    ):
        yield Person(client, proxy, "sec"), client


async def statuses(
    client: httpx.AsyncClient, proxy: RunningProxy, headers: Mapping[str, str], *, times: int = 16
) -> Counter[int]:
    """Of requests on connections of their own, so that both workers are asked."""
    answers = [client.get(proxy.url("/orders/42"), headers=headers) for _ in range(times)]
    return Counter([answer.status_code for answer in await asyncio.gather(*answers)])


class Flood:
    """Requests one after the other, each on a connection of its own, and of each whether it was begun `late`."""

    def __init__(self, client: httpx.AsyncClient, url: str, headers: Mapping[str, str]) -> None:
        self._client, self._url, self._headers = client, url, headers
        self._begun: list[tuple[bool, asyncio.Task[httpx.Response]]] = []
        self.late = False

    async def run(self) -> None:
        while len(self._begun) < 300 and not (self.late and len(self._begun) > 60):
            asked = asyncio.create_task(self._client.get(self._url, headers=self._headers))
            self._begun.append((self.late, asked))
            await asyncio.sleep(0.001)

    async def answers(self) -> Counter[tuple[bool, int]]:
        return Counter([(late, (await asked).status_code) for late, asked in self._begun])


async def test_no_request_is_let_through_after_the_acknowledgement(proxy: RunningProxy, port: int) -> None:
    headers = proxy.headers()
    async with incident(proxy, port) as (security, client):
        for _ in range(3):
            assert await statuses(client, proxy, headers) == {200: 16}  # hot
            flood = Flood(client, proxy.url("/orders/42"), headers)
            flooding = asyncio.create_task(flood.run())
            await asyncio.sleep(0.02)
            block = await security.block(issuer=ISSUER, subject="web")
            flood.late = True
            assert await statuses(client, proxy, headers, times=32) == {403: 32}
            await flooding
            assert (await flood.answers()).keys() <= {(False, 200), (False, 403), (True, 403)}
            await security.lift(block)
        assert await statuses(client, proxy, headers) == {200: 16}


async def test_a_refusal_has_its_reason_and_the_audit_has_the_block(proxy: RunningProxy, port: int) -> None:
    async with incident(proxy, port) as (security, client):
        block = await security.block(issuer=ISSUER, subject="web", duration=7200)
        answer = await client.get(proxy.url("/orders/42"), headers=proxy.headers())
        assert (answer.status_code, answer.json()["reasons"]) == (403, ["identity-blocked"])
        (line,) = await proxy.recorded(answer.json()["decision_id"], lines=1)
        assert (line["kind"], line["detail"]) == ("refusal", f"{block['id']}: by its subject")
        assert (line["identity"]["subject"], line["input"]) == ("web", None)
        own = await client.get(proxy.url("/access/requests"), headers=proxy.headers(service="ostiary"))
        assert (own.status_code, own.json()["reasons"]) == (403, ["identity-blocked"])
        await security.lift(block)
    steps = [each for each in proxy.audit_lines() if each["kind"] == "block" and each["block"] == block["id"]]
    # Each worker has its own files; and one that lifts a block at once may record again what the other has just done.
    steps = list({each["step"]: each for each in sorted(steps, key=lambda each: each["step"])}.values())
    assert [(each["step"], each["action"], each["actor"]["subject"]) for each in steps] == [
        (0, "blocked", "sec"),
        (1, "lifted", "sec"),
    ]
    assert steps[0]["blocked"] == {"issuer": ISSUER, "subject": "web"}
    verified = await asyncio.to_thread(ostiary, "audit", "verify", "-c", "ostiary.yaml", cwd=proxy.place)
    assert verified.returncode == 0, verified.stderr
    exported = await asyncio.to_thread(ostiary, "audit", "export", "-c", "ostiary.yaml", cwd=proxy.place)
    events = [json.loads(text) for text in exported.stdout.splitlines()]
    mine = [each for each in events if each["metadata"].get("correlation_uid") == block["id"]]
    assert {(each["class_uid"], each["activity_id"]) for each in mine} == {(3004, 12), (3004, 13)}


async def test_a_token_is_blocked_by_its_id_and_the_next_one_is_not(proxy: RunningProxy, port: int) -> None:
    first, second = proxy.headers(jti="t-first"), proxy.headers(jti="t-second")
    async with incident(proxy, port) as (security, client):
        assert await statuses(client, proxy, first, times=4) == {200: 4}
        block = await security.block(issuer=ISSUER, jti="t-first")
        assert await statuses(client, proxy, first) == {403: 16}
        assert await statuses(client, proxy, second) == {200: 16}
        await security.lift(block)


async def test_whoever_acts_as_somebody_blocked_is_refused(proxy: RunningProxy, port: int) -> None:
    headers = proxy.headers(act={"sub": "agent", "act": {"sub": "robot"}})
    async with incident(proxy, port) as (security, client):
        assert await statuses(client, proxy, headers, times=4) == {200: 4}
        for actor in ("agent", "robot"):
            block = await security.block(issuer=ISSUER, subject=actor)
            assert await statuses(client, proxy, headers) == {403: 16}
            assert await statuses(client, proxy, proxy.headers(), times=4) == {200: 4}
            await security.lift(block)


async def test_what_is_open_is_cut_when_it_is_blocked_and_what_others_have_open_is_not(
    proxy: RunningProxy, port: int
) -> None:
    """Also where no other request makes the worker look."""
    async with RawUpstream(endless, port=port).running(), httpx.AsyncClient(trust_env=False) as client:
        security = Person(client, proxy, "sec")
        async with connected(proxy.port) as stream, connected(proxy.port) as other:
            for one, token_id in ((stream, "t-stream"), (other, "t-other")):
                fields = "".join(f"{name}: {value}\r\n" for name, value in proxy.headers(jti=token_id).items())
                await one.send(f"GET /orders/42 HTTP/1.1\r\n{fields}\r\n".encode())
            head = await stream.head()
            assert (head.status, (await other.head()).status) == (200, 200)
            (decision,) = head.values("ostiary-decision-id")
            block = await security.block(issuer=ISSUER, jti="t-stream")
            assert await cut(stream) < 1
            assert await flows(other)
        await security.lift(block)
    completion = (await proxy.recorded(decision, lines=2))[-1]
    assert (completion["outcome"], completion["reasons"]) == ("aborted", ["identity-blocked"])


async def test_only_operators_block_lift_and_look(proxy: RunningProxy, port: int) -> None:
    async with incident(proxy, port) as (security, client):
        block = await security.block(issuer=ISSUER, subject="eve")
        for subject in ("web", "lead"):  # an approver is no operator
            person = Person(client, proxy, subject)
            for status, problem in (
                await person.post("blocks", issuer=ISSUER, subject="reporting", reason="a grudge"),
                await person.post(f"blocks/{block['id']}/lift", reason="a friend"),
                await person.get("blocks"),
                await person.get(f"blocks/{block['id']}"),
                await person.get("blocks/b-0"),
            ):
                assert (status, problem["reasons"]) == (403, ["not-an-operator"])
        assert (await security.get(f"blocks/{block['id']}"))[1] == block
        assert (await security.get("blocks"))[1] == {"blocks": [block], "next": None}
        assert (await security.get("blocks?state=lifted,often"))[1]["reasons"] == ["body-malformed"]
        assert (await security.get("blocks/b-0"))[1]["reasons"] == ["block-unknown"]
        assert (await security.post(f"blocks/{block['id']}/drop"))[1]["reasons"] == ["step-unknown"]
        again = await security.block(issuer=ISSUER, subject="eve")
        assert again == block
        await security.lift(block)
        await security.lift(block)
        assert (await security.get("blocks"))[1]["blocks"] == []


@pytest.mark.parametrize("path", ["requests/g-0/approve", "blocks"])
async def test_what_was_begun_before_the_block_is_not_done_after_it(proxy: RunningProxy, port: int, path: str) -> None:
    """A body may be minutes late: an approver, or an operator, keeps none open for when they are found out."""
    late = "lead" if path.startswith("requests") else "sec"
    rest = json.dumps({"issuer": ISSUER, "subject": "web", "reason": "revenge"} if late == "sec" else {"digest": ""})
    async with incident(proxy, port) as (security, client), connected(proxy.port) as parked:
        headers = proxy.headers(late, jti="t-late", service="ostiary") | {"content-type": "application/json"}
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        await parked.send(f"POST /access/{path} HTTP/1.1\r\n{fields}content-length: {len(rest) + 1}\r\n\r\n ".encode())
        await asyncio.sleep(0.1)
        block = await security.block(issuer=ISSUER, jti="t-late")
        await parked.send(rest.encode())
        head = await parked.head()
        assert head.status == 403
        (decision,) = head.values("ostiary-decision-id")
        (line,) = await proxy.recorded(decision, lines=1)
        assert (line["kind"], line["reasons"]) == ("refusal", ["identity-blocked"])
        await security.lift(block)
        assert (await security.get("blocks"))[1]["blocks"] == []
        assert await statuses(client, proxy, proxy.headers(), times=1) == {200: 1}


async def test_an_operator_who_would_block_themselves_has_to_say_so(proxy: RunningProxy, port: int) -> None:
    async with incident(proxy, port) as (other, client):
        headers = proxy.headers("sec", jti="t-mine", service="ostiary") | {"content-type": "application/json"}

        async def mine(**more: Json) -> httpx.Response:
            body = {"issuer": ISSUER, "jti": "t-mine", "reason": "a stolen laptop"} | more
            return await client.post(proxy.url("/access/blocks"), headers=headers, json=body)

        refused = await mine()
        assert (refused.status_code, refused.json()["reasons"]) == (409, ["own-block"])
        meant = await mine(myself=True)
        assert meant.status_code == 201
        assert (await mine(myself=True)).json()["reasons"] == ["identity-blocked"]
        await other.lift(meant.json())  # by another of their tokens


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"issuer": ISSUER},
        {"subject": "web"},
        {"issuer": ISSUER, "subject": "web", "jti": "t-1"},
        {"issuer": ISSUER, "subject": ""},
        {"issuer": ISSUER, "subject": 7},
        {"digest": "0" * 63},
        {"digest": "A" * 64},
        {"thumbprint": "a" * 43},
        {"certificate": "aa:" * 32},
        {"issuer": ISSUER, "subject": "web", "duration": "2h"},
        {"issuer": ISSUER, "subject": "web", "myself": "yes"},
        {"issuer": ISSUER, "subject": "web", "until": "friday"},
    ],
)
async def test_what_is_blocked_is_said_in_one_way(proxy: RunningProxy, body: dict[str, Json]) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        security = Person(client, proxy, "sec")
        status, problem = await security.post("blocks", reason="an incident", **body)
        assert (status, problem["reasons"]) == (400, ["body-malformed"])
        status, problem = await security.post("blocks", issuer=ISSUER, subject="web")
        assert (status, problem["reasons"]) == (400, ["reason-required"])


async def test_time_ends_a_block(proxy: RunningProxy, port: int) -> None:
    headers = proxy.headers()
    async with incident(proxy, port) as (security, client):
        block = await security.block(issuer=ISSUER, subject="web", duration=1)
        assert await statuses(client, proxy, headers, times=4) == {403: 4}
        began = time.monotonic()
        while await statuses(client, proxy, headers, times=2) != {200: 2}:
            assert time.monotonic() - began < 20
            await asyncio.sleep(0.2)
        _, ended = await security.get(f"blocks/{block['id']}")
        assert (ended["state"], ended["steps"][-1]["actor"]) == ("expired", None)


async def test_the_commands_block_list_and_lift(proxy: RunningProxy, port: int, tmp_path: Path) -> None:
    token = tmp_path / "leaked.jwt"
    token.write_text(proxy.token("web", jti="t-leaked") + "\n")
    headers = {"host": "orders.localhost", "authorization": f"Bearer {token.read_text().strip()}"}

    def access(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"OSTIARY_URL": f"http://{OWN_HOST}:{proxy.port}", "OSTIARY_TOKEN": proxy.token("sec")}
        return ostiary("access", *arguments, cwd=proxy.place, environment=environment)

    async with incident(proxy, port) as (_, client):
        assert await statuses(client, proxy, headers, times=4) == {200: 4}
        blocked = await asyncio.to_thread(
            access, "block", "token", "--from", str(token), "--for", "2h", "--reason", "it is in a log"
        )
        assert (blocked.returncode, blocked.stderr[:28]) == (0, "blocked by its digest until ")
        assert await statuses(client, proxy, headers) == {403: 16}
        listed = await asyncio.to_thread(access, "blocks")
        assert blocked.stdout.strip() in listed.stdout
        assert "it is in a log" in listed.stdout
        found = await asyncio.to_thread(access, "blocks", "--json")
        assert [one["by"] for one in json.loads(found.stdout)["blocks"]] == ["digest"]
        lifted = await asyncio.to_thread(access, "unblock", blocked.stdout.strip(), "--reason", "it has expired")
        assert (lifted.returncode, lifted.stdout) == (0, "lifted\n")
        assert await statuses(client, proxy, headers) == {200: 16}


async def test_a_restart_without_the_store_keeps_what_was_blocked(opa_binary: Path, port: int) -> None:
    """And a machine that never knew what is blocked lets nobody through, and is not ready."""
    made = running_proxy(
        upstreams={"orders": port},
        permissions=PERMISSIONS.replace("permissions:\n", OPERATORS),
        opa_extra="deadline: 5s",
        config_extra='grants: {url: "sqlite:///store/grants.db"}\n',
    )
    with made.prepared() as place:
        (place / "store").mkdir()
        made.place = place
        async with made as proxy, incident(proxy, port) as (security, client):
            await security.block(issuer=ISSUER, subject="web")
            assert proxy.health()[1]["blocks"]["in_force"] == 1
        (place / "store").rename(place / "away")
        (place / "log").unlink()
        async with made as proxy, incident(proxy, port) as (_, client):
            assert await statuses(client, proxy, proxy.headers(), times=4) == {403: 4}
            answer = await client.get(proxy.url("/orders"), headers=proxy.headers("reporting"))
            assert answer.status_code == 200
            status, health = proxy.health()
            assert (status, health["blocks"]["in_force"], health["blocks"]["kept"]) == (200, 1, True)
            assert health["blocks"]["age"] > 0
            assert "store" in health["grants"]
        (place / "state" / "blocks.json").unlink()
        (place / "log").unlink()
        async with made as proxy, incident(proxy, port) as (_, client):
            answer = await client.get(proxy.url("/orders"), headers=proxy.headers("reporting"))
            assert (answer.status_code, answer.json()["reasons"]) == (503, ["blocks-unknown"])
            status, health = proxy.health()
            assert (status, health["blocks"]) == (503, {"in_force": None, "age": None, "kept": True})
            (place / "away").rename(place / "store")
            began = time.monotonic()
            while proxy.health()[0] != 200:
                assert time.monotonic() - began < 10
                await asyncio.sleep(0.1)
            assert await statuses(client, proxy, proxy.headers(), times=4) == {403: 4}


def ostiary(
    *arguments: str, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ostiary", *arguments],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
