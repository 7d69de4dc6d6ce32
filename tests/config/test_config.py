"""What a good configuration becomes."""

# ruff: noqa: E501 - the complete lines, as people see them

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Final

import pytest
from pydantic import ValidationError

from ostiary.config import Config, load_config
from ostiary.config.fields import Origin, UnixAddress
from ostiary.opa.address import OpaAddress
from ostiary.stage_settings import upstream_settings
from support.files import CONFIG, mistakes

LEAST: Final = """\
listen: {data: "127.0.0.1:0"}
issuers: [{issuer: https://idp.test, audience: [proxy], key_file: keys.json, algorithms: [ES256, ES384]}]
services: {orders: {hosts: [Orders.LOCALHOST], upstream: "https://orders.internal"}}
opa: {url: "unix:///run/opa/opa.sock", token: "${OPA_TOKEN}"}
"""


def load(path: Path, text: str, **environ: str) -> Config:
    path.write_text(text, encoding="utf-8")
    return load_config(path, environ)


def test_the_example_of_the_design_loads_unchanged(tmp_path: Path) -> None:
    config = load(tmp_path / "ostiary.yaml", CONFIG)
    assert config.model_dump() == {
        "listen": {
            "data": "127.0.0.1:8080",
            "admin": f"unix:{tmp_path}/run/admin.sock",
            "identity": ("jwt",),
            "tls": None,
            "xfcc": None,
            "dpop": None,
            "bound_tokens": "accepted",
            "public_ports": (),
            "proxies": None,
        },
        "own_host": "ostiary.localhost",
        "workers": 1,
        "pin_workers": True,
        "state": tmp_path / "state",
        "issuers": (
            {
                "issuer": "https://idp.test",
                "use": "jwt",
                "audience": "proxy",
                "jwks_url": "https://idp.test/jwks",
                "discovery": False,
                "key_file": None,
                "ca_file": None,
                "token_file": None,
                "algorithms": ("ES256",),
                "types": ("JWT", "at+jwt"),
                "allow_untyped": False,
                "leeway": 5,
                "max_lifetime": 3600,
                "claims": ("groups", "tenant"),
            },
        ),
        "services": {
            "orders": {
                "hosts": ("orders.localhost",),
                "upstream": "http://127.0.0.1:9001",
                "credential": {"strategy": "minted", "lifetime": 60},
                "cors": None,
                "keep_headers": (),
                "public_url": None,
                "tls": None,
            }
        },
        "signing": {"key_file": None, "algorithm": "EdDSA", "extra_keys": (), "issuer": None},
        "secrets": {"group_readable": False},
        "opa": {
            "managed": {"bundle": tmp_path / "build/demo", "verification": None, "binary": None, "checksum": None},
            "url": None,
            "token": None,
            "ca_file": None,
            "deadline": 0.25,
            "max_policy_age": 86400,
            "minimum_revision": 0,
            "rollback": None,
            "report_to": None,
        },
        "audit": {
            "path": tmp_path / "audit",
            "max_bytes": 104857600,
            "keep": None,
            "sync": False,
            "deadline": 1.0,
            "keys": None,
            "key_lifetime": 86400,
            "checkpoints": None,
            "checkpoint_key": None,
            "syslog": None,
        },
        "grants": {
            "url": "**********",
            "deadline": 2.0,
            "pending_for": 86400,
            "time_per_day": None,
            "requests_per_day": 200,
            "keep_ended": 7776000,
            "webhooks": {},
            "public_url": None,
        },
        "limits": {
            "header_bytes": 32768,
            "header_count": 100,
            "target_bytes": 8192,
            "body_bytes": 4294967296,
            "header_timeout": 10.0,
            "keep_alive_timeout": 30.0,
            "body_idle_timeout": 30.0,
            "body_rate": 256,
            "write_timeout": 30.0,
            "pipelined": 32,
            "connections_per_peer": 1024,
            "connections": 10000,
            "connect_timeout": 3.0,
            "first_byte_timeout": 60.0,
            "idle_timeout": 60.0,
            "total_timeout": 3600.0,
            "upstream_connections": 256,
            "upstream_keep_alive": 4.0,
            "upstream_connection_age": 300.0,
            "response_header_bytes": 65536,
            "response_body_bytes": None,
            "decisions_in_flight": 1024,
            "decisions_per_second": 5000,
            "cached_decisions": 100_000,
            "cached_denials": 10_000,
            "cached_per_identity": 10_000,
            "drain_timeout": 30.0,
            "drain_grace": 2.0,
        },
        "candidate": None,
        "errors": {"detail": "full"},
        "logging": {"level": "info", "format": "text"},
        "telemetry": {"traces": None},
    }
    assert config.grants is not None
    assert config.grants.url.get_secret_value() == f"sqlite:///{tmp_path}/ostiary.db"


