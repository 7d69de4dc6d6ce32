"""Configuration and permission map, read together."""

# ruff: noqa: E501 - the complete lines, as people see them

from __future__ import annotations

from pathlib import Path

from ostiary.config import Config, check_agreement, load_config
from ostiary.policy.model import PermissionMap, load_permissions
from support.files import CONFIG, PERMISSIONS


def both(directory: Path, config: str, permissions: str) -> tuple[Config, PermissionMap]:
    (directory / "ostiary.yaml").write_text(config, encoding="utf-8")
    (directory / "permissions.yaml").write_text(permissions, encoding="utf-8")
    return load_config(directory / "ostiary.yaml", {}), load_permissions(directory / "permissions.yaml")


BILLING = '  billing: {hosts: [billing.localhost], upstream: "http://127.0.0.1:9002"}\n'


def test_files_that_fit_together_are_not_talked_about(tmp_path: Path) -> None:
    config = CONFIG.replace("opa:", f"{BILLING}opa:", 1)
    permissions = PERMISSIONS.replace("  reporting:    {spiffe: spiffe://shop.test/reporting}\n", "")
    assert check_agreement(*both(tmp_path, config, permissions)) == []


def test_what_does_not_fit_together_is_said_in_one_sentence_each(tmp_path: Path) -> None:
    config = CONFIG.replace("claims: [groups, tenant]", "claims: [group]").replace(
        "opa:", f"{BILLING.replace('billing:', 'biling:')}opa:", 1
    )
    permissions = (
        PERMISSIONS.replace("  web:          {issuer: https://idp.test,", "  web:          {issuer: https://idp.tset,")
        .replace(
            "when: {source: [10.0.0.0/8]}}\n", "when: {claims: {tenant: acme}, path: {charge_id: {claim: tenant}}}}\n"
        )
        .replace(
            "endpoints: [create-order], when: {claims: {tenant: acme}, path: {charge_id: {claim: tenant}}}}",
            "endpoints: [create-order]}",
        )
    )
    assert check_agreement(*both(tmp_path, config, permissions)) == EXPECTED


EXPECTED = [
    "service 'billing' is in the permission map and not in the configuration: it cannot be reached (did you mean 'biling'?)",
    "service 'biling' is in the configuration and not in the permission map: all is denied (did you mean 'billing'?)",
    "caller 'web' has an issuer that is not configured, 'https://idp.tset' (did you mean 'https://idp.test'?)",
    "caller 'reporting' is a SPIFFE ID, which a listener with identity [jwt] never proves",
    "caller 'support' depends on the claim 'groups', which issuer 'https://idp.test' is not configured to show to the policy: it never holds (did you mean 'group'?)",
    "caller 'support-lead' depends on the claim 'groups', which issuer 'https://idp.test' is not configured to show to the policy: it never holds (did you mean 'group'?)",
    "eligible[0].when depends on the claim 'tenant', which issuer 'https://idp.test' is not configured to show to the policy: it never holds",
]
