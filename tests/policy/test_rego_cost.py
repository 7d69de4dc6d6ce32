"""What a decision costs in OPA, in allocations: they are nearly exact where times are not, and go with them.

The ceilings leave a few per cent of room. Who passes one has made decisions dearer: `make bench-rego` says by how much.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rego import permission_map, questions
from ostiary import assets
from ostiary.policy.bundle import build_bundle
from support.policy import serving

CEILINGS = {
    "one ground look-up": 310,
    "a standing permission": 577,
    "the same, not predicted": 1205,
    "source and hours": 1012,
    "a caller known by a group": 920,
    "**": 898,
    "denied: no permission": 797,
    "denied: unknown caller": 788,
    "denied: unknown endpoint": 862,
    "denied: wrong source": 1033,
}
"""Of OPA as a server: 295 are of HTTP and a question about nothing."""
SIZE_MATTERS = 1.05
"""At most so much dearer among 10,000 endpoints of a service than among ten."""

ASKED = 200
"""Times that a question is asked in a round: so many that a look at the counter, of about 2000, hardly shows."""
ROUNDS = 3
"""Of which the cheapest counts: whatever else OPA did meanwhile was on top."""
_COUNTER = re.compile(rb"^go_memstats_mallocs_total (\S+)$", re.MULTILINE)


class Meter(http.client.HTTPConnection):
    """A connection to an OPA, which tells what it has allocated."""

    def __init__(self, address: Path) -> None:
        super().__init__("opa")
        self._address = address

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._address))

    def allocations(self, path: str, document: Any) -> float:
        """Of one answer, with those of reading the question and writing it down."""
        body = json.dumps({"input": document})
        self._ask("POST", path, body)  # OPA prepares what it is asked for the first time
        return min(self._asked_often(path, body) for _ in range(ROUNDS))

    def _asked_often(self, path: str, body: str) -> float:
        before = self._counter()
        for _ in range(ASKED):
            self._ask("POST", path, body)
        return (self._counter() - before) / ASKED

    def _counter(self) -> float:
        found = _COUNTER.search(self._ask("GET", "/metrics"))
        assert found is not None
        return float(found[1])

    def _ask(self, method: str, path: str, body: str | None = None) -> bytes:
        self.request(method, path, body)
        answer = self.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return content


@contextlib.contextmanager
def metered(opa: Path, *, services: int, endpoints: int) -> Iterator[Meter]:
    """An OPA with a map of so many services with so many endpoints each, for ten callers."""
    with tempfile.TemporaryDirectory(prefix="ost-", dir="/tmp") as directory:
        place = Path(directory)
        (place / "permissions.yaml").write_text(permission_map(services, endpoints), encoding="utf-8")
        served = build_bundle(place, place / "bundle", opa=opa, sequence=1, rego_root=assets.rego()).path
        with serving(opa, served, place), contextlib.closing(Meter(place / "opa.sock")) as meter:
            yield meter


def cost(meter: Meter, name: str) -> float:
    query, document = questions()[name]
    return meter.allocations("/v1/" + re.sub(r"\W+", "/", query).rstrip("/"), document)


@pytest.mark.timeout(300)
def test_no_decision_takes_more_than_its_ceiling(opa_binary: Path) -> None:
    """100 services of 100 endpoints for 10 callers."""
    with metered(opa_binary, services=100, endpoints=100) as meter:
        found = {name: cost(meter, name) for name in questions()}
    assert found.keys() == CEILINGS.keys()
    assert {name: took for name, took in found.items() if took > CEILINGS[name]} == {}


@pytest.mark.timeout(300)
def test_the_size_of_a_service_does_not_matter(opa_binary: Path) -> None:
    with (
        metered(opa_binary, services=1, endpoints=10) as small,
        metered(opa_binary, services=1, endpoints=10_000) as large,
    ):
        for name in ("a standing permission", "source and hours", "**", "denied: unknown endpoint"):
            few, many = cost(small, name), cost(large, name)
            assert (name, many) <= (name, few * SIZE_MATTERS)
