"""Explanations: an identity that is a caller, and conditions in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ostiary import assets
from ostiary.errors import ConfigurationError
from ostiary.models import AccessRequest, Identity, Target
from ostiary.policy import phrases
from ostiary.policy.bundle import build_bundle
from ostiary.policy.compiler import compile_map
from ostiary.policy.explain import Specimen, ask, read_map, specimen
from ostiary.policy.model import Conditions, load_permissions
from ostiary.policy.terms import compile_conditions
from ostiary.routes import Endpoint
from support.cli import POLICY, write_policy


@pytest.mark.parametrize(
    ("caller", "expected"),
    [
        ("web", Specimen(issuer="https://idp.test", subject="web")),
        ("job", Specimen(issuer="spiffe://shop.test", subject="spiffe://shop.test/job", method="mtls")),
        ("support", Specimen(issuer="https://idp.test", subject="someone", claims={"groups": "support"})),
        (
            "support-lead",
            Specimen(issuer="https://idp.test", subject="someone", claims={"groups": "support-lead", "tenant": "acme"}),
        ),
    ],
)
def test_a_specimen_proves_what_makes_it_the_caller_and_nothing_more(
    tmp_path: Path, caller: str, expected: Specimen
) -> None:
    path = tmp_path / "permissions.yaml"
    path.write_text(POLICY)
    assert specimen(compile_map(load_permissions(path)), caller) == expected


def test_a_subject_with_claims_has_both(tmp_path: Path) -> None:
    path = tmp_path / "permissions.yaml"
    path.write_text(POLICY.replace("subject: unused", "subject: unused, claims: {tenant: [acme, umbrella]}"))
    found = specimen(compile_map(load_permissions(path)), "unused")
    assert found == Specimen(issuer="https://idp.test", subject="unused", claims={"tenant": "acme"})


def test_a_caller_that_is_none_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "permissions.yaml"
    path.write_text(POLICY)
    with pytest.raises(ConfigurationError) as refused:
        specimen(compile_map(load_permissions(path)), "suport")
    assert refused.value.mistakes == ("the map has no caller 'suport' (did you mean 'support'?)",)


@pytest.mark.parametrize(
    ("data", "mistake"),
    [
        (None, "is not a built bundle: data.json: No such file or directory"),
        ("{", "is not a bundle that 'ostiary bundle build' wrote"),
        ("[]", "is not a bundle that 'ostiary bundle build' wrote"),
        ('{"ostiary": {"map": []}}', "is not a bundle that 'ostiary bundle build' wrote"),
        (
            '{"ostiary": {"map": {"format": 99}}}',
            "its map has the format 99, and 1 is read here: build it again with 'ostiary bundle build'",
        ),
    ],
)
def test_what_is_no_bundle_is_said_to_be_none(tmp_path: Path, data: str | None, mistake: str) -> None:
    if data is not None:
        (tmp_path / "data.json").write_text(data)
    with pytest.raises(ConfigurationError) as refused:
        read_map(tmp_path)
    assert refused.value.mistakes == (f"{tmp_path}: {mistake}",)


def question() -> AccessRequest:
    return AccessRequest(
        identity=Identity(issuer="https://idp.test", subject="web", method="jwt", expires_at=0),
        method="GET",
        target=Target(service="orders", segments=("orders",), path="/orders", query=None, pairs=()),
        time=1_790_000_000,
        source_ip="127.0.0.1",
    )


def test_a_bundle_without_our_rego_gives_no_explanation(tmp_path: Path, opa_binary: Path) -> None:
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(ConfigurationError) as refused:
        ask(opa_binary, tmp_path, question(), rego_root=assets.rego())
    assert refused.value.mistakes == (
        f"{tmp_path}: OPA gives no explanation: undefined function data.ostiary.conditions.failures (rego_type_error)",
    )


def test_a_rule_that_conflicts_is_told_in_opas_words(tmp_path: Path, opa_binary: Path) -> None:
    rego = 'package policy\n\nallow := input.action.name == "GET"\n\nallow := input.resource.id != "orders"\n'
    out = tmp_path / "bundle"
    permissions = POLICY.replace(', when: {custom: {weekly: {"on": sunday}}}', "")
    source = write_policy(tmp_path / "policy", rego=rego, permissions=permissions)
    build_bundle(source, out, opa=opa_binary, sequence=1, rego_root=assets.rego())
    with pytest.raises(ConfigurationError) as refused:
        ask(opa_binary, out, question(), rego_root=assets.rego())
    assert refused.value.mistakes == (
        (
            f"{out}: OPA gives no explanation: rule data.policy.allow produced conflicting values: "
            f"true at {out}/organisation/policy.rego:3 false at {out}/organisation/policy.rego:5 (eval_conflict_error)"
        ),
    )


def test_an_opa_that_does_not_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        ask(tmp_path / "opa", tmp_path, question(), rego_root=assets.rego())
    assert refused.value.mistakes == (f"{tmp_path}/opa: OPA cannot be run: No such file or directory",)


@pytest.mark.parametrize(
    ("when", "phrase"),
    [
        ({"source": ["10.0.0.0/8"]}, "source 10.0.0.0/8"),
        ({"source": ["10.0.0.0/8", "192.0.2.0/24", "::1/128"]}, "source 10.0.0.0/8, 192.0.2.0/24 or ::1/128"),
        ({"hours": {"from": "08:00", "to": "18:00", "timezone": "Europe/Paris"}}, "hours 08:00–18:00 Europe/Paris"),
        (
            {"hours": {"from": "22:00", "to": "24:00", "days": ["sun", "mon"], "timezone": "UTC"}},
            "hours 22:00–24:00 mon,sun UTC",
        ),
        (
            {"hours": {"from": "22:30", "to": "06:15", "days": ["mon", "tue", "wed", "fri", "sat"], "timezone": "UTC"}},
            "hours 22:30–06:15 mon–wed,fri,sat UTC",
        ),
        ({"claims": {"tenant": "acme"}}, "claims tenant = acme"),
        ({"claims": {"a b": ["x", "y z"], "team": "🙂"}}, 'claims "a b" = x or "y z", team = "🙂"'),
        ({"read_only": True}, "read-only"),
        ({"query": {"page": "*", "n": ["1"]}}, "query only page = anything, n = 1"),
        ({"path": {"id": {"claim": "tenant"}}}, "path id = the claim tenant"),
        ({"path": {"other": {"claim": "tenant"}}}, "path other = the claim tenant, which never holds here"),
        ({"custom": {"weekly": {"on": ["sunday", None]}}}, 'custom weekly {"on": ["sunday", null]}'),
    ],
)
def test_conditions_in_words(when: dict[str, object], phrase: str) -> None:
    compiled = compile_conditions(Conditions.model_validate(when), Endpoint.parse("get", "GET /x/{id}").template)
    assert phrases.conditions(json.loads(json.dumps(compiled))) == (phrase,)
    assert phrases.conditions(compile_conditions(None, Endpoint.parse("get", "GET /x").template)) == ()
