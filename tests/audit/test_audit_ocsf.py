"""Every event is one that OCSF 1.8.0 takes: API Activity, class 6003.

What the schema requires was read in the repository ocsf/ocsf-schema at its release 1.8.0: `events/base_event.json`,
`events/application/api_activity.json`, `profiles/security_control.json` and the objects that the events use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import pytest

from ostiary.audit import MemoryAuditLog
from ostiary.audit.ocsf import api_activity
from ostiary.audit.reading import ASKED
from ostiary.clock import ManualClock
from ostiary.errors import IdentityInvalid, MessageMalformed, UpstreamFailed
from support.audit import SECRET, Stages, decision
from support.ocsf import Schema

REQUIRED: Final = {
    "event": {
        "activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid",
        "actor", "api", "src_endpoint",
    },
    "metadata": {"product", "version"},
    "api": {"operation"},
    "api.request": {"uid"},
    "http_response": {"code"},
}  # fmt: skip

AT_LEAST_ONE: Final = {
    "actor": {"process", "user", "invoked_by", "session", "app_name", "app_uid"},
    "actor.user": {"account", "name", "uid"},
    "actor.idp": {"name", "uid"},
    "api.service": {"name", "uid"},
    "metadata.product": {"name", "uid"},
    "src_endpoint": {"ip", "uid", "name", "hostname", "svc_name", "instance_uid", "interface_uid", "interface_name"},
    "dst_endpoint": {"ip", "uid", "name", "hostname", "svc_name", "instance_uid", "interface_uid", "interface_name"},
    "http_request.url": {"url_string", "path"},
    "resources": {"name", "uid"},
    "authorizations.policy": {"name", "type", "uid"},
}

MEMBERS: Final = {
    "event": {
        "activity_id", "activity_name", "category_uid", "category_name", "class_uid", "class_name", "type_uid",
        "type_name", "severity_id", "severity", "time", "status_id", "status", "status_code", "status_detail",
        "action_id", "action", "disposition_id", "disposition", "authorizations", "metadata", "api", "actor",
        "src_endpoint", "dst_endpoint", "http_request", "http_response", "resources", "unmapped",
    },
    "metadata": {"version", "product", "profiles", "uid", "original_time", "log_name"},
    "metadata.product": {"name", "vendor_name", "version"},
    "api": {"operation", "request", "response", "service"},
    "api.request": {"uid"},
    "api.response": {"code", "error"},
    "api.service": {"name"},
    "actor": {"user", "idp", "session"},
    "actor.user": {"uid", "name", "domain", "type_id", "type"},
    "actor.idp": {"uid", "name"},
    "actor.session": {"uid", "issuer"},
    "src_endpoint": {"ip", "name"},
    "dst_endpoint": {"svc_name"},
    "http_request": {"http_method", "url", "uid"},
    "http_request.url": {"path", "hostname"},
    "http_response": {"code"},
    "resources": {"name", "type"},
    "authorizations": {"decision", "policy"},
    "authorizations.policy": {"name", "uid", "is_applied"},
}  # fmt: skip
"""Those of the schema's members that are used here. Any other would be a mistake."""

CAPTIONS: Final = {
    "activity_id": {1: "Create", 2: "Read", 3: "Update", 4: "Delete", 99: "Other"},
    "severity_id": {1: "Informational", 2: "Low", 3: "Medium"},
    "status_id": {0: "Unknown", 1: "Success", 2: "Failure"},
    "action_id": {1: "Allowed", 2: "Denied", 3: "Observed"},
    "disposition_id": {1: "Allowed", 2: "Blocked"},
}
SIBLINGS: Final = {"activity_id": "activity_name"}


SCHEMA: Final = Schema(
    required=REQUIRED, at_least_one=AT_LEAST_ONE, members=MEMBERS, captions=CAPTIONS, siblings=SIBLINGS
)


def mistakes(event: Mapping[str, Any]) -> list[str]:
    return SCHEMA.mistakes(event)


async def _answer(carried: Any) -> None:
    await carried.respond(200, [], b"{}")


async def _fail(carried: Any) -> None:
    raise UpstreamFailed("no")


async def _concierge(carried: Any, _: Any) -> bool:
    await carried.respond(204, [], b"")
    return True


@pytest.fixture
async def recorded() -> list[dict[str, Any]]:
    """One request of each kind there is, as `requests` gives them."""
    log = MemoryAuditLog(clock=ManualClock())
    denied = decision(allow=False, reasons=("permission-missing",), permission=None)
    for stages, method in (
        (Stages(upstream=_answer), "GET"),
        (Stages(upstream=_fail), "POST"),
        (Stages(decide=denied), "DELETE"),
        (Stages(identify=IdentityInvalid("no")), "PUT"),
        (Stages(concierge=_concierge), "OPTIONS"),
    ):
        await stages.pipeline(log)(*stages.asgi(method=method))
    log.refused(MessageMalformed("what"), decision_id="d" * 32, peer=None)
    ends = {line["decision_id"]: line for line in log.documents if line["kind"] == "completion"}
    found = []
    for line in log.documents:
        if line["kind"] in ASKED:
            end = ends.get(line["decision_id"], {})
            found.append(line | {key: end[key] for key in ("outcome", "status", "duration_ms") if key in end})
    assert len(found) == 6
    return [*found, {**found[0], "outcome": None, "status": None}]


