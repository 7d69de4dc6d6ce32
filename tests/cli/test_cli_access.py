"""`ostiary access` where it says more than the API has answered."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from support.cli import Ran, ostiary


class Answering(BaseHTTPRequestHandler):
    """The API of a proxy that revokes two at a time."""

    left: list[int] = []  # noqa: RUF012 - filled by the test
    asked: list[Any] = []  # noqa: RUF012

    def do_POST(self) -> None:
        self.asked.append((self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))
        count = self.left.pop(0)
        body = json.dumps({"revoked": [], "count": count, "complete": not self.left}).encode()
        self.send_response(202 if self.left else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    Answering.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def revoke_all(url: str, *options: str) -> Ran:
    return ostiary("access", "revoke-all", "--url", url, "--token", "a-token", "--reason", "an incident", *options)


def test_who_revokes_many_goes_on_until_none_is_left_and_is_told_how_far_it_is(url: str) -> None:
    Answering.left[:] = [2, 2, 1]
    ran = revoke_all(url, "--service", "billing", "--issuer", "https://idp.test", "--subject", "ann")
    assert ran == Ran(0, "5 revoked\n", "2 so far\n4 so far\n")
    which = {"service": "billing", "issuer": "https://idp.test", "subject": "ann", "reason": "an incident"}
    assert Answering.asked == [("/access/revocations", which)] * 3


def test_everything_is_revoked_only_where_that_is_said(url: str) -> None:
    ran = revoke_all(url)
    assert (ran.status, ran.out) == (2, "")
    assert "--everything" in ran.err
    assert Answering.asked == []
    Answering.left[:] = [0]
    assert revoke_all(url, "--everything") == Ran(0, "0 revoked\n", "")
    assert Answering.asked == [("/access/revocations", {"reason": "an incident"})]
