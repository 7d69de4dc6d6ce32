"""Eligibilities that cannot be approved, as people are told of them when a bundle is built.

Several for one caller and endpoint are had under the strictest terms of all: approved by whom all of them name, as many
times as the one that wants most. Each can be right by itself, and nobody able to approve what is asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from ostiary.policy.document import Document, read_document
from ostiary.policy.model import Eligibility, PermissionMap


def approving_warnings(path: Path, permissions: PermissionMap) -> Iterator[str]:
    """Complete lines, one for each set of eligibilities that no request gets past."""
    document: Document | None = None
    for together, endpoints in _together(permissions).items():
        entries = [permissions.eligible[index] for index in together]
        able = _able(permissions, entries)
        needed = max(entry.approvals for entry in entries)
        if able is None or able >= needed:
            continue
        document = document or read_document(path)
        *others, last = [document.line(("eligible", index)) for index in together]
        named = ", ".join(endpoints)
        beside = f"line {others[0]}" if len(others) == 1 else f"lines {', '.join(map(str, others))}"
        yield (
            f"{path}:{last}: eligible.{together[-1]}: {entries[0].caller} cannot get {named} of {entries[0].service}:"
            f" together with {beside} {needed} must approve and {able} can"
        )


def _together(permissions: PermissionMap) -> dict[tuple[int, ...], list[str]]:
    """The endpoints that several eligibilities of one caller are about, by the indices of these."""
    found: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for index, entry in enumerate(permissions.eligible):
        for endpoint in entry.endpoints:
            found[entry.caller, entry.service, endpoint].append(index)
    merged: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for (_, _, endpoint), indices in found.items():
        if len(indices) > 1:
            merged[tuple(indices)].append(endpoint)
    return merged


def _able(permissions: PermissionMap, entries: Sequence[Eligibility]) -> int | None:
    """How many people can approve what all of these are about; None where more than can be counted."""
    named = set.intersection(*(set(entry.approvers) for entry in entries))
    people = {permissions.callers[name].individual for name in named}
    if None in people:
        return None  # somebody in a group
    return len(people - {permissions.callers[entries[0].caller].individual})
