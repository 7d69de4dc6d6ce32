"""The questions with known answers that a bundle brings: the policy that was built answers each as they say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ostiary import assets
from ostiary.policy.bundle import Bundle, build_bundle
from ostiary.policy.rego import Opa

MAP = """\
services:
  shop:
    endpoints:
      probe: GET /probe
      thing: "GET /{{thing}}"
      remove: "DELETE /{{thing}}"
      rest: "GET /docs/{{n:int}}/{{id:uuid}}/{{f:file}}/{{t:text}}/**"
  other: {{endpoints: {{list: GET /}}}}
roles:
  all: {{shop: [probe, thing, remove, rest], other: [list]}}
callers:
  web: {{issuer: https://idp.test, subject: web}}
  people: {{issuer: https://idp.test, claims: {{groups: [staff, board], level: "3"}}}}
  job: {{spiffe: spiffe://shop.test/job}}
permissions:
{permissions}
"""
WHEN = "when: {source: [10.0.0.0/8]}"


def build(
    opa: Path, place: Path, permissions: Sequence[str], rego: str = "", more: str = ""
) -> tuple[Bundle, list[dict[str, Any]]]:
    source = place / "source"
    source.mkdir()
    listed = "\n".join(f"  - {{{one}}}" for one in permissions) or "  []"
    (source / "permissions.yaml").write_text(MAP.format(permissions=listed) + more)
    if rego:
        (source / "policy.rego").write_text(f"package policy\n\n{rego}\n")
    built = build_bundle(source, place / "out", opa=opa, sequence=1, rego_root=assets.rego())
    found = json.loads((built.path / "data.json").read_text())["ostiary"]["map"]["probes"]
    questions = [one["input"] for one in found]
    answers, _ = Opa(opa).evaluate(built.path, "data.ostiary.authz.decisions", {"evaluations": questions})
    assert [one["allow"] for one in answers] == [one["allow"] for one in found]
    assert found[-1]["allow"] is False
    assert found[-1]["input"]["subject"]["properties"]["issuer"] == "https://ostiary-probe.invalid"
    return built, found


def told(found: Sequence[dict[str, Any]]) -> list[tuple[str, str, str, bool]]:
    return [
        (
            one["input"]["subject"]["id"],
            f"{one['input']['action']['name']} /{'/'.join(one['input']['resource']['properties']['segments'])}",
            one["input"]["resource"]["id"],
            one["allow"],
        )
        for one in found
    ]


NOBODY = "ostiary-probe"


@pytest.mark.parametrize(
    ("permissions", "expected"),
    [
        (
            ["caller: web, service: shop, endpoints: [thing]"],
            [("web", "GET /probe-1", "shop", True), ("web", "GET /probe", "shop", False)],
        ),
        (
            [f"caller: job, roles: [all], {WHEN}", "caller: people, service: shop, endpoints: [probe, thing]"],
            [(NOBODY, "GET /probe", "shop", True), (NOBODY, "DELETE /probe-1", "shop", False)],
        ),
        (
            ["caller: job, service: shop, endpoints: [rest]"],
            [
                (
                    "spiffe://shop.test/job",
                    "GET /docs/7/00000000-0000-4000-8000-000000000000/probe/probe/probe",
                    "shop",
                    True,
                ),
                ("spiffe://shop.test/job", "GET /probe", "shop", False),
            ],
        ),
        (["caller: web, roles: [all]"], [("web", "GET /probe", "shop", True)]),
        ([f"caller: web, roles: [all], {WHEN}"], []),
        ([], []),
    ],
    ids=["by subject", "the first without conditions", "by SPIFFE ID", "everything", "only with conditions", "nothing"],
)
def test_a_known_allow_and_known_denials(
    opa_binary: Path, tmp_path: Path, permissions: list[str], expected: list[tuple[str, str, str, bool]]
) -> None:
    built, found = build(opa_binary, tmp_path, permissions)
    assert told(found)[:-1] == expected
    asked = expected[0][1] if expected else "GET /probe"
    assert told(found)[-1] == (NOBODY, asked, "shop", False)
    assert built.warnings == ()


def test_what_is_only_observed_or_a_shadow_is_no_allow(opa_binary: Path, tmp_path: Path) -> None:
    """A denial is asked for at a time from which it is one."""
    until = datetime.now(UTC) + timedelta(days=10)
    _, found = build(
        opa_binary,
        tmp_path,
        [
            "caller: web, service: shop, endpoints: [probe], shadow: true",
            "caller: web, service: shop, endpoints: [thing]",
        ],
        more=f"observe: {{shop: {{until: {until:%Y-%m-%dT%H:%M:%SZ}}}}}\n",
    )
    assert told(found)[:-1] == [("web", "GET /probe-1", "shop", True), ("web", "DELETE /probe-1", "shop", False)]


def test_where_the_organisation_has_a_say_the_first_that_it_does_not_refuse(opa_binary: Path, tmp_path: Path) -> None:
    built, found = build(
        opa_binary,
        tmp_path,
        ["caller: web, service: shop, endpoints: [probe, rest, thing]"],
        rego='deny contains "no" if input.resource.properties.segments[0] == "probe"\n\n'
        "allow if to_number(input.resource.properties.segments[1]) == 7",
    )
    assert told(found)[0] == (
        "web",
        "GET /docs/7/00000000-0000-4000-8000-000000000000/probe/probe/probe",
        "shop",
        True,
    )
    assert built.warnings == ()


@pytest.mark.parametrize(
    ("endpoints", "tried"),
    [("probe", "the only request that was tried"), ("probe, thing", "each of 2 requests that were tried")],
)
def test_where_the_organisation_allows_none_there_are_denials_and_a_warning(
    opa_binary: Path, tmp_path: Path, endpoints: str, tried: str
) -> None:
    permissions = [f"caller: web, service: shop, endpoints: [{endpoints}]"]
    built, found = build(opa_binary, tmp_path, permissions, rego='deny contains "never" if true')
    assert [one["allow"] for one in found] == [False]
    [warning] = built.warnings
    assert warning == (
        f"{tmp_path / 'source'}: the organisation's rules refuse {tried} of those that the map allows without "
        "conditions, from 127.0.0.1 at 2026-09-21T14:13:20Z, with no claims but those that the map demands. If they "
        "refuse everything, no proxy will notice: the bundle has no known allow"
    )


def test_where_the_map_allows_nothing_without_conditions_the_rules_are_not_blamed(
    opa_binary: Path, tmp_path: Path
) -> None:
    permissions = [f"caller: web, roles: [all], {WHEN}"]
    built, _ = build(opa_binary, tmp_path, permissions, rego='deny contains "no" if input.action.name == "POST"')
    assert built.warnings == ()


def test_a_rule_that_fails_for_one_question_does_not_spoil_the_others(opa_binary: Path, tmp_path: Path) -> None:
    _, found = build(
        opa_binary,
        tmp_path,
        ["caller: web, service: shop, endpoints: [probe, rest]"],
        rego='deny contains "no" if {\n\tinput.resource.properties.segments[0] == "probe"\n'
        "\tto_number(input.subject.id) == 1\n}",
    )
    assert [(one["allow"], one["input"]["resource"]["properties"]["segments"][0]) for one in found] == [
        (True, "docs"),
        (False, "probe-1"),
        (False, "docs"),
    ]