def test_what_is_left_out_is_found_below_the_state_directory(tmp_path: Path) -> None:
    config = load(tmp_path / "ostiary.yaml", LEAST, OPA_TOKEN="s3cret")
    assert (config.admin_address, config.signing_key_file, config.credential_issuer, config.audit.path) == (
        UnixAddress(tmp_path / "state/admin.sock"),
        tmp_path / "state/signing-key.pem",
        "https://ostiary.localhost",
        tmp_path / "audit",
    )


def test_values_have_one_form(tmp_path: Path) -> None:
    config = load(tmp_path / "ostiary.yaml", LEAST, OPA_TOKEN="s3cret")
    orders = config.services["orders"]
    assert (config.issuers[0].audience, orders.hosts, orders.upstream, config.opa.url, config.listen.data.port) == (
        "proxy",
        ("orders.localhost",),
        Origin("https", "orders.internal", 443),
        OpaAddress(socket=Path("/run/opa/opa.sock")),
        0,
    )


@pytest.mark.parametrize(
    ("written", "origin", "text"),
    [
        ("http://127.0.0.1:9001", Origin("http", "127.0.0.1", 9001), "http://127.0.0.1:9001"),
        ("http://[::1]:80", Origin("http", "::1", 80), "http://[::1]"),
        ("https://API.test", Origin("https", "api.test", 443), "https://api.test"),
    ],
)
def test_an_origin_is_scheme_host_and_port(written: str, origin: Origin, text: str, tmp_path: Path) -> None:
    config = load(tmp_path / "ostiary.yaml", LEAST.replace("https://orders.internal", written), OPA_TOKEN="s3cret")
    upstream = config.services["orders"].upstream
    assert (upstream, str(upstream)) == (origin, text)


def test_a_secret_comes_from_the_environment_and_is_never_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load(tmp_path / "ostiary.yaml", LEAST + "grants: {url: 'postgresql://u:p4ss@db/g'}\n", OPA_TOKEN="s3cret")
    assert config.opa.token is not None
    assert config.opa.token.get_secret_value() == "s3cret"
    logging.getLogger("test").error("%s %r", config, config)
    shown = f"{config} {config!r} {config.model_dump_json()} {caplog.text}"
    assert "s3cret" not in shown
    assert "p4ss" not in shown


def test_a_configuration_survives_being_pickled_secrets_included(tmp_path: Path) -> None:
    """A worker that is spawned gets the configuration that was checked."""
    config = load(tmp_path / "ostiary.yaml", LEAST, OPA_TOKEN="s3cret")
    copy = pickle.loads(pickle.dumps(config))
    assert copy == config
    assert copy.opa.token.get_secret_value() == "s3cret"


def test_a_configuration_does_not_change(tmp_path: Path) -> None:
    config = load(tmp_path / "ostiary.yaml", LEAST, OPA_TOKEN="s3cret")
    with pytest.raises(ValidationError, match="frozen"):
        config.workers = 2  # type: ignore[misc]


def test_headers_that_a_service_keeps_are_named_in_whatever_case(tmp_path: Path) -> None:
    text = LEAST.replace('internal"', 'internal", keep_headers: [X-Tenant-Id, x-csrf-token, X-Request-Id]')
    config = load(tmp_path / "ostiary.yaml", text, OPA_TOKEN="s3cret")
    kept = upstream_settings(config.services["orders"], config).keep_headers
    assert kept == {b"x-tenant-id", b"x-csrf-token", b"x-request-id"}


def test_cors_settings_have_safe_defaults(tmp_path: Path) -> None:
    text = LEAST.replace('internal"', 'internal", cors: {origins: ["https://app.test", "http://localhost:3000"]}')
    cors = load(tmp_path / "ostiary.yaml", text, OPA_TOKEN="s3cret").services["orders"].cors
    assert cors is not None
    assert cors.model_dump() == {
        "origins": ("https://app.test", "http://localhost:3000"),
        "methods": ("GET", "HEAD", "POST"),
        "headers": ("authorization", "content-type"),
        "expose": (),
        "credentials": False,
        "max_age": 600,
    }


def test_every_mistake_is_reported_at_once_by_line(tmp_path: Path) -> None:
    text = """\
listen: {data: 8080, admin: "0.0.0.0:8081"}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_uri: https://idp.test/jwks, algorithms: [HS256], leeway: 1h}
services:
  orders: {hosts: [orders.localhost, ostiary.localhost], upstream: "${UPSTREAM}"}
  billing: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9002/"}
opa: {managed: {bundle: build}, token: "${NOT_SET}", dead_line: 1s}
limits: {header_bytes: lots}
limits: {header_count: 1}
"""
    assert mistakes(lambda path: load_config(path, {}), tmp_path / "ostiary.yaml", text) == EVERY


