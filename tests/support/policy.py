"""Parts for tests of the policy: compiled maps, requests, and a real OPA to judge them.

Run as a program (`python tests/support/policy.py OPA`), this writes the fixture of the Rego tests anew.
"""

from __future__ import annotations

import contextlib
import copy
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from ostiary import assets
from ostiary.policy.compiler import compile_map
from ostiary.policy.model import load_permissions

FIXTURES = Path(__file__).parent.parent / "fixtures"
MATRIX = FIXTURES / "policy" / "matrix.yaml"
DESIGN = FIXTURES / "policy" / "design.yaml"
REGO_FIXTURE = assets.rego() / "ostiary" / "fixture_test.rego"

NOW = 1_790_000_000
"""2026-09-21 14:13:20 UTC, a Monday; 16:13:20 in Paris."""

DENIED: dict[str, Any] = {
    "allow": False,
    "reasons": [],
    "caller": None,
    "service": None,
    "endpoint": None,
    "permission": None,
    "grant": None,
    "credential": None,
    "expires_at": None,
    "cache": {"max_age": 5, "vary": ["segments"]},
    "requestable": None,
    "observed": False,
    "shadow": None,
}
"""A denial of a request without a prediction, before anything was found."""

UNCONDITIONAL = "44136fa3"
"""The digest of no conditions."""


def allowed(caller: str, service: str, endpoint: str, **changes: Any) -> dict[str, Any]:
    """The decision that a standing permission without conditions gives."""
    document = {
        **DENIED,
        "allow": True,
        "caller": caller,
        "service": service,
        "endpoint": endpoint,
        "permission": f"{caller}/{service}/{endpoint}/{UNCONDITIONAL}",
        "credential": {"lifetime": 60, "per_call": False},
    }
    return document | changes


