"""Every case of attacks.json that is one exact message, on a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.server import Listener, Orders, attacks, listener, message

CLASSES = ("control", "framing", "header", "method", "path", "upgrade")


def cases(*expected: str) -> list[Any]:
    return [
        pytest.param(case, id=case["id"])
        for case in attacks()
        if case["class"].partition(".")[0] in CLASSES and case["expected"] in expected
    ]


@pytest.fixture(scope="module")
def orders() -> Orders:
    return Orders()


@pytest.fixture(scope="module")
def served(orders: Orders) -> Iterator[Listener]:
    with listener(orders) as running:
        yield running


@pytest.mark.parametrize("case", cases("reject-4xx", "connection-closed"))
def test_what_is_to_be_rejected_never_gets_past(served: Listener, orders: Orders, case: dict[str, Any]) -> None:
    orders.forwarded.clear()
    responses = served.exchange(message(case["raw_request"]))
    assert 400 <= responses[-1].status < 500
    assert len(orders.forwarded) == len(responses) - 1  # a pipelined one before it may have been good
    document = json.loads(responses[-1].body)
    assert document["status"] == responses[-1].status
    assert responses[-1].header(b"content-type") == b"application/problem+json"


@pytest.mark.parametrize("case", cases("deny-403"))
def test_what_is_to_be_denied_is_a_clean_request_for_something_else(
    served: Listener, orders: Orders, case: dict[str, Any]
) -> None:
    orders.forwarded.clear()
    assert [response.status for response in served.exchange(message(case["raw_request"]))] == [403]
    assert orders.forwarded == []


@pytest.mark.parametrize("case", cases("forwarded-normalised"))
def test_what_is_to_be_forwarded_is_seen_as_one_clean_request(
    served: Listener, orders: Orders, case: dict[str, Any]
) -> None:
    orders.forwarded.clear()
    raw = message(case["raw_request"])
    assert [response.status for response in served.exchange(raw)] == [200]
    (seen,) = orders.forwarded
    method, target = raw.split(b" ")[:2]
    assert seen.scope["method"] == method.decode()
    assert seen.target is not None
    assert seen.target.request_target == target.decode()
    assert seen.body == (b'{"sku":"a"}' if method == b"POST" else b"")
    head = raw.partition(b"\r\n\r\n")[0]
    sent = [tuple(line.split(b": ", 1)) for line in head.split(b"\r\n")[1:]]
    assert seen.scope["headers"] == [(name.lower(), value) for name, value in sent]  # and no trailer among them
