"""What is counted of each way through the pipeline, by a worker and by the supervisor that adds it up."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from ostiary.audit import ExchangeRecord, MemoryAuditLog
from ostiary.audit.forwarded import Parts
from ostiary.audit.record import Completed
from ostiary.clock import ManualClock
from ostiary.errors import ClientDisconnected, MessageMalformed, UpstreamFailed
from ostiary.telemetry import OTHER, PermissionUse, Tally, Totals, standing_permissions
from ostiary.telemetry.totals import Samples
from support.audit import decision, exchange, request

DENIED: dict[str, Any] = {"allow": False, "reasons": ("permission-missing",), "permission": None, "credential": None}


def ended(tally: Tally, *, status: int | None = 200, seconds: float = 0.02, **facts: Any) -> None:
    """Tell of an exchange, of whose facts those are as said and the others as of a request that was forwarded."""
    made = exchange()
    made.status, made.bytes_received, made.bytes_sent = status, 3, 5
    told: Completed = tally.completed
    told(
        made,
        facts.get("target", request().target),
        facts.get("decision", decision()),
        facts.get("refusal"),
        facts.get("outcome"),
        facts.get("deciding", 0.0004),
        seconds,
    )


def added(tally: Tally, *, capacity: int = 100) -> dict[str, Samples]:
    totals = Totals(capacity=capacity)
    totals.add(pickle.loads(pickle.dumps(tally.take())))
    return {name: {**found} for name, found in totals.samples.items()}


def test_grants_are_counted_together() -> None:
    """There is another one each time: soon there would be no room to tell permissions apart."""
    tally = Tally()
    for number in range(3):
        ended(tally, decision=decision(permission=None, grant=f"g-{number}"))
    ended(tally, decision=decision(permission=None, grant="g-3"), outcome="aborted")
    assert added(tally)["ostiary_permission_uses_total"] == {("grant",): 4}


def test_a_forwarded_request_is_counted_once_in_each() -> None:
    tally = Tally()
    ended(tally)
    ended(tally, decision=decision(cached=True), deciding=0.00001)
    found = added(tally)
    whose = ("web", "orders", "get-order")
    assert found["ostiary_requests_total"] == {(*whose, "2xx"): 2}
    assert "ostiary_refusals_total" not in found
    assert found["ostiary_permission_uses_total"] == {(decision().permission,): 2}
    assert found["ostiary_received_bytes_total"] == {("orders",): 6}
    assert found["ostiary_sent_bytes_total"] == {("orders",): 10}
    (durations,) = found["ostiary_request_duration_seconds"].items()
    assert durations == (("orders", "forwarded"), [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.04])
    decisions = found["ostiary_decision_duration_seconds"]
    assert decisions["cache",] == [1, *[0] * 13, 0.00001]
    assert decisions["opa",] == [0, 0, 1, *[0] * 11, 0.0004]


@pytest.mark.parametrize(("seconds", "bucket"), [(0.001, 0), (0.0010001, 1), (60.0, 13), (61.0, 14)])
def test_a_bucket_holds_what_is_as_long_as_its_bound(seconds: float, bucket: int) -> None:
    tally = Tally()
    ended(tally, seconds=seconds)
    (times,) = added(tally)["ostiary_request_duration_seconds"].values()
    assert isinstance(times, list)
    assert [number for number, count in enumerate(times[:-1]) if count] == [bucket]


def test_a_refusal_is_counted_with_its_reason_and_no_permission_is_used_by_it() -> None:
    tally = Tally()
    refusal = decision(**DENIED)
    with pytest.raises(Exception, match="permission") as denied:
        refusal.enforce()
    ended(tally, decision=refusal, refusal=denied.value, status=403)
    found = added(tally)
    assert found["ostiary_requests_total"] == {("web", "orders", "get-order", "4xx"): 1}
    assert found["ostiary_refusals_total"] == {("web", "orders", "get-order", "permission-missing"): 1}
    assert "ostiary_permission_uses_total" not in found
    assert [*found["ostiary_request_duration_seconds"]] == [("orders", "refused")]


def test_a_request_that_was_let_through_and_then_broken_off_has_used_its_permission() -> None:
    tally = Tally()
    ended(tally, refusal=UpstreamFailed("refused"), outcome="refused", status=502)
    ended(tally, refusal=ClientDisconnected(), outcome="disconnected", status=None)
    ended(tally, outcome="cancelled", status=200)
    found = added(tally)
    whose = ("web", "orders", "get-order")
    assert found["ostiary_requests_total"] == {(*whose, "5xx"): 1, (*whose, "none"): 1, (*whose, "2xx"): 1}
    assert {key[-1] for key in found["ostiary_refusals_total"]} == {
        "upstream-failed",
        ClientDisconnected.reason,
        "cancelled",
    }
    assert found["ostiary_permission_uses_total"] == {(decision().permission,): 3}


def test_what_is_no_request_has_a_reason_and_nobody() -> None:
    tally = Tally()
    tally.refused(MessageMalformed("no"))
    ended(tally, decision=None, target=None, refusal=MessageMalformed("no"), outcome="refused", status=400)
    found = added(tally)
    assert found["ostiary_refusals_total"] == {("", "", "", "message-malformed"): 2}
    assert found["ostiary_requests_total"] == {("", "", "", "4xx"): 2}


def test_what_the_proxy_answers_itself_is_no_refusal() -> None:
    tally = Tally()
    ended(tally, decision=None)
    found = added(tally)
    assert found["ostiary_requests_total"] == {("", "orders", "", "2xx"): 1}
    assert [*found["ostiary_request_duration_seconds"]] == [("orders", "answered")]
    assert "ostiary_refusals_total" not in found


def test_what_does_not_fit_is_counted_as_other_by_worker_and_supervisor() -> None:
    """Nothing is left out of the sum, how it ended stays, and that it happened is counted."""
    tally = Tally(capacity=2)
    for number in range(5):
        ended(tally, decision=decision(endpoint=f"e{number}", permission=f"web/orders/e{number}/0"))
    found = added(tally)
    assert found["ostiary_requests_total"] == {
        ("web", "orders", "e0", "2xx"): 1,
        ("web", "orders", "e1", "2xx"): 1,
        (OTHER, OTHER, OTHER, "2xx"): 3,
    }
    assert found["ostiary_permission_uses_total"][OTHER,] == 3
    assert found["ostiary_metrics_overflow_total"] == {("ostiary_requests_total",): 3}

    tally = Tally()
    for number in range(5):
        ended(tally, decision=decision(endpoint=f"e{number}", permission=f"web/orders/e{number}/0"))
    found = added(tally, capacity=2)
    assert found["ostiary_requests_total"] == {
        ("web", "orders", "e0", "2xx"): 1,
        ("web", "orders", "e1", "2xx"): 1,
        (OTHER, OTHER, OTHER, "2xx"): 3,
    }
    assert found["ostiary_permission_uses_total"][OTHER,] == 3
    overflow = found["ostiary_metrics_overflow_total"]
    assert overflow == {("ostiary_requests_total",): 3, ("ostiary_permission_uses_total",): 3}


def test_totals_only_grow_whatever_workers_come_and_go() -> None:
    totals = Totals()
    first, second = Tally(), Tally()
    ended(first)
    ended(second)
    lines = ("ostiary_audit_lines_total", ())
    totals.add(first.take({lines: 7}))
    totals.add(second.take({lines: 2}))
    totals.add(first.take({lines: 7}))
    totals.add(Tally().take({lines: 1}))  # the first worker's successor, which begins at nothing
    assert totals.samples["ostiary_requests_total"] == {("web", "orders", "get-order", "2xx"): 2}
    assert totals.samples["ostiary_audit_lines_total"] == {(): 10}


def test_a_record_tells_when_it_is_complete_and_however_it_ends() -> None:
    clock = ManualClock()
    log = MemoryAuditLog(clock=clock)
    told: list[tuple[Any, ...]] = []
    record = ExchangeRecord(exchange(), log, Parts(), lambda *facts: told.append(facts))
    record.resolved(request().target)
    clock.advance(0.5)
    record.identified(request().identity)
    clock.advance(0.25)
    record.decided(request(), decision())
    clock.advance(1)
    record.__exit__(KeyError, KeyError(), None)
    ((made, target, decided, refusal, outcome, deciding, seconds),) = told
    assert (target, decided, refusal, outcome) == (request().target, decision(), None, "failed")
    assert (made.method, deciding, seconds) == ("GET", 0.25, 1.75)
    assert [line["kind"] for line in log.documents] == ["refusal"]


COMPILED = {
    "access": {"web": {"orders": {"get": "plain", "list": "1"}}, "ops": {"orders": {"cancel": "2"}}},
    "terms": {
        "plain": {"standing": [{"id": "0000"}]},
        "1": {"standing": [{"id": "aaaa"}, {"id": "bbbb"}]},
        "2": {"eligible": [{"id": "cccc"}]},
    },
}


def test_permissions_of_the_map_are_told_apart_by_whether_they_were_used() -> None:
    known = standing_permissions(COMPILED)
    assert known == {"web/orders/get/0000", "web/orders/list/aaaa", "web/orders/list/bbbb"}
    use = PermissionUse()
    use.used(["web/orders/get/0000", "g-1", OTHER])
    assert use.counts() is None
    use.know("1-a", known)
    assert use.counts() == {"used": 1, "unused": 2}
    use.used(["web/orders/list/bbbb"])
    assert use.counts() == {"used": 2, "unused": 1}
    use.know("2-b", frozenset({"web/orders/list/bbbb", "web/orders/new/0000"}))
    assert use.counts() == {"used": 1, "unused": 1}


@pytest.mark.parametrize("bad", [None, {}, {"access": [], "terms": {}}, {**COMPILED, "terms": {}}])
def test_a_map_of_another_form_is_not_guessed_at(bad: Any) -> None:
    with pytest.raises(ValueError, match="another form"):
        standing_permissions(bad)
