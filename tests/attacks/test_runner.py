"""The runner itself: it skips nothing, it lets nothing hold that does not, and it tries proxies that run already."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from attacks.runner.cli import CORPORA, main, say
from attacks.runner.corpus import Case, load, plain
from attacks.runner.faults import KeyServer
from attacks.runner.fixture import DEADLINES, attacked_proxy
from attacks.runner.forgery import ISSUER, Forge, jwks, private_pem
from attacks.runner.generators import planned
from attacks.runner.labs import Lab
from attacks.runner.listeners import EVERYWHERE, OWNER, on
from attacks.runner.service import Service
from attacks.runner.shared import shared_lab
from support.forwarding import reserved_port

GET = "GET /orders/123 HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"


def case(generated: Any, expected: str = "reject-4xx") -> dict[str, str]:
    raw = generated if isinstance(generated, str) else "generator:" + json.dumps(generated)
    words = {"id": "X-1", "class": "x.y", "description": "d", "rationale": "r", "source": "s"}
    return {**words, "raw_request": raw, "expected": expected}


def corpus(place: Path, *cases: dict[str, str]) -> Path:
    file = place / "corpus.json"
    file.write_text(json.dumps(cases))
    return file


# What is not understood.


@pytest.mark.parametrize(
    ("generated", "complaint"),
    [
        ({"kind": "telepathy"}, "'telepathy' is not a kind of generator that this runner has"),
        ({"request": GET}, "there is no 'kind'"),
        ("generator:{", "what follows 'generator:' is not JSON: Expecting property name enclosed in double quotes"),
        ("generator:[]", "what follows 'generator:' is not an object"),
        ({"kind": "raw", "request": GET, "twice": True}, "'twice': nobody knows what that means"),
        ({"kind": "raw", "request": "hello"}, "'hello' is no request"),
        (
            {"kind": "jwt", "request": GET, "token": {"sign": "magic"}},
            "'magic' is not a way to sign that this runner has",
        ),
        ({"kind": "jwt", "request": GET, "token": {"sign": "rsa:x"}}, "'x' is not a key that this runner has"),
        (
            {"kind": "jwt", "request": GET, "token": {"mutate": "stir"}},
            "'stir' is not a change that this runner can make",
        ),
        ({"kind": "jwt", "request": GET, "token": {"header": {"x": "<y>"}}}, "'<y>' is nothing that this runner has"),
        ({"kind": "jwt", "request": GET, "token": {"smell": 1}}, "'smell': nobody knows what that means"),
        ({"kind": "env", "opa": "sings"}, "'sings' is nothing that an OPA of this runner does"),
        ({"kind": "env", "jwks": "sings"}, "'sings' is nothing that a key server of this runner does"),
        ({"kind": "env", "audit": "sings"}, "'sings' is no fault of the audit that this runner can cause"),
        ({"kind": "env", "dns": "sings"}, "'sings' has no address"),
        ({"kind": "env", "listener": "telnet"}, "'telnet' is no kind of listener"),
        ({"kind": "env", "listener": "mtls", "peer": "bob"}, "'bob' is no peer that this runner has a certificate of"),
        ({"kind": "env", "request": GET}, "nothing around the proxy is said to be different"),
        (
            {"kind": "body", "request": "POST /orders", "body": "zip(1 GB zeros)"},
            "'zip' is not a coding that this runner",
        ),
        ({"kind": "body", "request": "POST /orders"}, "there is neither 'body' nor 'parts'"),
        ({"kind": "slowloris", "part": "soul"}, "'soul' is no part of a request that this runner can send slowly"),
        ({"kind": "bundle", "variant": "perfumed"}, "'perfumed' is no bundle that this runner can make"),
        ({"kind": "sequence", "steps": ["dance"]}, "'dance' in the step 'dance' is not understood"),
        ({"kind": "sequence", "steps": ["GET /orders/1 with grace"]}, "'grace' in the step"),
        (
            {"kind": "sequence", "steps": ["push bundle without the rule", "mTLS spiffe://corp/sa/web"]},
            "where steps show certificates, each sends a request and nothing else",
        ),
        ({"kind": "sequence", "steps": []}, "steps are texts, at least one"),
        ({"kind": "sequence", "steps": ["grant 60 s", "sing"]}, "'sing' is nothing that is done with a grant"),
        ({"kind": "access", "steps": []}, "there is no step"),
        ({"kind": "access", "steps": [{"as": "web"}]}, "a step: nothing is done"),
        ({"kind": "access", "steps": [{"use": "/x", "loudly": True}]}, "'loudly': nobody knows what that means"),
        ({"kind": "access", "steps": [{"store": "pink"}]}, "'pink' is nothing that a store of grants does"),
        ({"kind": "access", "steps": [{"clock": "soon"}]}, "'soon' is no time"),
        ({"kind": "sequence", "steps": ["push bundle without the rule"]}, "no step sends a request"),
        (
            {"kind": "flood", "request": GET, "count": 1, "assert": "it smiles"},
            "'it smiles' is nothing that this runner",
        ),
        (
            {"kind": "upstream", "request": GET, "upstream_response": {"mood": 1}},
            "'mood': nobody knows what that means",
        ),
        ({"kind": "upstream", "request": GET, "upstream_response": {"error": "rain"}}, "'rain' is no error that this"),
    ],
    ids=lambda value: None if isinstance(value, str) else json.dumps(value)[:60],
)
def test_what_is_not_understood_is_an_error_that_names_the_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], generated: Any, complaint: str
) -> None:
    assert main([str(corpus(tmp_path, case(generated)))]) == 2

    line, last = capsys.readouterr().out.splitlines()
    assert line.startswith(f"X-1 (reject-4xx): not understood: {complaint}")
    assert last == "0 held, 1 fell short"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{}", "a corpus is a list of cases"),
        ("[{}]", "case 0 does not have the members class, description, expected, id, rationale, raw_request, source"),
        (json.dumps([case(GET), case(GET)]), "X-1 is there twice"),
        (json.dumps([case(GET, expected="applause")]), "X-1 expects 'applause', which nobody can judge"),
    ],
)
def test_a_file_that_is_no_corpus_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, complaint: str
) -> None:
    file = tmp_path / "corpus.json"
    file.write_text(text)

    assert main([str(file)]) == 2
    assert capsys.readouterr().err == f"{file}: {complaint}\n"


# What nobody foresaw.


def test_no_case_ends_the_run_of_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is said to be what it is, and how many held is said at the end."""
    odd = ({"kind": "header-count", "request": GET, "count": "many"}, {"kind": ["raw"]}, {"kind": "\ud800"})
    cases = [{**case(told), "id": f"X-{number}"} for number, told in enumerate(odd)]

    assert main([str(corpus(tmp_path, *cases))]) == 2
    assert capsys.readouterr().out.splitlines() == [
        "X-0 (reject-4xx): not understood: ValueError: invalid literal for int() with base 10: 'many'",
        "X-1 (reject-4xx): not understood: TypeError: unhashable type: 'list'",
        r"X-2 (reject-4xx): not understood: '\ud800' is not a kind of generator that this runner has",
        "0 held, 3 fell short",
    ]


