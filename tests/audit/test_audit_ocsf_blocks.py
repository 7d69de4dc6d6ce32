"""Every step of a block is an event that OCSF 1.8.0 takes: Entity Management, class 3004.

What the schema requires was read in the repository ocsf/ocsf-schema at its release 1.8.0: `events/base_event.json`,
`events/iam/iam.json`, `events/iam/entity_management.json` and the objects that the events use.
"""

from __future__ import annotations

from typing import Any, Final

from ostiary.audit.ocsf_blocks import entity_management
from ostiary.grants import blocks
from ostiary.grants.blocking import block_document
from ostiary.grants.blocks import Block, BlockDraft
from ostiary.marks import Mark, certificate_mark, digest_mark, key_mark, subject_mark, thumbprint_mark, token_mark
from support.grants import ANN, BEN, IDP, moment
from support.ocsf import Schema

USER: Final = {"uid", "domain", "type_id", "type"}
SCHEMA: Final = Schema(
    required={
        "event": {"activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid", "entity"},
        "metadata": {"product", "version"},
    },
    at_least_one={
        "actor": {"process", "user", "invoked_by", "session", "app_name", "app_uid"},
        "actor.user": {"account", "name", "uid"},
        "actor.idp": {"name", "uid"},
        "metadata.product": {"name", "uid"},
        "entity": {"name", "uid", "device", "group", "org", "policy", "user"},
        "entity.user": {"account", "name", "uid"},
    },
    members={
        "event": {
            "activity_id", "activity_name", "category_uid", "category_name", "class_uid", "class_name", "type_uid",
            "type_name", "severity_id", "severity", "time", "status_id", "status", "metadata", "actor", "entity",
            "comment", "unmapped",
        },
        "metadata": {"version", "product", "uid", "correlation_uid", "original_time", "log_name"},
        "metadata.product": {"name", "vendor_name", "version"},
        "actor": {"user", "idp", "app_name"},
        "actor.user": USER,
        "actor.idp": {"uid", "name"},
        "entity": {"type_id", "type", "uid", "user", "data"},
        "entity.user": USER,
        "entity.data": {"issuer", "jti", "kid", "digest", "thumbprint", "certificate"},
    },
    captions={
        "activity_id": {3: "Update", 12: "Suspend", 13: "Resume"},
        "severity_id": {3: "Medium"},
        "status_id": {1: "Success"},
    },
    siblings={"activity_id": "activity_name"},
)  # fmt: skip


def drafted(mark: Mark, *, duration: int | None = 600) -> BlockDraft:
    return BlockDraft(id="b-1", mark=mark, actor=ANN.owner, reason="a stolen laptop", duration=duration)


EVE: Final = subject_mark(IDP, "eve")


def begun(mark: Mark = EVE) -> Block:
    return blocks.begin(drafted(mark), moment())


def events(block: Block) -> list[dict[str, Any]]:
    lines = [{"kind": "block", "time": "2026-09-21T14:13:20.250Z", **block_document(block, number), "seq": 7}
             for number in range(len(block.steps))]  # fmt: skip
    found = [entity_management(line, product_version="0.1.0") for line in lines]
    for event in found:
        assert SCHEMA.mistakes(event) == []
    return found


def test_what_blocks_suspends_and_what_ends_a_block_resumes() -> None:
    longer = blocks.again(drafted(begun().mark, duration=None), begun(), moment(1))
    lifted = blocks.lift(BEN.owner, reason="found")(longer, moment(2))
    expired = blocks.expire(begun(), moment(601))
    assert [event["activity_name"] for event in events(lifted)] == ["Suspend", "Update", "Resume"]
    assert [event["activity_name"] for event in events(expired)] == ["Suspend", "Resume"]
    assert events(expired)[-1]["actor"] == {"app_name": "ostiary"}


def test_the_entity_is_what_is_blocked() -> None:
    marks = {
        token_mark(IDP, "t-1"): ("token", "t-1"),
        digest_mark(b"a.b"): ("digest", digest_mark(b"a.b")[1]),
        key_mark(IDP, "k-1"): ("key", "k-1"),
        thumbprint_mark(b"x" * 32): ("thumbprint", thumbprint_mark(b"x" * 32)[1]),
        certificate_mark(b"x" * 32): ("certificate", (b"x" * 32).hex()),
    }
    for mark, told in marks.items():
        entity = events(begun(mark))[0]["entity"]
        assert (entity["type_id"], entity["type"], entity["uid"]) == (99, *told)
        assert list(entity["data"].values()) == list(mark[1:])


def test_a_step_as_a_whole() -> None:
    assert events(begun())[0] == {
        "activity_id": 12,
        "activity_name": "Suspend",
        "category_uid": 3,
        "category_name": "Identity & Access Management",
        "class_uid": 3004,
        "class_name": "Entity Management",
        "type_uid": 300412,
        "type_name": "Entity Management: Suspend",
        "severity_id": 3,
        "severity": "Medium",
        "time": 1_790_000_000_250,
        "status_id": 1,
        "status": "Success",
        "metadata": {
            "version": "1.8.0",
            "product": {"name": "ostiary", "vendor_name": "ostiary", "version": "0.1.0"},
            "uid": "b-1/0",
            "correlation_uid": "b-1",
            "original_time": "2026-09-21T14:13:20.250Z",
            "log_name": "audit",
        },
        "actor": {
            "user": {"uid": "ann", "domain": "https://idp.test", "type_id": 0, "type": "Unknown"},
            "idp": {"uid": "https://idp.test", "name": "https://idp.test"},
        },
        "entity": {
            "type_id": 2,
            "type": "User",
            "uid": "eve",
            "user": {"uid": "eve", "domain": "https://idp.test", "type_id": 0, "type": "Unknown"},
        },
        "comment": "a stolen laptop",
        "unmapped": {"kind": "block", "action": "blocked", "ends_at": 1_790_000_601, "seq": 7},
    }


def test_the_mistakes_of_an_event_would_be_found() -> None:
    event = events(begun())[0]
    assert SCHEMA.mistakes({**event, "entity": None}) == ["event: entity is missing"]
    assert SCHEMA.mistakes({**event, "odd": 1}) == ["event: odd is unknown"]
