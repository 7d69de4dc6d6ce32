"""What a listener may be told of the proofs that it takes, and what each mistake is told as."""

# ruff: noqa: E501 - the complete lines, as people see them

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from ostiary.config import Config, check_agreement, load_config
from ostiary.policy.model import load_permissions
from ostiary.stage_settings import dpop_settings, forwarding_peers, issuer_settings
from support.files import mistakes

HEAD: Final = "listen: {data: 127.0.0.1:8080, "
ISSUERS: Final = "issuers: [{issuer: https://idp.test, audience: proxy, key_file: keys.json, algorithms: [ES256]}]\n"
REST: Final = """\
services: {orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001", public_url: "https://orders.test"}}
opa: {managed: {bundle: build/demo}}
"""
TLS: Final = "tls: {certificate: a.pem, key: b.pem, trust_domains: {shop.test: shop.pem}, client_ca: {issuer: https://ca.test, file: ca.pem}}"


def load(path: Path, listen: str, issuers: str = "") -> Config:
    path.write_text(f"{HEAD}{listen}}}\n{issuers}{REST}", encoding="utf-8")
    return load_config(path, {})


def test_certificates_alone_need_no_issuer(tmp_path: Path) -> None:
    config = load(tmp_path / "ostiary.yaml", f"identity: [mtls], {TLS}")
    tls = config.listen.tls
    assert tls is not None
    assert (tls.certificate, tls.key) == (tmp_path / "a.pem", tmp_path / "b.pem")
    assert tls.trust_domains == {"shop.test": tmp_path / "shop.pem"}
    assert tls.client_ca is not None
    assert (tls.client_ca.issuer, tls.client_ca.subject) == ("https://ca.test", "dns")
    assert (config.issuers, config.trust_domains) == ((), {"shop.test"})


def test_a_trust_domain_s_tokens_are_those_of_an_issuer(tmp_path: Path) -> None:
    svids = 'issuers: [{issuer: "spiffe://shop.test", use: jwt-svid, audience: proxy, key_file: b.json, algorithms: [ES256, ES384]}]\n'
    config = load(tmp_path / "ostiary.yaml", "identity: [jwt]", svids)
    found = issuer_settings(config.issuers[0])
    assert (found.issuer, found.use, found.algorithms) == ("spiffe://shop.test", "jwt-svid", ("ES256", "ES384"))
    assert config.trust_domains == {"shop.test"}


def test_who_may_forward_is_a_name_of_a_known_issuer(tmp_path: Path) -> None:
    config = load(
        tmp_path / "ostiary.yaml",
        f'identity: [xfcc], {TLS}, xfcc: {{peers: ["spiffe://shop.test/ingress", ingress.corp], trust_domains: [corp]}}',
    )
    assert config.listen.xfcc is not None
    assert config.listen.tls is not None
    assert forwarding_peers(config.listen.xfcc, config.listen.tls) == [
        ("spiffe://shop.test", "spiffe://shop.test/ingress"),
        ("https://ca.test", "ingress.corp"),
    ]
    assert config.trust_domains == {"corp"}


def test_proofs_of_possession_name_the_public_addresses(tmp_path: Path) -> None:
    config = load(tmp_path / "ostiary.yaml", "dpop: {}, bound_tokens: required", ISSUERS)
    found = dpop_settings(config)
    assert found is not None
    assert (found.algorithms, found.window, found.leeway) == (("ES256", "EdDSA"), 60, 5)
    assert found.origins == {"orders.localhost": "https://orders.test"}


