"""Which bundle counts: the newest that was seen or announced, and never one that a late answer brings back."""

from __future__ import annotations

import pytest

from ostiary.decision.horizon import PolicyHorizon
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


def test_what_is_announced_counts_at_once() -> None:
    announced = Announced()
    found = horizon("7-a", announcements=announced)
    announced.announce("8-b")
    assert found.current == "8-b"
    announced.announce("7-a")
    assert found.current == "8-b"


def test_an_announcement_that_cannot_be_told_yet_is_looked_at_again() -> None:
    announced = Announced()
    found = horizon("7-a", announcements=announced)
    announced.announce(None)
    assert (found.current, found.latest) == (None, Revision(7, "a"))  # something is newer: nothing kept is used
    announced.text = "8-b"
    assert found.current == "8-b"


def test_an_announcement_that_is_not_newer_changes_nothing() -> None:
    announced = Announced()
    found = horizon("7-a", announcements=announced)
    announced.announce(None)
    assert found.current is None
    announced.text = "6-z"
    assert found.current == "7-a"


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
