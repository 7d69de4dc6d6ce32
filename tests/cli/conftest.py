from __future__ import annotations

from pathlib import Path

import pytest

from ostiary import assets
from ostiary.policy.bundle import build_bundle
from support.cli import write_policy


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opa_binary: Path) -> None:
    """Commands run in an empty directory, for a user who has run nothing yet, with the OPA of these tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user-state"))
    monkeypatch.setenv("OSTIARY_OPA", str(opa_binary))


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of a policy that has one of everything."""
    return write_policy(tmp_path_factory.mktemp("sources") / "policy")


@pytest.fixture(scope="session")
def bundle(policy: Path, opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, built."""
    out = tmp_path_factory.mktemp("built") / "bundle"
    return build_bundle(policy, out, opa=opa_binary, sequence=7, rego_root=assets.rego()).path
