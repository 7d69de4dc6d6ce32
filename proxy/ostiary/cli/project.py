"""The texts of a project that `ostiary init` writes. What is the same in every one is in `starter/`, as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from ostiary import __version__
from ostiary.cli.output import visible
from ostiary.config import CONFIGURATION
from ostiary.policy.imports.openapi import ImportedService, LeftOut
from ostiary.policy.imports.samples import sample_path
from ostiary.routes import Endpoint

_FILES: Final = Path(__file__).parent / "starter"
_SAME: Final = MappingProxyType(
    {
        "policy/policy.rego": "policy.rego",
        "policy/policy_test.rego": "policy_test.rego",
        "Makefile": "Makefile",
        ".github/workflows/policy.yaml": "workflow.yaml",
        ".gitignore": "gitignore",
    }
)
_ISSUER: Final = "https://idp.example"
_FIRST_PORT: Final = 9001
_EXAMPLE: Final = (
    ("GET /orders", "list-orders"),
    ("GET /orders/{order_id}", "get-order"),
    ("POST /orders", "create-order"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Starter:
    """A service to begin with. `upstream` is its origin, None where nobody said."""

    name: str
    endpoints: tuple[Endpoint, ...]
    upstream: str | None = None
    source: str | None = None
    left_out: tuple[LeftOut, ...] = ()

    @classmethod
    def of(cls, name: str, imported: ImportedService) -> Starter:
        return cls(
            name=name,
            endpoints=imported.endpoints,
            upstream=imported.origin,
            source=str(imported.source),
            left_out=imported.left_out,
        )

    @property
    def first(self) -> Endpoint:
        """The endpoint of the example permission: one that reads, if there is one."""
        return next((one for one in self.endpoints if one.method == "GET"), self.endpoints[0])

    @property
    def other(self) -> Endpoint | None:
        """One that the example permissions leave out."""
        return next((one for one in self.endpoints if one is not self.first), None)

    def request(self, endpoint: Endpoint) -> str:
        return f"{endpoint.method} {sample_path(endpoint, self.endpoints)}"


def texts(starters: Sequence[Starter]) -> dict[str, str]:
    """Path below the project to text. Without a service, an example stands for one."""
    services = starters or [
        Starter(name="orders", endpoints=tuple(Endpoint.parse(name, text) for text, name in _EXAMPLE))
    ]
    written = {
        str(CONFIGURATION): _configuration(services),
        "policy/permissions.yaml": _permissions(services),
        "policy/policy_cases.yaml": _cases(services),
    }
    return written | {path: _same(name) for path, name in _SAME.items()}


def _same(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8").replace("@VERSION@", __version__)


def _configuration(services: Sequence[Starter]) -> str:
    lines = "\n".join(
        f'  {_key(one.name)}: {{hosts: [{one.name}.localhost], upstream: "{one.upstream or _loopback(number)}"}}'
        for number, one in enumerate(services)
    )
    return f"""\
# How this proxy runs. `ostiary schema config` prints every key as JSON Schema, for editors.
listen: {{data: 127.0.0.1:8080}}

# Whose tokens are accepted. Put your identity provider here, and its name into policy/permissions.yaml, too.
issuers:
  - issuer: {_ISSUER}
    audience: ostiary # what a token's `aud` must be
    discovery: true # or jwks_url, or key_file
    algorithms: [RS256]
    claims: [groups] # the claims that policy may see

# Where each service answers, and where it is. A service gets a credential of its own in place of the caller's.
services:
{lines}

# OPA is a child process of the proxy. `make build` makes the bundle.
opa: {{managed: {{bundle: build/policy}}}}
"""


def _key(name: str) -> str:
    """A name as YAML takes it for a text: some would be numbers, or the words for nothing, yes and no."""
    return f'"{name}"' if name[0].isdigit() or name in ("null", "true", "false") else name


def _loopback(number: int) -> str:
    return f"http://127.0.0.1:{_FIRST_PORT + number}"


def _permissions(services: Sequence[Starter]) -> str:
    endpoints = "\n".join(line for one in services for line in _service(one))
    permissions = [("web", one) for one in services] + [("staff", services[0])]
    allowed = "\n".join(
        f"  - {{caller: {caller}, service: {_key(one.name)}, endpoints: [{_key(one.first.name)}]}}"
        for caller, one in permissions
    )
    return f"""\
# Who may call what. What is not permitted here is denied. `ostiary schema permissions` helps editors.
services:
{endpoints}

# Who somebody is, by what a token proves. These two are examples: no issuer of this name exists.
callers:
  web: {{issuer: {_ISSUER}, subject: web}}
  staff: {{issuer: {_ISSUER}, claims: {{groups: staff}}}}

# Examples. Name what is needed, endpoint by endpoint: there is no wildcard.
permissions:
{allowed}
"""


def _service(one: Starter) -> Iterator[str]:
    if one.source is not None:
        yield f"  # From {visible(one.source)}."
    yield f"  {_key(one.name)}:"
    yield "    endpoints:"
    yield from (f"      {_key(endpoint.name)}: {endpoint.method} {endpoint.path}" for endpoint in one.endpoints)
    if one.left_out:
        yield "      # Left out, and so denied:"
        yield from (f"      # {visible(str(each))}" for each in one.left_out)


def _cases(services: Sequence[Starter]) -> str:
    first = services[0]
    found = [_case("caller: web", one, one.first, "allow", "the web application shows it") for one in services]
    found += [
        _case("caller: web", one, one.other, "permission-missing", "nobody permitted it")
        for one in services
        if one.other is not None
    ]
    found += [
        _case("caller: staff\n    subject: ann", first, first.first, "allow", "people of staff see it, too"),
        _case(
            "caller: staff\n    subject: mallory",
            first,
            first.first,
            '"policy-denied: this subject is blocked"',
            "their account was taken over",
        ),
        _case(
            f"identity: {{issuer: {_ISSUER}, subject: stranger}}",
            first,
            first.first,
            "unknown-caller",
            "who is nobody's caller gets nothing",
        ),
    ]
    return """\
# What must be allowed and what must not, and why: asked of the built bundle by `make test`.
cases:
""" + "\n".join(found)


def _case(who: str, service: Starter, endpoint: Endpoint, expect: str, why: str) -> str:
    return f"""\
  - {who}
    service: {_key(service.name)}
    request: {service.request(endpoint)}
    expect: {expect}
    why: {why}
"""
