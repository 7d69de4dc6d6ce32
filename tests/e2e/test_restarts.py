"""Proxies and workers that end and begin under load. Nobody who is being served notices."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import pytest
from starlette.types import Receive, Scope, Send

from ostiary.demo.issuer import DemoIssuer
from ostiary.listening import Server, bind, listen, quiet
from ostiary.problem import Problems
from ostiary.server import strict_protocol
from support.faults import ended, eventually, status_of, stopped
from support.forwarding import Client, connected, replies, response
from support.load import under_load
from support.proxy import RunningProxy, Trusted, alive, passing, running_proxy
from support.shipped import listener_limits
from support.upstream import RawUpstream, Seen, UpstreamConnection

PATIENT = "deadline: 5s"  # a busy machine is no reason to refuse


def requests_of(proxy: RunningProxy) -> Callable[[], bytes]:
    """A GET, or a POST with a body in two pieces, in turn."""
    headers = f"Host: orders.localhost\r\nAuthorization: Bearer {proxy.token()}\r\n"
    get = f"GET /orders/42 HTTP/1.1\r\n{headers}\r\n".encode()
    post = f"POST /orders HTTP/1.1\r\n{headers}Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n4\r\nmore\r\n0\r\n\r\n"
    turns = itertools.cycle([get, get, post.encode()])
    return lambda: next(turns)


async def slowly(connection: UpstreamConnection, seen: Seen) -> None:
    """Every tenth answer is a stream that takes a while."""
    await connection.body(seen)
    if len(SERVED) % 10:
        await connection.send(response(b"ok"))
    else:
        await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(10):
            await connection.send(b"2\r\nok\r\n")
            await asyncio.sleep(0.03)
        await connection.send(b"0\r\n\r\n")
    SERVED.append(seen.line)


SERVED: list[str] = []


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_rolling_restart_of_the_workers_costs_no_request(opa_binary: Path, workers: int) -> None:
    """Twice, under load on kept-alive and on new connections: every worker is another, and OPA is the same."""
    async with (
        RawUpstream(slowly).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, workers=workers, opa_extra=PATIENT) as proxy,
        under_load(proxy.port, requests_of(proxy)) as load,
    ):
        before, opa = proxy.worker_pids, proxy.opa_pid
        for turn in (1, 2):
            await load.more(50)
            os.kill(proxy.pid, signal.SIGUSR2)
            await eventually(lambda: proxy.log_text().count("all workers were restarted") == turn)  # noqa: B023
            now = proxy.worker_pids
            assert len(now) == workers
            assert not set(now) & set(before)
            before = now
        await load.more(50)
        assert proxy.opa_pid == opa
        assert proxy.health()[0] == 200
    assert load.failures == []
    assert set(load.statuses) == {200}
    assert load.lasts >= 8  # the clients were told, and did not have to find out


async def test_workers_that_are_ended_one_by_one_cost_no_request(opa_binary: Path) -> None:
    """By whoever sends them SIGTERM: they drain, and the supervisor starts others."""
    async with (
        RawUpstream(slowly).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, workers=2, opa_extra=PATIENT) as proxy,
        under_load(proxy.port, requests_of(proxy)) as load,
    ):
        for _ in range(2):
            await load.more(50)
            victim = proxy.worker_pids[0]
            os.kill(victim, signal.SIGTERM)
            await eventually(lambda: not alive(victim))  # noqa: B023 - called in this turn
            await eventually(lambda: proxy.health()[0] == 200)
        await load.more(50)
    assert load.failures == []
    assert set(load.statuses) == {200}


@pytest.fixture
def trusted() -> Iterator[Trusted]:
    """An issuer of several proxies."""
    with TemporaryDirectory() as place:
        yield Trusted(signer=DemoIssuer(Path(place)))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A listening socket that outlives the proxies."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as made:
        yield made


async def test_a_proxy_takes_over_from_another_on_a_passed_socket(
    opa_binary: Path, listener: socket.socket, trusted: Trusted
) -> None:
    """Three times: the next one serves before the one before it is ended, and no request and no connection is lost."""
    async with RawUpstream(slowly).running() as upstream:

        def starting() -> running_proxy:
            return running_proxy(
                upstreams={"orders": upstream.port}, workers=2, listener=listener, trusted=trusted, opa_extra=PATIENT
            )

        current = starting()
        proxy = await current.__aenter__()
        assert proxy.port == listener.getsockname()[1]
        async with under_load(proxy.port, requests_of(proxy)) as load:
            for _ in range(3):
                await load.more(50)
                following = starting()
                await following.__aenter__()
                await load.more(50)
                await current.__aexit__(None, None, None)
                current = following
            await load.more(50)
        await current.__aexit__(None, None, None)
    assert load.failures == []
    assert set(load.statuses) == {200}


async def test_a_restart_on_a_passed_socket_makes_clients_wait_and_loses_none(
    opa_binary: Path, listener: socket.socket, trusted: Trusted
) -> None:
    """As with systemd: while no proxy runs, connections wait in the socket that somebody else holds."""
    async with RawUpstream(slowly).running() as upstream:

        def starting() -> running_proxy:
            return running_proxy(
                upstreams={"orders": upstream.port}, listener=listener, trusted=trusted, opa_extra=PATIENT
            )

        current = starting()
        proxy = await current.__aenter__()
        async with under_load(proxy.port, requests_of(proxy)) as load:
            for _ in range(2):
                await load.more(50)
                await current.__aexit__(None, None, None)
                current = starting()
                await current.__aenter__()
            await load.more(50)
        await current.__aexit__(None, None, None)
    assert load.failures == []
    assert set(load.statuses) == {200}


async def test_a_drain_answers_all_that_is_asked_on_open_connections(opa_binary: Path) -> None:
    """Each client is told which answer is the last; then the port is closed."""
    async with (
        RawUpstream(slowly).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, workers=2, opa_extra=PATIENT) as proxy,
    ):
        async with under_load(proxy.port, requests_of(proxy), kept=16, short=0, pause=0, until_last=True) as load:
            await load.more(100)
            proxy.process.send_signal(signal.SIGTERM)
            assert await ended(proxy.process) == 0
        assert load.failures == []
        assert set(load.statuses) == {200}
        assert load.lasts == 16
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), 5)


async def asks(client: Client, proxy: RunningProxy) -> tuple[int, list[str]]:
    await client.send(
        f"GET /orders/42 HTTP/1.1\r\nHost: orders.localhost\r\nAuthorization: Bearer {proxy.token()}\r\n\r\n".encode()
    )
    answer = await client.response()
    return answer.status, answer.values("connection")


@asynccontextmanager
async def draining(config_extra: str = "") -> AsyncIterator[tuple[RunningProxy, Client, Client]]:
    """A proxy that was told to end, a connection on which something was asked before, and one on which nothing was."""
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, config_extra=config_extra, opa_extra=PATIENT) as proxy,
        connected(proxy.port) as used,
        connected(proxy.port) as fresh,
    ):
        assert await asks(used, proxy) == (200, [])
        proxy.process.send_signal(signal.SIGTERM)
        await eventually(lambda: "draining" in proxy.log_text())  # by itself it may have ended by now
        await eventually(lambda: refused(proxy.port))
        yield proxy, used, fresh
        assert await ended(proxy.process) == 0


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


async def test_an_idle_connection_has_one_more_answer_within_the_grace(opa_binary: Path) -> None:
    """Whether something was asked on it before or not."""
    async with draining("limits: {drain_grace: 20s}\n") as (proxy, used, fresh):
        for client in (used, fresh):
            assert await asks(client, proxy) == (200, ["close"])
            assert await client.ended() == b""


async def test_an_idle_connection_ends_with_the_grace(opa_binary: Path) -> None:
    """However long it might have stayed idle, so it does not hold the end up."""
    async with draining() as (_, used, fresh):
        began = time.monotonic()
        assert [await client.ended() for client in (used, fresh)] == [b"", b""]
    assert time.monotonic() - began < 25  # until the drain's deadline it would be 30 s


async def test_without_a_grace_idle_connections_end_at_once(opa_binary: Path) -> None:
    async with draining("limits: {drain_grace: 0s}\n") as (_, used, fresh):
        assert [await client.ended() for client in (used, fresh)] == [b"", b""]


async def test_a_response_that_had_begun_does_not_cost_the_request_after_it(opa_binary: Path) -> None:
    """Its head could not say that it is the last: the next one says so."""
    going = asyncio.Event()

    async def streams(connection: UpstreamConnection, seen: Seen) -> None:
        if len(upstream.requests) > 1:
            await connection.send(response())
            return
        await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n")
        await going.wait()
        await connection.send(b"0\r\n\r\n")

    upstream = RawUpstream(streams)
    async with (
        upstream.running(),
        running_proxy(
            upstreams={"orders": upstream.port}, config_extra="limits: {drain_grace: 20s}\n", opa_extra=PATIENT
        ) as proxy,
        connected(proxy.port) as client,
    ):
        await client.send(requests_of(proxy)())
        head = await client.head()
        assert (head.status, head.values("connection")) == (200, [])
        proxy.process.send_signal(signal.SIGTERM)
        await eventually(lambda: refused(proxy.port))
        going.set()
        assert b"".join([piece async for piece in client.pieces(head)]) == b"begun"
        assert await asks(client, proxy) == (200, ["close"])
        assert await ended(proxy.process) == 0


async def test_connections_that_were_not_accepted_yet_are_answered(opa_binary: Path) -> None:
    """They wait in the kernel when the proxy is told to end."""
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, opa_extra=PATIENT) as proxy,
    ):
        request = requests_of(proxy)()
        waiting = []
        with stopped(proxy.worker_pids[0]):
            for _ in range(20):
                client = socket.create_connection(("127.0.0.1", proxy.port), 20)
                client.sendall(request)
                waiting.append(client)
            proxy.process.send_signal(signal.SIGTERM)
            await eventually(lambda: "draining" in proxy.log_text())
        for client in waiting:
            with closing(client):
                answer = await asyncio.to_thread(client.recv, 65536)
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert await ended(proxy.process) == 0


async def test_a_listener_that_stops_takes_in_what_the_kernel_has_accepted() -> None:
    """The event loop had no turn to."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

    protocol = strict_protocol(listener_limits(), problems=Problems(), on_refused=lambda *_: None)
    configuration = quiet(app, http=protocol, patience=5)
    configuration.load()
    server, listener = Server(configuration), bind("127.0.0.1", 0)
    server.lifespan = configuration.lifespan_class(configuration)
    listen(listener)
    port = listener.getsockname()[1]
    await server.startup([listener])
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await server.shutdown([listener])
    for client in clients:
        with closing(client):
            assert b"\r\nconnection: close\r\n" in client.recv(65536)
    assert refused(port)


