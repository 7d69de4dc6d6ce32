"""What a proxy remembers of its policy from start to start: `state/policy.json`.

For each bundle, by its name: the revision with the highest sequence that was ever active, the one that is active, and
when that was last known to be the published one. So a restart makes neither an older bundle good nor a stale one new.

The supervisor writes it, workers read it when they start. It is replaced whole, and is on the disk before a bundle
counts. One that cannot be read is an error: without it nobody knows which bundles are older.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from ostiary.decision.revision import Revision
from ostiary.disk import replacing
from ostiary.errors import ConfigurationError
from ostiary.models import Json
from ostiary.strictjson import NotStrict, read_object

_log = logging.getLogger("ostiary.opa")

_FORMAT: Final = 1
_LIMIT: Final = 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """Of one bundle. `confirmed` is in Unix seconds: of `active`, or of when that was first seen."""

    highest: Revision
    active: Revision
    confirmed: float

    @property
    def rolled_back(self) -> bool:
        """Whether a signed statement took back what was active before."""
        return self.active.sequence < self.highest.sequence


class PolicyRecord:
    """`name` is the bundle's. Without a `path` nothing outlives this object."""

    def __init__(self, *, path: Path | None = None, name: str = "") -> None:
        self._path = path
        self._name = name
        self._bundles: dict[str, Json] = {}
        self.remembered: Remembered | None = None

    @classmethod
    def read(cls, path: Path, *, name: str) -> PolicyRecord:
        """What is there, or nothing yet. Raises `ConfigurationError` if it cannot be read."""
        record = cls(path=path, name=name)
        try:
            with path.open("rb") as file:
                document = read_object(file.read(_LIMIT))
            record._bundles = _bundles(document)
            if name in record._bundles:
                record.remembered = _remembered(record._bundles[name])
        except (FileNotFoundError, NotADirectoryError):
            pass  # nothing yet; that the directory is none, is said where it is made
        except OSError as error:
            raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from error
        except (NotStrict, ValueError) as error:
            raise ConfigurationError(
                [f"{path}: is not what a proxy remembers of its policy ({error}): restore it, or delete it knowingly"]
            ) from error
        return record

    def took(self, revision: Revision, *, now: float) -> None:
        """It is active from now on. On the disk when this returns; raises `OSError`."""
        known = self.remembered
        if known is not None and known.active == revision:
            return
        highest = revision if known is None or revision.sequence >= known.highest.sequence else known.highest
        self._write(Remembered(highest=highest, active=revision, confirmed=now), surely=True)

    def confirm(self, revision: Revision, at: float) -> None:
        """`revision` was the published one at `at` (Unix seconds). Nothing, where it is not the active one."""
        known = self.remembered
        if known is None or known.active != revision or at <= known.confirmed:
            return
        self._write(Remembered(highest=known.highest, active=revision, confirmed=at), surely=False)

    def _write(self, remembered: Remembered, *, surely: bool) -> None:
        entry: dict[str, Json] = {
            "highest": str(remembered.highest),
            "active": str(remembered.active),
            "confirmed": remembered.confirmed,
        }
        bundles = {**self._bundles, self._name: entry}
        if self._path is not None:
            with replacing(self._path, surely=surely) as file:
                file.write(orjson.dumps({"format": _FORMAT, "bundles": bundles}) + b"\n")
        self._bundles, self.remembered = bundles, remembered


class ConfirmationMemory:
    """Remembers confirmations now and then: each look at OPA would be a write. `most` is how old a policy may be, in
    seconds; what is remembered is behind what is known by a tenth of that, or a minute, at most."""

    def __init__(self, record: PolicyRecord, *, most: float) -> None:
        self._record = record
        self.limit(most)

    def limit(self, most: float) -> None:
        """From now on a policy may be so old."""
        self._step = min(60.0, most / 10)

    def confirmed(self, revision: Revision, at: float) -> None:
        known = self._record.remembered
        if known is None or at - known.confirmed < self._step:
            return
        try:
            self._record.confirm(revision, at)
        except OSError as error:
            _log.warning("when the policy was confirmed cannot be remembered: %s", error)


def _bundles(document: dict[str, Json]) -> dict[str, Json]:
    bundles = document.get("bundles")
    if document.get("format") != _FORMAT or not isinstance(bundles, dict):
        raise ValueError("another format")
    return bundles


def _remembered(entry: Json) -> Remembered:
    found = entry if isinstance(entry, dict) else {}
    highest, active = Revision.parse(found.get("highest")), Revision.parse(found.get("active"))
    confirmed = found.get("confirmed")
    if highest is None or active is None or isinstance(confirmed, bool) or not isinstance(confirmed, int | float):
        raise ValueError("a member is missing or wrong")
    return Remembered(highest=highest, active=active, confirmed=float(confirmed))
