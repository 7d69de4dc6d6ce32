"""A statement that a server has: asked for only where a bundle is older, with bounds, and believed like a file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from ostiary.decision.revision import Revision
from ostiary.decision.rollback import LARGEST_STATEMENT, Statement
from ostiary.opa.rollback import sign_statement
from ostiary.opa.statements import StatementAddress
from ostiary.opa.vetting import BundleRefused, Vetting
from support.faults import free_port
from support.identity import raw_server
from support.signing import Signer

PATH = "/shop.tar.gz.rollback"


def revision(text: str) -> Revision:
    found = Revision.parse(text)
    assert found is not None
    return found


@pytest.fixture
def signer(tmp_path: Path, opa_binary: Path) -> Signer:
    return Signer(tmp_path / "signer", opa_binary)


def statement(signer: Signer, *, scope: str = "ostiary", back_from: str = "9-c", expires: int = 2**40) -> bytes:
    said = Statement(back_from=revision(back_from), to=revision("7-a"), scope=scope, expires=expires)
    return sign_statement(said, key=signer.private, key_id="release", algorithm=signer.algorithm, now=0)


def vetting(signer: Signer, source: StatementAddress) -> Vetting:
    """One that had 7-a, and then 9-c."""
    found = Vetting(statement=source, verification=signer.verification)
    found.took(revision("7-a"))
    found.took(revision("9-c"))
    return found


class Served:
    """What a server answers, and how often it was asked."""

    def __init__(self, server: HTTPServer) -> None:
        self.answer: Callable[[Request], Response] = lambda _: Response(status=404)
        self.requests: list[Request] = []
        self.url = server.url_for(PATH)
        server.expect_request(PATH, method="GET").respond_with_handler(self._take)

    def _take(self, request: Request) -> Response:
        self.requests.append(request)
        return self.answer(request)

    def source(self, **options: object) -> StatementAddress:
        return StatementAddress(self.url, **{"pause": 0.0, **options})  # type: ignore[arg-type]


@pytest.fixture
def served(httpserver: HTTPServer) -> Served:
    return Served(httpserver)


async def test_a_server_is_asked_for_it_only_where_a_bundle_is_older(
    served: Served, signer: Signer, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-that-may-read\n")
    judging = vetting(signer, served.source(token_file=token))
    served.answer = lambda _: Response(statement(signer))
    for text in ("9-c", "9-other", "10-d"):
        await judging.admit(revision(text))
    assert served.requests == []

    await judging.admit(revision("7-a"))
    [request] = served.requests
    assert request.headers["authorization"] == "Bearer a-token-that-may-read"
    assert request.headers["accept"] == "application/jose"
    with pytest.raises(BundleRefused, match=rf"8-b does not follow 9-c.*, and the statement {served.url} is for 7-a"):
        await judging.admit(revision("8-b"))
    judging.took(revision("7-a"))
    await judging.admit(revision("7-a"))  # it is the one that counts now
    assert len(served.requests) == 2


async def test_it_is_believed_as_one_on_disk_is(served: Served, signer: Signer, tmp_path: Path) -> None:
    other = Signer(tmp_path / "other", signer.opa)
    judging = vetting(signer, served.source())
    for content, words in (
        (statement(other), "is not believed: its signature is none of ES256 by the configured key"),
        (statement(signer, scope="other"), "is not believed: it is not signed for the scope 'ostiary'"),
        (statement(signer, back_from="8-b"), "takes back what is not newer than 8-b"),
        (statement(signer, expires=1), "has expired"),
        (b"", "is not believed: its signature is none of ES256"),
        (b" " * LARGEST_STATEMENT + statement(signer), "is not believed: it is too long"),
        (b"x" * 300_000, "is not believed: it cannot be had: answered with more than 262144 bytes"),
    ):
        served.answer = lambda _, content=content: Response(content)  # type: ignore[misc]
        with pytest.raises(BundleRefused, match=f"7-a does not follow 9-c.* {words}"):
            await judging.admit(revision("7-a"))


async def test_a_server_that_does_not_say_takes_nothing_back(served: Served, signer: Signer, tmp_path: Path) -> None:
    judging = vetting(signer, served.source(deadline=0.3))

    async def refused(judging: Vetting, words: str) -> None:
        with pytest.raises(
            BundleRefused, match=f"7-a does not follow 9-c.* is not believed: it cannot be had: {words}"
        ):
            await judging.admit(revision("7-a"))

    with pytest.raises(BundleRefused, match=r"^the bundle 7-a does not follow 9-c, which was active before$"):
        await judging.admit(revision("7-a"))  # 404
    served.answer = lambda _: Response(statement(signer), status=203)
    await refused(judging, "answered 203")
    served.answer = lambda _: Response(status=302, headers={"location": f"{served.url}?again"})
    await refused(judging, "redirected with 302")
    assert len(served.requests) == 3

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with raw_server(silent) as server:
        at = f"http://127.0.0.1:{server.port}{PATH}"
        await refused(vetting(signer, StatementAddress(at, deadline=0.3)), "no answer within 0.3 s")
    nowhere = f"http://127.0.0.1:{free_port()}{PATH}"
    await refused(vetting(signer, StatementAddress(nowhere)), "the request failed: ")
    await refused(vetting(signer, StatementAddress(nowhere, token_file=tmp_path / "none")), "the token file .* cannot")


async def test_a_server_is_asked_once_in_a_while(served: Served, signer: Signer) -> None:
    """However often the bundle is looked at meanwhile, and by however many at once."""
    seldom, always = (vetting(signer, served.source(pause=pause)) for pause in (3600.0, 0.0))

    async def look(judging: Vetting) -> str:
        try:
            await judging.admit(revision("7-a"))
        except BundleRefused as refused:
            return str(refused)
        return "admitted"

    first = await asyncio.gather(*(look(seldom) for _ in range(20)))
    assert await look(always) == first[0]
    served.answer = lambda _: Response(statement(signer))
    assert {*first, await look(seldom)} == {"the bundle 7-a does not follow 9-c, which was active before"}
    assert await look(always) == "admitted"
    assert len(served.requests) == 3  # one of them for all that looked while the pause lasted
