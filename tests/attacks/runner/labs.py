"""Where cases are tried: each lab is one running proxy with what is around it, and tries its cases one by one.

After each case a good request must be served, behind it on the same connection where that is still open.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from attacks.runner import fixture
from attacks.runner.faults import BundleServer, KeyFaultPlan, KeyServer, OpaFront, packed
from attacks.runner.fixture import HOST, AuditTail, LogTail, attacked_proxy, build
from attacks.runner.forgery import ISSUER, Forge, jwks, private_pem, public_jwk, public_pem
from attacks.runner.service import Reply, Service
from attacks.runner.verdicts import Evidence, judged, unclean
from attacks.runner.wire import PATIENCE, Answer, Conversation, Garbled, connected, converse
from ostiary.opa.install import ensure_opa
from support.machine import Machine
from support.proxy import RunningProxy

Findings = list[str]

_LAST: Final = re.compile(rb'"kind":"(?:refusal|completion|answer)"')
"""The last line of a request."""

_RECORDED: Final = 10.0
"""Seconds for lines to be in the audit; it takes hundredths."""


@dataclass
class Lab:
    """A proxy to attack. What cannot be seen of one that runs elsewhere is None."""

    address: tuple[str, int]
    forge: Forge
    service: Service | None = None
    audit: AuditTail | None = None
    log: LogTail | None = None
    keys: KeyServer | None = None
    proxy: RunningProxy | None = None
    host: str = HOST
    authority: str = ""
    patience: float = PATIENCE
    """Seconds for which an answer is waited for."""
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    """What is shown to a listener with TLS."""
    proof: str | None = None
    """The header lines by which a good request says whose it is; None for a token."""
    known: dict[str, Any] = field(default_factory=dict, repr=False)
    """What labs of one kind share with their cases."""

    # One message.

    async def attack(
        self,
        raw: bytes | Iterable[bytes],
        *,
        expected: str,
        kind: str = "",
        secrets: Iterable[str] = (),
        source: str | None = None,
        reply: Reply | None = None,
        relayed: Callable[[Answer], str | None] | None = None,
        host: str | None = None,
        streamed: bool = False,
    ) -> Findings:
        """Send a message, and say what of the expectation it falls short of."""
        pieces = [raw] if isinstance(raw, bytes) else raw
        if self.host != HOST:
            pieces = (piece.replace(HOST.encode(), self.host.encode()) for piece in pieces)
        shown: list[bytes] = []
        mark = self.mark()
        nonce, probe = self.probe()
        if self.service is not None:
            self.service.reply = reply
        conversation = await converse(
            self.address,
            _kept(pieces, shown),
            then=probe,
            until=nonce,
            source=source,
            patience=self.patience,
            tls=self.tls,
        )
        if self.service is not None:
            self.service.reply = None
        after = [] if not (conversation.ended or conversation.garbage) else await self.served()
        evidence = await self.evidence(mark, conversation, b"".join(shown), secrets)
        evidence.kind, evidence.relayed, evidence.peer = kind, relayed, source or "127.0.0.1"
        evidence.host, evidence.streamed = host or self.host, streamed
        return judged(expected, evidence) + after + self.probed(mark, probe)

    def request(self, path: str = "/orders/123", token: str | None = None, *, method: str = "GET") -> bytes:
        proof = self.proof
        if proof is None:
            proof = f"Authorization: Bearer {self.forge.token() if token is None else token}\r\n"
        return f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\n{proof}\r\n".encode()

    async def ask(self, raw: bytes, *, source: str | None = None) -> Answer:
        """The answer to a message, on a connection of its own. Raises `Garbled`."""
        async with connected(self.address, source=source, patience=self.patience, tls=self.tls) as client:
            await client.send(raw)
            answer = await client.answer()
        if answer is None:
            raise Garbled("the connection was closed without an answer")
        return answer

    # The good request behind it.

    def probe(self, *, token: str | None = None) -> tuple[bytes, bytes]:
        """A good request unlike any other, and the body of its answer before it."""
        path = f"/orders/probe-{os.urandom(8).hex()}"
        return f"the service was asked for {path}".encode(), self.request(path, token)

    async def served(self, *, token: str | None = None, source: str | None = None) -> Findings:
        """Whether a good request is served now, on a connection of its own.

        Asked again where the runner may have been too late itself, for a deadline of the proxy or the proxy's of it.
        """
        for attempt in range(3):
            body, raw = self.probe(token=token)
            try:
                answer = await self.ask(raw, source=source)
            except (Garbled, TimeoutError, OSError) as error:
                if attempt == 2:
                    return [f"a good request afterwards had no answer: {error}"]
                continue
            if answer.status not in (408, 503, 504):
                break
            await asyncio.sleep(0.5)  # the proxy looks again at what was wrong, four times a second
        if answer.status != 200 or (self.service is not None and answer.body != body):
            return [f"a good request afterwards was answered {answer.status} {answer.body[:200]!r}"]
        return []

    # What there is to see.

    def mark(self) -> tuple[int, int, int]:
        return (
            len(self.service.received) if self.service else 0,
            len(self.audit.read()) if self.audit else 0,
            self.log.mark() if self.log else 0,
        )

    async def evidence(
        self,
        mark: tuple[int, int, int],
        conversation: Conversation,
        raw: bytes,
        secrets: Iterable[str] = (),
        *,
        recorded: bool = True,
    ) -> Evidence:
        """`recorded` is False where the audit is not to be looked at."""
        requests, lines, log = mark
        return Evidence(
            raw=raw,
            conversation=conversation,
            host=self.host,
            received=self.service.since(requests) if self.service else None,
            lines=await self._lines(lines, conversation) if self.audit and recorded else None,
            log=self.log.since(log) if self.log else "",
            secrets=[secret for secret in secrets if len(secret) >= 8],
            authority=self.authority,
        )

    def probed(self, mark: tuple[int, int, int], raw: bytes) -> Findings:
        """What of the good requests since arrived otherwise than it should: one caller's request must not show in
        another's."""
        if self.service is None:
            return []
        found = []
        for one in self.service.received[mark[0] :]:
            if one.is_probe:
                sent = raw.replace(raw.split(b" ")[1], one.target.encode(), 1)
                evidence = Evidence(raw=sent, conversation=Conversation(), host=self.host, authority=self.authority)
                found += [f"the good request behind it: {wrong}" for wrong in unclean(one, evidence)]
        return found

    async def _lines(self, mark: int, conversation: Conversation) -> list[bytes]:
        """The audit's lines since, once those of every answer are there."""
        wanted = [one.decision_id.encode() for one in conversation.answers if one.status >= 200 and one.decision_id]
        until = time.monotonic() + _RECORDED
        while True:
            assert self.audit is not None
            lines = self.audit.read()[mark:]
            last = [line for line in lines if _LAST.search(line)]
            if all(any(one in line for line in last) for one in wanted):
                return lines
            if time.monotonic() > until:
                return lines
            await asyncio.sleep(0.005)


