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
	print("asked\\u001b as", _charge.caller)
	testing.decision(_charge).allow
}

todo_test_later if true
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = write_policy(tmp_path / "p", permissions=MAP, rego=REGO)
    (source / "policy_test.rego").write_text(TESTS, encoding="utf-8")
    return source


CASES = """\
cases:
  - caller: web
    service: billing
    request: POST /charges
    expect: allow
    why: money is nice to have
  - {caller: web, service: billing, request: POST /charges, expect: [policy-denied], why: so the rule says}
  - {caller: web, service: billing, request: POST /charges, expect: [policy-denied, permission-missing], why: "no"}
  - {caller: web, service: billing, request: GET /charges?page=2, expect: unknown-endpoint, why: nothing to read}
  - {caller: web, service: billing, request: GET /charges/%2e%2e, expect: target-malformed, why: no way around}
  - {identity: {spiffe: "spiffe://a.test/b"}, service: billing, request: POST /charges, expect: deny, why: a stranger}
"""

MAP = """\
services:
  billing: {endpoints: {charge: POST /charges, balance: GET /balance}}
callers:
  web: {issuer: https://idp.test, subject: web}
permissions:
  - {caller: web, service: billing, endpoints: [charge, balance]}
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
                        "said": ["asked\x1b as web"],
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
            "cases": {"passed": 0, "failed": []},
            "coverage": None,
        },
    )


def test_what_a_test_prints_is_no_terminal_s_command(source: Path) -> None:
    (source / "policy_test.rego").write_text(TESTS + BROKEN, encoding="utf-8")
    ran = ostiary("bundle", "test", "p")
    assert ran.out.splitlines()[:2] == [
        "FAIL      p/policy_test.rego:11: policy.tests.test_a_charge",
        "          asked\\x1b as web",
    ]
    assert ran.out.endswith("coverage  is not told where a test fails\n")


def test_a_policy_without_tests_does_not_pass(source: Path) -> None:
    (source / "policy_test.rego").unlink()
    assert ostiary("bundle", "test", "p") == Ran(1, "", "p: has neither tests, *_test.rego, nor cases, *_cases.yaml\n")


def test_cases_are_asked_of_the_bundle_and_count_for_the_coverage(source: Path) -> None:
    (source / "policy_test.rego").unlink()
    (source / "p_cases.yaml").write_text(CASES, encoding="utf-8")
    ran = ostiary("bundle", "test", "p")
    assert ran == Ran(
        1,
        """\
FAIL      p/p_cases.yaml:2: web: POST /charges at billing, from 192.0.2.1, 2026-03-02T10:00:00Z
          expected  allow
          got       deny: policy-denied: no
          why       money is nice to have
FAIL      p/p_cases.yaml:8: web: POST /charges at billing, from 192.0.2.1, 2026-03-02T10:00:00Z
          expected  policy-denied, permission-missing
          got       deny: policy-denied: no
          why       no
cases     4 passed, 2 failed
coverage  75% of 4 lines of rules
          not reached: p/policy.rego:8
