"""Which bundle counts: the newest that was seen or announced, and never one that a late answer brings back."""

from __future__ import annotations

import asyncio

import pytest

from ostiary.decision.horizon import PolicyHorizon, announcement
from ostiary.decision.revision import Revision


class Announced:
    """`Announcements` that the test makes."""

    def __init__(self) -> None:
        self.epoch = 0
        self.text: str | None = None

    def announce(self, text: str | None) -> None:
        self.epoch += 1
        self.text = text

    def revision(self) -> str | None:
        return self.text


def horizon(*seen: str, announcements: Announced | None = None) -> PolicyHorizon:
    found = PolicyHorizon(announcements=announcements)
    for revision in seen:
        found.saw(revision, asked=found.changes)
    return found


def test_nothing_counts_before_something_is_known() -> None:
    assert (horizon().current, horizon().latest) == (None, None)


@pytest.mark.parametrize(
    ("seen", "current"),
    [
        (["7-a"], "7-a"),
        (["7-a", "8-b"], "8-b"),
        (["8-b", "7-a"], "8-b"),
        (["7-a", "7-b"], "7-b"),
        (["7-a", "bad"], "7-a"),
    ],
)
def test_the_newest_that_was_seen_counts(seen: list[str], current: str) -> None:
    found = horizon(*seen)
    assert (found.current, found.latest) == (current, Revision.parse(current))


def test_a_late_answer_does_not_bring_back_the_other_bundle_of_its_sequence() -> None:
    found = horizon("7-a")
    asked = found.changes
    found.saw("7-b", asked=asked)
    found.saw("7-a", asked=asked)  # asked before 7-b was known
    assert found.current == "7-b"
    found.saw("7-a", asked=found.changes)
    assert found.current == "7-a"


def test_a_late_answer_of_a_newer_bundle_counts() -> None:
    found = horizon("7-a")
    asked = found.changes
    found.saw("7-b", asked=asked)
    found.saw("8-c", asked=asked)
    assert found.current == "8-c"


def test_what_is_announced_counts_at_once_an_older_one_too() -> None:
    """Who announces has looked, and goes back only where a signed statement says so."""
    announced = Announced()
    found = horizon(announcements=announced)
    for revision in ("7-a", "8-b", "7-a"):
        announced.announce(revision)
        assert (found.current, found.latest) == (revision, Revision.parse(revision))


def test_what_was_only_seen_does_not_count_where_somebody_announces() -> None:
    announced = Announced()
    asked: list[str] = []
    found = PolicyHorizon(announcements=announced, unknown=lambda: asked.append("look"))
    found.saw("7-a", asked=0)
    assert (found.current, found.latest, asked) == (None, None, ["look"])
    announced.announce("7-a")
    found.saw("7-a", asked=0)
    assert (found.current, asked) == ("7-a", ["look"])


def test_a_bundle_that_is_announced_as_refused_is_not_asked_about() -> None:
    announced = Announced()
    asked: list[str] = []
    found = PolicyHorizon(announcements=announced, unknown=lambda: asked.append("look"))
    announced.announce(announcement(Revision(7, "a"), Revision(8, "b")))
    found.saw("8-b", asked=0)
    assert (found.current, asked) == ("7-a", [])
    announced.announce(announcement(None, Revision(7, "a")))
    assert (found.current, found.latest) == (None, None)


async def test_an_allow_of_a_bundle_waits_for_the_word_on_it() -> None:
    announced = Announced()
    found = horizon(announcements=announced)
    announced.announce("7-a")
    seven, eight = Revision(7, "a"), Revision(8, "b")
    assert await found.believes(seven, known=seven)
    waiting = asyncio.create_task(found.believes(eight, known=seven))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    announced.announce("8-b")
    assert await waiting
    assert await found.believes(seven, known=seven)  # it was under way
    announced.announce("8-b/7-a")
    assert not await found.believes(seven, known=eight)


async def test_a_word_that_does_not_come_is_a_no() -> None:
    announced = Announced()
    found = horizon(announcements=announced)
    assert not await found.believes(Revision(7, "a"), known=None)


def test_an_announcement_that_cannot_be_told_yet_is_looked_at_again() -> None:
    announced = Announced()
    found = horizon(announcements=announced)
    announced.announce("7-a")
    assert found.current == "7-a"
    announced.announce(None)
    assert (found.current, found.latest) == (None, Revision(7, "a"))  # something is newer: nothing kept is used
    announced.text = "8-b"
    assert found.current == "8-b"


def test_a_distrusted_bundle_still_counts_but_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    """A rollback behind it stays one; predictions and caches are off until the next bundle."""
    found = horizon("7-a")
    found.distrust("7-a", "it was wrong")
    found.distrust("7-a", "it was wrong again")
    assert (found.current, found.latest) == (None, Revision(7, "a"))
    assert [record.getMessage() for record in caplog.records] == [
        "predictions and cached decisions are off for the bundle 7-a: it was wrong"
    ]
    found.saw("8-b", asked=found.changes)
    assert found.current == "8-b"


def test_a_distrusted_bundle_stays_so_when_it_comes_again() -> None:
    found = horizon("7-a")
    found.distrust("7-a", "it was wrong")
    found.saw("7-b", asked=found.changes)
    found.saw("7-a", asked=found.changes)
    assert found.current is None