async def test_every_kind_of_request_is_an_event_that_the_schema_takes(recorded: list[dict[str, Any]]) -> None:
    assert [mistakes(api_activity(request, product_version="0.1.0")) for request in recorded] == [[]] * 7


async def test_the_mistakes_of_an_event_would_be_found(recorded: list[dict[str, Any]]) -> None:
    event = api_activity(recorded[0], product_version="0.1.0")
    assert mistakes({**event, "odd": 1}) == ["event: odd is unknown"]
    assert mistakes({**event, "actor": {}}) == [f"actor: none of {sorted(AT_LEAST_ONE['actor'])}"]
    assert mistakes({**event, "activity_id": 1}) == ["activity_id: 1 is not Read", "type_uid does not fit"]
    assert mistakes({**event, "api": {**event["api"], "operation": None}}) == ["api: operation is missing"]


async def test_a_forwarded_request_as_a_whole(recorded: list[dict[str, Any]]) -> None:
    request = recorded[0]
    event = api_activity(request, product_version="0.1.0")
    assert re.fullmatch("[0-9a-f]{32}", event["metadata"]["uid"])
    assert event == {
        "activity_id": 2,
        "activity_name": "Read",
        "category_uid": 6,
        "category_name": "Application Activity",
        "class_uid": 6003,
        "class_name": "API Activity",
        "type_uid": 600302,
        "type_name": "API Activity: Read",
        "severity_id": 1,
        "severity": "Informational",
        "time": 1_790_000_000_000,
        "status_id": 1,
        "status": "Success",
        "status_code": "200",
        "action_id": 1,
        "action": "Allowed",
        "disposition_id": 1,
        "disposition": "Allowed",
        "metadata": {
            "version": "1.8.0",
            "product": {"name": "ostiary", "vendor_name": "ostiary", "version": "0.1.0"},
            "profiles": ["security_control"],
            "uid": request["decision_id"],
            "original_time": "2026-09-21T14:13:20.000Z",
            "log_name": "audit",
        },
        "api": {
            "operation": "get-order",
            "request": {"uid": request["decision_id"]},
            "response": {"code": 200},
            "service": {"name": "orders"},
        },
        "actor": {
            "user": {"uid": "web", "name": "web", "domain": "https://idp.test", "type_id": 0, "type": "Unknown"},
            "idp": {"uid": "https://idp.test", "name": "https://idp.test"},
            "session": {"uid": "t-1", "issuer": "https://idp.test"},
        },
        "src_endpoint": {"ip": "10.0.0.7"},
        "dst_endpoint": {"svc_name": "orders"},
        "http_request": {"http_method": "GET", "url": {"path": "/orders/42"}, "uid": request["decision_id"]},
        "http_response": {"code": 200},
        "resources": [{"name": "get-order", "type": "endpoint"}],
        "authorizations": [
            {
                "decision": "allow",
                "policy": {"name": "web/orders/get-order/00000000", "uid": "7-abc", "is_applied": True},
            }
        ],
        "unmapped": {"kind": "decision", "outcome": "complete", "cached": False, "duration_ms": 0.0},
    }


async def test_what_is_only_observed_is_told_apart_and_a_shadow_is_named(recorded: list[dict[str, Any]]) -> None:
    shadow = "web/orders/get-order/11111111"
    result = {**recorded[0]["result"], "observed": True, "shadow": shadow}
    observed = {**recorded[0], "reasons": ["permission-missing"], "permission": None, "result": result}
    denied = {**recorded[2], "result": {**recorded[2]["result"], "shadow": shadow}}
    events = [api_activity(request, product_version="0.1.0") for request in (observed, denied)]
    assert [mistakes(event) for event in events] == [[], []]
    assert [(event["action"], event["disposition"], event["status_detail"]) for event in events] == [
        ("Observed", "Allowed", "permission-missing"),
        ("Denied", "Blocked", "permission-missing"),
    ]
    assert [event["unmapped"]["shadow"] for event in events] == [shadow, shadow]


async def test_what_came_of_each_request(recorded: list[dict[str, Any]]) -> None:
    events = [api_activity(request, product_version="0.1.0") for request in recorded]
    assert [(one["status"], one["action"], one["severity"], one.get("status_code")) for one in events] == [
        ("Success", "Allowed", "Informational", "200"),
        ("Failure", "Allowed", "Informational", "502"),
        ("Failure", "Denied", "Low", "403"),
        ("Failure", "Denied", "Low", "401"),
        ("Success", "Allowed", "Informational", "204"),
        ("Failure", "Denied", "Low", "400"),
        ("Unknown", "Allowed", "Informational", None),
    ]
    assert [one.get("status_detail") for one in events][2:4] == ["permission-missing", "identity-invalid"]
    assert SECRET.removeprefix("Bearer ") not in str(events)
