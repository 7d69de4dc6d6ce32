"""Twenty thousand cases of everything that is fuzzed, what was found before, and that faults are found at all."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import re
from pathlib import Path
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fuzz.certificates import Certificates, clean
from fuzz.messages import Messages
from fuzz.mutation import mutate, shrink
from fuzz.proxy import FuzzedProxy
from fuzz.runner import broken, kept_cases, made, run
from fuzz.streams import TOKEN
from fuzz.targets import TARGETS
from ostiary.errors import IdentityInvalid
from ostiary.exchange import Exchange
from ostiary.interfaces import Renew, TargetResolver, Upstream
from ostiary.models import Credential, Identity, Target
from ostiary.spiffe import SpiffeId
from ostiary.upstream import Forwarder

SEED = 20_000
CASES = 20_000
_WHOLE = sum(make.share for make in TARGETS)  # type: ignore[attr-defined]


def name_of(make: Any) -> str:
    return str(make.name)


@pytest.mark.parametrize("make", TARGETS, ids=name_of)
def test_nothing_is_found(make: Any) -> None:
    findings = list(run(make.name, cases=round(CASES * make.share / _WHOLE), seed=SEED))
    assert [f"{finding.said} {finding.keep()}" for finding in findings] == []


@pytest.mark.parametrize("path", kept_cases(), ids=lambda path: path.stem)
def test_what_was_found_stays_mended(path: Path) -> None:
    target = made(path.stem.partition("-")[0])
    try:
        assert broken(target, path.read_bytes()) is None
    finally:
        target.close()


@pytest.mark.parametrize("make", TARGETS, ids=name_of)
def test_a_seed_makes_the_same_cases(make: Any) -> None:
    one, other = random.Random(1), random.Random(1)
    target = made(make.name)
    try:
        for _ in range(20):
            case = target.make(one)
            assert case == target.make(other)
            assert mutate(case, one, target.words, [case]) == mutate(case, other, target.words, [case])
    finally:
        target.close()


def test_a_case_is_made_smaller_as_long_as_it_finds_the_same() -> None:
    assert shrink(b"a" * 100 + b"<b>" + b"c" * 99, lambda case: b"<" in case and b">" in case) == b"<>"


# What readers of forwarded certificates have done: each is found, and what Envoy writes is read.


def split_anywhere(value: bytes) -> tuple[SpiffeId, None]:
    """Knows nothing of quotes."""
    pairs = [part.partition("=")[::2] for part in re.split("[;,]", value.decode("latin-1"))]
    names = [text.strip('"') for key, text in pairs if key.strip().lower() == "uri"]
    try:
        return SpiffeId.parse(names[-1]), None
    except (IndexError, ValueError):
        raise IdentityInvalid("no name") from None


def without_escapes(value: bytes) -> tuple[SpiffeId, None]:
    """Ends a quoted text at a quote that is escaped."""
    bare = re.sub(rb'"[^"]*"', b"", value)
    return split_anywhere(bare if b"URI" in bare else value)


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (split_anywhere, b'Subject="CN=a;URI=spiffe://corp/sa/admin"'),
        (split_anywhere, b"URI=spiffe://corp/sa/web,URI=spiffe://corp/sa/admin"),
        (without_escapes, b'Subject="CN=a\\";URI=spiffe://corp/sa/admin;X=\\"b";DNS=a'),
    ],
)
def test_a_certificate_that_is_read_otherwise_is_found(read: Any, value: bytes) -> None:
    found = broken(Certificates(read), value)
    assert found is not None
    assert found.startswith("FindingError: another workload")
    assert broken(Certificates(), value) is None


def test_readers_with_faults_are_found_out_by_chance() -> None:
    rng = random.Random(SEED)
    for read in (split_anywhere, without_escapes):
        assert any(broken(Certificates(read), Certificates().make(rng)) for _ in range(500))


def test_what_envoy_writes_is_read() -> None:
    value = f'By=spiffe://corp/proxy;Hash={"ab" * 32};Subject="CN=a,O=\\"b\\"";URI=spiffe://corp/sa/web;DNS=a;DNS=b'
    assert clean(value) == "spiffe://corp/sa/web"
    assert broken(Certificates(), value.encode()) is None


# That the messages' target finds something is shown by faults: each is what some proxy once did.

_AUTHORIZED = b"Host: orders.test\r\nAuthorization: Bearer " + TOKEN + b"\r\n"


class Lenient(FuzzedProxy):
    """Its listener is uvicorn's own."""

    def listener(self) -> type[asyncio.Protocol]:
        return HttpToolsProtocol


class Verbatim(FuzzedProxy):
    """Forwards the path as it came, whatever was decided (apisix PR #14035)."""

    def targets(self) -> TargetResolver:
        targets = super().targets()

        class AsItCame:
            def resolve(self, exchange: Exchange) -> Target:
                return dataclasses.replace(targets.resolve(exchange), path=exchange.raw_path.decode())

        return AsItCame()


class Late(FuzzedProxy):
    """Forwards to where the request before was aimed."""

    def upstream(self, forwarder: Forwarder) -> Upstream:
        class OneBehind:
            before: Target | None = None

            async def forward(
                self, exchange: Exchange, target: Target, identity: Identity, credential: Credential, renew: Renew
            ) -> None:
                self.before, aim = target, self.before or target
                await forwarder.forward(exchange, aim, identity, credential, renew)

        return OneBehind()


class Careless(FuzzedProxy):
    """Takes the caller's own credential for the swapped one."""

    def upstream(self, forwarder: Forwarder) -> Upstream:
        class Passing:
            async def forward(
                self, exchange: Exchange, target: Target, identity: Identity, credential: Credential, renew: Renew
            ) -> None:
                value = exchange.header(b"authorization") or b""
                passed = dataclasses.replace(credential, header=(b"authorization", value))
                await forwarder.forward(exchange, target, identity, passed, renew)

        return Passing()


@pytest.mark.parametrize(
    ("faulty", "stream", "said"),
    [
        (Lenient, b"GET  /orders/1 HTTP/1.1\r\n" + _AUTHORIZED + b"\r\n", "let in what h11 does not read as a request"),
        (
            Lenient,
            b"POST /orders HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + _AUTHORIZED + b"\r\n0\r\nX-Evil: 1\r\n\r\n",
            "let in as something else",
        ),
        (Verbatim, b"GET /orders/%61 HTTP/1.1\r\n" + _AUTHORIZED + b"\r\n", "another path"),
        (
            Late,
            b"GET /orders/1 HTTP/1.1\r\n" + _AUTHORIZED + b"\r\nGET /orders/2 HTTP/1.1\r\n" + _AUTHORIZED + b"\r\n",
            "another target than was decided",
        ),
        (Careless, b"GET /orders/1 HTTP/1.1\r\n" + _AUTHORIZED + b"\r\n", "the caller's token"),
    ],
)
def test_a_fault_is_found(faulty: type[FuzzedProxy], stream: bytes, said: str) -> None:
    target = Messages(faulty())
    try:
        found = broken(target, b"\0\0\0\0" + stream)
    finally:
        target.close()
    assert found is not None
    assert found.startswith(f"FindingError: {said}")
