"""Another configuration for a proxy that runs: read and checked whole, before anything is changed.

What the supervisor has once and gave to others (addresses, the state directory, OPA) stays as it is until a restart; a
file that says otherwise is refused with the name of the key, rather than taken over in part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from ostiary.certificates import listener_files
from ostiary.config import Config, load_config
from ostiary.credential import load_signing_key, public_jwks
from ostiary.errors import ConfigurationError
from ostiary.named_files import mistakes_in_files
from ostiary.policy.document import Place, read_document
from ostiary.stage_settings import upstream_settings

FIXED: Final[tuple[Place, ...]] = (
    ("listen", "data"),
    ("listen", "admin"),
    ("listen", "dpop", "proofs"),
    ("workers",),
    ("state",),
    ("opa", "managed"),
    ("opa", "url"),
    ("opa", "token"),
    ("opa", "ca_file"),
    ("opa", "minimum_revision"),
    ("opa", "rollback"),
    ("opa", "report_to"),
    ("grants",),
    ("candidate", "bundle"),
)
"""What takes a restart to change."""


def reread(path: Path, environ: Mapping[str, str], *, running: Config) -> Config:
    """The configuration as it is now. Raises `ConfigurationError` with every reason why it cannot take the place of the
    one that runs."""
    fresh = load_config(path, environ)
    document = read_document(path)
    mistakes = [
        f"{path}:{document.line(place)}: {'.'.join(map(str, place))} cannot be changed while the proxy runs: restart it"
        for place in changed(running, fresh)
    ]
    if mistakes:
        raise ConfigurationError(mistakes)
    _refuse_unusable(fresh)
    return fresh


def changed(before: Config, after: Config) -> Iterator[Place]:
    """Those of `FIXED` that differ: of a model, each key that does."""
    for place in FIXED:
        yield from _differing(place, _at(before, place), _at(after, place))


def _at(config: Config, place: Place) -> Any:
    found: Any = config
    for step in place:
        if found is None:
            return None
        found = getattr(found, str(step))
    return found


def _differing(place: Place, before: Any, after: Any) -> Iterator[Place]:
    if before == after:
        return
    if isinstance(before, BaseModel) and isinstance(after, BaseModel) and type(before) is type(after):
        for name in type(before).model_fields:
            yield from _differing((*place, name), getattr(before, name), getattr(after, name))
    else:
        yield place


def refuse_unusable_files(config: Config) -> None:
    """Raise `ConfigurationError` with every file of an issuer or of OPA that cannot be used.

    Later they may come and go, and what was read last is used; of what is new, nothing was read before.
    """
    mistakes = [told for _, told in mistakes_in_files(config)]
    if mistakes:
        raise ConfigurationError(mistakes)


def _refuse_unusable(config: Config) -> None:
    """What a worker would fail over when it starts: said here of all of it at once."""
    mistakes: list[str] = []
    for check in (refuse_unusable_files, _signing, _tls, _upstreams, _webhooks):
        try:
            check(config)
        except ConfigurationError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigurationError(mistakes)


def _signing(config: Config) -> None:
    key = load_signing_key(
        config.signing_key_file, algorithm=config.signing.algorithm, group_readable=config.secrets.group_readable
    )
    public_jwks([key.public], config.signing.extra_keys)


def _tls(config: Config) -> None:
    files = listener_files(config)
    if files is not None:
        files.load()


def _upstreams(config: Config) -> None:
    for service in config.services.values():
        if service.upstream.scheme == "https":
            upstream_settings(service, config).tls.context()


def _webhooks(config: Config) -> None:
    if config.grants is not None and config.grants.webhooks:
        from ostiary.notifying import configured  # imported here: most configurations have none

        configured(config)
