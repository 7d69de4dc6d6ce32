"""What `ostiary check` finds out by asking: whether every part that the proxy will need is there.

The proxy's own parts ask, so that what they say is what the proxy would see. Nothing that runs is disturbed: a managed
OPA is one of its own, in a temporary directory, and a port is bound but never listened on.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable
from typing import Final

from ostiary.cli.findings import Finding, ok, warned, wrong
from ostiary.config import Config
from ostiary.config.fields import TcpAddress
from ostiary.config.issuers import Issuer
from ostiary.config.opa import ManagedOpa as ManagedSettings
from ostiary.config.services import ServiceSettings
from ostiary.errors import AccessError, ConfigurationError, PolicyUnavailable
from ostiary.governing import managed_binary
from ostiary.identity.composition import key_reader
from ostiary.identity.keys import KeySourceError
from ostiary.identity.sources import source_of
from ostiary.named_files import mistakes_of_issuer
from ostiary.opa.address import OpaAddress
from ostiary.opa.bundle import BundleError, PublishedBundle
from ostiary.opa.client import OpaClient
from ostiary.opa.external import ExternalOpa
from ostiary.opa.install import OpaNotFound
from ostiary.opa.probe import OpaNotReady
from ostiary.opa.sidecar import ManagedOpa
from ostiary.stage_settings import bundle_verification, issuer_settings, upstream_settings
from ostiary.upstream.pool import Pool

_PATIENCE: Final = 3.0
"""Seconds that a part has for its answer."""

_SHOWN: Final = 8  # key ids of an issuer


async def reach_parts(config: Config) -> list[Finding]:
    """Whether addresses, OPA, every issuer's keys and every upstream are there, all asked at once."""
    looks: list[Awaitable[list[Finding]]] = [_opa(config)]
    looks += [_issuer(issuer) for issuer in config.issuers]
    looks += [_upstream(name, service, config) for name, service in config.services.items()]
    return [
        *_listener("listener", config.listen.data),
        *(_listener("admin", config.admin_address) if isinstance(config.admin_address, TcpAddress) else ()),
        *(finding for found in await asyncio.gather(*looks) for finding in found),
    ]


def _listener(part: str, address: TcpAddress) -> list[Finding]:
    """Whether the address can be listened on. In use is no mistake: it may be this very proxy that uses it."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the proxy does
            tried.bind((address.host, address.port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return warned(part, [f"{address} is in use: by this proxy, if it runs, or by something else"])
        return wrong(part, f"cannot listen on {address}: {error.strerror or error}")
    return ok(part, str(address))


async def _opa(config: Config) -> list[Finding]:
    managed = config.opa.managed
    try:
        if managed is not None:
            return await _managed_opa(managed)
        return await _external_opa(config, config.opa.url) if config.opa.url is not None else []
    except ConfigurationError:
        return []  # said of the file of its authorities itself
    except (OpaNotFound, OpaNotReady, ValueError, OSError) as error:
        return wrong("OPA", str(error))


async def _managed_opa(settings: ManagedSettings) -> list[Finding]:
    try:
        PublishedBundle(settings.bundle).revision()
    except BundleError:
        return []  # said of the bundle itself; no OPA could serve it
    binary = await asyncio.to_thread(managed_binary, settings)
    async with ManagedOpa(
        binary=binary, bundle=settings.bundle, verification=bundle_verification(settings)
    ) as opa:  # in a directory of its own
        return ok("OPA", f"{binary} serves {opa.revision}")


async def _external_opa(config: Config, address: OpaAddress) -> list[Finding]:
    bearer, ca_file = config.opa.bearer, config.opa.ca_file
    async with ExternalOpa(address=address, token=bearer, ca_file=ca_file, start_timeout=_PATIENCE) as opa:
        findings = ok("OPA", f"{address} serves {opa.revision}")
    async with OpaClient(address=address, token=bearer, ca_file=ca_file) as client:
        try:
            await client.status()
        except PolicyUnavailable as unavailable:
            silent = f"it does not tell how old its bundle is ({unavailable.detail})"
            trusted = f"a revision is trusted for {config.opa.max_policy_age} s after it was first seen"
            findings += warned("OPA", [f"{silent}: enable its status plugin; without, {trusted}"])
    return findings


async def _issuer(issuer: Issuer) -> list[Finding]:
    settings = issuer_settings(issuer)
    if mistakes_of_issuer(issuer):
        return []  # said of the files themselves
    try:
        async with asyncio.timeout(_PATIENCE):
            document = await source_of(settings.issuer, settings.keys).read()
        keys = key_reader(settings).read(document)
    except KeySourceError as error:
        return wrong("issuer", f"{issuer.issuer}: {error} ({error.cause})")
    except TimeoutError:
        return wrong("issuer", f"{issuer.issuer}: no keys within {_PATIENCE:g} s")
    unused = [f"{issuer.issuer}: {keys.ignored} of its keys cannot be used here"] if keys.ignored else []
    # The ids are what a token's `kid` must name; a key from a PEM file has two.
    shown = [*sorted(keys.keys)[:_SHOWN], *(["…"] if len(keys.keys) > _SHOWN else [])]
    return [*ok("issuer", f"{issuer.issuer}: key ids {', '.join(shown)}"), *warned("issuer", unused)]


async def _upstream(name: str, service: ServiceSettings, config: Config) -> list[Finding]:
    try:
        pool = Pool(upstream_settings(service, config))
    except ConfigurationError:
        return []  # said of the files themselves
    try:
        connection = await pool.acquire(fresh=True)
    except AccessError as refusal:
        why = "nobody listens there" if isinstance(refusal.__cause__, ConnectionRefusedError) else refusal.detail
        return wrong("upstream", f"{name}: {service.upstream}: {why}")
    finally:
        pool.close()
    pool.release(connection, 0.0)
    return ok("upstream", f"{name}: {service.upstream}")
