"""The life of a grant: who may do what to it, when, and what it is afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ostiary.grants import life, refusals
from ostiary.grants.life import Ruling, Transition
from ostiary.grants.records import Actor, Record
from ostiary.models import Grant
from support.grants import ANN, BEN, CID, EVE, IDP, NOW, asked, moment, terms


def pending(**changes: Any) -> Record:
    ruling = changes.pop("ruling", None)
    return life.ask(asked(**changes), moment(), id="g-1", patience=3600, ruling=ruling)


def active(**changes: Any) -> Record:
    record = pending(**changes)
    return life.approve(BEN, digest=record.digest)(record, moment(10, change=2))


def kinds(record: Record) -> list[str]:
    return [step.kind for step in record.steps]


def test_a_request_waits_and_says_what_was_asked_by_whom_and_why() -> None:
    record = pending()
    assert (record.state, record.grant(), record.pending_until) == ("pending", None, int(NOW) + 3600)
    (step,) = record.steps
    assert (step.kind, step.actor, step.reason, step.time) == ("requested", ANN.owner, record.asked.reason, NOW)


def test_the_last_approval_begins_the_grant() -> None:
    record = pending(terms=terms(approvals=2))
    record = life.approve(BEN, digest=record.digest, reason="seen")(record, moment(10, change=2))
    assert (record.state, record.expires_at) == ("pending", None)
    record = life.approve(CID, digest=record.digest)(record, moment(20, change=3))
    assert (record.state, record.granted_at, record.expires_at) == ("active", int(NOW) + 20, int(NOW) + 620)
    assert kinds(record) == ["requested", "approved", "approved", "activated"]
    assert (record.steps[1].actor, record.steps[1].caller, record.steps[1].reason) == (
        BEN.owner,
        "support-lead",
        "seen",
    )


def test_a_grant_counts_once_its_approval_is_in_the_audit() -> None:
    record = active()
    assert replace(record, recorded=2).grant() is None
    assert replace(record, recorded=3).grant() == Grant(
        id="g-1",
        caller="support",
        issuer=IDP,
        subject="ann",
        service="billing",
        endpoints=("refund",),
        expires_at=int(NOW) + 610,
    )


def test_a_grant_says_whether_its_uses_are_counted() -> None:
    grant = replace(active(max_uses=3), recorded=3).grant()
    assert grant is not None
    assert grant.counted
    assert "counted" not in grant.document()


def test_an_extension_that_is_not_in_the_audit_yet_leaves_the_grant_as_it_was() -> None:
    before = replace(active(), recorded=3)
    after = life.extend(BEN, duration=1800, reason="more to do")(before, moment(100))
    assert after.expires_at == int(NOW) + 1900
    assert after.grant() == before.grant()
    recorded = replace(after, recorded=len(after.steps)).grant()
    assert recorded is not None
    assert recorded.expires_at == int(NOW) + 1900


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"duration": 0}, refusals.DurationRefused),
        ({"duration": -1}, refusals.DurationRefused),
        ({"duration": 1801}, refusals.DurationRefused),
        ({"max_uses": 6, "terms": terms(max_uses=5)}, refusals.UsesRefused),
        ({"max_uses": 0}, refusals.UsesRefused),
        ({"reason": "  "}, refusals.ReasonRequired),
        ({"reason": "x" * 1001}, refusals.ReasonTooLong),
        ({"endpoints": ()}, refusals.EndpointsRefused),
        ({"endpoints": ("refund", "refund")}, refusals.EndpointsRefused),
        ({"emergency": True}, refusals.EmergencyRefused),
        ({"emergency": True, "terms": terms(emergency=599)}, refusals.DurationRefused),
    ],
)
def test_nothing_outside_the_eligibility_can_be_asked_for(
    changes: dict[str, Any], refusal: type[refusals.GrantRefused]
) -> None:
    with pytest.raises(refusal):
        pending(**changes)


def test_who_does_not_say_how_many_uses_gets_the_most_there_are() -> None:
    assert pending(terms=terms(max_uses=5)).asked.max_uses == 5


APPROVER_STEPS: dict[str, Transition] = {
    "approve": life.approve(replace(ANN, callers=BEN.callers), digest=pending().digest),
    "deny": life.deny(replace(ANN, callers=BEN.callers)),
    "review": life.review(replace(ANN, callers=BEN.callers), reason="fine"),
}


@pytest.mark.parametrize("step", APPROVER_STEPS)
def test_nobody_answers_their_own_request_whatever_callers_they_are(step: str) -> None:
    with pytest.raises(refusals.OwnRequest):
        APPROVER_STEPS[step](pending(), moment(1))


def test_a_holder_who_is_an_approver_asks_for_an_extension_and_gives_none() -> None:
    record = life.extend(replace(ANN, callers=BEN.callers), duration=600, reason="more")(active(), moment(20))
    assert record.extension is not None
    assert record.expires_at == int(NOW) + 610
    with pytest.raises(refusals.OwnRequest):
        life.approve(replace(ANN, callers=BEN.callers), digest=record.extension.digest)(record, moment(21))


@pytest.mark.parametrize(
    "transition",
    [
        life.approve(EVE, digest=pending().digest),
        life.deny(EVE),
        life.extend(EVE, duration=60, reason="x"),
        life.review(EVE, reason="x"),
        life.approve(replace(BEN, callers=frozenset()), digest=pending().digest),
    ],
)
def test_only_an_approver_of_the_eligibility_answers(transition: Transition) -> None:
    with pytest.raises(refusals.NotAnApprover):
        transition(pending(), moment(1))


@pytest.mark.parametrize("transition", [life.cancel(BEN), life.drop(BEN)])
def test_only_the_holder_gives_back(transition: Transition) -> None:
    for record in (pending(), active()):
        with pytest.raises(refusals.NotTheHolder):
            transition(record, moment(20))


def test_one_person_is_one_approver_whichever_callers_they_are() -> None:
    record = pending(terms=terms(approvals=2, approvers=("support-lead", "audit")))
    record = life.approve(BEN, digest=record.digest)(record, moment(1))
    with pytest.raises(refusals.AlreadyApproved):
        life.approve(replace(BEN, callers=frozenset({"audit"})), digest=record.digest)(record, moment(2))


def test_the_same_subject_of_another_issuer_is_another_person() -> None:
    record = pending()
    other = Actor(issuer="https://other.test", subject="ann", callers=frozenset({"support-lead"}))
    assert life.approve(other, digest=record.digest)(record, moment(1)).state == "active"


def test_an_approval_is_for_what_was_seen() -> None:
    seen = pending()
    for changes in ({"duration": 601}, {"endpoints": ("refund", "charge")}, {"reason": "other"}, {"max_uses": 2}):
        with pytest.raises(refusals.AskedOtherwise):
            life.approve(BEN, digest=seen.digest)(pending(**changes), moment(1))


def test_an_extension_takes_the_approvals_that_the_grant_did() -> None:
    record = pending(terms=terms(approvals=2))
    for number, actor in enumerate((BEN, CID)):
        record = life.approve(actor, digest=record.digest)(record, moment(number))
    record = life.extend(ANN, duration=900, reason="not done yet")(record, moment(100))
    assert record.extension is not None
    digest = record.extension.digest
    with pytest.raises(refusals.AskedOtherwise):
        life.approve(BEN, digest=record.digest)(record, moment(101))
    record = life.approve(BEN, digest=digest)(record, moment(101))
    with pytest.raises(refusals.AlreadyApproved):
        life.approve(BEN, digest=digest)(record, moment(102))
    assert record.expires_at == int(NOW) + 601
    record = life.approve(CID, digest=digest)(record, moment(103))
    assert (record.expires_at, record.confirmed_at, record.extension) == (int(NOW) + 1003, int(NOW) + 103, None)
    assert kinds(record)[-4:] == ["extension-requested", "extension-approved", "extension-approved", "extended"]


def test_an_extension_never_shortens() -> None:
    record = life.extend(BEN, duration=1, reason="a little")(active(), moment(20))
    assert record.expires_at == int(NOW) + 610


def test_a_denied_extension_leaves_the_grant() -> None:
    record = life.extend(ANN, duration=900, reason="not done yet")(active(), moment(100))
    record = life.deny(CID, reason="enough")(record, moment(101))
    assert (record.state, record.extension, record.expires_at) == ("active", None, int(NOW) + 610)


@pytest.mark.parametrize("duration", [0, 1801])
def test_an_extension_is_within_the_eligibility_too(duration: int) -> None:
    with pytest.raises(refusals.DurationRefused):
        life.extend(BEN, duration=duration, reason="x")(active(), moment(20))


def test_a_rule_approves_where_the_eligibility_lets_it_and_refuses_anywhere() -> None:
    yes, no = Ruling(approve=True, reason="on call"), Ruling(approve=False, reason="a freeze")
    assert pending(ruling=yes).state == "pending"
    approved = pending(ruling=yes, terms=terms(auto_approve=True))
    assert (approved.state, approved.steps[1].actor, approved.steps[1].reason) == ("active", None, "on call")
    for each in (terms(), terms(auto_approve=True), terms(emergency=600)):
        assert pending(ruling=no, terms=each, emergency=each.emergency is not None).state == "denied"


def test_no_rule_and_no_emergency_extends() -> None:
    record = pending(ruling=Ruling(approve=True), terms=terms(auto_approve=True))
    assert life.extend(ANN, duration=60, reason="more")(record, moment(1)).expires_at == record.expires_at
    record = pending(emergency=True, terms=terms(emergency=600))
    assert life.extend(ANN, duration=60, reason="more")(record, moment(1)).expires_at == record.expires_at


def test_an_emergency_is_approved_at_once_and_its_review_stays_open_until_another_closes_it() -> None:
    record = pending(emergency=True, terms=terms(emergency=600))
    assert (record.state, record.review, record.steps[1].actor) == ("active", "open", ANN.owner)
    record = life.drop(ANN)(record, moment(5))
    with pytest.raises(refusals.OwnRequest):
        life.review(replace(ANN, callers=BEN.callers), reason="it was fine")(record, moment(6))
    with pytest.raises(refusals.ReasonRequired):
        life.review(BEN, reason="")(record, moment(6))
    record = life.review(BEN, reason="the outage of Monday")(record, moment(7))
    assert (record.state, record.review) == ("dropped", "closed")
    with pytest.raises(refusals.WrongState):
        life.review(CID, reason="me too")(record, moment(8))


def test_uses_are_counted_and_the_last_one_ends_it() -> None:
    record = active(max_uses=2, terms=terms(max_uses=5))
    record = life.use(record, moment(20))
    assert (record.state, record.uses_left) == ("active", 1)
    record = life.use(record, moment(21))
    assert (record.state, record.uses_left, kinds(record)[-1]) == ("used-up", 0, "used-up")
    with pytest.raises(refusals.WrongState):
        life.use(record, moment(22))


def test_what_is_used_up_can_be_revoked_until_its_time_is_up() -> None:
    """What its last use let through may be under way for as long."""
    record = life.use(active(max_uses=1, terms=terms(max_uses=5)), moment(20))
    revoked = life.revoke(CID, reason="an incident")(record, moment(21))
    assert (revoked.state, kinds(revoked)[-2:]) == ("revoked", ["used-up", "revoked"])
    assert revoked.ended_at == record.ended_at
    with pytest.raises(refusals.WrongState):
        life.revoke(CID, reason="again")(revoked, moment(22))
    with pytest.raises(refusals.WrongState):
        life.revoke(CID, reason="too late")(record, moment(610))


def test_time_ends_what_waits_and_what_is_active_whether_or_not_it_was_written_down() -> None:
    for record, due in ((pending(), 3600), (active(), 610)):
        assert life.expire(record, moment(due - 1)) == record
        ended = life.expire(record, moment(due))
        assert (ended.state, kinds(ended)[-1]) == ("expired", "expired")
        assert life.expire(ended, moment(-10_000)) == ended
    for transition in (
        life.use,
        life.drop(ANN),
        life.revoke(CID, reason="x"),
        life.extend(BEN, duration=9, reason="x"),
    ):
        with pytest.raises(refusals.WrongState):
            transition(active(), moment(610))
    with pytest.raises(refusals.WrongState):
        life.approve(BEN, digest=pending().digest)(pending(), moment(3600))


@pytest.mark.parametrize(
    "end", [life.drop(ANN), life.revoke(CID, reason="found"), lambda record, _: life.expire(record, moment(9999))]
)
def test_what_has_ended_stays_so(end: Transition) -> None:
    record = end(active(), moment(20))
    for transition in (
        life.approve(BEN, digest=record.digest),
        life.deny(BEN),
        life.cancel(ANN),
        life.drop(ANN),
        life.use,
        life.extend(BEN, duration=60, reason="x"),
        life.revoke(CID, reason="again"),
    ):
        with pytest.raises(refusals.WrongState):
            transition(record, moment(30))


def test_a_step_is_never_earlier_than_the_one_before_it() -> None:
    record = life.approve(BEN, digest=pending().digest)(pending(), moment(-3600, change=2))
    times = [step.time for step in record.steps]
    assert times == sorted(times)
    assert record.expires_at == int(NOW) - 3600 + 600  # by the clock that will end it


def test_a_document_is_read_as_it_was_written() -> None:
    record = life.extend(ANN, duration=900, reason="not done yet")(active(terms=terms(approvals=1)), moment(100))
    assert Record.of(record.document()) == record
