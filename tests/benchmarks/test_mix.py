"""The mix is the same in every run, its map holds what is used and no more, and hits are counted from the audit."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mix import Decided, Hits, Mix, parse_decisions, zipf_pairs
from ostiary.demo.issuer import DemoIssuer
from ostiary.policy.model import PermissionMap


def test_the_draws_are_the_same_in_every_run_and_follow_the_law() -> None:
    pairs = zipf_pairs(100, 1000, 20_000)
    assert pairs == zipf_pairs(100, 1000, 20_000)
    callers = Counter(caller for caller, _ in pairs)
    # Number 0 comes twice as often as number 1 and ten times as often as number 9. The seed is fixed: nothing varies.
    assert callers[0] / callers[1] == pytest.approx(2, rel=0.1)
    assert callers[0] / callers[9] == pytest.approx(10, rel=0.2)
    assert max(endpoint for _, endpoint in pairs) < 1000


def test_a_caller_has_exactly_the_permissions_that_it_uses() -> None:
    permissions = Mix(pairs=[(3, 105), (3, 105), (3, 107), (8, 0)]).permissions()
    assert permissions["permissions"] == [
        {"caller": "caller-3", "service": "service-1", "endpoints": ["endpoint-5", "endpoint-7"]},
        {"caller": "caller-8", "service": "service-0", "endpoints": ["endpoint-0"]},
    ]
    assert len(PermissionMap.model_validate(permissions).callers) == 1000


def test_requests_are_in_the_order_of_the_draws(tmp_path: Path) -> None:
    raw = Mix(pairs=[(3, 105), (8, 0)]).requests(DemoIssuer(tmp_path)).decode()
    heads = [message.split("\r\n")[:2] for message in raw.split("\r\n\r\n") if message]
    assert heads == [
        ["GET /items5/42 HTTP/1.1", "Host: service-1.localhost"],
        ["GET /items0/42 HTTP/1.1", "Host: service-0.localhost"],
    ]


def test_the_hit_ratio_is_that_of_the_audit_beside_what_a_cache_that_is_never_full_would_have() -> None:
    def decided(at: float, subject: str, *, cached: bool = False) -> Decided:
        return Decided(at=at, about=(subject, "orders", "get-order"), cached=cached)

    sequence = [
        decided(10.9, "a"),
        decided(14.9, "a", cached=True),  # kept in the seconds 10 to 14
        decided(14.9, "b"),
        decided(15.0, "a"),
        decided(15.1, "a"),  # kept again, and not found
        decided(21.0, "a", cached=True),  # after the end
    ]
    assert Hits.between(11, 20, sequence) == Hits(requests=4, ratio=0.25, possible=0.5)


def test_there_is_no_hit_ratio_where_nothing_was_decided() -> None:
    with pytest.raises(ValueError, match="no decision"):
        Hits.between(0, 1, [])


def test_decisions_are_read_from_an_audit_whose_last_line_was_cut_off() -> None:
    def line(**members: Any) -> str:
        return json.dumps({"schema": 1, **members}, separators=(",", ":")) + "\n"

    decision = {
        "kind": "decision",
        "time": "2026-01-01T00:00:00.500Z",
        "service": "orders",
        "endpoint": "get-order",
        "cached": True,
        "identity": {"subject": "web"},
    }
    lines = [line(**decision), line(kind="completion"), line(**decision)[:-9]]
    assert list(parse_decisions(lines)) == [Decided(at=1767225600.5, about=("web", "orders", "get-order"), cached=True)]
