"""The proxy of SECURITY.md, as people run it: `ostiary run` with a real OPA, as a process of its own.

Host `proxy.test` is the service `orders`; the issuer is https://idp.test, whose keys are on loopback; deadlines are one
second, the leeway ten. Nothing but the shipped parts is between a case and the service.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from attacks.runner.forgery import AUDIENCE, ISSUER
from ostiary import assets
from ostiary.opa.install import ensure_opa
from ostiary.policy.bundle import build_bundle
from support.proxy import RunningProxy, Trusted, running_proxy

HOST: Final = "proxy.test"
PERMISSIONS: Final = (Path(__file__).parents[2] / "fixtures" / "attack" / "permissions.yaml").read_text(
    encoding="utf-8"
)

DEADLINE: Final = 1.0
"""Seconds that a client may take for anything, as SECURITY.md has it for the runner."""

BODY_BYTES: Final = 1 << 20
"""The largest body: so that a body which is too large takes no time to make."""

_FOR_CLIENTS: Final = ("header_timeout", "keep_alive_timeout", "body_idle_timeout", "write_timeout")
DEADLINES: Final[Mapping[str, Any]] = dict.fromkeys(_FOR_CLIENTS, f"{DEADLINE:g}s")
PATIENT: Final[Mapping[str, Any]] = dict.fromkeys(_FOR_CLIENTS, "6s")

LIMITS: Final[Mapping[str, Any]] = {"first_byte_timeout": "4s", "idle_timeout": "4s", "body_bytes": "1MiB"}


class NoSigner:
    """Tokens are made by the forge, and published by the key server."""

    def token(self, subject: str, **claims: Any) -> str:
        raise NotImplementedError

    def jwks(self) -> dict[str, Any]:
        raise NotImplementedError


@dataclass
class attacked_proxy(running_proxy):  # noqa: N801 - a context manager, used like a function
    """`issuers` maps them to where their keys are; `upstreams` maps services to origins. `opa` is the address of an OPA
    that somebody else runs, None for a managed one."""

    trusted: Trusted | None = field(default_factory=lambda: Trusted(signer=NoSigner()), kw_only=True)
    permissions: str = field(default=PERMISSIONS, kw_only=True)
    issuers: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    origins: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    service_hosts: Mapping[str, str] = field(default_factory=lambda: {"orders": HOST}, kw_only=True)
    limits: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    opa: str | None = field(default=None, kw_only=True)
    opa_deadline: str = field(default="5s", kw_only=True)
    max_policy_age: str = field(default="24h", kw_only=True)
    extra: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Further members of ostiary.yaml."""

    def _write(self, place: Path, trusted: Trusted) -> None:
        if self.opa is None:
            build(place, self.permissions, self.rego, sequence=1)
        (place / "ostiary.yaml").write_text(self._configuration(trusted), encoding="utf-8")

    def configure(self, place: Path) -> None:
        """Write the configuration alone, for whoever starts the proxy otherwise."""
        (place / "ostiary.yaml").write_text(self._configuration(Trusted(signer=NoSigner())), encoding="utf-8")

    def _configuration(self, trusted: Trusted) -> str:
        """JSON, which is YAML."""
        opa: dict[str, Any] = {"url": self.opa} if self.opa else {"managed": {"bundle": "bundle"}}
        document: dict[str, Any] = {
            "listen": {"data": "127.0.0.1:0", "admin": "unix:run/admin.sock", "identity": ["jwt"]},
            "own_host": "ostiary.localhost",
            "issuers": [
                {
                    "issuer": issuer, "audience": AUDIENCE, "jwks_url": url, "algorithms": ["RS256"],
                    "leeway": "10s", "claims": ["nonce"],
                }
                for issuer, url in self.issuers.items()
            ],
            "services": {
                name: {"hosts": [self.service_hosts.get(name, f"{name}.test")], "upstream": origin}
                for name, origin in self.origins.items()
            },
            "opa": {**opa, "deadline": self.opa_deadline, "max_policy_age": self.max_policy_age},
            "audit": {"path": "audit/"},
            "limits": {**LIMITS, **self.limits},
            **self.extra,
        }  # fmt: skip
        if not self.issuers:
            del document["issuers"]
        return json.dumps(document)


def build(place: Path, permissions: str, rego: Mapping[str, str], *, sequence: int) -> str:
    """Put a bundle where the managed OPA finds it; its revision."""
    policy = place / "policy"
    policy.mkdir(exist_ok=True)
    (policy / "permissions.yaml").write_text(permissions, encoding="utf-8")
    for name, text in rego.items():
        (policy / name).write_text(text, encoding="utf-8")
    built = build_bundle(policy, place / "bundle", opa=ensure_opa(), sequence=sequence, rego_root=assets.rego())
    return built.revision


class AuditTail:
    """What is added to the audit, line by line, each read once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._offsets: dict[Path, int] = {}
        self.lines: list[bytes] = []

    def read(self) -> list[bytes]:
        """All lines so far."""
        for path in sorted(self._directory.glob("*.ndjson")):
            offset = self._offsets.get(path, 0)
            try:
                with path.open("rb") as file:
                    file.seek(offset)
                    found = file.read()
            except FileNotFoundError:  # an empty one is taken away again
                continue
            whole = found.rpartition(b"\n")[0] + b"\n" if b"\n" in found else b""
            self._offsets[path] = offset + len(whole)
            self.lines += whole.splitlines(keepends=True)
        return self.lines


class LogTail:
    def __init__(self, path: Path) -> None:
        self._path = path

    def mark(self) -> int:
        return self._path.stat().st_size

    def since(self, mark: int) -> str:
        with self._path.open("rb") as file:
            file.seek(mark)
            return file.read().decode("utf-8", "replace")


def issuers_of(url: str) -> dict[str, str]:
    return {ISSUER: url}


def revision_of(proxy: RunningProxy) -> str | None:
    """The bundle that counts now, as the proxy's health has it."""
    revision = proxy.health()[1].get("revision")
    return revision if isinstance(revision, str) else None
