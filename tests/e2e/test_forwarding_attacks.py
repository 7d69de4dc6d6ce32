"""Every attack that is one exact message, through the whole proxy with the policy that the cases presume."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from ostiary.clock import SystemClock
from support.forwarding import PATIENCE, connected, replies, reserved_port, response
from support.identity import AUDIENCE, ISSUER, Issuer, SigningKey
from support.proxy import RunningProxy, Trusted, running_proxy
from support.server import ATTACKS, message
from support.upstream import Answer, RawUpstream

PERMISSIONS = Path(__file__).parent.parent / "fixtures" / "attack" / "permissions.yaml"

ALWAYS = [
    "host",
    "via",
    "x-forwarded-host",
    "authorization",
    "x-forwarded-for",
    "x-forwarded-proto",
    "ostiary-decision-id",
]
"""What every forwarded request has, once."""

PASSED_ON = ("user-agent", "x-request-id", "content-type")
"""The headers of the cases that are harmless, and go upstream as they came."""


def cases(*expected: str) -> list[Any]:
    found = [
        case
        for case in json.loads(ATTACKS.read_text(encoding="utf-8"))
        if not case["raw_request"].startswith("generator:") and case["expected"] in expected
    ]
    found.sort(key=lambda case: not case["class"].startswith("control"))  # the controls must pass first
    return [pytest.param(case, id=case["id"]) for case in found]


class AttackIssuer:
    """https://idp.test, whose key k1 is RS256."""

    def token(self, subject: str, **claims: Any) -> str:
        return Issuer(clock=SystemClock()).token(claims={"sub": subject, **claims})

    def jwks(self) -> dict[str, Any]:
        return {"keys": [SigningKey().jwk()]}


@pytest.fixture(scope="module")
def target_port() -> Iterator[int]:
    with reserved_port() as port:
        yield port


@pytest.fixture(scope="module")
def target(opa_binary: Path, target_port: int) -> Iterator[RunningProxy]:
    """The fixture of the cases: Host proxy.test is the service `orders`; deadlines of a second."""
    trusted = Trusted(signer=AttackIssuer(), issuer=ISSUER, audience=AUDIENCE, algorithm="RS256", options="leeway: 10s")
    deadlines = ("header_timeout", "keep_alive_timeout", "body_idle_timeout", "first_byte_timeout", "idle_timeout")
    with running_proxy(
        upstreams={"orders": target_port},
        hosts={"orders": "proxy.test"},
        permissions=PERMISSIONS.read_text(encoding="utf-8"),
        trusted=trusted,
        config_extra=f"limits: {{{', '.join(f'{name}: 1s' for name in deadlines)}}}\n",
    ) as running:
        yield running


@pytest.fixture
async def upstream(target_port: int) -> AsyncIterator[RawUpstream]:
    async with RawUpstream(replies(response(b"forwarded")), port=target_port).running() as upstream:
        yield upstream


async def attack(proxy: RunningProxy, raw: bytes) -> tuple[list[Answer], bool]:
    """Everything that is answered, and whether the proxy then ended the connection."""
    answers: list[Answer] = []
    async with connected(proxy.port) as client:
        with contextlib.suppress(ConnectionError):  # the proxy may have ended it while this is sent
            await client.send(raw)
        answers.append(await client.response())
        # Only where more was sent could more be answered.
        patience = PATIENCE if answers[-1].values("connection") == ["close"] else 0.2
        if patience == PATIENCE or raw.count(b" HTTP/") > 1:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    while True:
                        try:
                            answers.append(await client.response())
                        except (asyncio.IncompleteReadError, ConnectionError):
                            return answers, True
    return answers, False


def exact(case: dict[str, Any], proxy: RunningProxy) -> bytes:
    return message(case["raw_request"], proxy.token("web"))


