"""What `ostiary check` can tell from files alone: the policy as OPA compiles it, and what the proxy reads and writes.

Nothing is made or changed: a proxy may be running on the same files.
"""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from pathlib import Path

from ostiary import assets
from ostiary.audit.keys import AuditKeys, unshared
from ostiary.certificates import listener_files
from ostiary.cli.findings import Finding, ok, warned, wrong
from ostiary.config import Config, check_agreement
from ostiary.config.fields import UnixAddress
from ostiary.credential import load_signing_key, public_jwks
from ostiary.decision.revision import Revision
from ostiary.errors import ConfigurationError
from ostiary.named_files import mistakes_in_files
from ostiary.opa.bundle import BundleError, PublishedBundle
from ostiary.opa.install import OpaNotFound, ensure_opa
from ostiary.opa.vetting import BundleRefused
from ostiary.policy.bundle import PERMISSIONS, build_bundle
from ostiary.policy.model import load_permissions
from ostiary.stage_settings import policy_record, policy_vetting, upstream_settings
from ostiary.telemetry.traces import demand_opentelemetry


def check_policy(source: Path, config: Config | None, *, offline: bool) -> list[Finding]:
    """Whether the sources are a policy, one that fits the configuration, and the one that a managed OPA is given."""
    path = source / PERMISSIONS
    found = None
    try:
        found = load_permissions(path)
        findings = ok("permission map", str(path))
    except ConfigurationError as error:
        findings = wrong("permission map", error)
    told = {finding.what for finding in findings}
    findings += (finding for finding in _rego(source, config, offline=offline) if finding.what not in told)
    if config is not None and found is not None:
        findings += warned("agreement", check_agreement(config, found)) or ok("agreement", "map and configuration fit")
    return findings


def _rego(source: Path, config: Config | None, *, offline: bool) -> list[Finding]:
    """Whether the sources compile to a bundle that OPA accepts. The map's mistakes are among those that are found."""
    with tempfile.TemporaryDirectory(prefix="ostiary-check-") as place:
        try:
            opa = ensure_opa(offline=offline)
            built = build_bundle(source, Path(place) / "bundle", opa=opa, sequence=0, rego_root=assets.rego())
        except ConfigurationError as error:
            return wrong("Rego", error)
        except OpaNotFound as error:
            return wrong("Rego", str(error))
    warnings = [*built.warnings, *_outdated(source, Revision.parse(built.revision), config)]
    return [*ok("Rego", str(source)), *warned("Rego", warnings)]


def _outdated(source: Path, built: Revision | None, config: Config | None) -> list[str]:
    if config is None or config.opa.managed is None:
        return []
    bundle = config.opa.managed.bundle
    try:
        published = PublishedBundle(bundle).revision()
    except BundleError:
        return []  # said of the bundle itself
    if built is not None and published.digest == built.digest:
        return []
    return [f"{bundle} is not what {source} builds: ostiary bundle build {source} -o {bundle}"]


def check_files(config: Config) -> list[Finding]:
    """Whether everything that the proxy reads is good, and everything that it writes can be."""
    findings = [*_state(config), *_signing(config), *_audit(config)]
    if config.opa.managed is not None:
        findings += _bundle(config.opa.managed.bundle, config)
    findings += [*_tls(config), *_traces(config)]
    findings += (finding for part, told in mistakes_in_files(config) for finding in wrong(part, told))
    for name, service in config.services.items():
        if service.upstream.scheme == "https":
            try:
                upstream_settings(service, config).tls.context()
            except ConfigurationError as error:
                findings += wrong("upstream", f"{name}: {error}")
    return findings


def _tls(config: Config) -> list[Finding]:
    files = listener_files(config)
    if files is None:
        return []
    try:
        files.load()
    except ConfigurationError as error:
        return wrong("TLS", error)
    return ok("TLS", str(files.certificate))


def _traces(config: Config) -> list[Finding]:
    if config.telemetry.traces is None:
        return []
    try:
        demand_opentelemetry()
    except ConfigurationError as error:
        return wrong("traces", error)
    return ok("traces", str(config.telemetry.traces.endpoint))


def _state(config: Config) -> list[Finding]:
    directories = [config.state]
    if isinstance(config.admin_address, UnixAddress):
        directories.append(config.admin_address.path.parent)
    return [finding for directory in dict.fromkeys(directories) for finding in _private(directory)]


