"""`ostiary explain`"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer

from ostiary import assets
from ostiary.cli.output import fail, print_json
from ostiary.config import Config, load_config
from ostiary.demo.place import latest_demo
from ostiary.errors import AccessError
from ostiary.models import AccessRequest, Identity, Target
from ostiary.opa.install import ensure_opa
from ostiary.policy.bundle import MANIFEST, build_bundle
from ostiary.policy.explain import ask, in_words, read_map, specimen
from ostiary.routes import METHODS
from ostiary.target import canonicalise, decode_query, encode

_REQUEST: Final = re.compile(r"([A-Z]+) +(?:https?://)?([^/ ]+)(/[^ ]*)")


def command(
    request: Annotated[str, typer.Argument(help='Method and URL: "GET http://orders.localhost/orders/42".')],
    caller: Annotated[str, typer.Option(help="A caller of the permission map.")],
    policy: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A policy's sources or a built bundle; the configuration's if left out.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE", help="ostiary.yaml; else the latest demo's.")
    ] = None,
    claim: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A claim of the token; JSON, or text as it is.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="The token's subject, where the caller does not say it.")] = None,
    source_ip: Annotated[str, typer.Option(metavar="ADDRESS", help="Where the request comes from.")] = "127.0.0.1",
    at: Annotated[str | None, typer.Option(metavar="TIME", help="When, as 2026-09-21T10:00:00Z; now if left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say which permission allows a request, or each reason why not and what would.

    Exit status 0: allowed. 1: denied.
    """
    loaded = _configuration(config) if policy is None or config is not None else None
    with _bundle(policy, loaded) as bundle:
        permission_map = read_map(bundle)
        identity = specimen(permission_map, caller)
        asked = AccessRequest(
            identity=Identity(
                issuer=identity.issuer,
                subject=subject or identity.subject,
                method="mtls" if identity.method == "mtls" else "jwt",
                expires_at=0,
                claims={**identity.claims, **_claims(claim or [])},
            ),
            method=_method(request),
            target=_target(request, loaded, permission_map),
            time=_time(at),
            source_ip=_address(source_ip),
        )
        explanation = ask(ensure_opa(), bundle, asked)
    if as_json:
        print_json({"input": asked.document(), **explanation})
    else:
        typer.echo("\n".join(in_words(asked, explanation)))
    if explanation["decision"]["allow"] is not True:
        raise typer.Exit(1)


def _configuration(path: Path | None) -> Config:
    if path is None:
        path = Path("ostiary.yaml")
        demo = latest_demo()
        if not path.exists() and demo is not None:
            path = demo / "ostiary.yaml"
    return load_config(path, os.environ)


@contextlib.contextmanager
def _bundle(policy: Path | None, config: Config | None) -> Iterator[Path]:
    """A built bundle: the one that is named, the configuration's, or one built here from sources."""
    if policy is None:
        if config is None or config.opa.managed is None:
            fail("the configuration names no bundle of its own: name the policy with --policy DIR")
        yield config.opa.managed.bundle
        return
    if (policy / MANIFEST).exists():
        yield policy
        return
    with tempfile.TemporaryDirectory(prefix="ostiary-explain-") as place:
        built = build_bundle(policy, Path(place) / "bundle", opa=ensure_opa(), sequence=0, rego_root=assets.rego())
        yield built.path


def _method(request: str) -> str:
    found = _REQUEST.fullmatch(request)
    if found is None:
        fail(f'{request!r} is not a request, which is written "GET http://orders.localhost/orders/42"')
    if found[1] not in METHODS:
        fail(f"{found[1]} is not a method that the proxy accepts: {', '.join(sorted(METHODS))}")
    return found[1]


def _target(request: str, config: Config | None, permission_map: Mapping[str, Any]) -> Target:
    found = _REQUEST.fullmatch(request)
    if found is None:
        fail(f"{request!r} is not a request")
    path, mark, query = found[3].partition("?")
    try:
        segments = canonicalise(path.encode())
        pairs = decode_query(query.encode())
    except AccessError as refusal:
        fail(f"the proxy refuses this request before it is decided: {refusal.reason}: {refusal}", status=1)
    host = found[2].rpartition(":")[0] if re.search(r":\d+$", found[2]) else found[2]
    return Target(
        service=_service(host.lower(), config, permission_map),
        segments=segments,
        path=encode(segments),
        query=query if mark else None,
        pairs=pairs,
    )


def _service(host: str, config: Config | None, permission_map: Mapping[str, Any]) -> str:
    """The service at a host: as configured; without a configuration, the service that the host's first label names."""
    if config is not None:
        for name, service in config.services.items():
            if host in service.hosts:
                return name
        fail(f"no service answers to the host {host!r}: the proxy refuses it with 421", status=1)
    label = host.partition(".")[0]
    if label not in permission_map["services"]:
        fail(f"the map has no service {label!r}, and without -c a host's first label is taken for the service", status=1)
    return label


def _claims(given: list[str]) -> dict[str, Any]:
    claims: dict[str, Any] = {}
    for one in given:
        name, mark, value = one.partition("=")
        if not name or not mark:
            fail(f"{one!r} is not a claim, which is written name=value")
        try:
            claims[name] = orjson.loads(value)
        except orjson.JSONDecodeError:
            claims[name] = value
    return claims


def _time(at: str | None) -> int:
    if at is None:
        return int(time.time())
    try:
        found = datetime.fromisoformat(at)
    except ValueError:
        fail(f"{at!r} is not a time, which is written 2026-09-21T10:00:00Z")
    if found.tzinfo is None:
        fail(f"{at!r} says no time zone: end it with Z, or with an offset")
    return int(found.timestamp())


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        fail(f"{text!r} is not an address")