def _kept(pieces: Iterable[bytes], shown: list[bytes]) -> Iterable[bytes]:
    """The pieces, of which the first megabytes are remembered."""
    size = 0
    for piece in pieces:
        if size < 8 << 20:
            shown.append(piece)
            size += len(piece)
        yield piece


# Labs.


@dataclass
class Place:
    """What a lab is to be like, as its cases need it."""

    permissions: str = fixture.PERMISSIONS
    limits: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    origin: str | None = None
    """Of the service; None for the one that the runner runs."""
    key_named: bool = True
    """Whether OPA is told which key signs bundles; else it takes the one that the signature names."""
    catalog_down: bool = False
    """Whether OPA does not tell what endpoints there are, so that no credential can be made for one."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further members of ostiary.yaml."""


@contextlib.asynccontextmanager
async def plain_lab(place: Place, *, deadlines: Mapping[str, Any] = fixture.PATIENT) -> AsyncIterator[Lab]:
    """The fixture of SECURITY.md. The `deadlines` for clients are its own only where a case is about them: the runner
    is a client too, which is late itself on a machine that is busy."""
    async with Service().running() as service, KeyServer(good={"idp": jwks()}).running() as keys:
        proxy = attacked_proxy(
            permissions=place.permissions,
            issuers={ISSUER: keys.url("idp")},
            origins={"orders": place.origin or f"http://127.0.0.1:{service.port}"},
            limits={**deadlines, **place.limits},
            environment=place.environment,
            extra=place.extra,
        )
        async with _lab(proxy, service, keys) as lab:
            yield lab


@contextlib.asynccontextmanager
async def machine_lab(place: Place) -> AsyncIterator[Lab]:
    """The fixture on a machine whose clock and resolver can be set: `known["machine"]`."""
    async with (
        Service().running() as service,
        KeyServer(good={"idp": jwks()}).running() as keys,
        short_directory() as here,
    ):
        machine = Machine(here)
        proxy = attacked_proxy(
            issuers={ISSUER: keys.url("idp")},
            origins={"orders": place.origin or f"http://127.0.0.1:{service.port}"},
            limits={**fixture.PATIENT, **place.limits},
            environment=machine.environment,
            extra=place.extra,
        )
        async with _lab(proxy, service, keys, machine=machine) as lab:
            yield lab