def _private(directory: Path) -> list[Finding]:
    """A directory that the proxy makes 0700, and that has to be so where it is there already."""
    if not directory.exists():
        return _writable("state", directory)
    found = directory.stat()
    if not stat.S_ISDIR(found.st_mode):
        return wrong("state", f"{directory} is not a directory")
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        return wrong("state", f"{directory} holds keys and sockets, and has to be this user's alone (mode 0700)")
    return _writable("state", directory)


def _audit(config: Config) -> list[Finding]:
    """The directory of the audit, and what proves it: keys, checkpoints, and the key that signs those."""
    return [
        *_kept("audit", config.audit.path),
        *_audit_keys(config),
        *_apart(config, "checkpoints", config.audit_checkpoints),
        *_checkpoint_key(config),
    ]


def _kept(part: str, directory: Path) -> list[Finding]:
    """A directory that the proxy makes, and that nobody else may write in where it is there already."""
    if os.path.lexists(directory):
        if not directory.is_dir():
            return wrong(part, f"{directory} is not a directory")
        try:
            unshared(directory, "it")
        except OSError as error:
            return wrong(part, f"{directory}: {error.strerror}: chmod 700")
    return _writable(part, directory)


def _apart(config: Config, part: str, directory: Path) -> list[Finding]:
    """A directory of the audit's besides the audit. Below `state` it is as good as that until it is there."""
    below = directory.absolute().is_relative_to(config.state.absolute())
    return [] if below and not os.path.lexists(directory) else _kept(part, directory)


def _audit_keys(config: Config) -> list[Finding]:
    directory = config.audit_keys
    found = _apart(config, "audit keys", directory)
    if any(one.state == "wrong" for one in found) or not directory.exists():
        return found
    try:
        newest = AuditKeys(directory, lifetime=float(config.audit.key_lifetime)).newest()
    except OSError as error:
        return wrong("audit keys", f"{error.filename or directory}: {error.strerror}")
    return found if newest is None else ok("audit keys", f"{directory}: sealed with {newest.id}")


def _checkpoint_key(config: Config) -> list[Finding]:
    path = config.checkpoint_key_file
    if not os.path.lexists(path):  # the first start makes it
        return [] if path.parent == config.state else _kept("checkpoint key", path.parent)
    try:
        key = load_signing_key(path, algorithm="EdDSA", group_readable=config.secrets.group_readable)
    except ConfigurationError as error:
        return wrong("checkpoint key", error)
    return ok("checkpoint key", f"{path}: {key.id}")


def _writable(part: str, directory: Path) -> list[Finding]:
    nearest = next(place for place in (directory, *directory.absolute().parents) if os.path.exists(place))  # noqa: PTH110 - what cannot be looked at is not there
    if not nearest.is_dir():
        return wrong(part, f"{directory} cannot be made: {nearest} is not a directory")
    if not os.access(nearest, os.W_OK | os.X_OK):
        return wrong(part, f"{directory} cannot be written")
    return ok(part, str(directory))


def _signing(config: Config) -> list[Finding]:
    findings: list[Finding] = []
    path = config.signing_key_file
    if config.signing.extra_keys:
        try:
            public_jwks([], config.signing.extra_keys)
        except ConfigurationError as error:
            findings += wrong("signing key", error)
    if not os.path.lexists(path):  # the first start makes it
        return findings if path.parent == config.state else [*findings, *_writable("signing key", path.parent)]
    try:
        key = load_signing_key(path, algorithm=config.signing.algorithm, group_readable=config.secrets.group_readable)
    except ConfigurationError as error:
        return [*findings, *wrong("signing key", error)]
    return [*findings, *ok("signing key", f"{path}: {key.algorithm}, {key.id}")]


def _bundle(bundle: Path, config: Config) -> list[Finding]:
    try:
        revision = PublishedBundle(bundle).revision()
        asyncio.run(policy_vetting(config, policy_record(config)).admit(revision))
    except BundleError as error:
        return wrong("bundle", f"{error} (ostiary bundle build DIR -o {bundle})")
    except BundleRefused as refused:
        return wrong("bundle", str(refused))
    except ConfigurationError as error:
        return wrong("bundle", error)
    return ok("bundle", f"{bundle}: revision {revision}")
