"""Services that are only observed, as people are told of them: when a bundle is built, and wherever a map is shown.

Whoever observes lets through what the map does not allow. So it ends, and soon: at most `LONGEST` after the build.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ostiary.clock import written_instant
from ostiary.policy.document import read_document
from ostiary.policy.model import PermissionMap

LONGEST: Final = 31 * 86400
"""Seconds from the build to the end. An end that has been accepted once is accepted for ever: it only comes nearer."""


def observing_mistakes(path: Path, permissions: PermissionMap, *, now: float) -> Iterator[str]:
    """Complete lines about the ends that are too far away. `now` is in Unix seconds."""
    for service, until in _ends(permissions):
        if until - now > LONGEST:
            line = read_document(path).line(("observe", service, "until"))
            yield f"{path}:{line}: observe.{service}.until: is more than {LONGEST // 86400} days away"


def observing_warnings(path: Path, permissions: PermissionMap, *, now: float) -> Iterator[str]:
    """Complete lines about what the map lets through, or did."""
    for service, until in _ends(permissions):
        line = read_document(path).line(("observe", service))
        if until > now:
            told = f"every caller is let through everywhere until {written_instant(until)}"
        else:
            told = f"has ended at {written_instant(until)}: take it out"
        yield f"{path}:{line}: observe.{service}: {told}"


def _ends(permissions: PermissionMap) -> Iterator[tuple[str, int]]:
    yield from ((service, observed.until) for service, observed in permissions.observe.items())
