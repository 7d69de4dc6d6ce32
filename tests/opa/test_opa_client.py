"""The client against a server that does everything wrong, and against OPA."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ostiary.clock import ManualClock
from ostiary.decision.authorizer import OpaAuthorizer
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.query import Answer
from ostiary.decision.staleness import StalenessLimit
from ostiary.errors import PolicyUnavailable
from ostiary.opa.address import OpaAddress
from ostiary.opa.client import DECISION_LIMIT, OpaClient
from ostiary.opa.monitor import PolicyMonitor, StatusPublication
from ostiary.opa.probe import wait_until_ready
from ostiary.opa.process import OpaProcess
from ostiary.opa.vetting import Vetting
from support.opa import (
    ALLOWED,
    DENIED,
    ENDPOINTS,
    NOW,
    REVISION,
    FakeOpa,
    document,
    request,
    response,
    write_bundle,
)

QUESTION: dict[str, Any] = {"subject": {"id": "web"}}


async def ask(fake: FakeOpa, *, deadline: float = 1.0) -> Answer:
    async with fake.listening() as address, OpaClient(address=OpaAddress.parse(address), deadline=deadline) as client:
        return await client.query(QUESTION)


async def failure(fake: FakeOpa, *, deadline: float = 1.0) -> str:
    with pytest.raises(PolicyUnavailable) as refused:
        await ask(fake, deadline=deadline)
    assert (refused.value.status, refused.value.reason) == (503, "policy-unavailable")
    return refused.value.detail


async def test_the_question_is_one_post_to_a_constant_path() -> None:
    fake = FakeOpa(response(document()))
    assert await ask(fake) == Answer(defined=True, result=ALLOWED, revision=REVISION)
    (sent,) = fake.requests
    head, _, body = sent.partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    assert line == "POST /v1/data/ostiary/authz/decision?provenance=true&strict-builtin-errors=true HTTP/1.1"
    names = {header.split(":")[0].lower() for header in headers}
    assert names <= {"host", "content-type", "content-length", "accept", "accept-encoding", "user-agent"}
    assert json.loads(body) == {"input": QUESTION}


async def test_an_undefined_result_is_told_from_null() -> None:
    undefined = json.dumps({"provenance": {"bundles": {"main": {"revision": REVISION}}}}).encode()
    assert await ask(FakeOpa(response(undefined))) == Answer(defined=False, result=None, revision=REVISION)
    assert await ask(FakeOpa(response(b"{}"))) == Answer(defined=False, result=None, revision=None)
    assert await ask(FakeOpa(response(document(None)))) == Answer(defined=True, result=None, revision=REVISION)


@pytest.mark.parametrize(
    "provenance",
    [
        None,
        [],
        {},
        {"bundles": None},
        {"bundles": {}},
        {"bundles": {"main": None}},
        {"bundles": {"main": {}}},
        {"bundles": {"main": {"revision": ""}}},
        {"bundles": {"main": {"revision": 7}}},
        {"bundles": {"main": {"revision": REVISION}, "other": {"revision": "8-ff"}}},
    ],
    ids=repr,
)
async def test_a_revision_that_is_not_told_is_none(provenance: Any) -> None:
    body = json.dumps({"result": ALLOWED, "provenance": provenance}).encode()
    assert (await ask(FakeOpa(response(body)))).revision is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b'{"result":{"allow":tr',
        b"true",
        b"[]",
        b'"x"',
        b"<html>allowed</html>",
        b'{"result":{"allow":true}} x',
        b'{"result":{"allow":false,"allow":true}}',
        b'{"result":{"allow":false},"result":{"allow":true}}',
        b'{"result":{"allow":true},"provenance":{},"provenance":{}}',
        b'{"result":NaN}',
        b'{"result":Infinity}',
        b'{"result":"\xff"}',
        b'{"result":"\\ud800"}',
        b"{'result': true}",
        '{"result":true}'.encode("utf-16"),
        b"\xef\xbb\xbf" + b'{"result":true}',
        b'{"result":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    ],
    ids=lambda body: repr(body[:40]),
)
async def test_what_is_not_one_json_object_is_no_answer(body: bytes) -> None:
    assert "OPA's answer is not" in await failure(FakeOpa(response(body)))


@pytest.mark.parametrize("status", [201, 204, 206, 300, 400, 401, 404, 429, 500, 502, 503, 504])
async def test_a_status_other_than_200_is_no_answer_whatever_it_says(status: int) -> None:
    body = b"" if status == 204 else document()
    assert await failure(FakeOpa(response(body, status=status))) == f"OPA answered {status}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    elsewhere = FakeOpa(response(document()))
    async with elsewhere.listening() as address:
        fake = FakeOpa(response(b"", status=status, headers=f"Location: {address}/v1/data/ostiary/authz/decision\r\n"))
        assert await failure(fake) == f"OPA answered {status}"
    assert (len(fake.requests), elsewhere.requests) == (1, [])


async def test_opas_own_words_are_kept_and_values_are_not() -> None:
    body = {
        "code": "internal_error",
        "message": "error(s) occurred while evaluating query",
        "errors": [
            {
                "code": "eval_conflict_error",
                "message": "secret values",
                "location": {"file": "authz.rego", "row": 4, "col": 1},
            }
        ],
    }
    assert await failure(FakeOpa(response(json.dumps(body).encode(), status=500))) == (
        "OPA answered 500: internal_error: error(s) occurred while evaluating query: eval_conflict_error: authz.rego:4"
    )


async def test_a_detail_is_one_printable_line() -> None:
    body = json.dumps({"code": "x\r\nforged", "message": "\x1b[31m" + "a" * 10_000}).encode()
    detail = await failure(FakeOpa(response(body, status=500)))
    assert detail.isprintable()
    assert len(detail) <= 300


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_a_question_is_sent_once(status: int) -> None:
    """opa-python-client would send a POST that got 500 three times."""
    fake = FakeOpa(response(b"{}", status=status))
    await failure(fake)
    assert len(fake.requests) == 1


async def test_a_question_on_a_connection_that_closes_is_not_sent_again() -> None:
    async def close(writer: asyncio.StreamWriter) -> None:
        writer.close()

    fake = FakeOpa(response(document()))
    async with fake.listening() as address, OpaClient(address=OpaAddress.parse(address), deadline=1) as client:
        await client.query(QUESTION)
        fake.reply = close
        with pytest.raises(PolicyUnavailable):
            await client.query(QUESTION)
        assert (len(fake.requests), fake.connections) == (2, 1)


async def test_an_opa_that_accepts_and_never_answers_is_given_up_at_the_deadline() -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()
    assert await failure(FakeOpa(None), deadline=0.1) == "OPA did not answer within 0.1 s"
    assert 0.1 <= loop.time() - before < 0.5


async def test_the_deadline_covers_an_answer_that_trickles() -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        for byte in response(document()):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)

    assert await failure(FakeOpa(trickle), deadline=0.15) == "OPA did not answer within 0.15 s"


async def test_an_answer_without_end_is_read_to_the_limit_only() -> None:
    sent = 0

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1073741824\r\n\r\n")
        for _ in range(16 * 1024):
            writer.write(b" " * 65536)
            await writer.drain()
            sent += 65536

    assert f"the answer is longer than {DECISION_LIMIT} bytes" in await failure(FakeOpa(flood))
    assert sent < 16 * 1024 * 1024


async def test_an_answer_of_exactly_the_limit_is_read() -> None:
    body = document(True)
    assert (await ask(FakeOpa(response(body + b" " * (DECISION_LIMIT - len(body)))))).result is True
    assert "longer" in await failure(FakeOpa(response(body + b" " * (DECISION_LIMIT - len(body) + 1))))


async def test_nothing_is_inflated() -> None:
    bomb = gzip.compress(document())
    assert "not JSON" in await failure(FakeOpa(response(bomb, headers="Content-Encoding: gzip\r\n")))


@pytest.mark.parametrize(
    "reply",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"",
    ],
)
async def test_a_reply_that_is_not_http_is_no_answer(reply: bytes) -> None:
    assert "OPA cannot be asked" in await failure(FakeOpa(reply, close=True))


async def test_nobody_listening_is_no_answer(tmp_path: Path) -> None:
    left = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(left))
    for address, why in {
        "http://127.0.0.1:1": "nobody listens at http://127.0.0.1:1",
        f"unix://{left}": f"nobody listens at unix://{left}",
        f"unix://{tmp_path}/none.sock": f"there is no socket {tmp_path}/none.sock",
    }.items():
        async with OpaClient(address=OpaAddress.parse(address)) as client:
            with pytest.raises(PolicyUnavailable) as unavailable:
                await client.query(QUESTION)
        assert unavailable.value.detail == f"OPA cannot be asked: {why}"


async def test_a_client_that_is_not_open_has_no_answer() -> None:
    with pytest.raises(PolicyUnavailable, match="the client is not open"):
        await OpaClient(address=OpaAddress.parse("http://127.0.0.1:1")).query(QUESTION)


async def test_a_question_that_is_no_json_is_no_answer() -> None:
    fake = FakeOpa(response(document()))
    async with fake.listening() as address, OpaClient(address=OpaAddress.parse(address)) as client:
        with pytest.raises(PolicyUnavailable, match="cannot be written"):
            await client.query({"claim": 2**70})
    assert fake.requests == []


async def test_a_token_is_sent_and_not_shown() -> None:
    fake = FakeOpa(response(b"{}", status=401))
    async with fake.listening() as address:
        client = OpaClient(address=OpaAddress.parse(address), token="s3cret")
        async with client:
            with pytest.raises(PolicyUnavailable) as refused:
                await client.query(QUESTION)
        assert "s3cret" not in refused.value.detail + repr(client) + str(vars(client))
    assert b"Authorization: Bearer s3cret" in fake.requests[0]


async def test_connections_are_kept_and_bounded() -> None:
    fake = FakeOpa(response(document()))
    async with (
        fake.listening() as address,
        OpaClient(address=OpaAddress.parse(address), connections=3, deadline=2) as client,
    ):
        await asyncio.gather(*(client.query(QUESTION) for _ in range(30)))
    assert (len(fake.requests), fake.connections) == (30, 3)


async def test_a_cookie_is_not_kept() -> None:
    fake = FakeOpa(response(document(), headers="Set-Cookie: a=b\r\n"))
    async with fake.listening() as address, OpaClient(address=OpaAddress.parse(address), deadline=1) as client:
        await client.query(QUESTION)
        await client.query(QUESTION)
    assert b"ookie" not in fake.requests[1]


async def test_another_socket_in_the_place_of_the_old_is_asked_with_the_next_question(tmp_path: Path) -> None:
    """And a question under way to the old one is still answered by it."""
    release = asyncio.Event()

    async def held(writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(response(document("old")))

    old, new = FakeOpa(response(document("old"))), FakeOpa(response(document("new")))
    here = tmp_path / "opa.sock"
    async with (
        old.listening(here) as address,
        new.listening(tmp_path / "new.sock"),
        OpaClient(address=OpaAddress.parse(address), deadline=2) as client,
    ):
        assert (await client.query({})).result == "old"
        old.reply = held
        under_way = asyncio.create_task(client.query({}))
        while len(old.requests) < 2:  # noqa: ASYNC110  # it arrives over a socket
            await asyncio.sleep(0.001)
        (tmp_path / "new.sock").replace(here)
        assert (await client.query({})).result == "new"
        release.set()
        assert (await under_way).result == "old"
        assert (len(old.requests), len(new.requests)) == (2, 1)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("unix:///run/opa/opa.sock", "unix:///run/opa/opa.sock"),
        ("http://127.0.0.1", "http://127.0.0.1:8181"),
        ("http://localhost:8282/", "http://localhost:8282"),
        ("http://[::1]:8282", "http://[::1]:8282"),
        ("https://opa.shop.test", "https://opa.shop.test:443"),
        ("https://opa.shop.test:8443", "https://opa.shop.test:8443"),
    ],
)
def test_addresses(text: str, shown: str) -> None:
    assert str(OpaAddress.parse(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "opa",
        "unix:opa.sock",
        "unix://opa.sock",
        "unix:///opa.sock?x=1",
        "http://opa.shop.test:8181",
        "http://10.0.0.7:8181",
        "http://127.0.0.1.evil.test",
        "http://0.0.0.0:8181",
        "https://user:password@opa.shop.test",
        "https://opa.shop.test/v1",
        "https://opa.shop.test?x",
        "https://opa.shop.test#x",
        "https://opa.shop.test:99999",
        "ftp://127.0.0.1",
        "https://",
    ],
)
def test_addresses_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        OpaAddress.parse(text)
    assert "password" not in str(refused.value).replace("user name or password", "")


class TestOpa:
    """The same client on OPA itself."""

    @pytest.fixture
    async def client(self, opa_binary: Path, tmp_path: Path) -> AsyncIterator[OpaClient]:
        rego = (
            'package ostiary.authz\n\ndecision := data.ostiary.map.answer if input.subject.id == "web"\n\n'
            'decision := {"allow": false} if input == {}\n\n'
            "decision := 1 if input.conflict\n\ndecision := 2 if input.conflict\n\n"
            'decision := {"allow": true} if to_number(input.fails)\n'
        )
        bundle = write_bundle(tmp_path / "bundle", rego=rego, probes=[{"input": {}, "allow": False}])
        process = await OpaProcess.start(binary=opa_binary, bundle=bundle, socket=tmp_path / "s")
        try:
            async with OpaClient(address=OpaAddress(socket=tmp_path / "s"), deadline=5) as client:
                await wait_until_ready(client, accept=Vetting().admit, patience=20)
                yield client
        finally:
            await process.stop()

    async def test_answers_with_the_revision_of_its_bundle(self, client: OpaClient) -> None:
        assert await client.query(QUESTION) == Answer(defined=True, result=ALLOWED, revision=REVISION)
        assert await client.revision() == REVISION
        assert await client.endpoints() == Answer(defined=True, result=ENDPOINTS, revision=REVISION)

    async def test_an_undefined_decision_has_no_result(self, client: OpaClient) -> None:
        assert await client.query({"subject": {}}) == Answer(defined=False, result=None, revision=REVISION)

    async def test_rules_that_conflict_are_no_answer(self, client: OpaClient) -> None:
        with pytest.raises(PolicyUnavailable, match=r"^OPA answered 500: internal_error: .*eval_conflict_error"):
            await client.query({"conflict": True})

    async def test_a_built_in_that_fails_is_no_answer(self, client: OpaClient) -> None:
        """Strict built-in errors: else it would be undefined, and under `not` true."""
        with pytest.raises(PolicyUnavailable, match="eval_builtin_error"):
            await client.query({"fails": "x"})

    async def test_its_socket_is_closed_to_others(self, client: OpaClient) -> None:
        socket = client.address.socket
        assert socket is not None
        assert stat.S_IMODE(socket.stat().st_mode) == 0o660

    async def test_is_asked_through_the_authorizer(self, client: OpaClient) -> None:
        clock = ManualClock(float(NOW))
        monitor = PolicyMonitor(
            opa=client, publication=StatusPublication(opa=client), clock=clock, horizon=PolicyHorizon()
        )
        stage = OpaAuthorizer(
            policy=client, staleness=StalenessLimit(freshness=monitor, most=60), horizon=PolicyHorizon()
        )
        assert (await stage.decide(request())).document == ALLOWED
        assert (await stage.decide(request(subject="nobody"))).reasons == ("policy-denied: the policy has no answer",)


def test_the_fake_speaks_the_contract() -> None:
    assert DENIED.keys() == ALLOWED.keys()
