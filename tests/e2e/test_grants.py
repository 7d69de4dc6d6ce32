"""A grant opens an endpoint to one person at once, in every worker, and closes it at once."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest
from pytest_httpserver import HTTPServer

from ostiary.clock import SystemClock
from ostiary.grants import Board, GrantService, Publisher
from ostiary.grants.records import Actor, Asked, Record, Terms
from ostiary.grants.sqlite import SqliteStore
from ostiary.models import Json
from support import cli
from support.forwarding import PATIENCE, Client, Request, connected, replies, reserved_port, response
from support.people import ASKED, people, statuses
from support.proxy import ISSUER, OWN_HOST, PERMISSIONS, RunningProxy, running_proxy
from support.publishing import Policy
from support.streams import cut, endless, flows
from support.upstream import RawUpstream, UpstreamConnection

ELIGIBLE = f"""\
  lead: {{issuer: {ISSUER}, subject: lead}}
  owner: {{issuer: {ISSUER}, claims: {{groups: owners}}}}
eligible:
  - {{caller: web, service: orders, endpoints: [delete-order], approvers: [lead], max_duration: 30m}}
  - {{caller: reporting, service: orders, endpoints: [delete-order], approvers: [lead], max_duration: 30m,
     auto_approve: true, emergency: 5m}}
  - {{caller: reporting, service: orders, endpoints: [create-order], approvers: [lead], max_duration: 30m,
     when: {{source: [10.0.0.0/8]}}}}
  - {{caller: reporting, service: orders, endpoints: [create-order], approvers: [owner, lead], approvals: 2,
     max_duration: 5m, max_uses: 1}}
permissions:
"""
RULE = """\
package policy

approve := {"approve": true, "reason": "it is on call"} if input.access.reason == "on call"

approve := {"approve": false, "reason": "a freeze"} if input.access.reason == "during the freeze"
"""
LEAD = Actor(issuer=ISSUER, subject="lead", callers=frozenset({"lead"}))


class Steps:
    """A `StepLog` in memory."""

    def __init__(self) -> None:
        self.documents: list[Mapping[str, Json]] = []

    async def step(self, document: Mapping[str, Json]) -> None:
        self.documents.append(document)


class Desk:
    """Gives grants beside a proxy, as another process of its machine."""

    def __init__(self, place: Path) -> None:
        self._store = SqliteStore(place / "grants.db")
        self._board = Board.attach(place / "state" / "grants")
        publisher = Publisher(self._store, self._board, clock=SystemClock())
        self.service = GrantService(store=self._store, publisher=publisher, audit=Steps(), patience=3600)

    async def give(self, subject: str = "web", *, duration: int = 600, max_uses: int | None = None) -> Record:
        asked = Asked(
            issuer=ISSUER,
            subject=subject,
            caller=subject,
            service="orders",
            endpoints=("delete-order",),
            duration=duration,
            max_uses=max_uses,
            reason="order 42 was a test",
            terms=Terms(approvers=("lead",), max_duration=1800),
        )
        record = await self.service.ask(asked)
        return await self.service.approve(record.id, LEAD, digest=record.digest)

    async def close(self) -> None:
        await self.service.close()
        await self._store.close()
        self._board.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with reserved_port() as reserved:
        yield reserved


@pytest.fixture(scope="module")
def proxy(opa_binary: Path, port: int) -> Iterator[RunningProxy]:
    with running_proxy(
        upstreams={"orders": port},
        workers=2,
        permissions=PERMISSIONS.replace("permissions:\n", ELIGIBLE),
        rego={"policy.rego": RULE},
        opa_extra="deadline: 5s",  # a busy machine is no reason to refuse
        config_extra='grants: {url: "sqlite:///grants.db"}\n',
    ) as running:
        yield running


@asynccontextmanager
async def desk_of(proxy: RunningProxy, port: int) -> AsyncIterator[Desk]:
    desk = Desk(proxy.place)
    async with RawUpstream(replies(response()), port=port).running():
        yield desk
    await desk.close()


async def test_a_grant_counts_at_once_for_its_holder_and_ends_at_once(proxy: RunningProxy, port: int) -> None:
    async with desk_of(proxy, port) as desk:
        assert await statuses(proxy) == {403: 16}
        grant = await desk.give()
        assert await statuses(proxy) == {200: 16}
        assert await statuses(proxy, subject="reporting") == {403: 16}
        assert await statuses(proxy) == {200: 16}  # hot
        await desk.service.revoke(grant.id, LEAD, reason="an incident")
        assert await statuses(proxy) == {403: 16}
        assert await statuses(proxy, method="GET") == {200: 16}
    lines = [line for line in proxy.audit_lines() if line.get("grant") == grant.id]
    assert {line["kind"] for line in lines} == {"decision"}
    assert {line["permission"] for line in lines} == {None}


async def test_a_second_proxy_in_its_directory_does_not_start_and_takes_nothing_from_it(
    proxy: RunningProxy, port: int
) -> None:
    """It would make the board of grants anew, and this one's workers would never hear of a revocation."""
    async with desk_of(proxy, port) as desk:
        second = await asyncio.to_thread(ostiary, "run", "-c", "ostiary.yaml", cwd=proxy.place)
        told = f"is the state of another ostiary, which runs (process {proxy.pid})"
        assert (second.returncode, told in second.stderr) == (2, True), second.stderr
        grant = await desk.give()
        assert await statuses(proxy) == {200: 16}
        await desk.service.revoke(grant.id, LEAD, reason="an incident")
        assert await statuses(proxy) == {403: 16}
        assert proxy.health()[1]["grants"] == "available"