async def test_a_worker_without_a_successor_stays(opa_binary: Path) -> None:
    """What is wrong is said once, and the next restart is tried again."""
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, workers=2, opa_extra=PATIENT) as proxy,
    ):
        before = proxy.worker_pids
        key = proxy.place / "state" / "signing-key.pem"
        key.rename(proxy.place / "away")
        os.kill(proxy.pid, signal.SIGUSR2)
        await eventually(lambda: "w0 goes on as it is" in proxy.log_text())
        assert "w0_b did not start: " in proxy.log_text()
        assert proxy.worker_pids == before
        assert (await asyncio.to_thread(proxy.health))[0] == 200
        for _ in range(10):
            assert await asyncio.to_thread(status_of, proxy) == 200
        (proxy.place / "away").rename(key)
        for _ in range(5):  # what is asked for while it is being done is done once
            os.kill(proxy.pid, signal.SIGUSR2)
        await eventually(lambda: "all workers were restarted" in proxy.log_text())
        assert not set(proxy.worker_pids) & set(before)
        assert len(proxy.worker_pids) == 2


async def test_a_restart_that_is_under_way_is_no_obstacle_to_an_end(opa_binary: Path) -> None:
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, workers=2, opa_extra=PATIENT) as proxy,
    ):
        os.kill(proxy.pid, signal.SIGUSR2)
        await eventually(lambda: "restarting 2 worker(s)" in proxy.log_text())
        assert await asyncio.to_thread(proxy.stop) == 0


