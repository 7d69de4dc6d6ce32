"""Steps of a block as events of the Open Cybersecurity Schema Framework: Entity Management, class 3004, of version
1.8.0. User Access Management, of which the steps of a grant are, takes a user, and a token or a key is none.

https://schema.ocsf.io/1.8.0 says what the members mean; a test holds every event against what the schema requires.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ostiary.audit.ocsf import MEDIUM, VERSION

_ACTIVITIES: Final = {
    "blocked": (12, "Suspend"),
    "extended": (3, "Update"),
    "lifted": (13, "Resume"),
    "expired": (13, "Resume"),
}
_UNKNOWN: Final = (0, "Unknown")


def entity_management(step: Mapping[str, Any], *, product_version: str) -> dict[str, Any]:
    """The event of a step, which is a line of kind `block`."""
    activity, activity_name = _ACTIVITIES.get(str(step.get("action")), _UNKNOWN)
    severity, severity_name = MEDIUM
    event: dict[str, Any] = {
        "activity_id": activity,
        "activity_name": activity_name,
        "category_uid": 3,
        "category_name": "Identity & Access Management",
        "class_uid": 3004,
        "class_name": "Entity Management",
        "type_uid": 300400 + activity,
        "type_name": f"Entity Management: {activity_name}",
        "severity_id": severity,
        "severity": severity_name,
        "time": round(float(step.get("at") or 0) * 1000),
        "status_id": 1,
        "status": "Success",
        "metadata": {
            "version": VERSION,
            "product": {"name": "ostiary", "vendor_name": "ostiary", "version": product_version},
            "uid": f"{step.get('block')}/{step.get('step')}",
            "correlation_uid": step.get("block"),
            "original_time": step.get("time"),
            "log_name": "audit",
        },
        "actor": _actor(step.get("actor")),
        "entity": _entity(str(step.get("by")), step.get("blocked") or {}),
        "unmapped": {
            name: step[name] for name in ("kind", "action", "ends_at", "seq", "mac") if step.get(name) is not None
        },
    }
    if step.get("reason"):
        event["comment"] = step["reason"]
    return event


def _actor(actor: Any) -> dict[str, Any]:
    if not isinstance(actor, Mapping):
        return {"app_name": "ostiary"}
    issuer = actor.get("issuer")
    return {"user": _user(actor), "idp": {"uid": issuer, "name": issuer}}


def _entity(by: str, blocked: Mapping[str, Any]) -> dict[str, Any]:
    if by == "subject":
        return {"type_id": 2, "type": "User", "uid": blocked.get("subject"), "user": _user(blocked)}
    uid = next(reversed(list(blocked.values())), by)  # what tells it apart comes last
    return {"type_id": 99, "type": by, "uid": uid, "data": dict(blocked)}


def _user(owner: Mapping[str, Any]) -> dict[str, Any]:
    return {"uid": owner.get("subject"), "domain": owner.get("issuer"), "type_id": 0, "type": "Unknown"}
