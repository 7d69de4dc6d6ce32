"""Requests for access in the words of the AuthZEN profile: what is submitted, and how a record looks as a task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ostiary.grants import life, tasks
from ostiary.grants.denials import Denial
from ostiary.grants.life import Transition
from ostiary.grants.records import Record
from ostiary.grants.refusals import BodyRefused, DenialUnbound, GrantRefused
from ostiary.models import Json
from support.grants import ANN, BEN, CID, IDP, asked, moment, terms

ORIGIN = "https://ostiary.test"
DENIAL = Denial(
    id="d-1",
    issuer=IDP,
    subject="ann",
    caller="support",
    service="billing",
    endpoint="refund",
    method="POST",
    revision="7-0123456789abcdef",
    denied_at=1_790_000_000,
    expires_at=1_790_000_600,
)
REPEATED = {
    "subject": {"type": "workload", "id": "ann", "properties": {"issuer": IDP}},
    "resource": {"type": "service", "id": "billing", "properties": {"endpoint": "refund"}},
    "action": {"name": "POST"},
    "denial": {
        "evaluation_id": "d-1",
        "evaluated_at": "2026-09-21T14:13:20Z",
        "expires_at": "2026-09-21T14:23:20Z",
        "binding_token": "t",
        "reason": "grant-required",
    },
}


def after(*transitions: Transition, recorded: bool = True, **changes: Any) -> Record:
    record = life.ask(asked(**changes), moment(), id="g-1", patience=3600)
    for number, transition in enumerate(transitions, start=1):
        record = transition(record, moment(number))
    return replace(record, recorded=len(record.steps)) if recorded else record


APPROVED = life.approve(BEN, digest=asked().digest)


@pytest.mark.parametrize(
    ("record", "status"),
    [
        (after(), "pending"),
        (after(life.deny(BEN)), "denied"),
        (after(life.cancel(ANN)), "cancelled"),
        (after(life.revoke(BEN, reason="no")), "cancelled"),
        (life.expire(after(), moment(3601)), "expired"),
        (after(APPROVED), "approved"),
        (after(APPROVED, life.drop(ANN)), "approved"),
        (after(APPROVED, life.revoke(BEN, reason="no")), "approved"),
        (life.expire(after(APPROVED), moment(700)), "approved"),
        (after(life.approve(BEN, digest=asked(max_uses=1).digest), life.use, max_uses=1), "approved"),
        (after(APPROVED, recorded=False), "pending"),  # what is not in the audit gives nothing yet
    ],
)
def test_each_state_has_its_status_in_the_profile(record: Record, status: str) -> None:
    found = tasks.task(record, origin=ORIGIN)
    assert found["task"]["status"] == status
    assert ("result" in found) is (status == "approved")


def test_a_task_that_waits_says_for_whom_and_until_when() -> None:
    two = after(life.approve(BEN, digest=asked(terms=terms(approvals=2)).digest), terms=terms(approvals=2))
    assert tasks.task(two, origin=ORIGIN) == {
        "task": {
            "id": "g-1",
            "status": "pending",
            "status_endpoint": "https://ostiary.test/access/tasks/g-1",
            "expires_at": "2026-09-21T15:13:20Z",
            "progress": {"current_step": 2, "total_steps": 2, "awaiting": ["support-lead"]},
            "links": {"cancel": "https://ostiary.test/access/tasks/g-1/cancel"},
        }
    }
    done = replace(life.approve(CID, digest=two.digest)(two, moment(9)), recorded=9)
    assert tasks.task(done, origin=ORIGIN)["task"].keys() == {"id", "status", "status_endpoint"}


def test_an_approval_says_until_when_it_is_good_also_when_it_was_taken_away() -> None:
    assert tasks.task(after(APPROVED), origin=ORIGIN)["result"] == {
        "mode": "reevaluate",
        "approval": {"id": "g-1", "approved_at": "2026-09-21T14:13:21Z", "approved_until": "2026-09-21T14:23:21Z"},
    }
    revoked = tasks.task(after(APPROVED, life.revoke(BEN, reason="no")), origin=ORIGIN)
    assert revoked["result"]["approval"]["approved_until"] == "2026-09-21T14:13:22Z"


def test_who_has_waited_for_long_looks_less_often() -> None:
    begun = int(after().steps[0].time)
    assert [tasks.look_again(after(), now=begun + age) for age in (0, 10, 60, 86400)] == [2, 2, 6, 30]


def test_what_the_profile_names_is_understood_and_what_it_lets_others_add_is_passed_over() -> None:
    body = REPEATED | {
        "context": {"business_justification": "charge 7 was made twice", "time": "2026-09-21T14:13:20Z"},
        "requested_access": {"requested_until": "2026-09-21T16:18:20+02:00", "max_uses": 1, "shop.test/colour": "red"},
        "client": {"id": "a-shop", "source": {"session_id": "s-1"}},
    }
    found = tasks.wanted(body, DENIAL)
    assert found.document() == {
        "service": "billing",
        "endpoints": ["refund"],
        "caller": "support",
        "duration": 300,
        "max_uses": 1,
        "reason": "charge 7 was made twice",
        "emergency": False,
    }
    assert (
        found.asked(terms()).digest
        == asked(duration=300, max_uses=1, reason="charge 7 was made twice", denial="d-1").digest
    )


def test_what_is_left_out_is_as_much_as_can_be_had_and_no_rule_takes_it_for_little() -> None:
    found = tasks.wanted({}, DENIAL)
    assert found.document().keys() == {"service", "endpoints", "caller", "reason", "emergency"}
    assert found.within(terms()).duration == 1800
    urgent = tasks.wanted({"requested_access": {"emergency": True}}, DENIAL)
    assert urgent.within(terms(emergency=60)).duration == 60
    assert tasks.wanted({"requested_access": {"duration": 60}}, DENIAL).within(terms()).duration == 60


def test_the_same_asked_again_is_known_whatever_was_left_out() -> None:
    for access, uses in (({}, None), ({"duration": 60, "max_uses": 1}, None), ({}, 5)):
        again = tasks.wanted({"requested_access": access, "context": {"business_justification": "why"}}, DENIAL)
        limits = terms(max_uses=uses)
        record = life.ask(again.within(limits).asked(limits), moment(), id="g-1", patience=60)
        assert again.is_that(record)
        for other in ({"duration": 61}, {"duration": 60, "max_uses": 2}, {"emergency": True}):
            body = {"requested_access": other, "context": {"business_justification": "why"}}
            assert not tasks.wanted(body, DENIAL).is_that(record)


@pytest.mark.parametrize(
    "change",
    [
        {"action": {"name": "GET"}},
        {"action": {"name": "POST", "properties": {}}},
        {"action": None},
        {"resource": REPEATED["resource"] | {"id": "orders"}},
        {"resource": {"type": "service", "id": "billing", "properties": {"endpoint": "charge"}}},
        {"subject": {"type": "workload", "id": "eve", "properties": {"issuer": IDP}}},
        {"subject": {"type": "workload", "id": "ann"}},
        {"denial": REPEATED["denial"] | {"evaluation_id": "d-2"}},
        {"denial": REPEATED["denial"] | {"expires_at": "2027-09-21T14:23:20Z"}},
        {"denial": REPEATED["denial"] | {"evaluated_at": None}},
    ],
)
def test_what_is_repeated_is_what_was_denied(change: dict[str, Json]) -> None:
    tasks.wanted(REPEATED, DENIAL)
    with pytest.raises(DenialUnbound, match=r"not as it was denied: "):
        tasks.wanted(REPEATED | change, DENIAL)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"denial": "d-1"}, "denial is an object"),
        ({"denial": {"token": "t"}}, "unknown in denial: token"),
        ({"denial": {"evaluation_id": "d-1"}}, "denial.binding_token is missing"),
        ({"denial": {"binding_token": 7}}, "denial.binding_token is missing"),
        ({}, "denial.binding_token is missing"),
    ],
)
def test_without_a_token_nothing_is_bound(body: dict[str, Json], said: str) -> None:
    with pytest.raises(GrantRefused, match=said):
        tasks.binding_token(body)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"context": []}, "context is an object"),
        ({"context": {"business_justification": 7}}, "business_justification is a text"),
        ({"client": {"actor": {"id": "an-agent"}}}, "client.actor"),
        ({"requested_access": {"duration": "10m"}}, "duration is a whole number"),
        ({"requested_access": {"max_uses": True}}, "max_uses is a whole number"),
        ({"requested_access": {"emergency": "yes"}}, "emergency is true or false"),
        ({"requested_access": {"requested_until": "tomorrow"}}, "requested_until is an instant"),
        ({"requested_access": {"requested_until": "2026-09-21T16:18:20"}}, "requested_until is an instant"),
        ({"requested_access": {"requested_until": "2026-09-21T16:18:20Z", "duration": 60}}, "not both"),
    ],
)
def test_what_is_not_well_formed_is_refused_and_said_where(body: dict[str, Json], said: str) -> None:
    with pytest.raises(BodyRefused, match=said):
        tasks.wanted(body, DENIAL)
