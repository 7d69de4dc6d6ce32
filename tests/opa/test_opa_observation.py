"""Services that are only observed are said in the log, for as long as they are."""

from __future__ import annotations

import asyncio
import logging

import pytest

from ostiary.clock import ManualClock
from ostiary.decision.query import Answer
from ostiary.errors import PolicyUnavailable
from ostiary.models import Json
from ostiary.opa.observation import ObservationWatch
from support.opa import until
from support.policy import NOW


class Source:
    """An `ObservationSource` that says what the test put there."""

    def __init__(self, result: Json = None) -> None:
        self.result = result
        self.asked = asyncio.Event()

    async def observed(self) -> Answer:
        self.asked.set()
        if isinstance(self.result, Exception):
            raise self.result
        return Answer(defined=self.result is not None, result=self.result, revision="1-a")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.INFO]


async def test_what_is_observed_now_is_told_with_its_end() -> None:
    clock = ManualClock(float(NOW))
    source = Source({"orders": NOW + 60, "billing": NOW, "broken": "soon"})
    watch = ObservationWatch(source=source, clock=clock)
    assert await watch.look() == {"orders": NOW + 60}
    clock.advance(60)
    assert await watch.look() == {}
    source.result = None
    assert await watch.look() == {}
    source.result = PolicyUnavailable("gone")
    assert await watch.look() is None


async def test_no_unforeseen_error_ends_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    source = Source(IndexError())
    async with ObservationWatch(source=source, clock=ManualClock(float(NOW))):
        await until(lambda: "ostiary-observation-watch failed, and is begun again" in caplog.text)
        source.result = {"orders": NOW + 1000}
        await until(lambda: "orders is only observed until" in caplog.text)


async def test_it_is_said_when_it_begins_again_and_again_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock, source = ManualClock(float(NOW)), Source({"orders": NOW + 1000})
    told = "orders is only observed until 2026-09-21T14:30:00Z: its callers are let through everywhere"
    async with ObservationWatch(source=source, clock=clock, interval=600) as watch:

        async def looked() -> list[str]:
            source.asked.clear()
            watch.nudge()
            await source.asked.wait()
            await asyncio.sleep(0)
            return warnings(caplog)

        assert await looked() == [told]
        assert await looked() == [told]
        clock.advance(600)
        assert await looked() == [told] * 2
        clock.advance(400)
        ended = "orders is not observed any more: what the policy refuses is refused"
        assert await looked() == [told, told, ended]
        source.result = PolicyUnavailable("gone")
        assert await looked() == [told, told, ended]