async def test_a_line_has_the_characters_that_its_place_can_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as out:
        monkeypatch.setattr(sys, "stdout", out)
        say("\u0130 \ud800 a")
    assert (tmp_path / "out").read_text() == "\\u0130 \\ud800 a\n"


@pytest.mark.parametrize(
    ("text", "sent"),
    [("a\xe9", b"a\xe9"), ("\u0130\xe9", b"\xc4\xb0\xe9"), ("\ud800", b"\xed\xa0\x80"), ("a\\r\\n", b"a\r\n")],
)
def test_what_no_byte_has_is_sent_as_utf_8(text: str, sent: bytes) -> None:
    assert plain(text) == sent


# What does not hold.


@contextlib.asynccontextmanager
async def pipe() -> AsyncIterator[Lab]:
    """No proxy at all: whatever comes goes to the service as it is, and its answer comes back."""
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async with Service().running() as service:

        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", service.port)
            writers.append(upstream_writer)
            for one in (copy(reader, upstream_writer), copy(upstream_reader, writer)):
                tasks.add(asyncio.create_task(one))

        server = await asyncio.start_server(connect, "127.0.0.1", 0)
        try:
            yield Lab(address=server.sockets[0].getsockname()[:2], forge=Forge(), service=service, patience=0.5)
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for one in writers:
                one.transport.abort()
            await asyncio.sleep(0.01)  # what was aborted has ended then


def one_of_each_class() -> list[Any]:
    """The first case of each class that needs nothing but the connection, and whose connection has to be answered."""
    found: dict[tuple[str, str], Case] = {}
    for one in load(*CORPORA):
        of_grants = one.source == "ours" and one.family == "jit" and one.kind != "jit.store"
        if (one.generated is None or of_grants) and one.expected != "connection-closed":
            found.setdefault((one.kind, one.expected), one)
    return [pytest.param(one, id=one.id) for one in found.values()]