@contextlib.asynccontextmanager
async def _lab(proxy: attacked_proxy, service: Service, keys: KeyServer, **known: Any) -> AsyncIterator[Lab]:
    async with proxy as running:
        yield Lab(
            address=("127.0.0.1", running.port),
            forge=Forge(),
            service=service,
            audit=AuditTail(running.audit),
            log=LogTail(running.log),
            keys=keys,
            proxy=running,
            authority=f"127.0.0.1:{service.port}",
            known=known,
        )


@contextlib.asynccontextmanager
async def opa_lab(place: Place) -> AsyncIterator[Lab]:
    """OPA is external, and somebody stands in front of it. `known["opa"]` is who."""
    async with (
        Service().running() as service,
        KeyServer(good={"idp": jwks()}).running() as keys,
        short_directory() as here,
    ):
        revision = await asyncio.to_thread(build, here, place.permissions, {}, sequence=1)
        async with (
            opa(here, "--bundle", str(here / "bundle"), socket=here / "real.sock"),
            OpaFront(here / "opa.sock", here / "real.sock", catalog_down=place.catalog_down).running() as front,
        ):
            proxy = attacked_proxy(
                issuers={ISSUER: keys.url("idp")},
                origins={"orders": f"http://127.0.0.1:{service.port}"},
                limits=place.limits,
                opa=f"unix://{here / 'opa.sock'}",
                opa_deadline=f"{fixture.DEADLINE:g}s",
            )
            async with _lab(proxy, service, keys, opa=front, revision=revision) as lab:
                yield lab


@contextlib.asynccontextmanager
async def keys_lab(place: Place, faults: list[KeyFaultPlan]) -> AsyncIterator[Lab]:
    """One issuer for each fault, so that none has to wait for another's cool-down. `known["issuers"]` by name;
    `known["machine"]` has the clock."""
    issuers = {fault.name: f"https://{fault.name}.idp.test" for fault in faults}
    callers = "".join(f"  {name}: {{issuer: {issuer}, subject: web}}\n" for name, issuer in issuers.items())
    permissions = place.permissions.replace("callers:\n", f"callers:\n{callers}")
    permissions = permissions.replace("permissions:\n", "permissions:\n" + "".join(
        f"  - {{caller: {name}, service: orders, endpoints: [create-order, get-order]}}\n" for name in issuers
    ))  # fmt: skip
    async with (
        Service().running() as service,
        KeyServer(good={"idp": jwks()}).running() as keys,
        short_directory() as here,
    ):
        machine = Machine(here)
        for fault in faults:
            keys.good[fault.name] = jwks(public_jwk())
            if not fault.later:
                keys.faults[fault.name] = fault.stages[0].fault
        proxy = attacked_proxy(
            permissions=permissions,
            issuers={ISSUER: keys.url("idp"), **{issuer: keys.url(name) for name, issuer in issuers.items()}},
            origins={"orders": f"http://127.0.0.1:{service.port}"},
            limits=place.limits,
            environment=machine.environment,
            max_policy_age="8784h",  # so that it is the keys which are too old, where days pass
        )
        began = time.monotonic()
        async with _lab(proxy, service, keys, issuers=issuers, began=began, machine=machine) as lab:
            yield lab


@contextlib.asynccontextmanager
async def bundle_lab(place: Place) -> AsyncIterator[Lab]:
    """OPA is external and polls for signed bundles. `known` has the server, and how to make bundles."""
    async with (
        Service().running() as service,
        KeyServer(good={"idp": jwks()}).running() as keys,
        BundleServer().running() as server,
        short_directory() as here,
    ):
        press = Press(here)
        await press.prepare(place.permissions)
        server.publish(await press.signed())
        (here / "opa.json").write_text(press.configuration(server.port, named=place.key_named))
        async with opa(here, "--config-file", str(here / "opa.json"), socket=here / "opa.sock") as log:
            proxy = attacked_proxy(
                issuers={ISSUER: keys.url("idp")},
                origins={"orders": f"http://127.0.0.1:{service.port}"},
                limits=place.limits,
                opa=f"unix://{here / 'opa.sock'}",
            )
            async with _lab(proxy, service, keys, server=server, press=press, opa_log=log) as lab:
                yield lab


