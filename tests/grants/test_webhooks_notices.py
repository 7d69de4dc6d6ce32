"""What is told of each step: once for each change, and how to answer only while that can be done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ostiary.grants import blocks, life
from ostiary.grants.blocks import Block
from ostiary.grants.life import Ruling, Transition
from ostiary.grants.records import Record
from ostiary.grants.webhooks.block_notices import block_notice
from ostiary.grants.webhooks.notices import EVENTS, NAMES, notice_of
from support.grants import ANN, BEN, CID, asked, terms
from support.webhooks import OWN, block, block_draft, last_notice, record

DIGEST = asked().digest
APPROVE = life.approve(CID, digest=DIGEST, reason="seen the charge")
TWO: dict[str, Any] = {"terms": terms(approvals=2)}
DAY = "2026-09-21T14:2"


def extended(*more: Transition) -> list[Transition]:
    return [APPROVE, life.extend(ANN, duration=1200, reason="it takes longer"), *more]


def test_a_request_is_told_whole() -> None:
    found = record()
    assert last_notice(found).document() == {
        "type": "grant.requested",
        "timestamp": "2026-09-21T14:13:20Z",
        "data": {
            "grant": "g-1",
            "step": 0,
            "action": "requested",
            "at": 1790000000.25,
            "actor": {"issuer": "https://idp.test", "subject": "ann"},
            "approver": None,
            "reason": "order 42 was charged twice",
            "holder": {"issuer": "https://idp.test", "subject": "ann"},
            "caller": "support",
            "service": "billing",
            "endpoints": ["refund"],
            "duration": 600,
            "max_uses": None,
            "emergency": False,
            "denial": None,
            "digest": DIGEST,
            "granted_at": None,
            "state": "pending",
            "request_reason": "order 42 was charged twice",
            "approvers": ["support-lead"],
            "approvals": {"needed": 1, "given": []},
            "expires_at": None,
            "review": None,
            "extension": None,
            "answer": {
                "command": f"ostiary access approve g-1 --digest {DIGEST} --url {OWN}",
                "method": "POST",
                "url": f"{OWN}/access/requests/g-1/approve",
                "body": {"digest": DIGEST},
            },
        },
    }


LIFT = blocks.lift(CID.owner, reason="found in the sofa")
REVOKE = life.revoke(CID, reason="an incident")
PROPOSE = life.extend(CID, duration=1200, reason="it takes longer")
WHAT = "billing: refund"
EMERGENCY: dict[str, Any] = {"emergency": True, "terms": terms(emergency=600)}
ANN_S = "the subject https://idp.test ann"
SAID: dict[str, tuple[Record | Block, str]] = {
    "requested": (record(), f"ann (support) asks for {WHAT}, for 10 min: order 42 was charged twice"),
    "approved": (
        record(life.approve(CID, digest=asked(**TWO).digest, reason="seen it"), **TWO),
        f"cid (support-lead) approves what ann (support) asks for, {WHAT}: seen it",
    ),
    "activated": (record(APPROVE), f"ann (support) has {WHAT} until {DAY}3:21Z, approved by cid (support-lead)"),
    "emergency": (
        record(**EMERGENCY),
        f"ann (support) has taken {WHAT} until {DAY}3:20Z: order 42 was charged twice",
    ),
    "denied": (record(life.deny(CID, reason="no")), f"cid (support-lead) denies ann (support) {WHAT}: no"),
    "cancelled": (record(life.cancel(ANN)), f"ann (support) does not ask for {WHAT} any more"),
    "extension-requested": (
        record(*extended()),
        f"ann asks for 20 min more of {WHAT} for ann (support): it takes longer",
    ),
    "extension-approved": (
        record(
            life.approve(CID, digest=asked(**TWO).digest), life.approve(BEN, digest=asked(**TWO).digest), PROPOSE, **TWO
        ),
        f"cid (support-lead) approves more time for ann (support), {WHAT}: it takes longer",
    ),
    "extension-denied": (
        record(*extended(life.deny(CID, reason="no"))),
        f"cid (support-lead) denies ann (support) more time of {WHAT}: no",
    ),
    "extended": (
        record(APPROVE, PROPOSE),
        f"ann (support) has {WHAT} until 2026-09-21T14:33:22Z, approved by cid (support-lead)",
    ),
    "dropped": (record(APPROVE, life.drop(ANN)), f"ann (support) has given {WHAT} back"),
    "revoked": (
        record(APPROVE, REVOKE),
        f"cid has taken {WHAT} away from ann (support): an incident",
    ),
    "used-up": (
        record(life.approve(CID, digest=asked(max_uses=1).digest), life.use, max_uses=1),
        f"ann (support) has used {WHAT} as often as was granted",
    ),
    "expired": (
        record(APPROVE, lambda found, now: life.expire(found, replace(now, now=now.now + 900))),
        f"the time of ann (support) for {WHAT} is up",
    ),
    "reviewed": (
        record(life.review(CID, reason="it was right"), **EMERGENCY),
        f"cid (support-lead) has reviewed what ann (support) did in an emergency, {WHAT}: it was right",
    ),
    "blocked": (block(), f"cid has blocked {ANN_S} until it is lifted: a stolen laptop"),
    "unblocked": (block(LIFT), f"cid blocks {ANN_S} no more: found in the sofa"),
}


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_is_said_in_a_sentence(event: str) -> None:
    found, text = SAID[event]
    notice = last_notice(found)
    assert (notice.event, notice.values["text"]) == (event, text)
    assert sorted(notice.values) == sorted(NAMES)


def test_a_block_is_told_whole() -> None:
    found = block(LIFT, duration=7200)
    blocked, lifted = block_notice(found, 0), last_notice(found)
    assert (blocked.id, lifted.id) == ("b-1-0", "b-1-1")
    assert blocked.document() == {
        "type": "block.blocked",
        "timestamp": "2026-09-21T14:13:20Z",
        "data": {
            "block": "b-1",
            "step": 0,
            "action": "blocked",
            "at": 1790000000.25,
            "actor": {"issuer": "https://idp.test", "subject": "cid"},
            "reason": "a stolen laptop",
            "by": "subject",
            "blocked": {"issuer": "https://idp.test", "subject": "ann"},
            "ends_at": 1790007201,
            "state": "active",
        },
    }
    assert (lifted.document()["type"], lifted.data["action"], lifted.data["state"]) == (
        "block.unblocked",
        "lifted",
        "lifted",
    )
    assert lifted.values["reason"] == "a stolen laptop"


def test_a_block_that_goes_on_for_longer_or_ends_by_time_is_told_as_what_it_is_then() -> None:
    longer = block(lambda found, now: blocks.again(block_draft(reason="still gone"), found, now), duration=7200)
    over = block(lambda found, now: blocks.expire(found, replace(now, now=now.now + 7200)), duration=7200)
    assert [(one.event, one.data["action"], one.values["text"]) for one in map(last_notice, (longer, over))] == [
        ("blocked", "extended", f"cid keeps {ANN_S} blocked until it is lifted: still gone"),
        ("unblocked", "expired", f"the time of the block of {ANN_S} is up"),
    ]


def test_what_nobody_answered_is_not_called_time_that_is_up() -> None:
    found = record(lambda found, now: life.expire(found, replace(now, now=now.now + 3600)))
    assert last_notice(found).values["text"] == f"nobody answered ann (support), {WHAT}"


def test_one_change_is_told_once_by_its_last_step() -> None:
    """Nobody is told that a request waits which a rule answered, nor of an approval that began the grant."""
    assert record(APPROVE, PROPOSE).changes(0, 99) == (0, 2, 5)
    assert record(ruling=Ruling(approve=False, reason="a freeze")).changes(0, 99) == (1,)
    assert record(**EMERGENCY).changes(0, 99) == (2,)
    assert record(APPROVE, REVOKE).changes(3, 4) == (3,)
    assert record(APPROVE).changes(3, 3) == ()


def test_an_emergency_is_loud_and_its_review_is_open_until_it_is_closed() -> None:
    loud = last_notice(record(**EMERGENCY))
    assert loud.values["title"] == "EMERGENCY access taken"
    assert loud.values["alarm"] == "Nobody else has approved this. Its review is open."
    assert (loud.data["review"], loud.data["answer"]) == ("open", None)
    reviewed = record(life.review(CID, reason="it was right"), **EMERGENCY)
    assert last_notice(reviewed).data["review"] == "closed"
    assert notice_of(reviewed, 2, public_url=OWN).data["review"] == "open"
    assert last_notice(record(APPROVE)).values["alarm"] == ""


def test_what_is_told_late_is_what_was_so_then() -> None:
    found = record(APPROVE, REVOKE)
    late = notice_of(found, 2, public_url=OWN)
    assert (late.id, late.event, late.data["state"]) == ("g-1-2", "activated", "active")
    assert late.data["approvals"] == {
        "needed": 1,
        "given": [
            {
                "actor": {"issuer": "https://idp.test", "subject": "cid"},
                "approver": "support-lead",
                "reason": "seen the charge",
                "at": 1790000001.25,
            }
        ],
    }
    assert late.document() == last_notice(record(APPROVE)).document()


def test_nobody_is_told_how_to_approve_what_was_answered_meanwhile() -> None:
    assert notice_of(record(APPROVE), 0, public_url=OWN).data["answer"] is None
    assert notice_of(record(APPROVE), 0, public_url=OWN).values["command"] == ""


def test_an_extension_is_approved_by_its_own_digest() -> None:
    found = record(*extended())
    assert found.extension is not None
    assert last_notice(found).data["extension"] == {"duration": 1200, "reason": "it takes longer"}
    assert last_notice(found).data["answer"]["body"] == {"digest": found.extension.digest}
    answered = notice_of(record(*extended(life.deny(CID))), 3, public_url=OWN)
    assert answered.values["text"] == f"ann asks for some more of {WHAT} for ann (support): it takes longer"
