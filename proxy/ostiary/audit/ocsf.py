"""Requests as events of the Open Cybersecurity Schema Framework: API Activity, class 6003, of version 1.8.0.

One event for each request, with the profile `security_control` (what was decided). https://schema.ocsf.io/1.8.0 says
what the members mean; a test holds every event against what the schema requires. Nothing is in an event that is not in
the audit, which has no secret. `input` and `result` stay there: the event names their line by `metadata.uid`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from ostiary.audit.reading import is_observed

VERSION: Final = "1.8.0"

_ACTIVITIES: Final = {
    "POST": (1, "Create"),
    "GET": (2, "Read"),
    "HEAD": (2, "Read"),
    "OPTIONS": (2, "Read"),
    "PUT": (3, "Update"),
    "PATCH": (3, "Update"),
    "DELETE": (4, "Delete"),
}
_OTHER: Final = (99, "Other")
INFORMATIONAL, _LOW, MEDIUM = (1, "Informational"), (2, "Low"), (3, "Medium")
_SUCCESS, _FAILURE, _UNKNOWN = (1, "Success"), (2, "Failure"), (0, "Unknown")
_ALLOWED: Final = {"action_id": 1, "action": "Allowed", "disposition_id": 1, "disposition": "Allowed"}
_OBSERVED: Final = {"action_id": 3, "action": "Observed", "disposition_id": 1, "disposition": "Allowed"}
_DENIED: Final = {"action_id": 2, "action": "Denied", "disposition_id": 2, "disposition": "Blocked"}
_NOBODY: Final = {"name": "unauthenticated", "type_id": 0, "type": "Unknown"}


def api_activity(request: Mapping[str, Any], *, product_version: str) -> dict[str, Any]:
    """The event of a request, which is a line of kind `decision`, `refusal` or `answer` with its completion put in."""
    method = str(request.get("method") or "")
    activity, activity_name = _ACTIVITIES.get(method, _OTHER)
    refused = request.get("kind") == "refusal"
    severity, severity_name = _severity(request)
    status_id, status = _status(request)
    reasons = [str(reason) for reason in request.get("reasons") or ()]
    decision_id = str(request.get("decision_id"))
    code = request.get("status")
    event: dict[str, Any] = {
        "activity_id": activity,
        "activity_name": activity_name,
        "category_uid": 6,
        "category_name": "Application Activity",
        "class_uid": 6003,
        "class_name": "API Activity",
        "type_uid": 600300 + activity,
        "type_name": f"API Activity: {activity_name}",
        "severity_id": severity,
        "severity": severity_name,
        "time": _milliseconds(str(request.get("time"))),
        "status_id": status_id,
        "status": status,
        **(_DENIED if refused else _OBSERVED if is_observed(request) else _ALLOWED),
        "metadata": {
            "version": VERSION,
            "product": {"name": "ostiary", "vendor_name": "ostiary", "version": product_version},
            "profiles": ["security_control"],
            "uid": decision_id,
            "original_time": request.get("time"),
            "log_name": "audit",
        },
        "api": _api(request, method, decision_id),
        "actor": _actor(request),
        "src_endpoint": {"ip": request.get("source_ip")} if request.get("source_ip") else {"name": "unknown"},
        "http_request": {"http_method": method, "url": _url(request), "uid": decision_id},
        "unmapped": _unmapped(request),
    }
    if code is not None:
        event["status_code"] = str(code)
        event["http_response"] = {"code": code}
    if reasons:
        event["status_detail"] = ", ".join(reasons)
    if request.get("service"):
        event["dst_endpoint"] = {"svc_name": request["service"]}
        event["resources"] = [{"name": request.get("endpoint") or request["service"], "type": "endpoint"}]
    if request.get("revision"):
        policy = {"name": request.get("permission") or "none", "uid": request["revision"], "is_applied": True}
        event["authorizations"] = [{"decision": "deny" if refused else "allow", "policy": policy}]
    return event


def _severity(request: Mapping[str, Any]) -> tuple[int, str]:
    """A refusal that somebody caused is low, one that a part of the proxy caused is medium."""
    if request.get("kind") != "refusal":
        return INFORMATIONAL
    status = request.get("status")
    return MEDIUM if isinstance(status, int) and status >= 500 else _LOW


def _status(request: Mapping[str, Any]) -> tuple[int, str]:
    if request.get("kind") == "refusal":
        return _FAILURE
    outcome, status = request.get("outcome"), request.get("status")
    if outcome is None:
        return _UNKNOWN  # its end is not recorded
    return _SUCCESS if outcome == "complete" and isinstance(status, int) and status < 400 else _FAILURE


def _api(request: Mapping[str, Any], method: str, decision_id: str) -> dict[str, Any]:
    api: dict[str, Any] = {
        "operation": request.get("endpoint") or f"{method or 'unknown'} {request.get('path') or ''}".strip(),
        "request": {"uid": decision_id},
    }
    if request.get("service"):
        api["service"] = {"name": request["service"]}
    if request.get("status") is not None:
        api["response"] = {"code": request["status"]}
        if request.get("reasons"):
            api["response"]["error"] = str(request["reasons"][0])
    return api


def _actor(request: Mapping[str, Any]) -> dict[str, Any]:
    identity = request.get("identity")
    if not isinstance(identity, Mapping):
        return {"user": dict(_NOBODY)}
    user = {"uid": identity.get("subject"), "domain": identity.get("issuer"), "type_id": 0, "type": "Unknown"}
    if request.get("caller"):
        user["name"] = request["caller"]
    actor: dict[str, Any] = {"user": user, "idp": {"uid": identity.get("issuer"), "name": identity.get("issuer")}}
    if identity.get("token_id"):
        actor["session"] = {"uid": identity["token_id"], "issuer": identity.get("issuer")}
    return actor


def _url(request: Mapping[str, Any]) -> dict[str, Any]:
    url = {"path": request.get("path") or "/"}
    if request.get("host"):
        url["hostname"] = request["host"]
    return url


def _unmapped(request: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        "kind",
        "outcome",
        "detail",
        "grant",
        "cached",
        "bytes_received",
        "bytes_sent",
        "duration_ms",
        "seq",
        "mac",
    )
    found = {name: request[name] for name in names if request.get(name) is not None}
    result = request.get("result")
    if isinstance(result, Mapping) and result.get("shadow"):
        found["shadow"] = result["shadow"]
    return found


def _milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)
