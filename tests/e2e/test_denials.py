"""A program that is refused asks by what the refusal said, waits, tries again, and is let through."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from jsonschema import Draft202012Validator

from ostiary import assets
from ostiary.grants.openapi import OPERATIONS, openapi_document
from ostiary.models import Json
from ostiary.policy.bundle import build_bundle
from support.faults import eventually
from support.forwarding import replies, reserved_port, response
from support.openapi import Described
from support.proxy import ISSUER, OWN_HOST, PERMISSIONS, RunningProxy, running_proxy
from support.upstream import RawUpstream

ELIGIBLE = f"""\
  lead: {{issuer: {ISSUER}, subject: lead}}
operators: [lead]
eligible:
  - {{caller: web, service: orders, endpoints: [delete-order], approvers: [lead], max_duration: 30m}}
  - {{caller: reporting, service: orders, endpoints: [delete-order], approvers: [lead], max_duration: 30m,
     auto_approve: true, emergency: 5m}}
permissions:
"""
RULE = """\
package policy

approve := {"approve": true, "reason": "little"} if input.access.duration <= 60

approve := {"approve": true, "reason": "little"} if input.access.max_uses <= 1

approve := {"approve": false, "reason": "a freeze"} if input.access.reason == "during the freeze"
"""
ERROR = "urn:openid:authzen:access-request:error:"


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


DESCRIBED: Final = Described(openapi_document())


class Program:
    """Knows an address and a token, and follows what it is told. Each request may come to another worker, and what the
    API answers is held against its description."""

    def __init__(self, proxy: RunningProxy, subject: str) -> None:
        self._proxy = proxy
        self._client = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
        self._token = f"Bearer {proxy.token(subject)}"

    async def __aenter__(self) -> Program:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def delete(self, path: str = "/orders/42") -> httpx.Response:
        headers = {"host": f"orders.localhost:{self._proxy.port}", "authorization": self._token}
        return await self._client.delete(self._proxy.url(path), headers=headers)

    async def send(self, method: str, url: str, **sent: Any) -> httpx.Response:
        """To an address that was told, whose name this machine does not know."""
        told = httpx.URL(url)
        assert (told.scheme, told.netloc) == ("http", f"{OWN_HOST}:{self._proxy.port}".encode())
        headers = {"host": told.netloc.decode(), "authorization": self._token} | sent.pop("headers", {})
        answer = await self._client.request(method, told.copy_with(host="127.0.0.1"), headers=headers, **sent)
        DESCRIBED.check(
            method,
            told.path,
            status=answer.status_code,
            content_type=answer.headers["content-type"],
            body=answer.json(),
        )
        if answer.is_success and "json" in sent:
            DESCRIBED.check_body(method, told.path, sent["json"])
        return answer

    async def denied(self) -> dict[str, Json]:
        """The body of a denial."""
        answer = await self.delete()
        assert (answer.status_code, answer.json()["reasons"]) == (403, ["grant-required"])
        document: dict[str, Json] = answer.json()
        return document

    async def submit(self, denied: dict[str, Json], *, key: str | None = None, **more: Json) -> httpx.Response:
        body = {"denial": {"binding_token": denied["access_request"]["binding_token"]}, **more}
        headers = {} if key is None else {"idempotency-key": key}
        return await self.send("POST", denied["access_request"]["endpoint"], json=body, headers=headers)


@asynccontextmanager
async def programs(proxy: RunningProxy, *subjects: str) -> AsyncIterator[list[Program]]:
    found = [Program(proxy, subject) for subject in subjects]
    yield found
    for each in found:
        await each.__aexit__()


WHY = {"context": {"business_justification": "order 42 was a test"}}


async def test_who_is_refused_asks_waits_and_tries_again(proxy: RunningProxy, port: int) -> None:
    async with programs(proxy, "web", "lead") as (web, lead), RawUpstream(replies(response()), port=port).running():
        denied = await web.denied()
        assert denied["evaluation_id"] == denied["decision_id"]
        offered = denied["access_request"]
        assert offered.keys() == {"endpoint", "expires_at", "binding_token", "request_schema_url"}
        schema = (await web.send("GET", offered["request_schema_url"])).json()
        submission = WHY | {
            "subject": {"type": "workload", "id": "web", "properties": {"issuer": ISSUER}},
            "resource": {"type": "service", "id": "orders", "properties": {"endpoint": "delete-order"}},
            "action": {"name": "DELETE"},
            "denial": {
                "evaluation_id": denied["evaluation_id"],
                "evaluated_at": denied["evaluated_at"],
                "expires_at": offered["expires_at"],
                "binding_token": offered["binding_token"],
            },
            "requested_access": {"duration": 600},
        }
        Draft202012Validator.check_schema(schema)
        assert Draft202012Validator(schema).is_valid(submission)
        assert not Draft202012Validator(schema).is_valid(submission | {"requested_access": {"duration": "10m"}})
        asked = await web.send("POST", offered["endpoint"], json=submission)
        task = asked.json()["task"]
        assert (asked.status_code, task["status"], task["progress"]["awaiting"]) == (202, "pending", ["lead"])
        assert asked.headers["location"] == task["status_endpoint"]
        looked = await web.send("GET", task["status_endpoint"])
        assert (looked.status_code, looked.json(), looked.headers["retry-after"]) == (200, asked.json(), "2")
        assert (await web.delete()).status_code == 403

        requests = f"http://{OWN_HOST}:{proxy.port}/access/requests"
        record = (await lead.send("GET", f"{requests}/{task['id']}")).json()
        assert (record["service"], record["endpoints"], record["duration"]) == ("orders", ["delete-order"], 600)
        assert record["denial"] == denied["decision_id"]
        await lead.send("POST", f"{requests}/{task['id']}/approve", json={"digest": record["digest"]})

        looked = await web.send("GET", task["status_endpoint"])
        assert "retry-after" not in looked.headers
        assert looked.json()["task"]["status"] == "approved"
        assert looked.json()["result"]["mode"] == "reevaluate"
        assert (await web.delete()).status_code == 200
        await lead.send("POST", f"{requests}/{task['id']}/revoke", json={"reason": "an incident"})
        steps = [line for line in proxy.audit_lines() if line.get("denial") == denied["decision_id"]]
        assert {line["action"] for line in steps} >= {"requested", "approved", "activated"}
        assert (await web.denied())["access_request"]["binding_token"] != offered["binding_token"]


async def test_a_denial_is_one_request_however_often_it_is_brought_back(proxy: RunningProxy) -> None:
    async with programs(proxy, "web") as (web,):
        denied = await web.denied()
        answers = await asyncio.gather(*(web.submit(denied, **WHY) for _ in range(4)))
        assert len({answer.json()["task"]["id"] for answer in answers}) == 1
        other = await web.submit(denied, context={"business_justification": "something else"})
        assert (other.status_code, other.json()["type"]) == (409, f"{ERROR}duplicate_request")
        task = answers[0].json()["task"]
        cancelled = await web.send("POST", task["links"]["cancel"], json={"reason": "done", "comment": "by hand"})
        assert (cancelled.status_code, cancelled.json()["task"]["status"]) == (200, "cancelled")
        again = await web.send("POST", task["links"]["cancel"], json={})
        assert (again.status_code, again.json()["type"]) == (409, f"{ERROR}invalid_task_state")
        assert again.headers["content-type"] == "application/problem+json"


async def test_a_denial_is_nobody_else_s_and_cannot_be_changed(proxy: RunningProxy) -> None:
    async with programs(proxy, "web", "reporting") as (web, reporting):
        denied = await web.denied()
        token = denied["access_request"]["binding_token"]
        tampered = denied | {"access_request": denied["access_request"] | {"binding_token": f"{token[:-2]}AA"}}
        for person, document, more in (
            (reporting, denied, {}),
            (web, tampered, {}),
            (web, denied, {"action": {"name": "GET"}}),
            (web, denied, {"resource": {"type": "service", "id": "billing", "properties": {"endpoint": "refund"}}}),
        ):
            refused = await person.submit(document, **WHY, **more)
            assert (refused.status_code, refused.json()["type"]) == (400, f"{ERROR}invalid_denial_binding")
        known = await web.send("POST", denied["access_request"]["endpoint"], json={"denial": {"evaluation_id": "x"}})
        assert known.json()["type"] == f"{ERROR}invalid_denial_binding"
        for unknown in ("items", "callback"):
            refused = await web.submit(denied, **WHY, **{unknown: []})
            assert (refused.status_code, refused.json()["reasons"]) == (400, ["body-malformed"])


async def test_a_task_is_shown_to_its_holder_and_its_approvers_alone(proxy: RunningProxy) -> None:
    async with programs(proxy, "web", "reporting", "lead") as (web, reporting, lead):
        task = (await web.submit(await web.denied(), **WHY)).json()["task"]
        for person, status in ((web, 200), (lead, 200), (reporting, 404)):
            assert (await person.send("GET", task["status_endpoint"])).status_code == status
        unknown = await reporting.send("POST", task["links"]["cancel"], json={})
        assert (unknown.status_code, unknown.json()["type"]) == (404, f"{ERROR}unknown_task")
        assert (await lead.send("POST", task["links"]["cancel"], json={})).json()["reasons"] == ["not-the-holder"]
        await web.send("POST", task["links"]["cancel"], json={})


async def test_what_a_rule_answers_is_answered_at_once(proxy: RunningProxy) -> None:
    """And a rule is told for how long, also where the program leaves it to the policy."""
    async with programs(proxy, "reporting", "web") as (reporting, web):
        short = await reporting.submit(await reporting.denied(), **WHY, requested_access={"duration": 60})
        assert (short.status_code, short.json()["task"]["status"]) == (201, "approved")
        assert short.json()["result"]["approval"]["id"] == short.json()["task"]["id"]
        requests = f"http://{OWN_HOST}:{proxy.port}/access/requests"
        await reporting.send("POST", f"{requests}/{short.json()['task']['id']}/drop", json={})
        long = await reporting.submit(await reporting.denied(), **WHY)
        assert (long.status_code, long.json()["task"]["status"]) == (202, "pending")
        await reporting.send("POST", long.json()["task"]["links"]["cancel"], json={})
        # To Rego null is less than any number.
        asked = {"service": "orders", "endpoints": ["delete-order"], "duration": 600, "reason": "a test"}
        null = (await reporting.send("POST", requests, json=asked | {"max_uses": None})).json()
        assert null["state"] == "pending"
        await reporting.send("POST", f"{requests}/{null['id']}/cancel", json={})
        frozen = await web.submit(await web.denied(), context={"business_justification": "during the freeze"})
        assert (frozen.status_code, frozen.json()["task"]["status"]) == (201, "denied")
        assert "result" not in frozen.json()


async def test_who_is_not_eligible_is_told_nothing(proxy: RunningProxy) -> None:
    async with programs(proxy, "lead", "stranger") as (lead, stranger):
        for person in (lead, stranger):
            answer = await person.delete()
            assert answer.status_code == 403
            assert answer.json().keys() == {"type", "status", "decision_id", "title", "reasons"}


async def test_the_command_asks_by_the_body_of_a_denial(proxy: RunningProxy) -> None:
    def access(*arguments: str, body: str = "", own: str = "") -> subprocess.CompletedProcess[str]:
        url = own or f"http://{OWN_HOST}:{proxy.port}"
        return subprocess.run(
            [sys.executable, "-m", "ostiary", "access", *arguments],
            env={**os.environ, "OSTIARY_URL": url, "OSTIARY_TOKEN": proxy.token("web")},
            input=body,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )

    async with programs(proxy, "web") as (web,):
        denied = json.dumps(await web.denied())
    by_denial = ("request", "--from-denial", "-", "--reason", "a test")
    asked = await asyncio.to_thread(access, *by_denial, "--for", "10m", body=denied)
    assert (asked.returncode, asked.stderr) == (0, "pending: approvers lead\n")
    again = await asyncio.to_thread(access, *by_denial, "--for", "10m", body=denied)
    assert again.stdout == asked.stdout
    elsewhere = await asyncio.to_thread(access, *by_denial, body=denied, own=f"http://localhost:{proxy.port}")
    assert elsewhere.returncode == 2
    assert "the denial is of another proxy" in elsewhere.stderr
    none = await asyncio.to_thread(access, *by_denial, body='{"reasons": ["permission-missing"]}')
    assert (none.returncode, "has no access_request" in none.stderr) == (1, True)
    cancelled = await asyncio.to_thread(access, "cancel", asked.stdout.strip())
    assert cancelled.stdout == "cancelled\n"


async def test_every_operation_answers_what_its_description_says(proxy: RunningProxy) -> None:
    """What is answered and refused is held against it by each test of this module; here it is everything once."""
    DESCRIBED.seen.clear()
    async with programs(proxy, "reporting", "web", "lead") as (reporting, web, lead):
        own = f"http://{OWN_HOST}:{proxy.port}/access"
        told = (await web.send("GET", f"{own}/openapi.json")).json()
        assert told == openapi_document(origin=f"http://{OWN_HOST}:{proxy.port}")
        asked = {"service": "orders", "endpoints": ["delete-order"], "duration": 300, "reason": "a test"}
        would = (await web.send("POST", f"{own}/requests", json=asked | {"dry_run": True})).json()
        assert (would["id"], would["state"]) == (None, "pending")

        record = (await web.send("POST", f"{own}/requests", json=asked)).json()
        one = f"{own}/requests/{record['id']}"
        assert (await web.send("GET", one)).json() == record
        await lead.send("POST", f"{one}/approve", json={"digest": record["digest"], "reason": "seen"})
        longer = {"duration": 60, "reason": "it takes longer"}
        assert (await web.send("POST", f"{one}/extend", json=longer)).json()["extension"]["duration"] == 60
        assert (await lead.send("POST", f"{one}/deny", json={"reason": "it does not"})).json()["extension"] is None
        listed = (await lead.send("GET", f"{own}/requests?to=approve&state=active")).json()
        assert [each["id"] for each in listed["requests"]] == [record["id"]]
        revoked = (await lead.send("POST", f"{own}/revocations", json={"service": "orders", "reason": "done"})).json()
        assert [each["id"] for each in revoked["revoked"]] == [record["id"]]
        again = (await web.send("POST", f"{own}/requests", json=asked)).json()
        await lead.send("POST", f"{own}/requests/{again['id']}/revoke", json={"reason": "not now"})
        again = (await web.send("POST", f"{own}/requests", json=asked)).json()
        await web.send("POST", f"{own}/requests/{again['id']}/cancel", json={})

        urgent = (await reporting.send("POST", f"{own}/requests", json=asked | {"emergency": True})).json()
        assert urgent["review"] == "open"
        await lead.send("POST", f"{own}/requests/{urgent['id']}/review", json={"reason": "it did burn"})
        await reporting.send("POST", f"{own}/requests/{urgent['id']}/drop", json={})

        nobody = {"issuer": ISSUER, "jti": "t-nobody", "reason": "a test", "duration": 600}
        block = (await lead.send("POST", f"{own}/blocks", json=nobody)).json()
        assert (await lead.send("GET", f"{own}/blocks/{block['id']}")).json() == block
        assert (await lead.send("GET", f"{own}/blocks")).json() == {"blocks": [block], "next": None}
        await lead.send("POST", f"{own}/blocks/{block['id']}/lift", json={"reason": "done"})
        assert (await web.send("GET", f"{own}/blocks")).status_code == 403

        denied = await web.denied()
        await web.send("GET", denied["access_request"]["request_schema_url"])
        task = (await web.submit(denied, **WHY)).json()["task"]
        await web.send("GET", task["status_endpoint"])
        await web.send("POST", task["links"]["cancel"], json={})

        assert (await web.send("POST", f"{own}/requests", json={})).status_code == 400
        assert (await web.send("GET", f"{own}/requests/g-0")).status_code == 404
    answered = {name for name, _, status in DESCRIBED.seen if status.startswith("2")}
    assert {one.name for one in OPERATIONS} - answered == set()


async def test_a_denial_ends_with_the_bundle_that_denied_and_what_was_asked_by_it_is_found_all_the_same(
    proxy: RunningProxy, opa_binary: Path
) -> None:
    async with programs(proxy, "web") as (web,):
        asked, late = await web.denied(), await web.denied()
        task = (await web.submit(asked, **WHY)).json()["task"]
        build = partial(build_bundle, opa=opa_binary, sequence=2, rego_root=assets.rego())
        built = await asyncio.to_thread(build, proxy.place / "policy", proxy.bundle)
        await eventually(lambda: proxy.health()[1]["revision"] == built.revision)
        refused = await web.submit(late, **WHY)
        assert (refused.status_code, refused.json()["type"]) == (410, f"{ERROR}expired_denial")
        assert (await web.submit(asked, **WHY)).json()["task"]["id"] == task["id"]
        other = await web.submit(asked, **WHY, requested_access={"duration": 1})
        assert (other.status_code, other.json()["type"]) == (409, f"{ERROR}duplicate_request")
        await web.send("POST", task["links"]["cancel"], json={})
        anew = await web.submit(await web.denied(), **WHY)
        assert anew.status_code == 202
        await web.send("POST", anew.json()["task"]["links"]["cancel"], json={})


@dataclass(frozen=True)
class Seen:
    status: int
    shown: str


def at_a_terminal(proxy: RunningProxy, *arguments: str, said: str) -> Seen:
    """Run a command of an approver's at a terminal where that is typed."""
    ours, theirs = pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", "ostiary", "access", *arguments],
        env=os.environ | {"OSTIARY_URL": f"http://{OWN_HOST}:{proxy.port}", "OSTIARY_TOKEN": proxy.token("lead")},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, f"{said}\n".encode())
    status = command.wait(60)
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    return Seen(status, shown)


@pytest.mark.parametrize(("said", "state"), [("y", "active"), ("", "pending")])
async def test_on_a_terminal_who_approves_is_asked_when_they_have_read_it(
    proxy: RunningProxy, said: str, state: str
) -> None:
    async with programs(proxy, "web") as (web,):
        task = (await web.submit(await web.denied(), **WHY, requested_access={"duration": 90})).json()["task"]
        seen = await asyncio.to_thread(at_a_terminal, proxy, "approve", task["id"], said=said)
        assert "web asks for orders: delete-order, 90 s: order 42 was a test" in seen.shown
        assert "Approve it? [y/N]" in seen.shown
        assert seen.status == (0 if state == "active" else 1)
        requests = f"http://{OWN_HOST}:{proxy.port}/access/requests/{task['id']}"
        assert (await web.send("GET", requests)).json()["state"] == state
        await web.send("POST", f"{requests}/{'drop' if state == 'active' else 'cancel'}", json={})
