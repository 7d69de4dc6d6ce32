"""From what people wrote to what each stage takes: the stages never see the configuration."""

from __future__ import annotations

import ipaddress

from ostiary.concierge import CorsSettings
from ostiary.config import Config
from ostiary.config.issuers import Issuer
from ostiary.config.opa import BundleVerification, ManagedOpa, Rollback
from ostiary.config.proofs import Tls, Xfcc
from ostiary.config.services import ServiceSettings
from ostiary.decision.rollback import statement_beside
from ostiary.identity import Discovery, DpopSettings, IssuerSettings, JwksUrl, KeyFile
from ostiary.opa.archive import Verification
from ostiary.opa.record import PolicyRecord
from ostiary.opa.statements import StatementAddress, StatementFile, StatementSource
from ostiary.opa.vetting import Vetting
from ostiary.server import ListenerLimits, Proxies
from ostiary.spiffe import SpiffeId
from ostiary.upstream import TlsSettings, UpstreamSettings


def issuer_settings(issuer: Issuer) -> IssuerSettings:
    keys: JwksUrl | Discovery | KeyFile
    if issuer.key_file is not None:
        keys = KeyFile(path=issuer.key_file)
    elif issuer.jwks_url is not None:
        keys = JwksUrl(url=issuer.jwks_url, ca_file=issuer.ca_file, token_file=issuer.token_file)
    else:
        keys = Discovery(ca_file=issuer.ca_file, token_file=issuer.token_file)
    return IssuerSettings(
        issuer=issuer.issuer,
        audience=issuer.audience,
        algorithms=tuple(issuer.algorithms),
        keys=keys,
        types=tuple(issuer.types),
        allow_untyped=issuer.allow_untyped,
        leeway=issuer.leeway,
        max_lifetime=issuer.max_lifetime,
        claims=tuple(issuer.claims),
        use=issuer.use,
    )


def dpop_settings(config: Config) -> DpopSettings | None:
    dpop = config.listen.dpop
    if dpop is None:
        return None
    return DpopSettings(
        algorithms=dpop.algorithms,
        window=dpop.window,
        leeway=dpop.leeway,
        origins=_public_urls(config),
    )


def _public_urls(config: Config) -> dict[str, str]:
    """By host the origin by which clients reach it, where that is configured."""
    found = {
        host: str(service.public_url)
        for service in config.services.values()
        if service.public_url is not None
        for host in service.hosts
    }
    if config.grants is not None and config.grants.public_url is not None:
        found[config.own_host] = str(config.grants.public_url)
    return found


def forwarding_peers(xfcc: Xfcc, tls: Tls) -> list[tuple[str, str]]:
    """Issuer and subject of those who may forward."""
    plain = "" if tls.client_ca is None else tls.client_ca.issuer
    return [(SpiffeId.parse(peer).issuer if peer.startswith("spiffe:") else plain, peer) for peer in xfcc.peers]


def upstream_settings(service: ServiceSettings, config: Config) -> UpstreamSettings:
    limits, origin, tls = config.limits, service.upstream, service.tls
    return UpstreamSettings(
        host=origin.host,
        port=origin.port,
        scheme="https" if origin.scheme == "https" else "http",
        tls=TlsSettings() if tls is None else TlsSettings(ca_file=tls.ca_file, server_name=tls.server_name),
        max_connections=limits.upstream_connections,
        connect_timeout=limits.connect_timeout,
        first_byte_timeout=limits.first_byte_timeout,
        idle_timeout=limits.idle_timeout,
        client_idle_timeout=limits.body_idle_timeout,
        total_timeout=limits.total_timeout,
        keep_alive=limits.upstream_keep_alive,
        connection_age=limits.upstream_connection_age,
        body_bytes=limits.body_bytes,
        response_header_bytes=limits.response_header_bytes,
        response_body_bytes=limits.response_body_bytes,
        keep_headers=frozenset(name.encode("ascii") for name in service.keep_headers),
    )


def cors_settings(service: ServiceSettings) -> CorsSettings | None:
    cors = service.cors
    if cors is None:
        return None
    return CorsSettings(
        origins=cors.origins,
        methods=cors.methods,
        headers=cors.headers,
        expose=cors.expose,
        credentials=cors.credentials,
        max_age=cors.max_age,
    )


def listener_limits(config: Config) -> ListenerLimits:
    limits = config.limits
    return ListenerLimits(
        header_bytes=limits.header_bytes,
        header_count=limits.header_count,
        target_bytes=limits.target_bytes,
        body_bytes=limits.body_bytes,
        header_timeout=limits.header_timeout,
        keep_alive_timeout=limits.keep_alive_timeout,
        body_timeout=limits.body_idle_timeout,
        body_rate=limits.body_rate,
        write_timeout=limits.write_timeout,
        connections=limits.connections,
        connections_per_peer=limits.connections_per_peer,
        pipelined=limits.pipelined,
        drain_grace=min(limits.drain_grace, limits.drain_timeout),
    )


def bundle_verification(managed: ManagedOpa) -> Verification | None:
    """Whose signature the bundle must have, if anyone's."""
    return None if managed.verification is None else verification_of(managed.verification)


def verification_of(given: BundleVerification) -> Verification:
    """Whose signature a bundle, or the statement of a rollback, must have."""
    return Verification(key=given.key_file, key_id=given.key_id, scope=given.scope, algorithm=given.algorithm)


def bundle_name(config: Config) -> str:
    """What the bundle is remembered by: what is signed by its scope, since it may come from anywhere; else by where
    the configuration has it from."""
    opa = config.opa
    if opa.managed is None:
        return f"url:{opa.url}"
    verification = opa.managed.verification
    return f"path:{opa.managed.bundle}" if verification is None else f"scope:{verification.scope}"


def policy_record(config: Config) -> PolicyRecord:
    """What was remembered of the policy. Raises `ConfigurationError` if it cannot be read."""
    return PolicyRecord.read(config.policy_record, name=bundle_name(config))


def policy_vetting(config: Config, record: PolicyRecord) -> Vetting:
    """Which bundles may be used, by what the configuration says and by what was active before."""
    opa = config.opa
    statement: StatementSource | None = None
    verification = None
    if opa.managed is not None:
        verification = bundle_verification(opa.managed)
        statement = StatementFile(statement_beside(opa.managed.bundle))
    elif opa.rollback is not None:
        verification, statement = verification_of(opa.rollback.verification), _statement(opa.rollback)
    return Vetting(record=record, minimum=opa.minimum_revision, statement=statement, verification=verification)


def _statement(rollback: Rollback) -> StatementSource | None:
    if rollback.url is not None:
        return StatementAddress(rollback.url, token_file=rollback.token_file, ca_file=rollback.ca_file)
    return None if rollback.statement is None else StatementFile(rollback.statement)


def pinned_proxies(config: Config) -> Proxies | None:
    proxies = config.listen.proxies
    if proxies is None:
        return None
    return Proxies(networks=tuple(map(ipaddress.ip_network, proxies.addresses)), header=proxies.header)
