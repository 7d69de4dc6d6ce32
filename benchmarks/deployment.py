"""What the proxy is given to serve: a permission map, compiled, and an `ostiary.yaml` for each way to run it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.messages import HOST
from ostiary import assets
from ostiary.demo.issuer import AUDIENCE, ISSUER, DemoIssuer
from ostiary.opa.install import ensure_opa
from ostiary.policy.bundle import build_bundle

PERMISSIONS: Final[Mapping[str, Any]] = {
    "services": {
        "orders": {
            "endpoints": {
                "get-order": "GET /orders/{order_id}",
                "create-order": "POST /orders",
                "get-invoice": "GET /invoices/{invoice_id}",
                "get-body": "GET /bodies/{size:int}",
            }
        }
    },
    "callers": {"web": {"issuer": ISSUER, "subject": "web"}},
    "permissions": [
        {"caller": "web", "service": "orders", "endpoints": ["get-order", "create-order", "get-body"]},
        {"caller": "web", "service": "orders", "endpoints": ["get-invoice"], "credential": {"per_call": True}},
    ],
}
"""What is decided on everywhere but in the mix."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """`services` are those of the map, by name, with the host of each. `upstream` is the port of them all."""

    place: Path
    issuer: DemoIssuer
    upstream: int
    services: Mapping[str, str]

    def configure(
        self,
        home: Path,
        *,
        port: int,
        workers: int = 1,
        cached_decisions: int | None = None,
        grants: str | None = None,
    ) -> Path:
        """The path of an `ostiary.yaml` in `home`, below `place`, where its state and its audit will be.

        Where `cached_decisions` is None, it keeps as many as it does by default. `grants` is the address of a store.
        """
        limits: dict[str, Any] = {
            "decisions_per_second": 1_000_000,  # one caller sends all there is
            "upstream_connections": 1024,  # as Envoy has
        }
        if cached_decisions is not None:
            limits["cached_decisions"] = cached_decisions
        document: dict[str, Any] = {
            "listen": {"data": f"127.0.0.1:{port}"},
            "workers": workers,
            "issuers": [
                {
                    "issuer": ISSUER,
                    "audience": AUDIENCE,
                    "key_file": str(self.place / "jwks.json"),
                    "algorithms": ["ES256"],
                }
            ],
            "services": {
                service: {"hosts": [host], "upstream": f"http://127.0.0.1:{self.upstream}"}
                for service, host in self.services.items()
            },
            # A busy machine is to give slow rounds, not void ones.
            "opa": {"managed": {"bundle": str(self.place / "bundle")}, "deadline": "5s"},
            "audit": {"path": "audit", "deadline": "5s", "keep": 4},
            "limits": limits,
        }
        if grants is not None:
            # Trials ask more often than anybody may in a day otherwise.
            document["grants"] = {"url": grants, "requests_per_day": 100_000}
        config = home / "ostiary.yaml"
        config.write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
        return config


def deployed(place: Path, *, upstream: int, permissions: Mapping[str, Any] = PERMISSIONS) -> Deployment:
    """The map compiled, and an issuer. `place` is made."""
    source = place / "source"
    source.mkdir(parents=True)
    (source / "permissions.yaml").write_text(json.dumps(permissions), encoding="utf-8")
    build_bundle(source, place / "bundle", opa=ensure_opa(), sequence=1, rego_root=assets.rego())
    issuer = DemoIssuer(place)
    (place / "jwks.json").write_text(json.dumps(issuer.jwks()), encoding="utf-8")
    services = {name: host_of(name) for name in permissions["services"]}
    return Deployment(place=place, issuer=issuer, upstream=upstream, services=services)


def host_of(service: str) -> str:
    return HOST if service == "orders" else f"{service}.localhost"
