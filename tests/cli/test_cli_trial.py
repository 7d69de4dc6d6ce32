"""`ostiary bundle test`: what holds, what does not and where, and what no test reaches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ostiary import assets
from support.cli import Ran, ostiary, write_policy

REGO = """\
package policy

deny contains "no" if {
	input.action.name == "POST"
	input.resource.id == "billing"
}

deny contains "never" if input.resource.id == "nowhere"
"""
TESTS = """\
package policy.tests

import data.ostiary.testing

_charge := {"caller": "web", "service": "billing", "request": "POST /charges"}

test_no_charge if {
	testing.decision(_charge).reasons == ["policy-denied: no"]
}
"""
BROKEN = """
test_a_charge if {
	print("asked as", _charge.caller)
	testing.decision(_charge).allow
}

todo_test_later if true
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = write_policy(tmp_path / "p", permissions=MAP, rego=REGO)
    (source / "policy_test.rego").write_text(TESTS, encoding="utf-8")
    return source


MAP = """\
services:
  billing: {endpoints: {charge: POST /charges}}
callers:
  web: {issuer: https://idp.test, subject: web}
permissions:
  - {caller: web, service: billing, endpoints: [charge]}
"""


@pytest.mark.usefixtures("source")
def test_what_no_test_reaches_is_named_and_too_little_fails() -> None:
    said = "tests     1 passed, on the sources and on the bundle\ncoverage  75% of 4 lines of rules"
    missed = "          not reached: p/policy.rego:8\n"
    assert ostiary("bundle", "test", "p") == Ran(0, f"{said}\n{missed}", "")
    assert ostiary("bundle", "test", "p", "--coverage-threshold", "75").status == 0
    ran = ostiary("bundle", "test", "p", "--coverage-threshold", "75.1")
    assert ran == Ran(1, f"{said}, of which 75.1% are demanded\n{missed}", "")


def test_a_test_that_does_not_hold_is_told_with_what_it_printed(source: Path) -> None:
    (source / "policy_test.rego").write_text(TESTS + BROKEN, encoding="utf-8")
    ran = ostiary("bundle", "test", "p", "--json")
    document = json.loads(ran.out)
    both = ["sources", "bundle"]
    file = "p/policy_test.rego"
    assert (ran.status, document) == (
        1,
        {
            "passed": False,
            "tests": {
                "passed": 1,
                "failed": [
                    {
                        "file": file,
                        "line": 11,
                        "test": "policy.tests.test_a_charge",
                        "on": both,
                        "said": ["asked as web"],
                    },
                    {
                        "file": file,
                        "line": 16,
                        "test": "policy.tests.todo_test_later",
                        "on": both,
                        "said": ["is still to be written"],
                    },
                ],
            },
            "coverage": None,
        },
    )


def test_a_policy_without_tests_does_not_pass(source: Path) -> None:
    (source / "policy_test.rego").unlink()
    assert ostiary("bundle", "test", "p") == Ran(1, "", "p: has no tests: *_test.rego\n")


def test_mistakes_are_those_of_a_build(source: Path) -> None:
    (source / "permissions.yaml").write_text(MAP.replace("caller: web", "caller: wbe"), encoding="utf-8")
    ran = ostiary("bundle", "test", "p")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == "p/permissions.yaml:6: permissions[0].caller: unknown caller 'wbe' (did you mean 'web'?)\n"
    assert ostiary("bundle", "test", "nowhere") == Ran(2, "", "nowhere: there is no such directory\n")


def test_the_demo_s_own_tests_reach_every_line() -> None:
    ran = ostiary("bundle", "test", assets.demo_bundle(), "--coverage-threshold", "100")
    assert (ran.status, ran.err) == (0, "")