async def is_recorded(proxy: RunningProxy, answer: Answer) -> None:
    """The answer is a problem document, and the audit has exactly one line of it."""
    assert answer.values("content-type") == ["application/problem+json"]
    document = json.loads(answer.body)
    assert document["status"] == answer.status
    (line,) = await proxy.recorded(document["decision_id"], lines=1)
    assert (line["kind"], line["status"], line["reasons"]) == ("refusal", answer.status, document["reasons"])


@pytest.mark.parametrize("case", cases("reject-4xx"))
async def test_what_is_to_be_rejected_never_reaches_the_service(
    target: RunningProxy, upstream: RawUpstream, case: dict[str, Any]
) -> None:
    answers, _ = await attack(target, exact(case, target))
    assert 400 <= answers[-1].status < 500
    # One case begins with a clean request, and is about the one behind it on the same connection.
    before = [200] if case["id"] == "FRAMING-035" else []
    assert [answer.status for answer in answers[:-1]] == before
    assert len(upstream.requests) == len(before)
    await is_recorded(target, answers[-1])


@pytest.mark.parametrize("case", cases("deny-403"))
async def test_what_is_to_be_denied_is_denied_by_policy(
    target: RunningProxy, upstream: RawUpstream, case: dict[str, Any]
) -> None:
    answers, _ = await attack(target, exact(case, target))
    assert [answer.status for answer in answers] == [403]
    assert upstream.connections == 0
    await is_recorded(target, answers[0])
    (line,) = await target.recorded(json.loads(answers[0].body)["decision_id"], lines=1)
    assert line["result"]["allow"] is False


@pytest.mark.parametrize("case", cases("forwarded-normalised"))
async def test_what_is_to_be_forwarded_arrives_as_one_clean_request(
    target: RunningProxy, upstream: RawUpstream, case: dict[str, Any], target_port: int
) -> None:
    raw = exact(case, target)
    answers, _ = await attack(target, raw)
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"forwarded")]
    (seen,) = upstream.requests
    head = raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    method, path = head[0].split(" ")[:2]
    assert seen.line == f"{method} {path} HTTP/1.1"
    assert seen.body == (b'{"sku":"a"}' if method == "POST" else b"")

    sent = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in head[1:])]
    passed_on = [(name, value) for name, value in sent if name in PASSED_ON]
    framing = [name for name, _ in seen.headers if name in ("content-length", "transfer-encoding")]
    assert [header for header in seen.headers if header[0] in PASSED_ON] == passed_on
    assert sorted(name for name, _ in seen.headers) == sorted([*ALWAYS, *framing, *(name for name, _ in passed_on)])
    assert framing == [name for name, _ in sent if name in ("content-length", "transfer-encoding")]
    given = dict(seen.headers)
    assert given.get("content-length", "11") == "11"
    assert given["host"] == f"127.0.0.1:{target_port}"
    assert given["x-forwarded-host"] == "proxy.test"
    assert given["x-forwarded-for"] == "127.0.0.1"
    assert target.tokens[-1] not in repr(seen)

    decision, completion = await target.recorded(given["ostiary-decision-id"], lines=2)
    assert (decision["caller"], decision["identity"]["subject"], decision["method"]) == ("web", "web", method)
    assert (completion["kind"], completion["outcome"]) == ("completion", "complete")


@pytest.mark.parametrize("case", cases("connection-closed"))
async def test_what_is_no_conversation_is_ended(
    target: RunningProxy, upstream: RawUpstream, case: dict[str, Any]
) -> None:
    answers, ended = await attack(target, exact(case, target))
    assert ended
    assert all(400 <= answer.status < 500 for answer in answers)
    assert upstream.connections == 0


def test_every_case_that_is_a_message_is_tried() -> None:
    messages = [
        case
        for case in json.loads(ATTACKS.read_text(encoding="utf-8"))
        if not case["raw_request"].startswith("generator:")
    ]
    tried = cases("reject-4xx", "deny-403", "forwarded-normalised", "connection-closed")
    assert len(tried) == len(messages) >= 190
