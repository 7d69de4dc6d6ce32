"""Audits with a chain, made by the real parts in a process of their own time, and ways to tamper with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ostiary.audit import CHECKPOINTS, AuditFiles, AuditKeys, AuditTrail, Chain, Checkpoints, FileAuditLog
from ostiary.audit.findings import Report
from ostiary.audit.keys import read_keys
from ostiary.audit.signed import CheckpointBook
from ostiary.audit.verify import verify
from ostiary.clock import Clock, SystemClock
from ostiary.credential import SigningKey, ensure_signing_key

DAY = 86400.0


@dataclass(frozen=True)
class Place:
    """The directories of one proxy's trail."""

    home: Path

    @property
    def audit(self) -> Path:
        return self.home / "audit"

    @property
    def keys(self) -> Path:
        return self.home / "state" / "audit-keys"

    @property
    def checkpoints(self) -> Path:
        return self.home / "state" / "checkpoints"

    @property
    def signer(self) -> SigningKey:
        return ensure_signing_key(self.home / "state" / "checkpoint-key.pem")

    def files(self) -> list[Path]:
        return sorted(self.audit.glob("*.ndjson"))

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for path in self.files() for line in path.read_bytes().splitlines()]


def chained(
    place: Place,
    *,
    worker: str = "w0",
    clock: Clock | None = None,
    max_bytes: int = 1 << 20,
    keep: int | None = None,
    lifetime: float = DAY,
    written: Callable[[bytes], None] | None = None,
) -> tuple[AuditFiles, Chain]:
    """A sink with a chain, and the chain."""
    clock = clock or SystemClock()
    chain = Chain(worker=worker, keys=AuditKeys(place.keys, lifetime=lifetime), clock=clock)
    return AuditFiles(
        directory=place.audit, worker=worker, clock=clock, max_bytes=max_bytes, keep=keep, chain=chain, written=written
    ), chain


def checkpoints(place: Place, chain: Chain, *, interval: float = 0.05, **settings: Any) -> Checkpoints:
    clock = SystemClock()
    sink = AuditFiles(directory=place.checkpoints, worker="w0", clock=clock, max_bytes=1 << 20, prefix=CHECKPOINTS)
    return Checkpoints(
        sink=sink, signer=place.signer, worker="w0", clock=clock, head=lambda: chain.head, interval=interval, **settings
    )


def trail(place: Place, **settings: Any) -> AuditTrail:
    """The sink of a whole trail, with a checkpoint for each run that ends."""
    files, chain = chained(place, **settings)
    return AuditTrail(files, checkpoints(place, chain), worker="w0", clock=SystemClock())


def trail_log(place: Place, **settings: Any) -> FileAuditLog:
    return FileAuditLog(sink=trail(place, **settings), worker="w0", clock=SystemClock())


def record(number: int, *, size: int = 0) -> bytes:
    """A line that a record could leave: its decision id is its number."""
    filling = "x" * size
    return b'{"schema":1,"kind":"decision","time":"2026-09-21T14:13:20.000Z","decision_id":"%032x","path":"/%b"}\n' % (
        number,
        filling.encode(),
    )


def written(place: Place, groups: Sequence[Sequence[int]], *, end: bool = True, **settings: Any) -> None:
    """One run of a worker that writes these groups of records. Without `end` it is as if it had been killed."""
    files, chain = chained(place, **settings)
    signing = checkpoints(place, chain)
    sink = AuditTrail(files, signing, worker="w0", clock=SystemClock())
    sink.open()
    for group in groups:
        sink.append([record(number) for number in group])
    if end:
        sink.close()
    else:
        signing.close()  # only so that no thread outlives the test: a checkpoint covers what there is


def verified(place: Place, **settings: Any) -> Report:
    """What verifying says, with the keys and the checkpoints of the place."""
    private = load_pem_private_key(place.signer.pem(), password=None)
    keys = {place.signer.id: private.public_key()}
    book = CheckpointBook([place.checkpoints], keys=keys) if place.checkpoints.exists() else None
    return verify([place.audit], keys=read_keys(place.keys), checkpoints=book, **settings)


def found(report: Report) -> list[tuple[str, str | None, int | None, int | None]]:
    """Kind, file's number, line and seq of each finding."""
    return [(one.kind, None if one.file is None else one.file[-9:-7], one.line, one.seq) for one in report.findings]


def notes(report: Report) -> list[str]:
    return [one.kind for one in report.remarks if not one.finding]


def rewrite(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the lines of a file."""
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