async def test_one_grant_revoked_leaves_those_of_others(proxy: RunningProxy, port: int) -> None:
    async with desk_of(proxy, port) as desk:
        mine, other = await desk.give(), await desk.give("reporting")
        assert await statuses(proxy, subject="reporting") == {200: 16}
        await desk.service.revoke(mine.id, LEAD, reason="an incident")
        assert await statuses(proxy) == {403: 16}
        assert await statuses(proxy, subject="reporting") == {200: 16}
        await desk.service.revoke(other.id, LEAD, reason="done")


async def test_of_so_many_uses_exactly_so_many_are_let_through(proxy: RunningProxy, port: int) -> None:
    async with desk_of(proxy, port) as desk:
        grant = await desk.give(max_uses=7)
        assert await statuses(proxy, times=50) == {200: 7, 403: 43}
        record = await desk.service.get(grant.id)
        assert (record.state, record.uses) == ("used-up", 7)


async def test_time_ends_a_grant_and_the_refusal_says_so(proxy: RunningProxy, port: int) -> None:
    async with desk_of(proxy, port) as desk:
        await desk.give(duration=1)
        await asyncio.sleep(1.1)
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.delete(proxy.url("/orders/42"), headers=proxy.headers())
        assert (answer.status_code, answer.json()["reasons"]) == (403, ["grant-expired"])


async def test_a_response_says_when_its_grant_ends_if_that_is_soon(proxy: RunningProxy, port: int) -> None:
    name = "ostiary-grant-expires"
    desk = Desk(proxy.place)
    forged = response(headers=f"{name}: never\r\naccess-control-allow-origin: *\r\n")
    async with RawUpstream(replies(forged), port=port).running(), httpx.AsyncClient(trust_env=False) as client:

        async def said(method: str = "DELETE") -> list[str]:
            answer = await client.request(method, proxy.url("/orders/42"), headers=proxy.headers())
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
            return answer.headers.get_list(name)

        grant = await desk.give(duration=302)
        assert await said("GET") == []
        assert await said() == []
        await asyncio.sleep(2.1)
        assert grant.expires_at is not None
        assert await said() == [formatdate(grant.expires_at, usegmt=True)]
        assert await said("GET") == []
        await desk.service.extend(grant.id, LEAD, duration=1800, reason="more")
        assert await said() == []
        await desk.service.revoke(grant.id, LEAD, reason="done")
    await desk.close()


async def test_while_the_store_is_not_heard_of_no_grant_counts_and_permissions_do(
    proxy: RunningProxy, port: int
) -> None:
    async with desk_of(proxy, port) as desk:
        grant = await desk.give()
        assert proxy.health()[1]["grants"] == "available"
        await desk.service.tidy()  # so that no worker finds something to end, and hears of the store by that
        os.kill(proxy.pid, signal.SIGSTOP)  # who asks the store for the machine
        try:
            began = time.monotonic()
            while await statuses(proxy, times=4) == {200: 4}:
                assert time.monotonic() - began < 5
                await asyncio.sleep(0.1)
            assert await statuses(proxy) == {403: 16}
            assert await statuses(proxy, method="GET") == {200: 16}
        finally:
            os.kill(proxy.pid, signal.SIGCONT)
        began = time.monotonic()
        while await statuses(proxy, times=4) != {200: 4}:
            assert time.monotonic() - began < 10
            await asyncio.sleep(0.1)
        await desk.service.revoke(grant.id, LEAD, reason="done")


