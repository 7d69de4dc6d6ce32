"""The Rego sources themselves: format, strictness, tests, and that the tests reach every line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from ostiary import assets
from support.policy import REGO_FIXTURE, rego_fixture

REGO = (assets.rego(), assets.demo_bundle())


def run(opa: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([opa, *arguments], capture_output=True, encoding="utf-8", check=False)


def test_the_rego_is_formatted(opa_binary: Path) -> None:
    checked = run(opa_binary, "fmt", "--list", "--fail", *REGO)
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stderr


def test_the_rego_is_strict(opa_binary: Path) -> None:
    checked = run(opa_binary, "check", "--strict", *REGO)
    assert checked.returncode == 0, checked.stderr


def test_the_rego_tests_pass_and_reach_every_line(opa_binary: Path) -> None:
    tested = run(opa_binary, "test", assets.rego(), "--coverage", "--format=json")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    report = json.loads(tested.stdout)
    missed = {
        path: found["not_covered"]
        for path, found in report["files"].items()
        if found.get("not_covered") and not path.endswith("_test.rego")
    }
    assert missed == {}


def test_the_fixture_of_the_rego_tests_is_what_the_compiler_makes(opa_binary: Path) -> None:
    """When this fails: `python tests/support/policy.py OPA` writes it anew."""
    assert REGO_FIXTURE.read_text(encoding="utf-8") == rego_fixture(opa_binary)


def test_every_public_rule_says_what_it_is(opa_binary: Path) -> None:
    for path in sorted(assets.rego().rglob("*.rego")):
        if path.name.endswith("_test.rego") or path.name == "absent.rego":
            continue
        found = run(opa_binary, "inspect", "--annotations", "--format=json", path)
        described = {
            ".".join(part["value"] for part in annotation["path"])
            for annotation in json.loads(found.stdout)["annotations"]
        }
        parsed = json.loads(run(opa_binary, "parse", "--format=json", path).stdout)
        package = ".".join(part["value"] for part in parsed["package"]["path"])
        rules = {f"{package}.{rule['head']['ref'][0]['value']}" for rule in parsed["rules"]}
        public = {rule for rule in rules if not rule.rpartition(".")[2].startswith("_")}
        assert public <= described, path
