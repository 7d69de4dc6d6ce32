"""What a decision costs in OPA, in allocations: they are exact where times are not, and go with them.

The ceilings leave a few per cent of room. Who passes one has made decisions dearer: `make bench-rego` says by how much.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rego import permission_map, questions
from ostiary import assets
from ostiary.policy.bundle import build_bundle

CEILINGS = {
    "one ground look-up": 65,
    "a standing permission": 230,
    "the same, not predicted": 865,
    "source and hours": 665,
    "a caller known by a group": 555,
    "**": 545,
    "denied: no permission": 460,
    "denied: unknown caller": 455,
    "denied: unknown endpoint": 535,
    "denied: wrong source": 695,
}
SIZE_MATTERS = 1.15
"""At most so much dearer among 10,000 endpoints of a service than among ten."""


def bundle(opa: Path, place: Path, *, services: int, endpoints: int) -> Path:
    source = place / "source"
    source.mkdir(parents=True)
    (source / "permissions.yaml").write_text(permission_map(services, endpoints), encoding="utf-8")
    return build_bundle(source, place / "bundle", opa=opa, sequence=1, rego_root=assets.rego()).path


def allocations(opa: Path, served: Path, place: Path, query: str, document: dict[str, Any]) -> float:
    file = place / "input.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    command = [opa, "bench", "--bundle", served, "--input", file, "--format", "json", "--metrics=false", query]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return float(found["MemAllocs"] / found["N"])


@pytest.mark.timeout(300)
def test_no_decision_takes_more_than_its_ceiling(opa_binary: Path, tmp_path: Path) -> None:
    """100 services of 100 endpoints for 10 callers."""
    served = bundle(opa_binary, tmp_path, services=100, endpoints=100)
    found = {name: allocations(opa_binary, served, tmp_path, *asked) for name, asked in questions().items()}
    assert found.keys() == CEILINGS.keys()
    assert {name: took for name, took in found.items() if took > CEILINGS[name]} == {}


@pytest.mark.timeout(300)
def test_the_size_of_a_service_does_not_matter(opa_binary: Path, tmp_path: Path) -> None:
    small = bundle(opa_binary, tmp_path / "small", services=1, endpoints=10)
    large = bundle(opa_binary, tmp_path / "large", services=1, endpoints=10_000)
    for name in ("a standing permission", "source and hours", "**", "denied: unknown endpoint"):
        asked = questions()[name]
        few, many = (allocations(opa_binary, served, tmp_path, *asked) for served in (small, large))
        assert (name, many) <= (name, few * SIZE_MATTERS)
