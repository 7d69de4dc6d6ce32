"""What is asked, and of which map: every caller may use every endpoint of every service, but for one."""

from __future__ import annotations

import json
from typing import Any, Final

SERVICES: Final = 100
ENDPOINTS: Final = 100
"""Of each service."""
CALLERS: Final = 10
ISSUER: Final = "http://idp.localhost"

LOOK_UP: Final = 'data.ostiary.map.access["caller-0"]["service-0"]["endpoint-0"]'
DECISION: Final = "data.ostiary.authz.decision"

TOGETHER: Final = 32
"""Questions in a batch."""


def questions() -> dict[str, tuple[str, dict[str, Any]]]:
    """What is asked, by name: the query and its input."""
    return {
        "one ground look-up": (LOOK_UP, request("caller-0", ["items0", "42"])),
        "a standing permission": (DECISION, request("caller-0", ["items0", "42"], predicted="endpoint-0")),
        "the same, not predicted": (DECISION, request("caller-0", ["items0", "42"])),
        "source and hours": (DECISION, request("caller-1", ["items0", "42"], predicted="endpoint-0")),
        "a caller known by a group": (
            DECISION,
            request("someone", ["items0", "42"], predicted="endpoint-0", groups=["group-2"]),
        ),
        "**": (DECISION, request("caller-0", ["files", "a", "b", "c"], predicted="files")),
        "denied: no permission": (DECISION, request("caller-9", ["items1", "42"], predicted="endpoint-1")),
        "denied: unknown caller": (DECISION, request("nobody", ["items1", "42"], predicted="endpoint-1")),
        "denied: unknown endpoint": (DECISION, request("caller-0", ["nowhere"])),
        "denied: wrong source": (
            DECISION,
            request("caller-1", ["items0", "42"], predicted="endpoint-0", source_ip="192.0.2.1"),
        ),
    }


def plain_batch() -> list[dict[str, Any]]:
    """Questions about standing permissions, all different: eight callers with four endpoints each."""
    plain = [f"caller-{n}" for n in range(CALLERS) if n not in (1, 2)]
    return [
        request(caller, [f"items{endpoint}", "42"], predicted=f"endpoint-{endpoint}")
        for endpoint in range(2, 2 + TOGETHER // len(plain))
        for caller in plain
    ]


def mixed_batch() -> list[dict[str, Any]]:
    """The decisions among `questions()`, by turns: the dear as often as the cheap."""
    asked = [document for query, document in questions().values() if query == DECISION]
    return [asked[number % len(asked)] for number in range(TOGETHER)]


def permission_count(services: int = SERVICES, endpoints_each: int = ENDPOINTS) -> int:
    """How many permissions `permission_map` has."""
    return services * (endpoints_each * CALLERS - 1)


def permission_map(services: int = SERVICES, endpoints_each: int = ENDPOINTS, *, denied: str = "endpoint-1") -> str:
    """Every caller may use every endpoint: one plainly, one with conditions, one by a group, the others plainly.

    But for the last caller, who lacks the endpoint `denied` of each service.
    """
    endpoints = {f"endpoint-{n}": f"GET /items{n}/{{item_id}}" for n in range(endpoints_each - 1)}
    endpoints["files"] = "GET /files/**"
    office = {"from": "00:00", "to": "24:00", "timezone": "Europe/Paris"}
    conditions = {1: {"source": ["127.0.0.0/8"], "hours": office}}
    callers: dict[str, Any] = {f"caller-{n}": {"issuer": ISSUER, "subject": f"caller-{n}"} for n in range(CALLERS)}
    callers["caller-2"] = {"issuer": ISSUER, "claims": {"groups": "group-2"}}
    permissions = []
    for service in range(services):
        for caller in range(CALLERS):
            allowed = [name for name in endpoints if caller != CALLERS - 1 or name != denied]
            entry = {"caller": f"caller-{caller}", "service": f"service-{service}", "endpoints": allowed}
            permissions.append(entry | ({"when": conditions[caller]} if caller in conditions else {}))
    # JSON is YAML.
    return json.dumps(
        {
            "services": {f"service-{n}": {"endpoints": endpoints} for n in range(services)},
            "callers": callers,
            "permissions": permissions,
        }
    )


def request(
    subject: str, segments: list[str], *, predicted: str | None = None, source_ip: str = "127.0.0.1", **claims: Any
) -> dict[str, Any]:
    """The input as the proxy sends it: with the endpoint that its route table has for these segments."""
    prediction = {} if predicted is None else {"endpoint": predicted}
    return {
        "subject": {
            "type": "workload",
            "id": subject,
            "properties": {"issuer": ISSUER, "method": "jwt", "claims": claims},
        },
        "action": {"name": "GET"},
        "resource": {
            "type": "service",
            "id": "service-0",
            "properties": {"segments": segments, "query": []} | prediction,
        },
        "context": {"time": 1_790_000_000, "source_ip": source_ip, "actor": None, "grants": []},
    }
