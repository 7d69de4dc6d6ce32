"""Bundles come to both kinds of OPA as they are published, and only the managed one is another process then."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.rego.publishing import BundleServer, packed, stamped
from benchmarks.rego.questions import permission_map, plain_batch
from benchmarks.rego.sidecars import Sidecar, fetching, managed
from ostiary import assets
from ostiary.opa.client import OpaClient
from ostiary.policy.bundle import build_bundle


@pytest.fixture(scope="module")
def bundle(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bundles")
    (place / "source").mkdir()
    (place / "source" / "permissions.yaml").write_text(permission_map(1, 10))
    return build_bundle(place / "source", place / "bundle", opa=opa_binary, sequence=1, rego_root=assets.rego()).path


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: a unix socket's has at most a hundred bytes."""
    with tempfile.TemporaryDirectory(prefix="ostiary-bench-") as directory:
        yield Path(directory)


def revision_in(bundle: Path) -> str:
    found: str = json.loads((bundle / ".manifest").read_text())["revision"]
    return found


def test_a_copy_differs_in_nothing_but_its_sequence(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for sequence in (7, 8):
        assert str(stamped(bundle, out, sequence=sequence)) == revision_in(out)
    assert revision_in(out) == revision_in(bundle).replace("1-", "8-", 1)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    for path in bundle.rglob("*"):
        copy = out / path.relative_to(bundle)
        assert path.name == ".manifest" or path.is_dir() or copy.read_bytes() == path.read_bytes()


def test_a_packed_bundle_has_every_file_but_tests(bundle: Path, tmp_path: Path) -> None:
    stamped(bundle, tmp_path / "out", sequence=1)
    (tmp_path / "out" / "some_test.rego").write_text("package policy_test\n")
    with tarfile.open(fileobj=io.BytesIO(packed(tmp_path / "out"))) as archive:
        names = {os.path.normpath(member.name) for member in archive if member.isfile()}
    assert names == {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}


def test_a_server_sends_a_bundle_again_only_when_it_is_another() -> None:
    server = BundleServer(b"one", "1")

    def get(tag: str = "") -> tuple[int, bytes, str]:
        answer = httpx.get(f"http://127.0.0.1:{server.port}/x", headers={"If-None-Match": tag}, trust_env=False)
        return answer.status_code, answer.content, answer.headers["ETag"]

    with server.serving():
        assert get() == (200, b"one", '"1"')
        assert get('"1"') == (304, b"", '"1"')
        server.publish(b"another", "2")
        assert get('"1"') == (200, b"another", '"2"')


async def activated(sidecar: Sidecar, bundle: Path) -> list[int]:
    """The processes that answered, before and after two bundles were published."""
    pids = [sidecar.pid]
    async with OpaClient(address=sidecar.address, deadline=60) as client:
        for sequence in (2, 3):
            await sidecar.activate(bundle, sequence=sequence)
            pids.append(sidecar.pid)
            answers = await client.query_batch(plain_batch())
            assert {answer.revision for answer in answers} == {revision_in(bundle).replace("1-", f"{sequence}-", 1)}
            assert all(isinstance(answer.result, dict) and answer.result["allow"] is True for answer in answers)
    return pids


async def test_the_managed_opa_is_another_process_with_each_bundle(opa_binary: Path, bundle: Path, place: Path) -> None:
    async with managed(opa_binary, bundle, place / "m") as sidecar:
        pids = await activated(sidecar, bundle)
    assert len(set(pids)) == 3


async def test_the_other_one_stays(opa_binary: Path, bundle: Path, place: Path) -> None:
    async with fetching(opa_binary, bundle, place / "f") as sidecar:
        pids = await activated(sidecar, bundle)
    assert len(set(pids)) == 1