def question(
    subject: str = "web",
    method: str = "GET",
    path: str = "/orders/42",
    *,
    service: str = "orders",
    issuer: str = "https://idp.test",
    proof: str = "jwt",
    claims: dict[str, Any] | None = None,
    query: list[list[str]] | None = None,
    undecodable: bool = False,
    endpoint: str | None = None,
    now: int = NOW,
    source_ip: str | None = "10.0.0.7",
    grants: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """An `input` as the proxy makes it."""
    properties: dict[str, Any] = {
        "segments": path[1:].split("/"),
        "query": None if undecodable else query or [],
    }
    if endpoint is not None:
        properties["endpoint"] = endpoint
    return {
        "subject": {
            "type": "workload",
            "id": subject,
            "properties": {"issuer": issuer, "method": proof, "claims": claims or {}},
        },
        "action": {"name": method},
        "resource": {"type": "service", "id": service, "properties": properties},
        "context": {"time": now, "source_ip": source_ip, "actor": None, "grants": list(grants)},
    }


def grant(caller: str, *endpoints: str, subject: str = "web", service: str = "shop", **changes: Any) -> dict[str, Any]:
    return {
        "id": "g-1",
        "caller": caller,
        "issuer": "https://idp.test",
        "subject": subject,
        "service": service,
        "endpoints": list(endpoints),
        "expires_at": NOW + 900,
    } | changes


def without(document: dict[str, Any], *path: str) -> dict[str, Any]:
    """A deep copy of the document with one member left out."""
    changed = copy.deepcopy(document)
    *above, last = path
    holder = changed
    for key in above:
        holder = holder[key]
    del holder[last]
    return changed


def replaced(document: dict[str, Any], value: Any, *path: str) -> dict[str, Any]:
    """A deep copy of the document with one member replaced."""
    changed = copy.deepcopy(document)
    *above, last = path
    holder = changed
    for key in above:
        holder = holder[key]
    holder[last] = value
    return changed


def compiled(permissions: Path) -> dict[str, Any]:
    return compile_map(load_permissions(permissions))


class Evaluator:
    """Asks `opa eval`, with strict built-in errors as the proxy does, about one compiled map and further Rego."""

    def __init__(self, opa: Path, directory: Path, content: dict[str, Any], *rego: Path) -> None:
        self._opa = opa
        self._data = directory / "map.json"
        self._data.write_text(json.dumps({"ostiary": {"map": content}}), encoding="utf-8")
        self._rego = (assets.rego(), *rego)

    def query(self, path: str, document: Any) -> Any:
        """The value of a rule; an undefined one is a `LookupError`."""
        command = [self._opa, "eval", "--format", "json", "--strict-builtin-errors", "--stdin-input"]
        for place in (self._data, *self._rego):
            command += ["--data", place]
        run = subprocess.run([*command, path], input=json.dumps(document).encode(), capture_output=True, check=False)
        answer = json.loads(run.stdout)
        if "errors" in answer:
            raise RuntimeError(answer["errors"])
        return answer["result"][0]["expressions"][0]["value"]

    def decide(self, *requests: Any) -> list[dict[str, Any]]:
        """The decisions of a batch."""
        decisions = self.query("data.ostiary.authz.decisions", {"evaluations": list(requests)})
        assert len(decisions) == len(requests)
        return list(decisions)


class OpaServer:
    """A bundle behind `opa run --server` on a unix socket, asked as the proxy asks it."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def post(self, path: str, document: Any) -> httpx.Response:
        return self._client.post(
            f"http://opa/v1/data/{path}",
            params={"provenance": "true", "strict-builtin-errors": "true"},
            json={"input": document},
        )

    def put(self, path: str, content: str) -> None:
        """Replace data (JSON) or a policy (Rego), where no bundle owns it."""
        kind = "application/json" if path.startswith("data/") else "text/plain"
        answer = self._client.put(f"http://opa/v1/{path}", content=content.encode(), headers={"content-type": kind})
        if answer.is_error:
            raise ValueError(answer.text)

    def decide(self, document: Any) -> dict[str, Any]:
        answer = self.post("ostiary/authz/decision", document)
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["result"])


@contextlib.contextmanager
def serving(opa: Path, bundle: Path, directory: Path) -> Iterator[OpaServer]:
    """The bundle served from a socket in `directory`, started with the options of the managed sidecar."""
    with _serving(opa, directory, "--bundle", bundle) as server:
        yield server


@contextlib.contextmanager
def serving_rego(opa: Path, rego: Path, directory: Path) -> Iterator[OpaServer]:
    """The same for Rego by itself: whatever else it needs can be put there."""
    with _serving(opa, directory, rego) as server:
        yield server


@contextlib.contextmanager
def _serving(opa: Path, directory: Path, *content: str | Path) -> Iterator[OpaServer]:
    address = directory / "opa.sock"
    command = [opa, "run", "--server", "--addr", f"unix://{address}", "--log-level", "error", "--skip-version-check"]
    process = subprocess.Popen([*command, "--ignore=*_test.rego", *content])
    try:
        _until(lambda: _listens(address))  # httpcore would leave a socket open for each refused connection
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(address), verify=False), timeout=10) as client:
            _until(lambda: client.get("http://opa/health?bundles").status_code == 200)
            yield OpaServer(client)
    finally:
        process.terminate()
        process.wait(10)


def _listens(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(str(address))
        return True
    return False


def _until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        time.sleep(0.01)
    raise TimeoutError("OPA did not come up")


def rego_fixture(opa: Path) -> str:
    """The fixture of the Rego tests as its file should be."""
    source = f"""\
# Compiled from tests/fixtures/policy/matrix.yaml; written by tests/support/policy.py.
package ostiary.fixture

map := {json.dumps(compiled(MATRIX), indent=1)}
"""
    run = subprocess.run([opa, "fmt"], input=source.encode(), capture_output=True, check=True)
    return run.stdout.decode()


if __name__ == "__main__":
    REGO_FIXTURE.write_text(rego_fixture(Path(sys.argv[1])), encoding="utf-8")
