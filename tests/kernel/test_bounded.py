"""Both mappings keep to their bound, each in its way."""

from __future__ import annotations

import pytest

from ostiary.bounded import BoundedMap, Memo


def test_what_was_used_least_recently_goes_first() -> None:
    entries: BoundedMap[str, int] = BoundedMap(2)
    entries.put("a", 1)
    entries.put("b", 2)
    assert entries.get("a") == 1
    entries.put("c", 3)
    assert (len(entries), entries.get("a"), entries.get("b"), entries.get("c")) == (2, 1, None, 3)


def test_a_full_memo_forgets_all_and_goes_on() -> None:
    memo: Memo[str, int] = Memo(2)
    memo.put("a", 1)
    memo.put("b", 2)
    assert (len(memo), memo.get("a"), memo.get("b")) == (2, 1, 2)
    memo.put("c", 3)
    assert (len(memo), memo.get("a"), memo.get("c")) == (1, None, 3)
    memo.clear()
    assert (len(memo), memo.get("c")) == (0, None)


@pytest.mark.parametrize("kind", [BoundedMap, Memo])
def test_there_is_room_for_one_at_least(kind: type[BoundedMap[str, int]] | type[Memo[str, int]]) -> None:
    with pytest.raises(ValueError, match="at least one entry"):
        kind(0)