class Press:
    """Makes bundles: as they should be, and with everything allowed that nobody may."""

    KEY_ID: Final = "bundles"
    SCOPE: Final = "read"

    def __init__(self, here: Path) -> None:
        self._here = here
        self._opa = ensure_opa()
        self.sequence = 1
        self.wide: dict[str, bytes] = {}
        """The files of a bundle that would allow `GET /orders/admin/**`, unsigned."""

    async def prepare(self, permissions: str) -> None:
        for name in ("publisher", "stranger"):
            (self._here / f"{name}.pem").write_bytes(private_pem(name))
            (self._here / f"{name}.pub").write_bytes(public_pem(name))
        self._permissions = permissions
        await self._build("good", permissions, 1)
        wide = permissions.replace("[create-order, get-order]", "[create-order, get-order, admin]")
        await self._build("wide", wide, 2)
        self.wide = self.files("wide")

    async def _build(self, name: str, permissions: str, sequence: int) -> None:
        place = self._here / name
        place.mkdir(exist_ok=True)
        await asyncio.to_thread(build, place, permissions, {}, sequence=sequence)

    def files(self, name: str) -> dict[str, bytes]:
        root = self._here / name / "bundle"
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file() and not path.name.endswith("_test.rego")
        }

    async def signed(self, files: Mapping[str, bytes] | None = None, **how: str) -> bytes:
        """A packed bundle, signed by `opa sign`, as `with_signature` does it."""
        return packed(await self.with_signature(files, **how))

    async def with_signature(
        self,
        files: Mapping[str, bytes] | None = None,
        *,
        key: str = "publisher.pem",
        key_id: str = KEY_ID,
        scope: str = SCOPE,
        algorithm: str = "RS256",
    ) -> dict[str, bytes]:
        content = dict(self.files("good") if files is None else files)

        def sign() -> bytes:
            with tempfile.TemporaryDirectory(dir=self._here) as name:
                # Packed: of a directory `opa sign` leaves the manifest out.
                root = Path(name) / "bundle.tar.gz"
                root.write_bytes(packed(content))
                claims = Path(name) / "claims.json"
                claims.write_text(f'{{"keyid": "{key_id}", "scope": "{scope}"}}')
                secret = str(self._here / key) if (self._here / key).exists() else key
                subprocess.run(
                    [
                        str(self._opa), "sign", "--bundle", "--signing-key", secret, "--signing-alg", algorithm,
                        "--claims-file", str(claims), "--output-file-path", name, str(root),
                    ],
                    check=True,
                    capture_output=True,
                )  # fmt: skip
                return (Path(name) / ".signatures.json").read_bytes()

        return {**content, ".signatures.json": await asyncio.to_thread(sign)}

    def configuration(self, port: int, *, named: bool = True) -> str:
        signing = {"scope": self.SCOPE, **({"keyid": self.KEY_ID} if named else {})}
        return json.dumps(
            {
                "services": {"policy": {"url": f"http://127.0.0.1:{port}"}},
                "keys": {
                    self.KEY_ID: {
                        "algorithm": "RS256",
                        "key": (self._here / "publisher.pub").read_text(),
                        "scope": self.SCOPE,
                    }
                },
                "bundles": {
                    "main": {
                        "service": "policy",
                        "resource": "bundle.tar.gz",
                        "signing": signing,
                        "size_limit_bytes": 16 << 20,
                        "polling": {"min_delay_seconds": 1, "max_delay_seconds": 1},
                    }
                },
                "status": {"prometheus": True},
            }
        )


@contextlib.asynccontextmanager
async def opa(here: Path, *arguments: str, socket: Path) -> AsyncIterator[Path]:
    """A real OPA on a unix socket; where it logs."""
    log = here / "opa.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(await asyncio.to_thread(ensure_opa)), "run", "--server", "--addr", f"unix://{socket}",
            "--log-format", "json", "--log-level", "info", "--disable-telemetry", *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=asyncio.subprocess.STDOUT, cwd=here,
        )  # fmt: skip
    try:
        until = time.monotonic() + 30
        while not await asyncio.to_thread(socket.exists):
            if process.returncode is not None or time.monotonic() > until:
                raise RuntimeError(f"OPA did not come up:\n{log.read_text()}")
            await asyncio.sleep(0.02)
        yield log
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(5):
                    await process.wait()
            except TimeoutError:
                process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def short_directory() -> AsyncIterator[Path]:
    """A private directory with a short name: paths of unix sockets are limited."""
    place = Path(tempfile.mkdtemp(prefix="atk-", dir="/tmp"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def no_more_disk(proxy: RunningProxy) -> Any:
    """No worker can write another byte to a file: what a full disk is to the audit."""
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in proxy.worker_pids}
    if not before:
        raise RuntimeError("the proxy has no worker")
    try:
        for pid, (_, hard) in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
        yield
    finally:
        for pid, limits in before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


async def eventually(holds: Callable[[], bool], *, seconds: float = PATIENCE) -> bool:
    """Whether it comes to hold within so many seconds."""
    until = time.monotonic() + seconds
    while not await asyncio.to_thread(holds):
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.02)
    return True
