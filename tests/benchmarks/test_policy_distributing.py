"""What the bench publishes is what an OPA that waits then has."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import pytest

from benchmarks.policy.distributing import archives, publish, quantile, revision_of, serving, until, waiting_opa
from benchmarks.rego.questions import permission_map
from ostiary.decision.revision import Revision
from ostiary.opa.archive import read_contents


def test_bundles_by_turns_reach_an_opa_that_waits() -> None:
    with tempfile.TemporaryDirectory(prefix="ostiary-bench-") as directory:
        place = Path(directory)  # a short path: a unix socket's has at most a hundred bytes
        bundles = archives(
            place / "bundles", [permission_map(1, 4, denied=denied) for denied in ("endpoint-1", "endpoint-2")], count=3
        )
        contents = [read_contents(io.BytesIO(bundle)) for bundle in bundles]
        data = [one["data.json"] for one in contents]
        assert data[0] == data[2] != data[1]
        with serving(place / "server") as server, server.client() as client:
            publish(client, bundles[0])
            with waiting_opa(place / "opa", server, status=server.port) as opa:
                for number, bundle in enumerate(bundles[1:], start=2):
                    publish(client, bundle)
                    until(lambda number=number: sequence(opa) == number, "its activation")  # type: ignore[misc]
            with pytest.raises(SystemExit, match="409"):
                publish(client, bundles[0])


def sequence(opa: Path) -> int | None:
    revision = Revision.parse(revision_of(opa))
    return None if revision is None else revision.sequence


def test_a_quantile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(1, 201)]
    assert [quantile(values, q) for q in (0.5, 0.99, 1)] == [100, 198, 200]