@pytest.mark.parametrize("one", one_of_each_class())
async def test_nothing_holds_where_there_is_no_proxy(one: Case) -> None:
    async with pipe() as lab:
        assert await planned(one).attempt(lab) != []


# What steps share.


async def test_what_is_about_the_cache_is_tried_on_listeners_with_one(opa_binary: Path) -> None:
    """What one of them was told is kept there when another is asked."""
    async with shared_lab(EVERYWHERE) as lab:
        request = lab.request(token=lab.forge.token(nonce="one"))
        assert [(await lab.ask(request)).status for _ in range(2)] == [200, 200]
        assert lab.audit is not None
        lines = [json.loads(line) for line in lab.audit.read()]
        assert [line["cached"] for line in lines if line["kind"] == "decision"] == [False, True]
        assert {id(one.known["authorizer"]) for one in lab.known["listeners"].values()} == {id(lab.known["authorizer"])}
        assert (await on(lab, "mtls", OWNER).ask(message("/orders/123", lab))).status == 200
        assert (await on(lab, "mtls", "CN=web").ask(message("/orders/123", lab))).status == 403


def message(path: str, lab: Lab) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {lab.host}\r\n\r\n".encode()


# A proxy that runs already.


async def test_a_proxy_that_runs_already_is_tried(
    opa_binary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the issuer's key and as its service; then with nothing but a token, and what needs more is said to."""
    (tmp_path / "issuer.pem").write_bytes(private_pem("issuer"))
    cases = corpus(
        tmp_path,
        {**case(GET, expected="forwarded-normalised"), "id": "C-1", "class": "control.allow"},
        {**case({"kind": "jwt", "request": GET.replace("TOKEN", "JWT"), "token": {"sign": "random"}}), "id": "J-1"},
        {**case({"kind": "jwt", "request": GET.replace("TOKEN", "JWT"), "token": {"raw": "a.b.c"}}), "id": "J-2"},
        {**case({"kind": "env", "opa": "down"}, expected="not-forwarded"), "id": "O-1"},
        {**case({"kind": "bundle", "variant": "truncated"}, expected="not-forwarded"), "id": "B-1"},
        {**case({"kind": "upstream", "request": GET, "upstream_response": {"status": 302}}, "forwarded-normalised"),
         "id": "U-1"},
        {**case(GET.replace("/orders/123", "/orders/admin/users"), expected="deny-403"), "id": "P-1"},
        {**case(GET.replace("/orders/123", "/orders/123"), expected="deny-403"), "id": "P-2"},
    )  # fmt: skip
    with reserved_port() as port:
        async with (
            KeyServer(good={"idp": jwks()}).running() as keys,
            attacked_proxy(
                issuers={ISSUER: keys.url("idp")},
                origins={"orders": f"http://127.0.0.1:{port}"},
                limits=DEADLINES,
            ) as proxy,
        ):
            target = [str(cases), "--target", f"http://127.0.0.1:{proxy.port}"]
            known = ["--key", str(tmp_path / "issuer.pem"), "--service", str(port), "--audit", str(proxy.audit)]
            assert await asyncio.to_thread(main, [*target, *known]) == 1
            with_key = capsys.readouterr().out.splitlines()
            async with Service(port=port).running():
                assert await asyncio.to_thread(main, [*target, "--token", Forge().token()]) == 1
            with_token = capsys.readouterr().out.splitlines()

    opa = "not tried: OPA, the audit's disk and the time that they fail at are not this runner's"
    bundles = "not tried: its bundles are not this runner's"
    short = "answered 200, not 403; the service saw 1 request(s): /orders/123"
    by_line = "line by line: answered 200, not 403; line by line: the service saw 1 request(s): /orders/123"
    assert with_key == [
        f"P-2 (deny-403): {short}; {by_line}",
        f"O-1 {opa}",
        f"B-1 {bundles}",
        "2 not tried",
        "5 held, 1 fell short",
    ]
    assert with_token == [
        "P-2 (deny-403): answered 200, not 403; line by line: answered 200, not 403",
        "J-1 not tried: no token can be made without the key of the issuer (--key)",
        f"O-1 {opa}",
        f"B-1 {bundles}",
        "U-1 not tried: what the service answers is not this runner's (--service)",
        "4 not tried",
        "3 held, 1 fell short",
    ]


def test_a_target_that_nothing_is_known_of_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--target", "http://127.0.0.1:1"]) == 2
    assert capsys.readouterr().err == "a target needs the key of its issuer, or a token of the caller `web`\n"
