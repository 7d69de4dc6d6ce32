"""What a server that is published to may answer, and who is told user and password; and how many come from one peer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ostiary.cli.examiner import ArchiveExaminer
from ostiary.distribution.archives import Archive
from ostiary.distribution.oci import Login, OciTarget, Reference
from ostiary.distribution.protocol import bundle_protocol
from ostiary.distribution.publishing import PublishFailed
from ostiary.distribution.web import Connection, WebTarget
from ostiary.listening import Server, bind, listen, quiet
from ostiary.server import Census
from support.distribution import archive

LOGIN = Login(user="ci", password="a password of ci")
MANY = b"x" * (300 * 1024)


class Answering(BaseHTTPRequestHandler):
    """A registry whose realm is the server's, whose tokens are long, and which says much against a PUT."""

    realm = ""
    told: list[str | None] = []  # noqa: RUF012 - emptied by the test

    def do_GET(self) -> None:
        type(self).told.append(self.headers.get("authorization"))
        if self.path.startswith("/token"):
            self._say(200, MANY)
        else:
            self._say(401, b"", f'Bearer realm="{self.realm}",service="registry"')

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._say(507, MANY)

    def _say(self, status: int, body: bytes, challenge: str | None = None) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        if challenge is not None:
            self.send_header("www-authenticate", challenge)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def port() -> Iterator[int]:
    Answering.told.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def registry(port: int, *, login: Login | None = LOGIN, token_host: str | None = None) -> OciTarget:
    reference = Reference(registry=f"127.0.0.1:{port}", repository="shop", tag="1")
    return OciTarget(reference, login=login, connection=Connection(), examiner=ArchiveExaminer(), token_host=token_host)


def test_a_token_has_an_end(port: int) -> None:
    Answering.realm = f"http://localhost:{port}/token"
    with registry(port) as target, pytest.raises(PublishFailed, match="more than 262144 bytes"):
        target.find()


@pytest.mark.parametrize(
    "realm",
    ["http://tokens.test/", "ftp://127.0.0.1/", "https://ci@127.0.0.1/", "https://", "https://[x/", "//127.0.0.1/"],
)
def test_tokens_are_had_over_https_or_on_loopback(port: int, realm: str) -> None:
    Answering.realm = realm
    with registry(port) as target, pytest.raises(PublishFailed, match="which is not https"):
        target.find()
    assert Answering.told == [LOGIN.header]


def test_another_host_is_told_user_and_password_only_if_it_was_named(port: int) -> None:
    Answering.realm = "https://tokens.test/"
    with registry(port) as target, pytest.raises(PublishFailed, match=r"--token-host tokens\.test lets it have"):
        target.find()
    assert Answering.told == [LOGIN.header]
    with registry(port, token_host="Tokens.test") as target:
        target._check_realm("https://tokens.test/")
        with pytest.raises(PublishFailed):
            target._check_realm("https://others.tokens.test/")
    with registry(port, login=None) as target:  # there is nothing to tell
        target._check_realm("https://tokens.test/")


def test_what_a_server_says_against_a_publication_has_an_end(port: int, tmp_path: Path) -> None:
    examiner = ArchiveExaminer()
    read = Archive.read(archive(tmp_path / "b.tar.gz", 1).read_bytes(), examiner)
    with (
        WebTarget(f"http://127.0.0.1:{port}/b.tar.gz", connection=Connection(), examiner=examiner) as target,
        pytest.raises(PublishFailed, match="the server says 507, and more than 262144 bytes"),
    ):
        target.put(read, instead_of=None, force=False)


async def nothing(scope: object, receive: object, send: object) -> None: ...


async def test_so_many_connections_are_one_peer_s() -> None:
    listener = bind("127.0.0.1", 0)
    listen(listener)
    server = Server(quiet(nothing, http=bundle_protocol(Census(limit=100, per_peer=2))))  # type: ignore[arg-type]
    serving = asyncio.create_task(server.serve(sockets=[listener]))

    async def stays(source: str = "127.0.0.1") -> socket.socket | None:
        client = socket.create_connection(listener.getsockname(), source_address=(source, 0))
        client.setblocking(False)
        try:
            async with asyncio.timeout(0.1):
                await asyncio.get_running_loop().sock_recv(client, 1)
        except TimeoutError:
            return client
        except ConnectionError:
            pass
        client.close()
        return None

    first, second = await stays(), await stays()
    assert first is not None
    assert second is not None
    assert await stays() is None
    other = await stays("127.0.0.2")
    assert other is not None
    first.close()
    await asyncio.sleep(0.05)
    third = await stays()
    assert third is not None
    for client in (second, third, other):
        client.close()
    server.stop()
    await serving
    listener.close()
