"""Where the audit is written, and the keys that prove it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from ostiary.config.fields import FilePath, SyslogRelay
from ostiary.policy.model import Strict
from ostiary.policy.values import Duration, Size, mistakes_at


class Audit(Strict):
    """The record of every request. No record, no access."""

    path: FilePath = Field(default=Path("audit"), validate_default=True)
    """The directory that holds the audit files."""
    max_bytes: Annotated[int, Size(least=64 * 1024, most=1024**4)] = 100 * 1024**2
    """The size at which a file is closed and the next begun."""
    keep: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """How many closed files are kept. All if null."""
    sync: bool = False
    """Whether each group of records is forced to the disk before a request goes on. Records survive the death of the
    process either way; only with `true` they survive a power loss."""
    deadline: Annotated[float, Duration(least=0.01, most=60)] = 1.0
    """How long writing may take; later is 503."""
    keys: FilePath | None = None
    """The directory of the keys that seal the records, apart from them. `audit-keys` below `state` if left out."""
    key_lifetime: Annotated[int, Duration(least=60, most=366 * 86400, whole=True)] = 86400
    """How long one key is sealed with before the next is made. Whole seconds."""
    checkpoints: FilePath | None = None
    """The directory that is told once a second where each chain stands: best another disk, or another machine's.
    `checkpoints` below `state` if left out."""
    checkpoint_key: FilePath | None = None
    """PEM file of the Ed25519 key that signs checkpoints, made at the first start where it is absent.
    `checkpoint-key.pem` below `state` if left out."""

    syslog: SyslogRelay | None = None
    """A relay on this machine that gets a copy of every record and checkpoint: `unix:/dev/log`, or `udp:` or `tcp:`
    with a loopback `host:port`. No request waits for it; what it does not take is counted."""

    @model_validator(mode="after")
    def _apart(self) -> Audit:
        found = [
            ((key,), f"is in the directory of the audit, {self.path}: whoever can change that could change both")
            for key in ("keys", "checkpoints", "checkpoint_key")
            if (place := getattr(self, key)) is not None and place.absolute().is_relative_to(self.path.absolute())
        ]
        if found:
            raise mistakes_at(found, lacking=())
        return self