@asynccontextmanager
async def streaming(proxy: RunningProxy, port: int) -> AsyncIterator[tuple[Desk, Client]]:
    desk = Desk(proxy.place)
    async with RawUpstream(endless, port=port).running(), connected(proxy.port) as client:
        yield desk, client
    await desk.close()


async def begun(proxy: RunningProxy, client: Client) -> str:
    """Open a stream, and the id of its decision."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in proxy.headers().items())
    await client.send(f"DELETE /orders/42 HTTP/1.1\r\n{fields}\r\n".encode())
    head = await client.head()
    assert head.status == 200
    (decision,) = head.values("ostiary-decision-id")
    return decision


async def test_a_stream_that_is_open_is_cut_when_its_grant_is_revoked(proxy: RunningProxy, port: int) -> None:
    async with streaming(proxy, port) as (desk, client):
        grant, other = await desk.give(), await desk.give("reporting")
        decision = await begun(proxy, client)
        await desk.service.revoke(other.id, LEAD, reason="done")
        assert await flows(client)
        await desk.service.revoke(grant.id, LEAD, reason="an incident")
        assert await cut(client) < 1
        completion = (await proxy.recorded(decision, lines=2))[-1]
    assert (completion["outcome"], completion["reasons"]) == ("aborted", ["grant-expired"])
    assert "taken away" in completion["detail"]


async def test_a_stream_that_is_open_ends_when_the_time_of_its_grant_does(proxy: RunningProxy, port: int) -> None:
    async with streaming(proxy, port) as (desk, client):
        grant = await desk.give(duration=2)
        await begun(proxy, client)
        await cut(client)
        assert grant.expires_at is not None
        assert grant.expires_at - 0.1 <= time.time() <= grant.expires_at + 1


async def test_a_stream_that_took_the_last_use_goes_on_until_it_is_revoked(proxy: RunningProxy, port: int) -> None:
    async with streaming(proxy, port) as (desk, client):
        grant = await desk.give(max_uses=1)
        await begun(proxy, client)
        assert (await desk.service.get(grant.id)).state == "used-up"
        assert await flows(client)
        await desk.service.revoke(grant.id, LEAD, reason="an incident")
        assert await cut(client) < 1


async def test_a_stream_goes_on_with_its_grant_over_other_bundles_and_ends_with_the_eligibility(
    proxy: RunningProxy, port: int, opa_binary: Path
) -> None:
    """Also where its uses are used up, and no other request is let through by it."""
    policy = Policy(proxy, opa_binary)
    granted = (proxy.place / "policy" / "permissions.yaml").read_text()
    async with streaming(proxy, port) as (desk, client):
        grant = await desk.give(max_uses=1)
        decision = await begun(proxy, client)
        assert (await desk.service.get(grant.id)).state == "used-up"
        await policy.publish(granted + "# the same\n")
        assert await flows(client)
        await policy.publish(PERMISSIONS)
        assert await cut(client) < 1
        completion = (await proxy.recorded(decision, lines=2))[-1]
        await policy.publish(granted)
    assert (completion["outcome"], completion["reasons"]) == ("aborted", ["permission-missing"])


async def test_who_waits_for_an_answer_when_the_grant_ends_is_refused_and_told_of_no_other_end(
    proxy: RunningProxy, port: int
) -> None:
    arrived = asyncio.Event()

    async def silent(connection: UpstreamConnection, seen: Request) -> None:
        await connection.body(seen)
        arrived.set()
        await asyncio.sleep(PATIENCE)

    desk = Desk(proxy.place)
    async with RawUpstream(silent, port=port).running(), httpx.AsyncClient(trust_env=False) as client:
        grant = await desk.give(duration=60)
        waiting = asyncio.create_task(client.delete(proxy.url("/orders/42"), headers=proxy.headers()))
        await asyncio.wait_for(arrived.wait(), PATIENCE)
        await desk.service.revoke(grant.id, LEAD, reason="an incident")
        answer = await waiting
        assert (answer.status_code, answer.json()["reasons"]) == (403, ["grant-expired"])
        assert "ostiary-grant-expires" not in answer.headers
    await desk.close()


async def test_somebody_asks_and_somebody_else_approves_and_takes_away(proxy: RunningProxy, port: int) -> None:
    async with desk_of(proxy, port), people(proxy) as (web, lead, reporting):
        status, asked = await web.post("requests", **ASKED)
        assert (status, asked["state"], asked["caller"], asked["approvers"]) == (201, "pending", "web", ["lead"])
        one = f"requests/{asked['id']}"
        assert (await reporting.get(one))[0] == 404
        assert (await reporting.post(f"{one}/approve", digest=asked["digest"]))[0] == 404
        status, problem = await web.post(f"{one}/approve", digest=asked["digest"])
        assert (status, problem["reasons"]) == (403, ["own-request"])
        assert [each["id"] for each in (await lead.get("requests?to=approve&state=pending"))[1]["requests"]] == [
            asked["id"]
        ]
        assert await statuses(proxy) == {403: 16}
        status, problem = await lead.post(f"{one}/approve", digest="0" * 64)
        assert (status, problem["reasons"]) == (409, ["asked-otherwise"])
        status, approved = await lead.post(f"{one}/approve", digest=asked["digest"], reason="seen")
        assert (status, approved["state"]) == (200, "active")
        assert await statuses(proxy) == {200: 16}
        status, revoked = await lead.post("revocations", service="orders", reason="an incident")
        ids = [each["id"] for each in revoked["revoked"]]  # and what others have used up before its time
        assert (status, ids[0], revoked["count"], revoked["complete"]) == (200, asked["id"], len(ids), True)
        assert await statuses(proxy) == {403: 16}
        steps = [line for line in proxy.audit_lines() if line["kind"] == "grant" and line["grant"] == asked["id"]]
    assert sorted((line["step"], line["action"]) for line in steps) == [
        (0, "requested"),
        (1, "approved"),
        (2, "activated"),
        (3, "revoked"),
    ]
    assert {(line["actor"] or {}).get("subject") for line in steps} == {"web", "lead", None}
    verified = await asyncio.to_thread(ostiary, "audit", "verify", "-c", "ostiary.yaml", cwd=proxy.place)
    assert verified.returncode == 0, verified.stderr
    exported = await asyncio.to_thread(ostiary, "audit", "export", "-c", "ostiary.yaml", cwd=proxy.place)
    events = [json.loads(line) for line in exported.stdout.splitlines()]
    mine = [each for each in events if each["metadata"].get("correlation_uid") == asked["id"]]
    assert {(each["class_uid"], each["activity_id"]) for each in mine} == {(3005, 1), (3005, 2), (3005, 99)}
    assert 6003 in {each["class_uid"] for each in events}


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"endpoints": ["delete-order", "get-order"]}, 400, "not-eligible"),
        ({"service": "billing"}, 400, "not-eligible"),
        ({"caller": "reporting"}, 400, "not-eligible"),
        ({"duration": 1801}, 400, "duration-refused"),
        ({"duration": "30m"}, 400, "body-malformed"),
        ({"reason": ""}, 400, "reason-required"),
        ({"endpoints": []}, 400, "body-malformed"),
        ({"emergency": "yes"}, 400, "body-malformed"),
        ({"emergency": True}, 403, "emergency-refused"),
        ({"reviewed": True}, 400, "body-malformed"),
    ],
)
async def test_nothing_else_can_be_asked_for(
    proxy: RunningProxy, change: dict[str, Json], status: int, reason: str
) -> None:
    async with people(proxy) as (web, _, _):
        answered, problem = await web.post("requests", **(ASKED | change))
        assert (answered, problem["reasons"]) == (status, [reason])


async def test_a_grant_is_had_under_the_strictest_terms_of_all_that_it_is_good_for(proxy: RunningProxy) -> None:
    """Else one that is had easily for the office would serve from everywhere, where it takes two."""
    create = ASKED | {"endpoints": ["create-order"]}
    async with people(proxy) as (_, lead, reporting):
        status, problem = await reporting.post("requests", **(create | {"duration": 301}))
        assert (status, problem["reasons"]) == (400, ["duration-refused"])
        _, asked = await reporting.post("requests", **(create | {"duration": 300}))
        assert (asked["approvers"], asked["approvals"]["needed"], asked["max_uses"]) == (["lead"], 2, 1)
        _, approved = await lead.post(f"requests/{asked['id']}/approve", digest=asked["digest"])
        assert approved["state"] == "pending"
        await reporting.post(f"requests/{asked['id']}/cancel")


async def test_a_rule_approves_where_the_map_lets_it_and_refuses_anybody(proxy: RunningProxy) -> None:
    async with people(proxy) as (web, _, reporting):
        for person, reason, state, why in (
            (reporting, "on call", "active", "it is on call"),
            (reporting, "curious", "pending", "curious"),
            (reporting, "during the freeze", "denied", "a freeze"),
            (web, "on call", "pending", "on call"),
            (web, "during the freeze", "denied", "a freeze"),
        ):
            _, asked = await person.post("requests", **(ASKED | {"reason": reason}))
            assert asked["state"] == state
            assert [step["reason"] for step in asked["steps"] if step["reason"]][-1] == why
            await person.post(f"requests/{asked['id']}/{'drop' if state == 'active' else 'cancel'}")


async def test_who_asks_what_would_become_of_it_has_asked_for_nothing(proxy: RunningProxy) -> None:
    async with people(proxy) as (web, lead, reporting):
        steps = [line for line in proxy.audit_lines() if line["kind"] == "grant"]
        before = (await lead.get("requests?to=approve"))[1]["requests"]
        for person, reason, state in (
            (web, "curious", "pending"),
            (reporting, "on call", "active"),
            (web, "during the freeze", "denied"),
        ):
            status, would = await person.post("requests", dry_run=True, **(ASKED | {"reason": reason}))
            assert (status, would["id"], would["state"], would["approvers"]) == (200, None, state, ["lead"])
        assert (await web.post("requests", dry_run=True, **(ASKED | {"duration": 1801})))[0] == 400
        assert (await web.post("requests", dry_run="true", **ASKED))[1]["reasons"] == ["body-malformed"]
        assert (await lead.get("requests?to=approve"))[1]["requests"] == before
        assert [line for line in proxy.audit_lines() if line["kind"] == "grant"] == steps


async def test_an_emergency_is_had_at_once_and_reviewed_by_another(proxy: RunningProxy) -> None:
    urgent = ASKED | {"emergency": True, "duration": 300, "reason": "everything burns"}
    async with people(proxy) as (web, lead, reporting):
        status, problem = await web.post("requests", **urgent)
        assert (status, problem["reasons"]) == (403, ["emergency-refused"])
        status, problem = await reporting.post("requests", **(urgent | {"duration": 301}))
        assert (status, problem["reasons"]) == (400, ["duration-refused"])
        _, asked = await reporting.post("requests", **urgent)
        assert (asked["state"], asked["review"]) == ("active", "open")
        one = f"requests/{asked['id']}"
        await reporting.post(f"{one}/drop")
        assert (await reporting.post(f"{one}/review", reason="fine"))[1]["reasons"] == ["own-request"]
        _, reviewed = await lead.post(f"{one}/review", reason="it did burn")
        assert (reviewed["state"], reviewed["review"]) == ("dropped", "closed")


async def test_who_asks_twice_with_one_key_has_asked_once(proxy: RunningProxy) -> None:
    async with people(proxy) as (web, _, _):
        (_, first), (_, second) = await asyncio.gather(*(web.post("requests", key="k1", **ASKED) for _ in range(2)))
        assert first["id"] == second["id"]
        status, problem = await web.post("requests", key="k1", **(ASKED | {"duration": 60}))
        assert (status, problem["reasons"]) == (409, ["idempotency-key-reused"])
        assert (await web.post(f"requests/{first['id']}/cancel"))[1]["state"] == "cancelled"


async def test_what_is_listed_and_revoked_is_what_was_said(proxy: RunningProxy) -> None:
    async with people(proxy) as (web, lead, _):
        _, asked = await web.post("requests", **ASKED)
        for unclear in ("requests?state=pending,often", "requests?to=approve&state=often"):
            status, problem = await lead.get(unclear)
            assert (status, problem["reasons"]) == (400, ["body-malformed"])
        # Half of somebody is not everybody.
        status, problem = await lead.post("revocations", issuer=ISSUER, reason="an incident")
        assert (status, problem["reasons"]) == (400, ["body-malformed"])
        assert (await web.get(f"requests/{asked['id']}"))[1]["state"] == "pending"
        await web.post(f"requests/{asked['id']}/cancel")


@pytest.mark.parametrize("kind", [None, "text/plain;charset=UTF-8", "application/x-www-form-urlencoded"])
async def test_what_a_browser_sends_for_any_page_is_no_request(proxy: RunningProxy, kind: str | None) -> None:
    """A client's certificate would go along with it."""
    headers = {"host": OWN_HOST, "authorization": f"Bearer {proxy.token('lead')}"}
    headers |= {} if kind is None else {"content-type": kind}
    async with httpx.AsyncClient(trust_env=False) as client:
        for path in ("requests/g-0/deny", "requests/g-0/approve", "revocations"):
            answer = await client.post(proxy.url(f"/access/{path}"), headers=headers, content=b"{}")
            assert (answer.status_code, answer.json()["reasons"]) == (400, ["body-malformed"])


