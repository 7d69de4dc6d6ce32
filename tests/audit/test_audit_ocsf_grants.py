"""Every step of a grant is an event that OCSF 1.8.0 takes: User Access Management, class 3005.

What the schema requires was read in the repository ocsf/ocsf-schema at its release 1.8.0: `events/base_event.json`,
`events/iam/iam.json`, `events/iam/user_access.json` and the objects that the events use.
"""

from __future__ import annotations

from typing import Any, Final

from ostiary.audit.ocsf_grants import user_access
from ostiary.grants import life
from ostiary.grants.records import Record
from ostiary.grants.service import step_document
from support.grants import ANN, BEN, CID, asked, moment, terms
from support.ocsf import Schema

USER: Final = {"uid", "name", "domain", "type_id", "type"}
SCHEMA: Final = Schema(
    required={
        "event": {"activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid", "user"},
        "metadata": {"product", "version"},
    },
    at_least_one={
        "actor": {"process", "user", "invoked_by", "session", "app_name", "app_uid"},
        "actor.user": {"account", "name", "uid"},
        "actor.idp": {"name", "uid"},
        "metadata.product": {"name", "uid"},
        "user": {"account", "name", "uid"},
        "resources": {"name", "uid"},
    },
    members={
        "event": {
            "activity_id", "activity_name", "category_uid", "category_name", "class_uid", "class_name", "type_uid",
            "type_name", "severity_id", "severity", "time", "status_id", "status", "metadata", "actor", "user",
            "privileges", "resources", "unmapped",
        },
        "metadata": {"version", "product", "uid", "correlation_uid", "original_time", "log_name"},
        "metadata.product": {"name", "vendor_name", "version"},
        "actor": {"user", "idp", "app_name"},
        "actor.user": USER,
        "actor.idp": {"uid", "name"},
        "user": USER,
        "resources": {"name", "type", "namespace"},
    },
    captions={
        "severity_id": {1: "Informational", 3: "Medium"},
        "status_id": {1: "Success", 2: "Failure"},
    },
    siblings={},
)  # fmt: skip
NAMES: Final = {1: "Assign Privileges", 2: "Revoke Privileges"}


def requested(**changes: Any) -> Record:
    return life.ask(asked(**changes), moment(), id="g-1", patience=600)


def granted() -> Record:
    record = requested()
    return life.approve(BEN, digest=record.digest, reason="seen")(record, moment(1))


def extended() -> Record:
    record = life.extend(ANN, duration=900, reason="more")(granted(), moment(2))
    record = life.deny(CID, reason="not now")(record, moment(3))
    return life.extend(BEN, duration=900, reason="more")(record, moment(4))


def events(record: Record) -> list[dict[str, Any]]:
    lines = [{"kind": "grant", "time": "2026-09-21T14:13:20.250Z", **step_document(record, number), "seq": 7}
             for number in range(len(record.steps))]  # fmt: skip
    return [user_access(line, product_version="0.1.0") for line in lines]


def seen(record: Record) -> list[tuple[str, str]]:
    found = events(record)
    for event in found:
        assert SCHEMA.mistakes(event) == []
        assert event["activity_name"] == NAMES.get(event["activity_id"], event["activity_name"])
        assert event["type_name"].partition(": ")[2] == NAMES.get(event["activity_id"], "Other")
    return [(event["activity_name"], event["status"]) for event in found]


def test_what_gives_and_takes_away_is_told_apart_from_what_only_goes_before() -> None:
    before = [("requested", "Success"), ("approved", "Success"), ("Assign Privileges", "Success")]
    assert seen(granted()) == before
    end = [("Revoke Privileges", "Success")]
    assert seen(life.revoke(CID, reason="an incident")(granted(), moment(2))) == before + end
    assert seen(life.drop(ANN)(granted(), moment(2))) == before + end
    assert seen(life.expire(granted(), moment(3600))) == before + end
    assert seen(extended())[3:] == [
        ("extension-requested", "Success"),
        ("extension-denied", "Failure"),
        ("extension-requested", "Success"),
        ("extension-approved", "Success"),
        ("Assign Privileges", "Success"),
    ]


def test_the_end_of_what_never_was_a_grant_takes_nothing_away() -> None:
    assert seen(life.expire(requested(), moment(3600)))[1:] == [("expired", "Success")]
    assert seen(life.revoke(CID, reason="no")(requested(), moment(2)))[1:] == [("revoked", "Success")]
    assert seen(life.deny(CID, reason="no")(requested(), moment(2)))[1:] == [("denied", "Failure")]


def test_a_step_as_a_whole() -> None:
    record = granted()
    assert events(record)[1] == {
        "activity_id": 99,
        "activity_name": "approved",
        "category_uid": 3,
        "category_name": "Identity & Access Management",
        "class_uid": 3005,
        "class_name": "User Access Management",
        "type_uid": 300599,
        "type_name": "User Access Management: Other",
        "severity_id": 1,
        "severity": "Informational",
        "time": 1_790_000_001_250,
        "status_id": 1,
        "status": "Success",
        "metadata": {
            "version": "1.8.0",
            "product": {"name": "ostiary", "vendor_name": "ostiary", "version": "0.1.0"},
            "uid": "g-1/1",
            "correlation_uid": "g-1",
            "original_time": "2026-09-21T14:13:20.250Z",
            "log_name": "audit",
        },
        "actor": {
            "user": {
                "uid": "ben",
                "domain": "https://idp.test",
                "type_id": 0,
                "type": "Unknown",
                "name": "support-lead",
            },
            "idp": {"uid": "https://idp.test", "name": "https://idp.test"},
        },
        "user": {"uid": "ann", "domain": "https://idp.test", "type_id": 0, "type": "Unknown", "name": "support"},
        "privileges": ["billing/refund"],
        "resources": [{"name": "refund", "type": "endpoint", "namespace": "billing"}],
        "unmapped": {
            "kind": "grant",
            "reason": "seen",
            "duration": 600,
            "emergency": False,
            "digest": record.digest,
            "seq": 7,
        },
    }
    assert events(record)[2]["actor"] == {"app_name": "ostiary"}


def test_an_emergency_stands_out() -> None:
    urgent = requested(emergency=True, duration=60, terms=terms(emergency=300))
    assert {event["severity"] for event in events(urgent)} == {"Medium"}


def test_the_mistakes_of_an_event_would_be_found() -> None:
    event = events(granted())[0]
    assert SCHEMA.mistakes({**event, "user": None}) == ["event: user is missing"]
    assert SCHEMA.mistakes({**event, "odd": 1}) == ["event: odd is unknown"]
    assert SCHEMA.mistakes({**event, "class_uid": 3001}) == ["type_uid does not fit"]