# A socket that is passed.


@pytest.fixture(scope="module")
def place(opa_binary: Path) -> Iterator[Path]:
    """Where a proxy could run."""
    with running_proxy(upstreams={"orders": 9}).prepared() as prepared:
        yield prepared


@pytest.mark.parametrize(
    ("what", "count", "said"),
    [
        ("listening", 2, "2 sockets were passed to listen on: exactly one is used"),
        ("file", 1, "the socket that was passed to listen on is none"),
        ("bound", 1, "is not a listening TCP socket"),
        ("unix", 1, "is not a listening TCP socket"),
        ("elsewhere", 1, "and listen.data is 127.0.0.1:0"),
    ],
)
def test_what_was_passed_has_to_be_the_listener_that_is_configured(
    place: Path, what: str, count: int, said: str
) -> None:
    """A proxy never listens where its configuration does not say that it does."""
    with made(what, place) as passed:
        done = subprocess.run(
            [*passing(passed.fileno(), count=count), sys.executable, "-m", "ostiary", "run"],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=60,
            pass_fds=[passed.fileno()],
            check=False,
        )
    assert done.returncode == 2
    assert said in done.stderr


def made(what: str, place: Path) -> socket.socket | BinaryIO:
    if what == "file":
        return (place / "ostiary.yaml").open("rb")
    if what == "unix":
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(str(place / "other.sock"))
        unix.listen()
        return unix
    bound = socket.socket()
    bound.bind(("127.0.0.2" if what == "elsewhere" else "127.0.0.1", 0))
    if what != "bound":
        bound.listen()
    return bound


async def test_a_socket_for_another_process_is_left_alone(opa_binary: Path, listener: socket.socket) -> None:
    """The variables of whoever started us mean whom they name."""
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    async with running_proxy(upstreams={"orders": 9}, environment=environment) as proxy:
        assert proxy.port != listener.getsockname()[1]
        for pid in (*proxy.worker_pids, proxy.opa_pid):
            assert b"LISTEN_" not in environment_of(pid)


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()