""",
        "",
    )


def test_a_rule_that_breaks_denies_no_case(source: Path) -> None:
    """It is a 503, which nobody expects."""
    rego = "package policy\n\nallow if 1 / (count(input.resource.properties.query) - 1) < 0\n"
    (source / "policy.rego").write_text(rego, encoding="utf-8")
    (source / "policy_test.rego").unlink()
    case = "{caller: web, service: billing, request: POST /charges"
    table = f"cases:\n- {case}, expect: allow, why: a}}\n- {case}?a=1, expect: deny, why: b}}\n"
    (source / "p_cases.yaml").write_text(table, encoding="utf-8")
    ran = ostiary("bundle", "test", "p", "--json")
    document = json.loads(ran.out)
    assert (ran.status, document["coverage"], document["cases"]) == (
        1,
        None,
        {
            "passed": 1,
            "failed": [
                {
                    "file": "p/p_cases.yaml",
                    "line": 3,
                    "asked": "web: POST /charges?a=1 at billing, from 192.0.2.1, 2026-03-02T10:00:00Z",
                    "expected": "deny",
                    "got": "no decision: div: divide by zero",
                    "why": "b",
                }
            ],
        },
    )


def test_a_table_that_would_not_be_read_is_told(source: Path) -> None:
    (source / "p_cases.yml").write_text(CASES, encoding="utf-8")
    assert ostiary("bundle", "test", "p") == Ran(2, "", "p/p_cases.yml: is not read: name it p_cases.yaml\n")


def test_mistakes_of_all_tables_are_told_at_once(source: Path) -> None:
    (source / "a_cases.yaml").write_text(CASES.replace("caller: web\n", "caller: wbe\n"), encoding="utf-8")
    (source / "b_cases.yaml").write_text("cases: []\n", encoding="utf-8")
    assert ostiary("bundle", "test", "p") == Ran(
        2,
        "",
        "p/a_cases.yaml:2: cases[0].caller: unknown caller 'wbe' (did you mean 'web'?)\n"
        "p/b_cases.yaml:1: cases: is empty: nothing would be tested\n",
    )


def test_mistakes_are_those_of_a_build(source: Path) -> None:
    (source / "permissions.yaml").write_text(MAP.replace("caller: web", "caller: wbe"), encoding="utf-8")
    ran = ostiary("bundle", "test", "p")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == "p/permissions.yaml:6: permissions[0].caller: unknown caller 'wbe' (did you mean 'web'?)\n"
    assert ostiary("bundle", "test", "nowhere") == Ran(2, "", "nowhere: there is no such directory\n")


def test_the_demo_s_own_tests_reach_every_line() -> None:
    ran = ostiary("bundle", "test", assets.demo_bundle(), "--coverage-threshold", "100")
    assert (ran.status, ran.err) == (0, "")


def test_without_rules_there_is_no_coverage_to_tell(source: Path) -> None:
    for path in source.glob("*.rego"):
        path.unlink()
    case = "{caller: web, service: billing, request: GET /balance, expect: %s, why: so}"
    denied = case.replace("caller: web", 'identity: {spiffe: "spiffe://a.test/b"}') % "deny"
    (source / "a_cases.yaml").write_text(f"cases:\n  - {case % 'allow'}\n  - {denied}\n", encoding="utf-8")
    told = "cases     2 passed\ncoverage  there is no rule in Rego that could be reached\n"
    assert ostiary("bundle", "test", "p", "--coverage-threshold", "90") == Ran(0, told, "")


def test_a_case_can_expect_that_a_request_is_only_observed(tmp_path: Path) -> None:
    """Which is neither an allow nor a denial, and ends by itself."""
    observed = MAP.replace("balance: GET /balance", "list: GET /charges").replace(", balance]", "]")
    observed += "observe:\n  billing: {until: 2026-03-03T00:00:00Z}\n"
    place = write_policy(tmp_path / "o", permissions=observed, rego="")
    case = "- {caller: web, service: billing, request: GET /charges"
    (place / "o_cases.yaml").write_text(
        f"""\
cases:
- {{caller: web, service: billing, request: POST /charges, expect: allow, why: a permission}}
{case}, expect: observed, why: none yet}}
{case}, expect: deny, why: it is let through}}
{case}, expect: permission-missing, why: it is let through}}
{case}, expect: allow, why: nothing allows it}}
{case}, at: 2026-03-03T00:00:00Z, expect: permission-missing, why: it has ended}}
""",
        encoding="utf-8",
    )
    ran = ostiary("bundle", "test", "o")
    got = "          got       observed: permission-missing"
    assert (ran.status, ran.out.count(got)) == (1, 3)
    assert "cases     3 passed, 3 failed\n" in ran.out
    assert ran.err == (
        "warning: o/permissions.yaml:8: observe.billing: has ended at 2026-03-03T00:00:00Z: take it out\n"
    )