EVERY: Final = [
    "ostiary.yaml:1: listen.admin: what is administrative listens on a unix socket or a loopback address only",
    "ostiary.yaml:1: listen.data: is not an address to listen on, which is written 127.0.0.1:8080",
    "ostiary.yaml:3: issuers[0].algorithms[0]: 'HS256' is symmetric: whoever can verify a token could make one",
    "ostiary.yaml:3: issuers[0].jwks_uri: unknown key (did you mean 'jwks_url'?)",
    "ostiary.yaml:3: issuers[0].leeway: '1h' is outside 0s to 30s",
    "ostiary.yaml:5: services.orders.hosts[1]: 'ostiary.localhost' is the host of the proxy itself already",
    "ostiary.yaml:5: services.orders.upstream: an environment variable fills a secret only (grants.url, grants.webhooks.<name>.secret, grants.webhooks.<name>.url and opa.token): write the value",
    "ostiary.yaml:6: services.billing.hosts[0]: 'orders.localhost' is the host of service 'orders' already",
    "ostiary.yaml:6: services.billing.upstream: an origin has no path: write scheme, host and port only, http://127.0.0.1:9001",
    "ostiary.yaml:7: opa.dead_line: unknown key (did you mean 'deadline'?)",
    "ostiary.yaml:7: opa.token: a managed OPA is reached over its own socket and takes no token",
    "ostiary.yaml:7: opa.token: the environment variable NOT_SET is not set, or is empty",
    "ostiary.yaml:8: limits.header_bytes: 'lots' is not a size, which is written 512B, 32KiB, 100MiB or 4GiB",
    "ostiary.yaml:9: the key 'limits' is there twice, first on line 8",
]


@pytest.mark.parametrize(
    ("opa", "expected"),
    [
        (
            "{managed: {bundle: b}, url: 'http://127.0.0.1:8181', deadline: 1h, dead_line: 1s}",
            [
                "opa.dead_line: unknown key (did you mean 'deadline'?)",
                "opa.deadline: '1h' is outside 1ms to 30s",
                "opa: needs exactly one of 'managed' and 'url'",
            ],
        ),
        (
            "{managed: {bundle: b}, url: 'http://opa.test:8181'}",
            [
                "opa.url: whoever answers there decides: only https is accepted, except on a loopback host",
                "opa: needs exactly one of 'managed' and 'url'",
            ],
        ),
        (
            "{managed: 5, url: '${OPA}'}",
            [
                "opa.managed: is not a mapping",
                "opa.url: an environment variable fills a secret only (grants.url, grants.webhooks.<name>.secret, grants.webhooks.<name>.url and opa.token): write the value",
                "opa: needs exactly one of 'managed' and 'url'",
            ],
        ),
        ("{managed: 5}", ["opa.managed: is not a mapping"]),
        (
            "{url: '${OPA}'}",
            [
                "opa.url: an environment variable fills a secret only (grants.url, grants.webhooks.<name>.secret, grants.webhooks.<name>.url and opa.token): write the value"
            ],
        ),
        ("{urll: 'http://127.0.0.1:8181'}", ["opa.urll: unknown key (did you mean 'url'?)"]),
        (
            "{deadline: 1h}",
            ["opa.deadline: '1h' is outside 1ms to 30s", "opa: needs exactly one of 'managed' and 'url'"],
        ),
    ],
)
def test_two_ways_to_reach_opa_are_reported_beside_whatever_else_is_wrong(
    opa: str, expected: list[str], tmp_path: Path
) -> None:
    """And neither way only where none was written: one that is broken, or misspelt, is one."""
    text = CONFIG.replace("{managed: {bundle: build/demo}, deadline: 250ms, max_policy_age: 24h}", opa)
    found = mistakes(lambda path: load_config(path, {}), tmp_path / "ostiary.yaml", text)
    assert found == [f"ostiary.yaml:8: {line}" for line in expected]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            "jwks_url: http://idp.test/jwks, key_file: k.pem, leeway: 1h",
            [
                "issuers[0].jwks_url: only https is accepted, except on a loopback host",
                "issuers[0].leeway: '1h' is outside 0s to 30s",
                "issuers[0]: needs exactly one of 'jwks_url', 'discovery' and 'key_file'",
            ],
        ),
        ("jwks_url: https://idp.test/jwks, discovery: false", ["issuers[0].discovery: is true or left out"]),
        ("discovery: false", ["issuers[0].discovery: is true or left out"]),
        ("key_file: ''", ["issuers[0].key_file: '' is not a path"]),
        (
            "leeway: 1h",
            [
                "issuers[0].leeway: '1h' is outside 0s to 30s",
                "issuers[0]: needs exactly one of 'jwks_url', 'discovery' and 'key_file'",
            ],
        ),
    ],
)
def test_where_keys_come_from_is_checked_beside_whatever_else_is_wrong(
    keys: str, expected: list[str], tmp_path: Path
) -> None:
    text = CONFIG.replace("jwks_url: https://idp.test/jwks", keys).replace("     leeway: 5s, ", "     ")
    found = mistakes(lambda path: load_config(path, {}), tmp_path / "ostiary.yaml", text)
    assert found == [f"ostiary.yaml:4: {line}" for line in expected]
