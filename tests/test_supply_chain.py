"""What ostiary is made of is known, and not older than the advisories that were read allow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from ostiary.opa.install import FLOOR, PINNED

ROOT = Path(__file__).resolve().parent.parent

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = {
    canonicalize_name(name): Version(version)
    for name, _, version in (
        line.partition("==") for line in (ROOT / "deploy" / "constraints.txt").read_text(encoding="utf-8").split()
    )
}
NEEDED = [Requirement(text) for text in PROJECT["project"]["dependencies"]]

FLOORS = {
    "starlette": "1.0.1",  # CVE-2026-48710: text in Host moved the path
    "h11": "0.16.0",  # CVE-2025-43859: chunked bodies
    "pyjwt": "2.15.1",  # CVE-2026-102266, CVE-2026-102268: key confusion, empty keys
    "httptools": "0.6.3",  # the llhttp that it vendors
}


@pytest.mark.parametrize(("name", "least"), FLOORS.items())
def test_nothing_is_pinned_below_what_its_advisories_say(name: str, least: str) -> None:
    assert PINS[canonicalize_name(name)] >= Version(least)


def test_opa_is_not_below_what_its_advisories_say() -> None:
    """1.21.3: the signature of a bundle could be left out when no `keyid` was set."""
    assert Version(PINNED) >= Version(FLOOR) >= Version("1.21.3")


@pytest.mark.parametrize("requirement", NEEDED, ids=lambda one: one.name)
def test_every_dependency_is_pinned_within_what_it_may_be(requirement: Requirement) -> None:
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


def test_everything_installs_on_the_oldest_python_that_is_promised() -> None:
    """Distributions ship 3.11.2, and a pin that demands 3.11.5 ends `make test` there."""
    oldest = Version(PROJECT["project"]["requires-python"].removeprefix(">="))
    demanded = {
        found.name: found.metadata["Requires-Python"]
        for found in metadata.distributions()
        if canonicalize_name(found.name) in PINS and found.metadata["Requires-Python"]
    }

    assert {canonicalize_name(requirement.name) for requirement in NEEDED} <= {
        canonicalize_name(name) for name in demanded
    }
    assert {name: text for name, text in demanded.items() if oldest not in SpecifierSet(text)} == {}


def test_without_go_the_programs_of_the_tests_are_named(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": "/nowhere", "PYTHONPATH": str(ROOT / "tests")}
    ran = subprocess.run(
        [sys.executable, "-m", "support.tools"], capture_output=True, text=True, env=environment, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("The tests run helm v3.")
    assert "there is no go on PATH" in ran.stderr


def test_the_bill_of_materials_has_every_dependency_and_opa(tmp_path: Path) -> None:
    """What writes it checks it against its schema, but for the grammar of URIs, whose parser takes 14 seconds."""
    (tmp_path / "rfc3987_syntax.py").write_text("raise ImportError")
    script = [sys.executable, ROOT / "deploy" / "sbom.py", sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    document = json.loads(subprocess.run(script, check=True, capture_output=True, text=True, env=environment).stdout)

    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["component"]["name"] == "ostiary"
    listed = {canonicalize_name(one["name"]): one for one in document["components"]}
    assert {canonicalize_name(one.name) for one in NEEDED} <= listed.keys()
    assert listed["opa"]["purl"] == f"pkg:golang/github.com/open-policy-agent/opa@v{PINNED}"
    ours = document["metadata"]["component"]["bom-ref"]
    (depends,) = [one["dependsOn"] for one in document["dependencies"] if one["ref"] == ours]
    assert {one["bom-ref"] for one in listed.values() if one["name"] in ("starlette", "opa")} <= set(depends)
