"""A bounded place for decisions: the oldest goes first, nobody fills it, and nothing stays long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.decision.shelf import Entry, Key, Shelf
from ostiary.models import AccessRequest, Decision, Identity
from support.audit import decision as any_decision
from support.opa import NOW, request

DECISION: Decision = any_decision()


def key(owner: str, number: int) -> Key:
    return (Identity(issuer="https://idp.test", subject=owner, method="jwt", expires_at=NOW).key, number)


def entry(owner: str, number: int, since: int = NOW) -> Entry:
    return Entry(key(owner, number), DECISION, since=since, until=since + 5)


@pytest.mark.parametrize(("time", "served"), [(NOW - 1, False), (NOW, True), (NOW + 4, True), (NOW + 5, False)])
def test_an_entry_serves_from_its_question_to_before_its_end(time: int, served: bool) -> None:
    at = AccessRequest(
        identity=request().identity, method="GET", target=request().target, time=time, source_ip="10.0.0.7"
    )
    assert entry("web", 1).serves(at) is served


def test_the_oldest_goes_first() -> None:
    shelf = Shelf(capacity=2, per_identity=2)
    for number, owner in enumerate(["a", "b", "c"]):
        assert shelf.put(entry(owner, number))
    assert [shelf.get(key(owner, number)) is None for number, owner in enumerate(["a", "b", "c"])] == [
        True,
        False,
        False,
    ]
    assert len(shelf) == 2


def test_an_identity_at_its_bound_pushes_out_nobody() -> None:
    shelf = Shelf(capacity=10, per_identity=2)
    assert [shelf.put(entry("greedy", number)) for number in range(4)] == [True, True, False, False]
    assert shelf.put(entry("other", 1))
    assert shelf.get(key("greedy", 0)) is not None


def test_an_identity_has_room_again_when_its_entries_have_ended() -> None:
    shelf = Shelf(capacity=10, per_identity=1)
    shelf.put(entry("web", 1))
    assert shelf.put(entry("web", 2, since=NOW + 5))
    assert (len(shelf), shelf.get(key("web", 1))) == (1, None)


def test_an_entry_takes_the_place_of_the_one_before() -> None:
    shelf = Shelf(capacity=10, per_identity=1)
    shelf.put(entry("web", 1))
    newer = entry("web", 1, since=NOW + 1)
    assert shelf.put(newer)
    assert (len(shelf), shelf.get(key("web", 1))) == (1, newer)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from("ab"), st.integers(0, 4), st.integers(0, 3)),
            st.tuples(st.just("discard"), st.sampled_from("ab"), st.integers(0, 4), st.just(0)),
        )
    )
)
def test_the_bounds_hold_whatever_happens(steps: list[tuple[str, str, int, int]]) -> None:
    shelf, now, kept = Shelf(capacity=4, per_identity=3), NOW, {}
    for step, owner, number, passed in steps:
        now += passed
        if step == "discard":
            shelf.discard(key(owner, number))
            kept.pop(key(owner, number), None)
        else:
            one = entry(owner, number, since=now)
            if shelf.put(one):
                kept[one.key] = one
        assert len(shelf) <= 4
        found = {name: one for name in kept if (one := shelf.get(name)) is not None}
        assert len(found) == len(shelf)
        assert all(one is kept[name] and one.since > now - 5 for name, one in found.items())
        for name in "ab":
            owned = shelf.owned(key(name, 0)[0])  # type: ignore[arg-type]
            assert owned == sum(one.key[0] == key(name, 0)[0] for one in found.values()) <= 3
