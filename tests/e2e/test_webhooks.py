"""A proxy tells of access: what waits for an answer, with all that it takes to answer, and what became of it; and of
what is blocked."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from pytest_httpserver import HTTPServer

from support.metrics import samples
from support.proxy import ISSUER, OWN_HOST, PERMISSIONS, RunningProxy, running_proxy
from support.webhooks import SECRET, Receiver

ELIGIBLE = f"""\
  lead: {{issuer: {ISSUER}, subject: lead}}
  security: {{issuer: {ISSUER}, subject: sec}}
operators: [security]
eligible:
  - {{caller: web, service: orders, endpoints: [delete-order], approvers: [lead], max_duration: 30m, emergency: 5m}}
permissions:
"""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with HTTPServer(port=0) as server:
        yield Receiver(server)


@pytest.fixture(scope="module")
def proxy(opa_binary: object, receiver: Receiver) -> Iterator[RunningProxy]:
    grants = """\
grants:
  url: "sqlite:///grants.db"
  public_url: https://access.shop.test
  webhooks:
    approvers: {url: "${HOOK}", secret: "${SECRET}"}
"""
    with running_proxy(
        upstreams={"orders": 1},
        permissions=PERMISSIONS.replace("permissions:\n", ELIGIBLE),
        config_extra=grants,
        opa_extra="deadline: 5s",  # a busy machine is no reason to refuse
        environment={"HOOK": receiver.url, "SECRET": SECRET},
    ) as running:
        yield running


def ask(proxy: RunningProxy, path: str, subject: str, body: object) -> httpx.Response:
    headers = proxy.headers(subject) | {"host": OWN_HOST}
    return httpx.post(proxy.url(path), headers=headers, json=body, trust_env=False)


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def admin(proxy: RunningProxy, path: str) -> httpx.Response:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(proxy.admin)), trust_env=False) as client:
        return client.get(f"http://admin{path}")


def test_an_approver_is_told_how_to_approve_and_that_it_counts(proxy: RunningProxy, receiver: Receiver) -> None:
    wanted = {"service": "orders", "endpoints": ["delete-order"], "duration": 300, "reason": "order 42 was a test"}
    answer = ask(proxy, "/access/requests", "web", wanted)
    assert answer.status_code == 201, answer.text
    until(lambda: len(receiver.came) == 1)
    told = receiver.came[0][1]
    assert (told["type"], told["data"]["grant"]) == ("grant.requested", answer.json()["id"])
    assert (told["data"]["approvers"], told["data"]["request_reason"]) == (["lead"], "order 42 was a test")
    url = urlsplit(told["data"]["answer"]["url"])
    assert url[:2] == ("https", "access.shop.test")
    approved = ask(proxy, url.path, "lead", told["data"]["answer"]["body"])
    assert (approved.status_code, approved.json()["state"]) == (200, "active")
    until(lambda: len(receiver.came) == 2)
    told = receiver.came[1][1]
    assert (told["type"], told["data"]["state"]) == ("grant.activated", "active")
    assert [each["actor"]["subject"] for each in told["data"]["approvals"]["given"]] == ["lead"]


def test_an_emergency_is_told_and_how_it_goes_is_seen(proxy: RunningProxy, receiver: Receiver) -> None:
    before = len(receiver.came)
    wanted = {"service": "orders", "endpoints": ["delete-order"], "duration": 60, "reason": "fire", "emergency": True}
    assert ask(proxy, "/access/requests", "web", wanted).status_code == 201
    until(lambda: len(receiver.came) == before + 1)
    told = receiver.came[before][1]
    assert (told["type"], told["data"]["review"]) == ("grant.emergency", "open")
    fine = {"approvers": {"state": "delivering", "failure": None, "waiting": 0, "given_up": 0}}
    until(lambda: admin(proxy, "/health").json()["webhooks"] == fine)
    found = {
        (one.name, *sorted(one.labels.values())): one.value
        for one in samples(admin(proxy, "/metrics").text)
        if one.name.startswith("ostiary_webhook")
    }
    assert found == {
        ("ostiary_webhook_deliveries_total", "approvers", "delivered"): before + 1,
        ("ostiary_webhook_deliveries_total", "approvers", "failed"): 0,
        ("ostiary_webhook_deliveries_total", "approvers", "given-up"): 0,
        ("ostiary_webhook_waiting", "approvers"): 0,
    }
    assert receiver.url not in proxy.log_text()


def test_a_block_is_told_and_so_is_its_end(proxy: RunningProxy, receiver: Receiver) -> None:
    before = len(receiver.came)
    wanted = {"issuer": ISSUER, "subject": "reporting", "reason": "a stolen laptop"}
    answer = ask(proxy, "/access/blocks", "sec", wanted)
    assert answer.status_code == 201, answer.text
    until(lambda: len(receiver.came) == before + 1)
    told = receiver.came[before][1]
    assert (told["type"], told["data"]["block"]) == ("block.blocked", answer.json()["id"])
    assert told["data"]["blocked"] == {"issuer": ISSUER, "subject": "reporting"}
    assert (told["data"]["actor"]["subject"], told["data"]["reason"]) == ("sec", "a stolen laptop")
    lifted = ask(proxy, f"/access/blocks/{answer.json()['id']}/lift", "sec", {"reason": "found in the sofa"})
    assert (lifted.status_code, lifted.json()["state"]) == (200, "lifted")
    until(lambda: len(receiver.came) == before + 2)
    told = receiver.came[before + 1][1]
    assert (told["type"], told["data"]["action"], told["data"]["state"]) == ("block.unblocked", "lifted", "lifted")


def test_a_webhook_is_tried(proxy: RunningProxy, receiver: Receiver) -> None:
    tried = subprocess.run(
        [sys.executable, "-m", "ostiary", "access", "test-webhook", "approvers"],
        cwd=proxy.place,
        env={**os.environ, "HOOK": receiver.url, "SECRET": SECRET},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (tried.returncode, tried.stdout, tried.stderr) == (0, "approvers: it was taken\n", "")
    assert receiver.came[-1][1]["type"] == "grant.test"
