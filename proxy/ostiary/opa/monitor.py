"""How old the policy is, and whether OPA is there: looked at in the background, so that no request has to.

OPA keeps serving the bundle it has when it cannot get a newer one, for ever. So the age of a policy is not the time
since it was published but the time since it was last *known to be* the published one, and who knows that differs:

* a managed OPA loads a directory, and the directory says what is published (`BundlePublication`);
* an external OPA polls a bundle server, and its status plugin says when that last succeeded (`StatusPublication`).
  Without the plugin nobody knows, and the age runs from when the revision was first seen here: such an OPA is trusted
  for `max_policy_age` after each new revision and no longer.

A revision that nobody has confirmed yet was activated since the last look, and counts from when it is first seen. The
first confirmation puts that right: after a start, a policy may have been old long before it was seen here. What was
known before the start is remembered (`record`), so that a restart makes no policy younger.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, Literal, Protocol, TypeAlias

from ostiary.bounded import BoundedMap
from ostiary.clock import Clock
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.revision import Revision
from ostiary.errors import PolicyUnavailable
from ostiary.models import Json
from ostiary.opa.background import Background
from ostiary.opa.bundle import BundleError, PublishedBundle
from ostiary.opa.client import OpaClient
from ostiary.opa.record import Remembered

_log = logging.getLogger("ostiary.opa")

State: TypeAlias = Literal["starting", "serving", "refused", "down"]
"""`starting` until OPA answered for the first time; then whether it answered when it was last looked at, and by a
bundle that may be used."""

Judge: TypeAlias = Callable[[Revision], Awaitable[str | None]]
"""Told which bundle is active, at each look: why it may not be used, None if it may."""

_SOON: Final = 0.25
"""Seconds between two looks while nothing is served: whoever waits is to be served as soon as it can be."""
_REVISIONS: Final = 8  # revisions remembered; two are active at most


class Publication(Protocol):
    async def confirmed(self, revision: str) -> float | None:
        """Unix seconds at which `revision`, active now, was last known to be the published one; None if unknown."""


class BundlePublication:
    """What is published is the bundle directory or archive."""

    def __init__(self, *, bundle: PublishedBundle, clock: Clock) -> None:
        self._bundle = bundle
        self._clock = clock

    async def confirmed(self, revision: str) -> float | None:
        try:
            published = self._bundle.revision()
        except BundleError as error:
            _log.warning("%s", error)
            return None
        return self._clock.now() if str(published) == revision else None


class StatusPublication:
    """What is published is what OPA's bundle server says; OPA's status plugin tells when it last did."""

    def __init__(self, *, opa: OpaClient) -> None:
        self._opa = opa
        self._warned = False

    async def confirmed(self, revision: str) -> float | None:
        try:
            status = await self._opa.status()
        except PolicyUnavailable as unavailable:
            if not self._warned:
                self._warned = True
                _log.warning(
                    "OPA at %s does not tell how old its bundle is (%s): enable its status plugin",
                    self._opa.address,
                    unavailable.detail,
                )
            return None
        bundles = status.get("bundles")
        times = [
            instant
            for bundle in (bundles.values() if isinstance(bundles, dict) else ())
            if isinstance(bundle, dict) and bundle.get("active_revision") == revision
            if (instant := _instant(bundle.get("last_successful_request"))) is not None
        ]
        return max(times, default=None)


def _instant(value: Json) -> float | None:
    """An RFC 3339 time as OPA writes it, with up to nine decimals. Go's zero time means never."""
    try:
        found = datetime.fromisoformat(value).timestamp() if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None
    return found if found is not None and found > 0 else None


class PolicyMonitor(Background):
    """Looks at OPA every `interval` seconds while it is open (`async with`), and more often while OPA does not serve.
    Implements `decision.query.Freshness`.

    `horizon`, where there is one, is told of the bundle that is found active, and `judge` is asked about it.
    `remembered` is from before the start, and `confirmed` is called with what is to be remembered.
    """

    _name = "ostiary-policy-monitor"

    def __init__(
        self,
        *,
        opa: OpaClient,
        publication: Publication,
        clock: Clock,
        horizon: PolicyHorizon | None = None,
        judge: Judge | None = None,
        remembered: Remembered | None = None,
        confirmed: Callable[[Revision, float], None] = lambda *_: None,
        interval: float = 5.0,
    ) -> None:
        self._opa = opa
        self._publication = publication
        self._clock = clock
        self._horizon = horizon
        self._judge = judge
        self._remember = confirmed
        self.interval = interval
        self._counts_from: BoundedMap[str, float] = BoundedMap(_REVISIONS)
        self._confirmed: BoundedMap[str, float] = BoundedMap(_REVISIONS)
        if remembered is not None:
            self._counts_from.put(str(remembered.active), remembered.confirmed)
        self._nudged = asyncio.Event()
        self._looking = asyncio.Lock()
        self.state: State = "starting"
        self.revision: str | None = None
        self.refused: str | None = None
        self.looked: Callable[[], None] = lambda: None
        """Called after each look."""

    def nudge(self) -> None:
        """Look now, and not only when the interval is over."""
        self._nudged.set()

    def age(self, revision: str) -> float:
        """Seconds since `revision` was last known to be the published one, or was first seen if it never was."""
        now = self._clock.now()
        known = self._counts_from.get(revision)
        if known is None:
            self._counts_from.put(revision, now)
            return 0.0
        return max(now - known, 0.0)

    async def look(self) -> None:
        """Look once: at health, at the active revision, and at whether that one is still the published one.

        One after the other: an earlier look must not judge what a later one has judged already.
        """
        async with self._looking:
            await self._look()
        self.looked()

    async def _look(self) -> None:
        horizon = self._horizon
        changes = 0 if horizon is None else horizon.changes
        try:
            _, revision = await asyncio.gather(self._opa.check_health(), self._opa.revision())
        except PolicyUnavailable as unavailable:
            self._found("down", unavailable.detail)
            return
        self.revision = revision
        if revision is None:
            self._found("down", "no bundle is active")
            return
        if horizon is not None:
            horizon.saw(revision, asked=changes)
        if not await self._may_be_used(revision):
            return
        self._found("serving", f"the bundle {revision} is active")
        confirmed = await self._publication.confirmed(revision)
        if confirmed is None:
            self.age(revision)  # counts from now, if it was not seen before
            return
        known = self._confirmed.get(revision)
        if known is None or confirmed > known:
            confirmed = min(confirmed, self._clock.now())
            self._confirmed.put(revision, confirmed)
            self._counts_from.put(revision, confirmed)
            if (parsed := Revision.parse(revision)) is not None:
                self._remember(parsed, confirmed)

    async def _may_be_used(self, text: str) -> bool:
        if self._judge is None:
            return True
        revision = Revision.parse(text)
        try:
            said = f"{text!r} is not <sequence>-<digest>" if revision is None else await self._judge(revision)
        except PolicyUnavailable as unavailable:
            self._found("down", unavailable.detail)
            return False
        if said is not None:
            self._found("refused", said, again=said != self.refused)
        self.refused = said
        return said is None

    async def _run(self) -> None:
        while True:
            self._nudged.clear()
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - without looks every policy would go stale, for as long as this process lives
                _log.exception("the look at OPA failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.interval if self.state == "serving" else min(self.interval, _SOON)):
                    await self._nudged.wait()

    def _found(self, state: State, why: str, *, again: bool = False) -> None:
        """Log it if the state is another one, or if it is so `again` for another reason."""
        if state != self.state or again:
            _log.log(logging.INFO if state == "serving" else logging.WARNING, "OPA is %s: %s", state, why)
        self.state = state
