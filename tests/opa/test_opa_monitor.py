"""How old the policy is known to be."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from ostiary.clock import ManualClock
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.revision import Revision
from ostiary.opa.address import OpaAddress
from ostiary.opa.bundle import BundleError, PublishedBundle
from ostiary.opa.client import OpaClient
from ostiary.opa.monitor import BundlePublication, PolicyMonitor, StatusPublication
from ostiary.opa.record import Remembered
from support.opa import NOW, REVISION, FakeOpa, response, until, write_bundle


class OpaWithStatus(FakeOpa):
    """Healthy, with this revision, and with this status (None: its plugin is off)."""

    def __init__(self, revision: str | None = REVISION, status: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.revision = revision
        self.status = status
        self.healthy = True
        self.reply = self._answer

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        path = self.requests[-1].split(b" ")[1]
        if path.startswith(b"/health"):
            writer.write(response(b"{}", status=200 if self.healthy else 500))
        elif path == b"/v1/status" and self.status is None:
            off = {"code": "internal_error", "message": "status plugin not enabled"}
            writer.write(response(json.dumps(off).encode(), status=500))
        elif path == b"/v1/status":
            writer.write(response(json.dumps({"result": self.status}).encode()))
        else:
            bundles = {} if self.revision is None else {"main": {"revision": self.revision}}
            writer.write(response(json.dumps({"provenance": {"bundles": bundles}}).encode()))


def status(revision: str, at: str) -> dict[str, Any]:
    return {"bundles": {"main": {"name": "main", "active_revision": revision, "last_successful_request": at}}}


async def test_a_directory_confirms_what_it_holds(tmp_path: Path) -> None:
    clock, opa = ManualClock(float(NOW)), OpaWithStatus()
    bundle = PublishedBundle(write_bundle(tmp_path / "bundle"))
    async with opa.listening() as address, OpaClient(address=OpaAddress.parse(address)) as client:
        monitor = PolicyMonitor(
            opa=client,
            publication=BundlePublication(bundle=bundle, clock=clock),
            clock=clock,
            horizon=PolicyHorizon(),
        )
        await monitor.look()
        assert (monitor.state, monitor.revision, monitor.age(REVISION)) == ("serving", REVISION, 0)
        clock.advance(100)
        assert monitor.age(REVISION) == 100
        await monitor.look()
        assert monitor.age(REVISION) == 0
        # Something newer is published and OPA does not take it over: now the age grows, looked at or not.
        write_bundle(bundle.path, revision="8-ff")
        clock.advance(50)
        await monitor.look()
        assert monitor.age(REVISION) == 50
        (bundle.path / ".manifest").unlink()
        clock.advance(50)
        await monitor.look()
        assert monitor.age(REVISION) == 100
        # OPA has taken it over since the last look.
        assert monitor.age("8-ff") == 0
        clock.advance(7)
        assert monitor.age("8-ff") == 7


async def test_the_status_plugin_confirms_with_the_time_of_its_last_success() -> None:
    clock = ManualClock(float(NOW))  # 2026-09-21T14:13:20Z
    opa = OpaWithStatus(status=status(REVISION, "2026-09-21T14:13:10.123456789Z"))
    async with opa.listening() as address, OpaClient(address=OpaAddress.parse(address)) as client:
        monitor = PolicyMonitor(
            opa=client, publication=StatusPublication(opa=client), clock=clock, horizon=PolicyHorizon()
        )
        await monitor.look()
        assert monitor.age(REVISION) == pytest.approx(9.88, abs=0.01)
        clock.advance(1000)  # the bundle server is away: no later success
        await monitor.look()
        assert monitor.age(REVISION) == pytest.approx(1009.88, abs=0.01)


@pytest.mark.parametrize(
    "found",
    [
        None,
        {},
        {"bundles": None},
        {"bundles": {"main": None}},
        status("6-old", "2026-09-21T14:13:10Z"),
        status(REVISION, "0001-01-01T00:00:00Z"),
        status(REVISION, "yesterday"),
        {"bundles": {"main": {"active_revision": REVISION}}},
    ],
    ids=repr,
)
async def test_without_a_confirmation_the_age_runs_from_the_first_sight(found: dict[str, Any] | None) -> None:
    clock, opa = ManualClock(float(NOW)), OpaWithStatus(status=found)
    async with opa.listening() as address, OpaClient(address=OpaAddress.parse(address)) as client:
        monitor = PolicyMonitor(
            opa=client, publication=StatusPublication(opa=client), clock=clock, horizon=PolicyHorizon()
        )
        await monitor.look()
        clock.advance(60)
        await monitor.look()
        assert monitor.age(REVISION) == 60


async def test_a_policy_that_was_old_before_it_was_seen_is_as_old_as_it_is() -> None:
    """A request can be decided before the first look: else a restart would make a stale policy new."""
    clock = ManualClock(float(NOW))
    opa = OpaWithStatus(status=status(REVISION, "2026-09-20T14:13:20Z"))
    async with opa.listening() as address, OpaClient(address=OpaAddress.parse(address)) as client:
        monitor = PolicyMonitor(
            opa=client, publication=StatusPublication(opa=client), clock=clock, horizon=PolicyHorizon()
        )
        assert monitor.age(REVISION) == 0
        await monitor.look()
        assert monitor.age(REVISION) == 86400


async def test_an_opa_that_does_not_tell_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    opa = OpaWithStatus()
    async with opa.listening() as address, OpaClient(address=OpaAddress.parse(address)) as client:
        monitor = PolicyMonitor(
            opa=client, publication=StatusPublication(opa=client), clock=ManualClock(), horizon=PolicyHorizon()
        )
        await monitor.look()
        await monitor.look()
    assert caplog.text.count("enable its status plugin") == 1


async def test_a_time_in_the_future_makes_nothing_younger_than_now() -> None:
    clock, opa = ManualClock(float(NOW)), OpaWithStatus(status=status(REVISION, "2036-09-21T14:13:10Z"))
    async with opa.listening() as address, OpaClient(address=OpaAddress.parse(address)) as client:
        monitor = PolicyMonitor(
            opa=client, publication=StatusPublication(opa=client), clock=clock, horizon=PolicyHorizon()
        )
        await monitor.look()
        opa.status = status(REVISION, "yesterday")
        clock.advance(10)
        await monitor.look()
        assert monitor.age(REVISION) == 10


async def test_it_looks_by_itself_and_says_when_opa_goes_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="ostiary.opa")
    clock, opa = ManualClock(float(NOW)), OpaWithStatus()

    async def until(state: str) -> None:
        async with asyncio.timeout(5):
            while monitor.state != state:  # noqa: ASYNC110  # the monitor runs on its own
                await asyncio.sleep(0.005)

    async with opa.listening() as address, OpaClient(address=OpaAddress.parse(address)) as client:
        monitor = PolicyMonitor(
            opa=client, publication=StatusPublication(opa=client), clock=clock, horizon=PolicyHorizon(), interval=0.01
        )
        assert monitor.state == "starting"
        async with monitor:
            await until("serving")
            opa.healthy = False
            await until("down")
            opa.healthy = True
            await until("serving")
            opa.revision = None
            await until("down")
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("OPA is")]
    assert lines == [
        f"OPA is serving: the bundle {REVISION} is active",
        "OPA is down: OPA answered 500",
        f"OPA is serving: the bundle {REVISION} is active",
        "OPA is down: no bundle is active",
    ]


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (None, "no manifest that can be read"),
        ("{", "cannot be read: not JSON"),
        ('{"revision":"7-a","revision":"8-b"}', "cannot be read: a member occurs twice"),
        ("[]", "cannot be read: not a JSON object"),
        ("{}", "no revision of the form"),
        ('{"revision":7}', "no revision of the form"),
        ('{"revision":"v7"}', "no revision of the form"),
    ],
)
def test_a_directory_that_is_no_bundle_has_no_revision(tmp_path: Path, manifest: str | None, words: str) -> None:
    if manifest is not None:
        (tmp_path / ".manifest").write_text(manifest)
    with pytest.raises(BundleError, match=words):
        PublishedBundle(tmp_path).revision()


async def test_a_bundle_that_is_found_active_comes_to_count() -> None:
    opa, horizon = OpaWithStatus(), PolicyHorizon()
    async with opa.listening() as address, OpaClient(address=OpaAddress.parse(address)) as client:
        monitor = PolicyMonitor(
            opa=client,
            publication=StatusPublication(opa=client),
            clock=ManualClock(),
            horizon=horizon,
        )
        await monitor.look()
    assert horizon.current == REVISION


async def test_a_bundle_that_may_not_be_used_is_not_confirmed(caplog: pytest.LogCaptureFixture) -> None:
    clock, opa = ManualClock(float(NOW)), OpaWithStatus(status=status(REVISION, "2026-09-21T14:13:20Z"))
    said: list[str | None] = ["it is older", None]

    async def judge(revision: Revision) -> str | None:
        assert str(revision) == REVISION
        return said.pop(0)

    async with opa.listening() as address, OpaClient(address=OpaAddress.parse(address)) as client:
        monitor = PolicyMonitor(opa=client, publication=StatusPublication(opa=client), clock=clock, judge=judge)
        await monitor.look()
        assert (monitor.state, monitor.refused) == ("refused", "it is older")
        assert not [one for one in opa.requests if b"/v1/status" in one]
        await monitor.look()
        assert (monitor.state, monitor.refused) == ("serving", None)
    assert "OPA is refused: it is older" in caplog.text


async def test_what_was_known_before_the_start_is_not_forgotten() -> None:
    """A restart makes no policy younger that nobody confirms."""
    clock, opa, told = ManualClock(float(NOW)), OpaWithStatus(), list[tuple[str, float]]()
    revision = Revision(7, "0a1b2c3d")
    before = Remembered(highest=revision, active=revision, confirmed=NOW - 500.0)
    async with opa.listening() as address, OpaClient(address=OpaAddress.parse(address)) as client:
        monitor = PolicyMonitor(
            opa=client,
            publication=StatusPublication(opa=client),
            clock=clock,
            remembered=before,
            confirmed=lambda one, at: told.append((str(one), at)),
        )
        await monitor.look()
        assert monitor.age(REVISION) == 500
        assert told == []
        opa.status = status(REVISION, "2026-09-21T14:13:10Z")
        await monitor.look()
        assert monitor.age(REVISION) == 10
        assert told == [(REVISION, NOW - 10.0)]


async def test_a_nudge_is_a_look_at_once() -> None:
    opa = OpaWithStatus()
    async with opa.listening() as address, OpaClient(address=OpaAddress.parse(address)) as client:
        horizon = PolicyHorizon()
        monitor = PolicyMonitor(
            opa=client,
            publication=StatusPublication(opa=client),
            clock=ManualClock(),
            horizon=horizon,
            interval=3600,
        )
        async with monitor:
            await until(lambda: len(opa.requests) == 3)  # health, revision and status
            monitor.nudge()
            await until(lambda: len(opa.requests) == 6)


class Failing:
    """A `Publication` that fails as nobody foresaw, and counts."""

    def __init__(self) -> None:
        self.asked = 0

    async def confirmed(self, revision: str) -> float | None:
        self.asked += 1
        raise OSError("odd")


async def test_a_look_that_fails_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    opa, publication = OpaWithStatus(), Failing()
    async with opa.listening() as address, OpaClient(address=OpaAddress.parse(address)) as client:
        monitor = PolicyMonitor(
            opa=client, publication=publication, clock=ManualClock(), horizon=PolicyHorizon(), interval=0.01
        )
        async with monitor:
            await until(lambda: publication.asked >= 2)
    assert "the look at OPA failed" in caplog.text