FIRST: Final = "ostiary.yaml:1: listen."


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("identity: [mtls]", [f"{FIRST}identity: 'mtls' needs 'tls' with 'trust_domains' or 'client_ca': nothing could be proved without"]),
        (
            "identity: [xfcc], tls: {certificate: a, key: b}",
            [
                f"{FIRST}identity: 'xfcc' needs 'tls' with 'trust_domains' or 'client_ca': nothing could be proved without",
                f"{FIRST}identity: 'xfcc' needs to be told which peers may forward: 'xfcc: {{peers, trust_domains}}'",
            ],
        ),
        (
            f"identity: [mtls], {TLS}, xfcc: {{peers: [a], trust_domains: [corp]}}",
            [f"{FIRST}xfcc: is not among the proofs of this listener, [mtls]"],
        ),
        (
            f"identity: [mtls, xfcc], {TLS}",
            [f"{FIRST}identity: two proofs are [mtls, jwt] or [xfcc, jwt]: the token is the caller, the certificate is who acts"],
        ),
        (
            "identity: [xfcc], tls: {certificate: a, key: b, trust_domains: {shop.test: c}}, xfcc: {peers: [ingress, 'spiffe://other.test/a'], trust_domains: [corp]}",
            [
                f"{FIRST}xfcc.peers[0]: 'ingress' is the subject of no certificate: there is no 'client_ca'",
                f"{FIRST}xfcc.peers[1]: 'spiffe://other.test/a' is of 'other.test', which is not in tls.trust_domains",
            ],
        ),
        (
            f"identity: [xfcc], {TLS}, xfcc: {{peers: ['spiffe://shop.test'], trust_domains: ['spiffe://corp', Corp]}}",
            [
                f"{FIRST}xfcc.peers[0]: 'spiffe://shop.test' is not a SPIFFE ID, which is written spiffe://shop.test/ingress",
                f"{FIRST}xfcc.trust_domains[0]: 'spiffe://corp' is written without its scheme: shop.test",
                f"{FIRST}xfcc.trust_domains[1]: 'Corp' is not a trust domain: lower-case letters, digits and . _ -",
            ],
        ),
        (f"identity: [xfcc], {TLS}, xfcc: {{peers: [], trust_domains: []}}", [
            f"{FIRST}xfcc.peers: is empty, which never means 'any': name what is meant",
            f"{FIRST}xfcc.trust_domains: is empty, which never means 'any': name what is meant",
        ]),
        ("identity: [mtls], tls: {certificate: a, key: b, trust_domains: {}}", [
            f"{FIRST}tls.trust_domains: is empty, which never means 'any': name what is meant",
        ]),
        (
            f"identity: [mtls], {TLS}, dpop: {{}}, bound_tokens: required",
            [
                f"{FIRST}bound_tokens: is about tokens, and this listener takes none",
                f"{FIRST}dpop: binds tokens, and this listener takes none",
            ],
        ),
        (
            "identity: [mtls], tls: {certificate: a, key: b, client_ca: {issuer: 'spiffe://shop.test', file: c, subject: cn}}",
            [
                f"{FIRST}tls.client_ca.issuer: the names of a trust domain are proved by its own bundle: put that into 'trust_domains'",
                f"{FIRST}tls.client_ca.subject: 'cn' is not dns, email, uri or common_name",
            ],
        ),
        (
            f"identity: [mtls], {TLS.replace('key: b.pem', 'key: b.pem, min_version: 1.2')}",
            [f"{FIRST}tls.min_version: 1.2 is not TLSv1.2 or TLSv1.3 (did you mean 'TLSv1.2'?)"],
        ),
    ],
)  # fmt: skip
def test_a_listener_s_mistake_is_told_where_it_is(tmp_path: Path, listen: str, expected: list[str]) -> None:
    assert mistakes_of(tmp_path, f"{HEAD}{listen}}}\n{REST}") == expected


@pytest.mark.parametrize(
    ("listen", "issuers", "expected"),
    [
        ("bound_tokens: required", ISSUERS, [f"{FIRST}bound_tokens: needs 'dpop' or client certificates: no bound token could be proved"]),
        ("dpop: {algorithms: [HS256]}", ISSUERS, [f"{FIRST}dpop.algorithms[0]: 'HS256' is not an algorithm that a proof may have (did you mean 'RS256'?)"]),
        ("dpop: {algorithms: []}", ISSUERS, [f"{FIRST}dpop.algorithms: is empty, which never means 'any': name what is meant"]),
        (f"identity: [mtls], {TLS}", ISSUERS, ["ostiary.yaml:2: issuers: the listener takes no tokens: its identity is [mtls]"]),
        (
            f"identity: [mtls, jwt], {TLS}",
            ISSUERS.replace("https://idp.test", "https://ca.test"),
            [f"{FIRST}tls.client_ca.issuer: is the name of issuers[0] too: nobody could tell them apart"],
        ),
        (
            "identity: [jwt]",
            ISSUERS.replace("https://idp.test", '"spiffe://shop.test"'),
            ["ostiary.yaml:2: issuers[0].issuer: a trust domain is no issuer of plain tokens: JWT-SVIDs need 'use: jwt-svid'"],
        ),
        (
            "identity: [jwt]",
            ISSUERS.replace("issuer:", "use: jwt-svid, issuer:").replace("ES256", "EdDSA").replace("audience", "types: [JWT], audience"),
            [
                "ostiary.yaml:2: issuers[0].algorithms[0]: is no algorithm of JWT-SVIDs, which are RS, PS and ES",
                "ostiary.yaml:2: issuers[0].issuer: JWT-SVIDs are of a trust domain, which is written spiffe://shop.test",
                "ostiary.yaml:2: issuers[0].types: is for plain tokens: a JWT-SVID's header has the type JWT or JOSE, or none",
            ],
        ),
    ],
)  # fmt: skip
def test_a_mistake_about_tokens_is_told_where_it_is(
    tmp_path: Path, listen: str, issuers: str, expected: list[str]
) -> None:
    assert mistakes_of(tmp_path, f"{HEAD}{listen}}}\n{issuers}{REST}") == expected


def mistakes_of(directory: Path, text: str) -> list[str]:
    return mistakes(lambda path: load_config(path, {}), directory / "ostiary.yaml", text)


def test_a_spiffe_caller_needs_a_listener_that_proves_its_trust_domain(tmp_path: Path) -> None:
    permissions = tmp_path / "permissions.yaml"
    permissions.write_text(
        """\
services: {orders: {endpoints: {get: GET /orders}}}
callers:
  here: {spiffe: spiffe://shop.test/web}
  elsewhere: {spiffe: spiffe://corp/web}
  plain: {issuer: https://ca.test, subject: web.shop.test}
permissions:
  - {caller: here, service: orders, endpoints: [get]}
  - {caller: elsewhere, service: orders, endpoints: [get]}
  - {caller: plain, service: orders, endpoints: [get]}
""",
        encoding="utf-8",
    )
    config = load(tmp_path / "ostiary.yaml", f"identity: [mtls], {TLS}")
    assert check_agreement(config, load_permissions(permissions)) == [
        "caller 'elsewhere' is a SPIFFE ID, which this listener never proves (the trust domains it knows: shop.test)"
    ]
