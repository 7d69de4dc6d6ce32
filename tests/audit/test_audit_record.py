"""What each way through the pipeline leaves in the audit, line by line."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ostiary.audit import MemoryAuditLog
from ostiary.clock import ManualClock
from ostiary.errors import (
    ClientDisconnected,
    CredentialUnavailable,
    HostUnknown,
    IdentityInvalid,
    MessageMalformed,
    PolicyUnavailable,
    UpstreamFailed,
    UpstreamTimeout,
)
from ostiary.exchange import Exchange
from support.audit import SECRET, Stages, credential, decision, exchange, identity, let_through, request
from support.opa import ALLOWED

TIME = "2026-09-21T14:13:20.000Z"
IDENTITY = {"issuer": "https://idp.test", "subject": "web", "method": "jwt", "token_id": "t-1"}
DENIED = {
    **ALLOWED,
    "allow": False,
    "reasons": ["permission-missing", "condition-hours"],
    "permission": None,
    "credential": None,
}

DECISION = {
    "schema": 1,
    "kind": "decision",
    "time": TIME,
    "caller": "web",
    "service": "orders",
    "endpoint": "get-order",
    "method": "GET",
    "path": "/orders/42",
    "reasons": [],
    "revision": "7-abc",
    "permission": "web/orders/get-order/00000000",
    "grant": None,
    "credential": {"jti": "c-1", "per_call": False, "expires_at": 1_790_000_060},
    "cached": False,
    "identity": IDENTITY,
    "source_ip": "10.0.0.7",
    "decision_ms": 0.0,
    "input": request().document(),
    "result": ALLOWED,
}
COMPLETION = {
    "schema": 1,
    "kind": "completion",
    "time": TIME,
    "outcome": "complete",
    "status": 200,
    "reasons": [],
    "detail": None,
    "bytes_received": 0,
    "bytes_sent": 2,
    "duration_ms": 0.0,
}
REFUSAL = {
    "schema": 1,
    "kind": "refusal",
    "time": TIME,
    "outcome": "refused",
    "status": 403,
    "reasons": [],
    "detail": None,
    "caller": None,
    "service": None,
    "endpoint": None,
    "method": "GET",
    "host": "orders.localhost",
    "path": "/orders/42",
    "revision": None,
    "permission": None,
    "grant": None,
    "cached": None,
    "identity": None,
    "source_ip": "10.0.0.7",
    "bytes_received": 0,
    "bytes_sent": 0,
    "duration_ms": 0.0,
    "input": None,
    "result": None,
}


@pytest.fixture
def log() -> MemoryAuditLog:
    return MemoryAuditLog(clock=ManualClock())


async def run(log: MemoryAuditLog, stages: Stages, **sent: Any) -> list[dict[str, Any]]:
    """Send one request through the real pipeline; the lines it left, their common `decision_id` taken off."""
    await stages.pipeline(log)(*stages.asgi(**sent))
    return take(log)


def take(log: MemoryAuditLog) -> list[dict[str, Any]]:
    assert len({document.pop("decision_id") for document in log.documents}) == 1
    return log.documents


def upstream(act: Callable[[Exchange], Awaitable[None]]) -> Stages:
    return Stages(upstream=act)


async def answer(carried: Exchange) -> None:
    await carried.respond(200, [], b"{}")


async def test_a_forwarded_request_leaves_a_decision_and_a_completion(log: MemoryAuditLog) -> None:
    assert await run(log, upstream(answer)) == [DECISION, COMPLETION]


async def test_the_decision_is_in_the_audit_before_the_upstream_is_called(log: MemoryAuditLog) -> None:
    seen = []

    async def act(carried: Exchange) -> None:
        seen.extend(document["kind"] for document in log.documents)
        await answer(carried)

    await run(log, upstream(act))
    assert seen == ["decision"]


async def test_without_a_record_the_upstream_is_not_called(log: MemoryAuditLog) -> None:
    async def act(carried: Exchange) -> None:
        pytest.fail("the upstream was called")

    log.available = False
    assert await run(log, upstream(act)) == [
        REFUSAL
        | {
            "status": 503,
            "reasons": ["audit-unavailable"],
            "detail": "made unavailable",
            "caller": "web",
            "service": "orders",
            "endpoint": "get-order",
            "revision": "7-abc",
            "permission": "web/orders/get-order/00000000",
            "cached": False,
            "identity": IDENTITY,
            "bytes_sent": log.documents[0]["bytes_sent"],
            "input": request().document(),
            "result": ALLOWED,
        }
    ]


async def test_an_unknown_host_is_refused_with_the_path_as_it_was_sent(log: MemoryAuditLog) -> None:
    stages = Stages(resolve=HostUnknown("evil.test"))
    sent = {"raw_path": b"/a%2e%2e\xff/\xe9", "query": b"access_token=secret", "headers": [(b"host", b"evil\xff")]}
    found = await run(log, stages, **sent)

    assert found == [
        REFUSAL
        | {
            "status": 421,
            "reasons": ["host-unknown"],
            "detail": "evil.test",
            "host": "evil\u00ff",
            "path": "/a%2e%2e\u00ff/\u00e9",
            "bytes_sent": found[0]["bytes_sent"],
        }
    ]


async def test_a_bad_token_is_refused_with_its_cause(log: MemoryAuditLog) -> None:
    found = await run(log, Stages(identify=IdentityInvalid("the signature is wrong")))

    assert found == [
        REFUSAL
        | {
            "status": 401,
            "reasons": ["identity-invalid"],
            "detail": "the signature is wrong",
            "service": "orders",
            "bytes_sent": found[0]["bytes_sent"],
        }
    ]


async def test_a_denial_holds_what_was_judged_and_the_answer(log: MemoryAuditLog) -> None:
    denied = decision(
        allow=False,
        reasons=("permission-missing", "condition-hours"),
        permission=None,
        credential=None,
        cached=True,
    )
    found = await run(log, Stages(decide=denied))

    assert found == [
        REFUSAL
        | {
            "status": 403,
            "reasons": ["permission-missing", "condition-hours"],
            "caller": "web",
            "service": "orders",
            "endpoint": "get-order",
            "revision": "7-abc",
            "cached": True,
            "identity": IDENTITY,
            "bytes_sent": found[0]["bytes_sent"],
            "input": request().document(),
            "result": DENIED,
        }
    ]


async def test_no_decision_leaves_whoever_asked(log: MemoryAuditLog) -> None:
    found = await run(log, Stages(decide=PolicyUnavailable("OPA does not answer")))

    assert found == [
        REFUSAL
        | {
            "status": 503,
            "reasons": ["policy-unavailable"],
            "detail": "OPA does not answer",
            "service": "orders",
            "identity": IDENTITY,
            "bytes_sent": found[0]["bytes_sent"],
        }
    ]


async def test_no_credential_leaves_the_decision_that_had_been_made(log: MemoryAuditLog) -> None:
    found = await run(log, Stages(swap=CredentialUnavailable("no key")))

    assert [(line["kind"], line["status"], line["reasons"], line["result"]) for line in found] == [
        ("refusal", 503, ["credential-unavailable"], ALLOWED)
    ]


async def test_an_upstream_that_fails_leaves_decision_and_completion_with_the_reason(log: MemoryAuditLog) -> None:
    async def act(carried: Exchange) -> None:
        raise UpstreamFailed("connection refused")

    found = await run(log, upstream(act))
    assert found == [
        DECISION,
        COMPLETION
        | {
            "outcome": "refused",
            "status": 502,
            "reasons": ["upstream-failed"],
            "detail": "connection refused",
            "bytes_sent": found[1]["bytes_sent"],
        },
    ]


async def test_a_response_that_breaks_off_is_aborted(log: MemoryAuditLog) -> None:
    async def act(carried: Exchange) -> None:
        await carried.start_response(200, [])
        await carried.send_body(b"half", more=True)
        raise UpstreamTimeout("idle")

    assert await run(log, upstream(act)) == [
        DECISION,
        COMPLETION | {"outcome": "aborted", "reasons": ["upstream-timeout"], "detail": "idle", "bytes_sent": 4},
    ]


async def test_a_client_that_leaves_is_recorded(log: MemoryAuditLog) -> None:
    async def act(carried: Exchange) -> None:
        await carried.start_response(200, [])
        raise ClientDisconnected

    assert await run(log, upstream(act)) == [
        DECISION,
        COMPLETION
        | {
            "outcome": "disconnected",
            "reasons": ["client-disconnected"],
            "bytes_sent": 0,
        },
    ]


@pytest.mark.parametrize("late", [False, True], ids=["before the decision", "while forwarding"])
async def test_a_cancelled_request_is_recorded(log: MemoryAuditLog, late: bool) -> None:
    reached = asyncio.Event()

    async def wait(*_: Any) -> Any:
        reached.set()
        await asyncio.Event().wait()

    stages = Stages(upstream=wait) if late else Stages(decide=wait)
    task = asyncio.ensure_future(stages.pipeline(log)(*stages.asgi()))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    if late:
        assert take(log) == [DECISION, COMPLETION | {"outcome": "cancelled", "status": None, "bytes_sent": 0}]
    else:
        refused = {"outcome": "cancelled", "status": None, "service": "orders", "identity": IDENTITY}
        assert take(log) == [REFUSAL | refused]


async def test_an_unforeseen_error_is_recorded_as_ours(log: MemoryAuditLog, caplog: pytest.LogCaptureFixture) -> None:
    async def act(carried: Exchange) -> None:
        raise RuntimeError("with a secret in it")

    found = await run(log, upstream(act))
    assert found == [
        DECISION,
        COMPLETION
        | {
            "outcome": "refused",
            "status": 500,
            "reasons": ["internal-error"],
            "detail": "RuntimeError",
            "bytes_sent": found[1]["bytes_sent"],
        },
    ]
    assert "unforeseen error" in caplog.text


async def test_an_error_that_leaves_the_pipeline_is_recorded(log: MemoryAuditLog) -> None:
    """The transport fails while the refusal is sent."""
    stages = Stages(identify=IdentityInvalid("no"), send=ConnectionError("gone"))
    with pytest.raises(ConnectionError):
        await stages.pipeline(log)(*stages.asgi())

    (line,) = take(log)
    assert (line["kind"], line["outcome"], line["reasons"]) == ("refusal", "failed", ["identity-invalid"])


async def test_what_the_proxy_answers_itself_is_an_answer(log: MemoryAuditLog) -> None:
    async def concierge(carried: Exchange, _: Any) -> bool:
        await carried.respond(200, [], b"{}")
        return True

    assert await run(log, Stages(concierge=concierge)) == [
        {
            "schema": 1,
            "kind": "answer",
            "time": TIME,
            "outcome": "complete",
            "status": 200,
            "service": "orders",
            "method": "GET",
            "host": "orders.localhost",
            "path": "/orders/42",
            "source_ip": "10.0.0.7",
            "bytes_received": 0,
            "bytes_sent": 2,
            "duration_ms": 0.0,
        }
    ]


async def test_a_credential_renewed_for_a_retry_adds_a_line_and_does_not_repeat_the_decision(
    log: MemoryAuditLog,
) -> None:
    carried = exchange()
    with log.record(carried) as record:
        await let_through(record)
        await record.commit(credential("c-2"))
        await answer(carried)

    assert take(log) == [
        DECISION,
        {
            "schema": 1,
            "kind": "credential",
            "time": TIME,
            "credential": {"jti": "c-2", "per_call": False, "expires_at": 1_790_000_060},
        },
        COMPLETION,
    ]


async def test_a_denial_cannot_be_committed(log: MemoryAuditLog) -> None:
    carried = exchange()
    with log.record(carried) as record:
        record.decided(request(), decision(allow=False))
        with pytest.raises(Exception, match="no allow to record") as caught:
            await record.commit(credential())
    assert caught.value.reason == "audit-unavailable"


async def test_durations_are_milliseconds_of_the_steady_clock() -> None:
    clock = ManualClock()
    log = MemoryAuditLog(clock=clock)
    carried = exchange()
    with log.record(carried) as record:
        clock.advance(0.25)
        record.identified(identity())
        clock.advance(0.5)
        record.decided(request(), decision())
        await record.commit(credential())
        clock.advance(1)
        await answer(carried)

    assert [line.get("decision_ms", line.get("duration_ms")) for line in log.documents] == [500.0, 1750.0]


async def test_a_denial_that_cannot_be_rendered_is_recorded_without_its_documents(log: MemoryAuditLog) -> None:
    denied = decision(allow=False, reasons=("permission-missing",), said={"result": object()})
    (line,) = await run(log, Stages(decide=denied))

    assert (line["kind"], line["reasons"], line["result"]) == ("refusal", ["permission-missing"], None)


async def test_an_allow_that_cannot_be_rendered_is_refused(log: MemoryAuditLog) -> None:
    (line,) = await run(log, Stages(decide=decision(said={"result": object()})))

    assert (line["kind"], line["status"], line["reasons"]) == ("refusal", 503, ["audit-unavailable"])


def test_a_message_the_parser_refused_is_recorded_as_far_as_it_was_understood(log: MemoryAuditLog) -> None:
    log.refused(
        MessageMalformed("a bare line feed"),
        decision_id="d-1",
        peer="10.0.0.9",
        method="GET\n",
        target=b"/\xff?token=secret",
        host=b"orders.localhost",
    )
    log.refused(MessageMalformed(), decision_id="d-2", peer=None)

    known = {
        "detail": "a bare line feed",
        "method": "GET\n",
        "path": "/\u00ff",
        "source_ip": "10.0.0.9",
        "decision_id": "d-1",
    }
    unknown = {"detail": None, "method": None, "host": None, "path": None, "source_ip": None, "decision_id": "d-2"}
    shared = {"status": 400, "reasons": ["message-malformed"]}
    assert log.documents == [REFUSAL | shared | known, REFUSAL | shared | unknown]


async def test_no_secret_is_written_on_any_way_through(log: MemoryAuditLog) -> None:
    async def fail(carried: Exchange) -> None:
        raise UpstreamFailed("no")

    for stages in (upstream(answer), upstream(fail), Stages(identify=IdentityInvalid("no"))):
        await stages.pipeline(log)(*stages.asgi())

    written = str(log.documents)
    assert SECRET.removeprefix("Bearer ") not in written
    assert "minted-and-secret" not in written


async def test_what_strangers_send_is_capped(log: MemoryAuditLog) -> None:
    stages = Stages(resolve=HostUnknown("d" * 5000))
    (line,) = await run(log, stages, method="M" * 100, raw_path=b"/" + b"p" * 9000, headers=[(b"host", b"h" * 9000)])

    assert line["method"] == "M" * 32 + "[+68]"
    assert line["path"] == "/" + "p" * 2047 + "[+6953]"
    assert line["host"] == "h" * 255 + "[+8745]"
    assert line["detail"] == "d" * 512 + "[+4488]"