async def test_one_identity_leaves_the_store_to_others(proxy: RunningProxy) -> None:
    async with people(proxy) as (web, lead, _):
        many = [asyncio.create_task(web.get("requests")) for _ in range(60)]
        answers = [(await lead.get("requests?to=approve"))[0] for _ in range(5)]
        found = Counter([status for status, _ in await asyncio.gather(*many)])
        assert found.keys() == {200, 429}
        assert answers == [200] * 5


async def test_the_api_is_for_those_who_are_known(proxy: RunningProxy) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(proxy.url("/access/requests"), headers={"host": OWN_HOST})).status_code == 401
    async with people(proxy) as (web, _, _):
        assert (await web.get("requests/g-0"))[0] == 404
        assert (await web.get("else"))[0] == 404


def test_a_command_says_what_is_wrong_with_the_address_or_the_token(
    proxy: RunningProxy, httpserver: HTTPServer
) -> None:
    ended = proxy.token(iat=int(time.time()) - 400, exp=int(time.time()) - 300)
    own = f"http://{OWN_HOST}:{proxy.port}"

    def listed(url: str, token: str) -> str:
        ran = cli.ostiary("access", "list", "--url", url, "--token", token)
        assert (ran.status, ran.out) == (1, "")
        return ran.err

    for host in ("127.0.0.1", "orders.localhost"):
        elsewhere = f"http://{host}:{proxy.port}"
        said = f"{elsewhere} (--url, OSTIARY_URL) is not the proxy's own host, which own_host names\n"
        assert listed(elsewhere, proxy.token()).endswith(said)
    assert re.search(r"^identity-.*\nthe token ended at 20\S+Z$", listed(own, ended).strip())
    assert "the token ended" not in listed(own, "nonsense")
    with reserved_port() as free:
        nobody = listed(f"http://127.0.0.1:{free}", proxy.token())
    assert nobody.startswith(f"http://127.0.0.1:{free} (--url, OSTIARY_URL) cannot be reached: ")
    httpserver.expect_request("/access/requests").respond_with_data("hi")
    assert "what answers there is no ostiary" in listed(httpserver.url_for(""), proxy.token())


