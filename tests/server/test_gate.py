"""The gate, and the records that a listener is made of."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from ostiary.errors import AccessError, HeadersTooLarge
from ostiary.listening import quiet
from ostiary.problem import Problems
from ostiary.server import (
    Gate,
    Refused,
    StrictProtocol,
    UnsafeListener,
    refuse_unless_strict,
    strict_protocol,
)
from ostiary.server.deadline import Deadline
from ostiary.server.limits import Census
from ostiary.server.refused import answer, shown
from support.server import Recorder
from support.shipped import listener_limits


def ignore(refusal: AccessError, facts: Refused) -> None:
    pass


def strict(**settings: Any) -> uvicorn.Config:
    protocol = strict_protocol(listener_limits(), problems=Problems(), on_refused=ignore)
    defaults: dict[str, Any] = {
        "http": protocol,
        "interface": "asgi3",
        "ws": "none",
        "proxy_headers": False,
        "log_config": None,
    }
    return uvicorn.Config(Recorder(), **defaults | settings)


def test_a_strict_configuration_is_accepted() -> None:
    refuse_unless_strict(strict())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"http": "auto"}, "http is 'auto', not a protocol made by strict_protocol()"),
        ({"http": "httptools"}, "http is 'httptools', not a protocol made by strict_protocol()"),
        ({"http": H11Protocol}, f"http is {H11Protocol!r}, not a protocol made by strict_protocol()"),
        ({"http": HttpToolsProtocol}, f"http is {HttpToolsProtocol!r}, not a protocol made by strict_protocol()"),
        ({"http": StrictProtocol}, f"http is {StrictProtocol!r}, not a protocol made by strict_protocol()"),
        ({"interface": "auto"}, "interface is 'auto', not 'asgi3': the gate is not to be guessed at"),
        ({"ws": "auto"}, "ws is 'auto', not 'none'"),
        ({"proxy_headers": True}, "proxy_headers is on: clients could name their own address"),
        ({"root_path": "/x"}, "root_path is '/x': paths are forwarded as they came"),
    ],
)
def test_any_other_configuration_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnsafeListener) as refused:
        refuse_unless_strict(strict(**settings))
    assert str(refused.value) == sentence


def test_a_worker_s_own_way_to_serve_is_accepted_and_another_listener_s_is_not() -> None:
    """As `worker` has it: what is served by any other protocol does not begin to accept."""
    refuse_unless_strict(
        quiet(Recorder(), http=strict_protocol(listener_limits(), problems=Problems(), on_refused=ignore))
    )
    with pytest.raises(UnsafeListener):
        refuse_unless_strict(quiet(Recorder()))


async def test_a_protocol_without_terms_cannot_serve() -> None:
    config = strict()
    with pytest.raises(TypeError):
        StrictProtocol(config, ServerState(), {})


async def test_only_http_and_lifespan_pass_the_gate() -> None:
    passed: list[str] = []
    sent: list[Message] = []

    def app(name: str) -> Any:
        async def called(scope: Scope, receive: Receive, send: Send) -> None:
            passed.append(f"{name} {scope['type']}")

        return called

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    gate = Gate(http=app("http"), lifespan=app("lifespan"))
    for kind in ("http", "lifespan", "websocket"):
        await gate({"type": kind}, receive, send)
    with pytest.raises(UnsafeListener):
        await gate({"type": "webtransport"}, receive, send)
    assert passed == ["http http", "lifespan lifespan"]
    assert sent == [{"type": "websocket.close", "code": 1008, "reason": ""}]


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_is_above_zero(value: float) -> None:
    with pytest.raises(ValueError, match="the limit linger must be above zero"):
        listener_limits(linger=value)


def test_a_census_counts_in_and_out() -> None:
    census = Census(limit=3, per_peer=2)
    assert [census.enter(peer) for peer in ("a", "a", "a", "b", None)] == [True, True, False, False, False]
    for peer in ("a", "a", "b", None):
        census.leave(peer)
    assert [census.enter(peer) for peer in ("a", "a", None)] == [True, False, False]


def test_a_peer_is_an_ipv4_address_or_a_64_of_ipv6() -> None:
    """Whoever has one IPv6 address has 2^64 of them."""
    census = Census(limit=10, per_peer=1)
    peers = ("10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "fe80::1%eth0", "fe80::2%eth0")
    assert [census.enter(peer) for peer in peers] == [True, True, True, False, True, True, False]
    for peer in peers:
        census.leave(peer)
    assert all(census.enter(peer) for peer in ("10.0.0.1", "2001:db8::2", "fe80::2%eth0"))


async def test_a_deadline_is_met_at_the_instant_set_last() -> None:
    loop = asyncio.get_running_loop()
    late: list[float] = []
    start = loop.time()
    deadline = Deadline(loop, lambda: late.append(loop.time() - start))
    deadline.set(0.05)
    await asyncio.sleep(0.03)
    deadline.set(0.1)  # later: due at 0.13
    await asyncio.sleep(0.05)
    assert late == []
    await asyncio.sleep(0.1)
    assert len(late) == 1
    deadline.set(0.5)
    deadline.set(0.02)  # earlier
    await asyncio.sleep(0.06)
    assert len(late) == 2
    deadline.set(0.02)
    deadline.clear()
    await asyncio.sleep(0.04)
    deadline.set(0.02)
    deadline.stop()
    await asyncio.sleep(0.04)
    assert len(late) == 2
    assert 0.12 < late[0] < 0.2


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        (b"", None),
        (b"/a%2Fb?token=secret", b"/a%2Fb"),
        (b"/a#secret?b", b"/a"),
        (b"http://user:secret@host/a?b", b"http://host/a"),
        (b"//u:secret@h@x/a", b"//x/a"),
        (b"/" + b"a" * 9000, b"/" + b"a" * 8191),
    ],
)
def test_what_is_recorded_of_a_target_holds_no_secret(target: bytes, kept: bytes | None) -> None:
    assert shown(target) == kept


def test_a_client_may_be_told_no_reason() -> None:
    headers, body = answer(Problems(detail="minimal"), HeadersTooLarge("x"), "0" * 32)
    assert body == b'{"type":"about:blank","status":431,"decision_id":"' + b"0" * 32 + b'"}\n'
    assert headers == [
        (b"content-type", b"application/problem+json"),
        (b"cache-control", b"no-store"),
        (b"ostiary-decision-id", b"0" * 32),
        (b"content-length", str(len(body)).encode()),
    ]
