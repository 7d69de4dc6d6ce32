"""What becomes of services that are only observed. For as long as one is, every caller of the map is let through at
every endpoint of it. So it widens to begin with it, to go on for longer, and to have more callers or paths meanwhile.

Whether an end is over is not asked: the same two policies compare alike whenever that is done.
"""

from __future__ import annotations

from collections.abc import Iterator

from ostiary.clock import written_instant
from ostiary.policy.review.changes import ObservedChange, ObservedKind
from ostiary.policy.review.overlap import shared_paths
from ostiary.policy.review.snapshot import Snapshot


def compare_observed(old: Snapshot, new: Snapshot) -> list[ObservedChange]:
    """Of each service that either observes; also where nothing changed, for that is to be known. Widenings first."""
    found = [_change(old, new, service) for service in sorted(old.observed.keys() | new.observed.keys())]
    return sorted(found, key=lambda change: not change.widening)


def _change(old: Snapshot, new: Snapshot, service: str) -> ObservedChange:
    before, after = old.observed.get(service), new.observed.get(service)
    kind = _kind(before, after)
    wider = tuple(_more(old, new, service)) if before is not None and after is not None else ()
    return ObservedChange(
        kind=kind,
        service=service,
        before=None if before is None else written_instant(before),
        after=None if after is None else written_instant(after),
        widening=kind in ("added", "extended") or bool(wider),
        narrowing=kind in ("removed", "shortened"),
        wider=wider,
    )


def _kind(before: int | None, after: int | None) -> ObservedKind:
    if before is None:
        return "added"
    if after is None:
        return "removed"
    if before == after:
        return "kept"
    return "extended" if after > before else "shortened"


def _more(old: Snapshot, new: Snapshot, service: str) -> Iterator[str]:
    for name, definition in sorted(new.definitions.items()):
        if not old.directory.around(definition):
            yield f"{name} may be somebody who was no caller"
    if old.patterns(service) == new.patterns(service):
        return
    paths = shared_paths(old.services.get(service, {}).values(), new.services[service].values())
    for (was, now), path in paths.items():
        if was is None and now is not None:
            yield f"{new.services[service][now].method} /{'/'.join(path)} was no endpoint"