async def test_the_commands_ask_approve_run_and_give_back(proxy: RunningProxy, port: int) -> None:
    def access(subject: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"OSTIARY_URL": f"http://{OWN_HOST}:{proxy.port}", "OSTIARY_TOKEN": proxy.token(subject)}
        return ostiary("access", *arguments, cwd=proxy.place, environment=environment)

    async with desk_of(proxy, port) as desk:
        would = await asyncio.to_thread(
            access, "web", "request", "orders", "delete-order", "--for", "10m", "--reason", "a test", "--dry-run"
        )
        assert (would.returncode, would.stdout) == (0, "would be pending: approvers lead, approvals needed 1\n")
        asked = await asyncio.to_thread(
            access, "web", "request", "orders", "delete-order", "--for", "10m", "--reason", "a test"
        )
        assert (asked.returncode, asked.stderr) == (0, "pending: approvers lead\n")
        given = asked.stdout.strip()
        waiting = asyncio.create_task(
            asyncio.to_thread(access, "web", "wait", given, "--", sys.executable, "-c", "raise SystemExit(7)")
        )
        listed = await asyncio.to_thread(access, "lead", "list", "--to-approve", "--state", "pending")
        assert given in listed.stdout
        unread = await asyncio.to_thread(access, "lead", "approve", given)
        digest = (await desk.service.get(given)).digest
        assert (unread.returncode, unread.stdout) == (2, "")
        assert "web asks for orders: delete-order, 600 s: a test\n" in unread.stderr
        assert f"--digest {digest}" in unread.stderr
        approved = await asyncio.to_thread(access, "lead", "approve", given, "--digest", digest)
        assert (approved.returncode, approved.stdout) == (0, "active\n")
        assert (await waiting).returncode == 7
        assert (await desk.service.get(given)).state == "dropped"
        again = await asyncio.to_thread(access, "web", "drop", given)
        assert again.returncode == 1
        assert "wrong-state" in again.stderr


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
