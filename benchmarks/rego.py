"""`make bench-rego`: what decisions cost in OPA on a large map, beside one ground look-up, in one run.

The map has 100 services × 100 endpoints × 10 callers. `opa bench` measures each question several times, in turns; the
best time counts, since whatever else the machine does only ever adds. Allocations do not vary.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ostiary import assets
from ostiary.opa.install import ensure_opa
from ostiary.policy.bundle import build_bundle

ROOT = Path(__file__).resolve().parent.parent
SERVICES, ENDPOINTS, CALLERS = 100, 100, 10
ROUNDS = 6
ISSUER = "http://idp.localhost"

LOOK_UP = 'data.ostiary.map.access["caller-0"]["service-0"]["endpoint-0"]'
DECISION = "data.ostiary.authz.decision"

TARGETS = {
    "a standing permission": 4,
    "source and hours": 12,
    "a caller known by a group": 12,
    "**": 12,
    "denied: no permission": 15,
    "denied: unknown caller": 15,
    "denied: unknown endpoint": 15,
    "denied: wrong source": 15,
}
"""At most so many times what a ground look-up takes."""


def main() -> int:
    opa = ensure_opa()
    with tempfile.TemporaryDirectory(prefix="ostiary-bench-") as directory:
        place = Path(directory)
        source = place / "source"
        source.mkdir()
        (source / "permissions.yaml").write_text(permission_map(), encoding="utf-8")
        began = time.monotonic()
        bundle = build_bundle(source, place / "bundle", opa=opa, sequence=1, rego_root=assets.rego()).path
        compiled = time.monotonic() - began
        best = measure(opa, bundle, place, questions())
    base = best["one ground look-up"]
    print(f"{SERVICES * ENDPOINTS * CALLERS} permissions compiled in {compiled:.1f} s (at most 20)")
    print(f"{'':30}{'µs':>8}{'allocations':>13}{'of a look-up':>14}")
    for name, (nanoseconds, allocations) in best.items():
        print(f"{name:30}{nanoseconds / 1000:8.0f}{allocations:13.0f}{nanoseconds / base[0]:14.1f}")
    targets = [
        {"name": name, "value": best[name][0] / base[0], "target": most, "met": best[name][0] <= most * base[0]}
        for name, most in TARGETS.items()
    ]
    for target in targets:
        word = "met" if target["met"] else "MISSED"
        print(f"{word}: {target['name']}: {target['value']:.1f} × a look-up (at most {target['target']})")
    document = {
        "compile_seconds": compiled,
        "rows": [
            {"name": name, "ns": ns, "allocations": allocations, "of_look_up": ns / base[0]}
            for name, (ns, allocations) in best.items()
        ],
        "targets": targets,
    }
    output = ROOT / "build" / "bench-rego.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0 if compiled < 20 and all(target["met"] for target in targets) else 1


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


def permission_map(services: int = SERVICES, endpoints_each: int = ENDPOINTS) -> str:
    """Every caller may use every endpoint: one plainly, one with conditions, one by a group, the others plainly."""
    endpoints = {f"endpoint-{n}": f"GET /items{n}/{{item_id}}" for n in range(endpoints_each - 1)}
    endpoints["files"] = "GET /files/**"
    office = {"from": "00:00", "to": "24:00", "timezone": "Europe/Paris"}
    conditions = {1: {"source": ["127.0.0.0/8"], "hours": office}}
    callers: dict[str, Any] = {f"caller-{n}": {"issuer": ISSUER, "subject": f"caller-{n}"} for n in range(CALLERS)}
    callers["caller-2"] = {"issuer": ISSUER, "claims": {"groups": "group-2"}}
    permissions = []
    for service in range(services):
        for caller in range(CALLERS):
            # The last caller lacks one endpoint, so that there is something to deny.
            allowed = [name for name in endpoints if caller != CALLERS - 1 or name != "endpoint-1"]
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


def measure(
    opa: Path, bundle: Path, place: Path, questions: dict[str, tuple[str, dict[str, Any]]]
) -> dict[str, tuple[float, float]]:
    """Name to nanoseconds and allocations of one evaluation: the best of the rounds."""
    best: dict[str, tuple[float, float]] = {}
    file = place / "input.json"
    for _ in range(ROUNDS):
        for name, (query, document) in questions.items():
            file.write_text(json.dumps(document), encoding="utf-8")
            command = [opa, "bench", "--bundle", bundle, "--input", file, "--format", "json", "--metrics=false", query]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout)
            took = found["T"] / found["N"], found["MemAllocs"] / found["N"]
            best[name] = min(best.get(name, took), took)
    return best


if __name__ == "__main__":
    sys.exit(main())
