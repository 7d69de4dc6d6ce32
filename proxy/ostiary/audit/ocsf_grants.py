"""Steps in the life of a grant as events of the Open Cybersecurity Schema Framework: User Access Management, class
3005, of version 1.8.0.

What gives and what takes away are the class's own activities. What goes before and after, and the end of a request that
never was a grant, are others, under the name that the audit has for them. https://schema.ocsf.io/1.8.0 says what the
members mean; a test holds every event against what the schema requires.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ostiary.audit.ocsf import INFORMATIONAL, MEDIUM, VERSION

_ASSIGN, _REVOKE, _OTHER = (1, "Assign Privileges"), (2, "Revoke Privileges"), 99
_GIVING: Final = frozenset({"activated", "extended"})
_ENDING: Final = frozenset({"dropped", "revoked", "used-up", "expired"})
_REFUSING: Final = frozenset({"denied", "extension-denied"})


def user_access(step: Mapping[str, Any], *, product_version: str) -> dict[str, Any]:
    """The event of a step, which is a line of kind `grant`."""
    activity, activity_name = _activity(step)
    severity, severity_name = MEDIUM if step.get("emergency") else INFORMATIONAL
    failed = step.get("action") in _REFUSING
    grant, service = str(step.get("grant")), str(step.get("service"))
    endpoints = [str(endpoint) for endpoint in step.get("endpoints") or ()]
    return {
        "activity_id": activity,
        "activity_name": activity_name,
        "category_uid": 3,
        "category_name": "Identity & Access Management",
        "class_uid": 3005,
        "class_name": "User Access Management",
        "type_uid": 300500 + activity,
        "type_name": f"User Access Management: {'Other' if activity == _OTHER else activity_name}",
        "severity_id": severity,
        "severity": severity_name,
        "time": round(float(step.get("at") or 0) * 1000),
        "status_id": 2 if failed else 1,
        "status": "Failure" if failed else "Success",
        "metadata": {
            "version": VERSION,
            "product": {"name": "ostiary", "vendor_name": "ostiary", "version": product_version},
            "uid": f"{grant}/{step.get('step')}",
            "correlation_uid": grant,
            "original_time": step.get("time"),
            "log_name": "audit",
        },
        "actor": _actor(step),
        "user": _user(step.get("holder") or {}, step.get("caller")),
        "privileges": [f"{service}/{endpoint}" for endpoint in endpoints],
        "resources": [{"name": endpoint, "type": "endpoint", "namespace": service} for endpoint in endpoints],
        "unmapped": _unmapped(step),
    }


def _activity(step: Mapping[str, Any]) -> tuple[int, str]:
    action = step.get("action")
    if action in _GIVING:
        return _ASSIGN
    if action in _ENDING and step.get("granted_at") is not None:
        return _REVOKE
    return _OTHER, str(action)


def _actor(step: Mapping[str, Any]) -> dict[str, Any]:
    actor = step.get("actor")
    if not isinstance(actor, Mapping):
        return {"app_name": "ostiary"}
    issuer = actor.get("issuer")
    return {"user": _user(actor, step.get("approver")), "idp": {"uid": issuer, "name": issuer}}


def _user(owner: Mapping[str, Any], caller: str | None) -> dict[str, Any]:
    user = {"uid": owner.get("subject"), "domain": owner.get("issuer"), "type_id": 0, "type": "Unknown"}
    return user if caller is None else user | {"name": caller}


def _unmapped(step: Mapping[str, Any]) -> dict[str, Any]:
    names = ("kind", "reason", "duration", "max_uses", "emergency", "granted_at", "expires_at", "digest", "seq", "mac")
    return {name: step[name] for name in names if step.get(name) is not None}
