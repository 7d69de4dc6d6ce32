"""The two lines of a forwarded request that are put together from text say what the documents rendered would say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.audit.forwarded import Parts, completion_line, decision_line
from ostiary.audit.record import ExchangeRecord
from ostiary.models import AccessRequest, Decision, Grant, Owner
from support.audit import credential, decision, exchange, identity, request, target

text = st.text(max_size=12)
odd = st.one_of(
    text, st.sampled_from(['"', "\\", "\n", "\x7f", "\u202e", "%2e", "eyJhbGciOiJ9.eyJpc3MiOi." + "x" * 40, ".ey"])
)
grants = st.lists(
    st.builds(
        Grant,
        id=odd,
        caller=odd,
        issuer=odd,
        subject=odd,
        service=odd,
        endpoints=st.lists(odd, max_size=2).map(tuple),
        expires_at=st.integers(0, 2**40),
    ),
    max_size=2,
).map(tuple)
claims = st.dictionaries(odd, st.one_of(odd, st.integers(), st.booleans(), st.lists(odd, max_size=2)), max_size=3)


class Kept:
    """A `Ledger` that keeps the lines, at one instant."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def now(self) -> str:
        return "2026-09-21T14:13:20.000Z"

    def monotonic(self) -> float:
        return 1.25

    def admits(self, entry: str, owner: Owner | None) -> bool:
        return True

    async def commit(self, line: bytes) -> None:
        self.lines.append(line)

    def post(self, line: bytes, entry: str, *, stranger: bool = False) -> None:
        self.lines.append(line)


async def recorded(asked: AccessRequest, answered: Decision, parts: Parts, *, token: str) -> list[dict[str, Any]]:
    """The lines of a forwarded request, by the record."""
    ledger, carried = Kept(), exchange()
    with ExchangeRecord(carried, ledger, parts) as record:
        record.resolved(asked.target)
        record.identified(asked.identity)
        record.decided(asked, answered)
        await record.commit(credential(token))
        await carried.send_response(200, [], b"{}")
    assert all(line.isascii() and line.endswith(b"\n") and b"\n" not in line[:-1] for line in ledger.lines)
    return [json.loads(line) for line in ledger.lines]


def documents(asked: AccessRequest, answered: Decision, *, token: str) -> tuple[AccessRequest, dict[str, Any]]:
    record = ExchangeRecord(exchange(), Kept(), Parts())
    return asked, json.loads(json.dumps(record._decision_document(asked, answered, credential(token)), default=list))


@given(
    path=odd,
    segments=st.lists(odd, min_size=1, max_size=3),
    pairs=st.none() | st.lists(st.tuples(odd, odd), max_size=2).map(tuple),
    source_ip=odd,
    method=odd,
    subject=odd,
    proven=claims,
    actor=st.none() | claims,
    endpoint=st.none() | odd,
    given_grants=grants,
    answered=st.builds(
        decision, caller=odd, endpoint=odd, permission=odd, revision=odd, cached=st.booleans(), expires_at=st.none()
    ),
    token=odd,
)
async def test_what_is_put_together_is_what_is_rendered(
    path: str,
    segments: list[str],
    pairs: Any,
    source_ip: str,
    method: str,
    subject: str,
    proven: dict[str, Any],
    actor: Any,
    endpoint: str | None,
    given_grants: tuple[Grant, ...],
    answered: Decision,
    token: str,
) -> None:
    """Member for member, and in their order; only what looks like a token is a digest in both."""
    asked = AccessRequest(
        identity=identity(subject=subject, claims=proven, actor=actor),
        method=method,
        target=replace(target(), path=path, segments=tuple(segments), pairs=pairs),
        time=1_790_000_000,
        source_ip=source_ip,
        grants=given_grants,
        endpoint=endpoint,
    )
    parts = Parts()
    first, _ = await recorded(asked, answered, parts, token=token)
    again, _ = await recorded(asked, answered, parts, token=token)
    _, expected = documents(asked, answered, token=token)
    assert list(first) == list(expected)
    found = {**first, "decision_id": "", "time": ""}
    if "[token sha256:" not in json.dumps(found):
        assert json.dumps(found) == json.dumps({**expected, "decision_id": "", "time": "", "decision_ms": 0.0})
    assert {**again, "decision_id": ""} == {**first, "decision_id": ""}


async def test_no_token_is_in_a_line_that_is_put_together() -> None:
    token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwczovL2lkcCJ9." + "s" * 43
    asked = request(proven=identity(claims={"groups": [token]}), aimed=replace(target(), pairs=(("q", token),)))
    line, _ = await recorded(asked, decision(), Parts(), token="c-1")
    assert token not in json.dumps(line)
    assert json.dumps(line).count("[token sha256:") == 2


@pytest.mark.parametrize("path", ['/a"b', "/a\\b", "/\u00e9", "/a%41", "/a.eyb"])
def test_what_may_have_to_be_escaped_or_searched_is_left_to_the_renderer(path: str) -> None:
    asked = request(aimed=target(path=path))
    line = decision_line(Parts(), asked, decision(), credential(), decision_id="d", now="n", seconds=0.0)
    assert line is None


def test_a_completion_is_one_object() -> None:
    carried = exchange()
    carried.status = 204
    assert json.loads(completion_line(carried, outcome="complete", now="n", seconds=0.00125)) == {
        "schema": 1,
        "kind": "completion",
        "time": "n",
        "decision_id": carried.id,
        "outcome": "complete",
        "status": 204,
        "reasons": [],
        "detail": None,
        "bytes_received": 0,
        "bytes_sent": 0,
        "duration_ms": 1.25,
    }


def test_parts_are_known_by_the_object_and_bounded() -> None:
    parts, made = Parts(capacity=2), []

    def make(source: object) -> tuple[str, ...]:
        made.append(source)
        return (str(len(made)),)

    one, other, third = identity(), identity(), identity()
    assert [parts.of(source, make) for source in (one, other, one, third, one)] == [
        ("1",),
        ("2",),
        ("1",),
        ("3",),
        ("4",),
    ]
