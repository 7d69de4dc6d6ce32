"""`ostiary replay` of a million recorded decisions on a policy of 100,000 permissions.

The records are the audit's own lines, of requests for one map: fifty thousand distinct ones, twenty times each, and
then fewer that are all distinct.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from starlette.types import Message

from benchmarks.rego.questions import CALLERS, ENDPOINTS, ISSUER, SERVICES, permission_count, permission_map
from benchmarks.rego.report import Part
from benchmarks.targets import Target
from ostiary import assets
from ostiary.audit.forwarded import Parts, completion_line, decision_line
from ostiary.decision.scripted import allow
from ostiary.exchange import Exchange
from ostiary.models import AccessRequest, Credential, Identity
from ostiary.models import Target as Aim
from ostiary.opa.install import ensure_opa
from ostiary.policy.bundle import build_bundle

RECORDS: Final = 1_000_000
DISTINCT: Final = 50_000
UNLIKE: Final = 200_000
"""Records of the run in which no two are alike."""
BOUND: Final = 60.0
"""Seconds, from the start of the command to its end."""
_NOW: Final = 1_790_000_000 // 60 * 60


def measure(place: Path) -> Part:
    """A million with fifty thousand distinct, and what is distinct altogether by the second."""
    (place / "policy").mkdir()
    (place / "policy" / "permissions.yaml").write_text(permission_map(), encoding="utf-8")
    build_bundle(place / "policy", place / "bundle", opa=ensure_opa(), sequence=1, rego_root=assets.rego())
    alike = _seconds(place, RECORDS, DISTINCT)
    print(f"{alike:8.2f} s  {RECORDS:,} records, {DISTINCT:,} distinct", flush=True)
    unlike = _seconds(place, UNLIKE, UNLIKE)
    print(f"{UNLIKE / unlike:8,.0f} records a second where all are distinct ({UNLIKE:,} in {unlike:.1f} s)")
    return Part(
        name="replay",
        members={
            "replay": {
                "permissions": permission_count(),
                "records": RECORDS,
                "distinct": DISTINCT,
                "seconds": alike,
                "all_distinct": {"records": UNLIKE, "seconds": unlike, "per_second": UNLIKE / unlike},
            }
        },
        targets=[
            Target(
                name=f"the replay of {RECORDS:,} records, {DISTINCT:,} distinct",
                value=alike,
                bound=BOUND,
                side="at most",
                unit="s",
            )
        ],
    )


def _seconds(place: Path, records: int, distinct: int) -> float:
    audit = place / f"{records}.ndjson"
    with audit.open("wb") as file:
        lines = list(_lines(distinct))
        for _ in range(records // distinct):
            file.writelines(lines)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "ostiary",
        "replay",
        "--bundle",
        place / "bundle",
        audit,
        "--json",
    ]
    began = time.monotonic()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    taken = time.monotonic() - began
    audit.unlink()
    found = json.loads(done.stdout)
    if (found["decisions"], found["distinct"], found["newly_denied"]) != (records, distinct, 0):
        raise SystemExit(f"not what was recorded: {found['decisions']} decisions, {found['distinct']} distinct")
    return taken


def _lines(distinct: int) -> Iterator[bytes]:
    """Each two lines: the decision and the completion."""
    parts = Parts()
    exchange = Exchange(
        {"type": "http", "method": "GET", "raw_path": b"/", "query_string": b"", "headers": [], "client": None},
        _received,
        _sent,
    )
    plain = [number for number in range(CALLERS) if number not in (1, 2, 9)]
    for number in range(distinct):
        caller, service, endpoint = (
            f"caller-{plain[number % len(plain)]}",
            number // 8 % SERVICES,
            number % (ENDPOINTS - 1),
        )
        request = _request(caller, f"service-{service}", endpoint, str(number))
        decision = allow(caller=caller, endpoint=f"endpoint-{endpoint}", max_age=5)(request)
        line = decision_line(
            parts, request, decision, _CREDENTIAL, decision_id=f"{number:032x}", now=_TIME, seconds=0.0004
        )
        if line is None:
            raise SystemExit("a line of the audit is not plain")
        yield line
        yield completion_line(exchange, outcome="complete", now=_TIME, seconds=0.002)


async def _received() -> Message:
    return {}


async def _sent(_: Message) -> None:
    return None


def _request(caller: str, service: str, endpoint: int, item: str) -> AccessRequest:
    segments = (f"items{endpoint}", item)
    return AccessRequest(
        identity=Identity(issuer=ISSUER, subject=caller, method="jwt", expires_at=_NOW + 600, claims={"groups": []}),
        method="GET",
        target=Aim(service=service, segments=segments, path=f"/{'/'.join(segments)}", query=None, pairs=()),
        time=_NOW,
        source_ip="127.0.0.1",
        endpoint=f"endpoint-{endpoint}",
    )


_TIME: Final = "2026-09-21T14:13:20.000Z"
_CREDENTIAL: Final = Credential(header=(b"authorization", b"x"), id="Zm9vYmFyYmF6cXV4cXV1eA", expires_at=_NOW + 60)
