"""A load balancer in front, through the whole proxy: policy, audit and upstream see whom it speaks for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from support.forwarding import replies, reserved_port, response
from support.preamble import preamble
from support.proxy import PERMISSIONS, running_proxy
from support.server import Listener
from support.tls import client_context, dns, root
from support.upstream import RawUpstream

CLIENT = "203.0.113.9"
SOURCE = PERMISSIONS.replace(
    "head-order, export]}", f'head-order, export], when: {{source: ["{CLIENT}/32", "127.0.0.2/32"]}}}}'
)


@pytest.mark.parametrize("header", ["proxy-v2", "proxy-v2 before TLS", "x-forwarded-for", "forwarded"])
async def test_policy_audit_and_upstream_see_the_client_of_a_pinned_proxy(
    header: str, opa_binary: Path, tmp_path: Path
) -> None:
    """And of anybody else the address of the socket."""
    assert SOURCE != PERMISSIONS
    header, _, over_tls = header.partition(" before ")
    listen = f"proxies: {{addresses: [127.0.0.1], header: {header}}}"
    authority = root("of servers")
    if over_tls:
        certificate, key = authority.issue(dns("localhost")).write(tmp_path, "server")
        listen += f", tls: {{certificate: {certificate}, key: {key}}}"
    with reserved_port() as port:
        async with (
            RawUpstream(replies(response()), port=port).running() as upstream,
            running_proxy(upstreams={"orders": port}, permissions=SOURCE, listen_extra=listen) as proxy,
        ):

            def call(*, told: str, source: str) -> tuple[int, str]:
                says = {
                    "proxy-v2": (preamble(told) if source == "127.0.0.1" else b"", f"X-Forwarded-For: {told}"),
                    "x-forwarded-for": (b"", f"X-Forwarded-For: 1.1.1.1, {told}"),
                    "forwarded": (b"", f"Forwarded: for=1.1.1.1, for={told}\r\nX-Forwarded-For: 1.1.1.1"),
                }[header]
                lines = f"Host: orders.localhost\r\nAuthorization: Bearer {proxy.token()}\r\n{says[1]}\r\n"
                listener = Listener(proxy.port, [], None, None)  # type: ignore[arg-type]
                with listener.connect(source=source) as client:
                    client.send(says[0])
                    if over_tls:
                        context = client_context(authority)
                        client.sock = context.wrap_socket(client.sock, server_hostname="localhost")
                    client.send(f"GET /orders/42 HTTP/1.1\r\n{lines}\r\n".encode())
                    answer = client.response()
                    client.sock.close()
                decision = answer.header(b"ostiary-decision-id")
                assert decision is not None
                return answer.status, decision.decode()

            calls = {
                (told, source): await asyncio.to_thread(call, told=told, source=source)
                for told, source in [(CLIENT, "127.0.0.1"), ("203.0.113.10", "127.0.0.1"), (CLIENT, "127.0.0.3")]
            }
            assert [status for status, _ in calls.values()] == [200, 403, 403]
            seen = [(await proxy.recorded(decision, lines=1))[0]["source_ip"] for _, decision in calls.values()]
            assert seen == [CLIENT, "203.0.113.10", "127.0.0.3"]
            (forwarded,) = upstream.requests
            assert forwarded.values("x-forwarded-for") == [CLIENT]
            assert forwarded.values("forwarded") == []
