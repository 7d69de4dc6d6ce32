"""Which OPA has which revision, since when: what OPAs say of themselves (their status plugin), kept with bounds.

A report that came through a proxy says also what that makes of OPA's bundle (`decision.verdict`).

A report is what whoever may read bundles claims. Of each only a few short texts are kept, of so many OPAs and no more:
the one that was silent the longest makes room. Since when it has its revision is told by this clock, not by OPA's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from ostiary.bounded import BoundedMap
from ostiary.clock import Clock
from ostiary.decision.verdict import LARGEST_REPORT, LONGEST_REASON, MEMBER
from ostiary.models import Json
from ostiary.strictjson import NotStrict, read_object

LARGEST: Final = LARGEST_REPORT + 4 * 1024
"""Bytes of a report, with what a proxy has added to OPA's."""
FORGOTTEN: Final = 3600.0
"""Seconds after which an OPA that reports no more is not shown any more."""
SILENT: Final = 900.0
"""Seconds without a report after which an OPA is thought to be gone. With long polling it reports after each wait."""
REPLACED: Final = 120.0
"""Seconds without a report after which one is thought to be replaced by another of the same name that does report:
some of the waits after which OPA reports."""

_MOST: Final = 10_000
_BUNDLES: Final = 8
_TEXT: Final = 128


class NoReport(Exception):
    """This is no report of OPA's. The message is a clause, without the report's own text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one OPA said last of one bundle. Instants are Unix seconds.

    `proxy` is its label of that name, or else its id, which is another one after each start. `resource` is the last
    part of its label of that name: what it gets its bundle as, where that is not the bundle's name. `error` is why its
    last attempt to get or to activate a bundle failed, None if it did not. `counts` is the revision by which the proxy
    decides and `refused` why that is not OPA's, both None where no proxy told.
    """

    id: str
    proxy: str
    version: str
    address: str
    bundle: str
    resource: str | None
    revision: str | None
    since: float
    heard: float
    error: str | None
    counts: str | None = None
    refused: str | None = None

    def published_as(self, names: Collection[str]) -> str | None:
        """Which of these published bundles is the one that it gets; None if it is none of them.

        OPA does not report from where it has a bundle, so its name has to say it, or the label.
        """
        name = self.resource or self.bundle
        return next((each for each in (name, f"{name}.tar.gz") if each in names), None)

    def document(self) -> dict[str, Json]:
        return {
            "proxy": self.proxy,
            "id": self.id,
            "version": self.version,
            "address": self.address,
            "bundle": self.bundle,
            "resource": self.resource,
            "revision": self.revision,
            "since": self.since,
            "heard": self.heard,
            "error": self.error,
            "counts": self.counts,
            "refused": self.refused,
        }


class Reports:
    """The latest report of each OPA about each bundle.

    OPA has another id after each start. So where several have one name, one of which nothing was heard for `REPLACED`
    seconds while another reported is what was started again. What has the same name and does report is shown beside it.
    """

    def __init__(self, *, clock: Clock, most: int = _MOST) -> None:
        self._clock = clock
        self._reports: BoundedMap[tuple[str, str], Report] = BoundedMap(most)  # by OPA's id and bundle

    def take(self, body: bytes, *, address: str) -> None:
        """Keep what OPA at this address posted. Raises `NoReport`."""
        try:
            document = read_object(body)
        except NotStrict as error:
            raise NoReport(str(error)) from error
        labels = document.get("labels")
        bundles = document.get("bundles")
        if not isinstance(labels, dict) or not (identifier := _text(labels.get("id"))):
            raise NoReport("its labels have no id")
        if bundles is None:
            return  # before OPA has looked for one
        if not isinstance(bundles, dict):
            raise NoReport("its bundles are not an object")
        now = self._clock.now()
        for name, status in list(bundles.items())[:_BUNDLES]:
            if not isinstance(status, dict) or not (bundle := _text(name)):
                continue
            verdict = _verdict(document, status)
            self._keep(
                Report(
                    id=identifier,
                    proxy=_text(labels.get("proxy")) or identifier,
                    version=_text(labels.get("version")) or "",
                    address=address,
                    bundle=bundle,
                    resource=_last_part(labels.get("resource")),
                    revision=_text(status.get("active_revision")),
                    since=now,
                    heard=now,
                    error=_error(status),
                    counts=_text(verdict.get("counts")),
                    refused=_text(verdict.get("refused"), LONGEST_REASON),
                )
            )

    def latest(self) -> list[Report]:
        """By the proxies' names."""
        now = self._clock.now()
        kept = [one for one in self._reports.values() if one.heard > now - FORGOTTEN]
        newest: dict[tuple[str, str], float] = {}
        for one in kept:
            newest[one.proxy, one.bundle] = max(newest.get((one.proxy, one.bundle), 0.0), one.heard)
        shown = [one for one in kept if one.heard == newest[one.proxy, one.bundle] or one.heard > now - REPLACED]
        return sorted(shown, key=lambda one: (one.proxy, one.bundle, one.id))

    def _keep(self, report: Report) -> None:
        before = self._reports.get((report.id, report.bundle))
        if before is not None and before.revision == report.revision:
            report = replace(report, since=before.since)
        self._reports.put((report.id, report.bundle), report)


def _verdict(document: dict[str, Json], status: dict[str, Json]) -> dict[str, Json]:
    """What the proxy makes of this bundle: what it says is about the one that it found active."""
    verdict = document.get(MEMBER)
    if not isinstance(verdict, dict) or verdict.get("active") != status.get("active_revision"):
        return {}
    return verdict


def _error(status: dict[str, Json]) -> str | None:
    code = _text(status.get("code"))
    if not code:
        return None
    return _text(status.get("message"), LONGEST_REASON) or code


def _last_part(path: Json) -> str | None:
    return _text(path.rpartition("/")[2]) if isinstance(path, str) else None


def _text(value: Json, most: int = _TEXT) -> str | None:
    """A short text in one line, cut off where it is long; None for what is none, or is empty."""
    if not isinstance(value, str) or not value:
        return None
    return "".join(each if each.isprintable() else " " for each in value[:most])
