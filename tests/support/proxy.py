"""The whole proxy as a person runs it: `ostiary run -c ostiary.yaml` with a real OPA, as a process of its own.

    async with running_proxy(upstreams={"orders": port}) as proxy:
        httpx.get(f"http://127.0.0.1:{proxy.port}/orders/42", headers=proxy.headers("web"))

`running_proxy` is a context manager and an asynchronous one; entering takes about two seconds. Leaving it sends SIGTERM
and demands a clean end: exit status 0, no process left behind, and no token that was made here anywhere in the audit or
the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import httpx

from ostiary import assets
from ostiary.demo.issuer import AUDIENCE, ISSUER, DemoIssuer
from ostiary.opa.install import ensure_opa
from ostiary.policy.bundle import build_bundle

OWN_HOST: Final = "ostiary.localhost"

PERMISSIONS: Final = f"""\
services:
  orders:
    endpoints:
      list-orders: GET /orders
      get-order: GET /orders/{{order_id}}
      head-order: HEAD /orders/{{order_id}}
      create-order: POST /orders
      replace-order: PUT /orders/{{order_id}}
      delete-order: DELETE /orders/{{order_id}}
      export: GET /orders/export
      charge: POST /charges/{{charge_id}}
callers:
  web: {{issuer: {ISSUER}, subject: web}}
  reporting: {{issuer: {ISSUER}, subject: reporting}}
permissions:
  - {{caller: web, service: orders, endpoints: [list-orders, get-order, head-order, export]}}
  - {{caller: web, service: orders, endpoints: [create-order, replace-order]}}
  - {{caller: web, service: orders, endpoints: [charge], credential: {{per_call: true, lifetime: 30s}}}}
  - {{caller: reporting, service: orders, endpoints: [list-orders]}}
"""
"""The default map. `web` may do all but `delete-order`; `charge` takes a per-call credential."""

TRUSTING_NOBODY: Final = {"SSL_CERT_FILE": os.devnull}
"""The authorities of the system are read when aiohttp is imported, a tenth of a start; what runs here asks none."""

_START: Final = 60.0
_END: Final = 60.0
_SERVING: Final = re.compile(r"serving on 127\.0\.0\.1:(\d+) with")
# Longer than a token id, so that chance cannot make one: a JWT begins with `{"`, which is eyJ.
_TOKEN: Final = re.compile(rb"eyJ[A-Za-z0-9_-]{21,}")


class Signer(Protocol):
    """Who makes tokens, and publishes the keys to check them with."""

    def token(self, subject: str, **claims: Any) -> str: ...
    def jwks(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """A signer, as the configuration names it."""

    signer: Signer
    issuer: str = ISSUER
    audience: str = AUDIENCE
    algorithm: str = "ES256"
    options: str = "claims: [groups, tenant]"


class ProxyFailed(Exception):
    """It did not come up. The message is its log."""


@dataclass
class RunningProxy:
    """A proxy that serves on 127.0.0.1:`port`. Its files are in `place`, its log is `log`."""

    place: Path
    process: subprocess.Popen[bytes]
    trusted: Trusted
    log: Path
    port: int = 0
    admin_port: int | None = None
    tokens: list[str] = field(default_factory=list, repr=False)

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self.process.pid

    @property
    def issuer(self) -> Signer:
        return self.trusted.signer

    @property
    def audit(self) -> Path:
        return self.place / "audit"

    @property
    def bundle(self) -> Path:
        return self.place / "bundle"

    @property
    def admin(self) -> Path:
        """The unix socket of the administrative listener."""
        return self.place / "run" / "admin.sock"

    @property
    def worker_pids(self) -> list[int]:
        """The workers that run, oldest first."""
        return [pid for pid in children(self.pid) if b"spawn_main" in command_line(pid)]

    @property
    def opa_pid(self) -> int:
        """The OPA that runs, or was started last if one takes another's place. Raises ValueError without one."""
        running = [pid for pid in children(self.pid) if b"--unix-socket-perm=660" in command_line(pid)]
        if not running:
            raise ValueError("no OPA runs")
        return running[-1]

    def token(self, subject: str = "web", **claims: Any) -> str:
        """A token of the proxy's issuer. It is remembered: it must be found nowhere."""
        self.tokens.append(self.trusted.signer.token(subject, **claims))
        return self.tokens[-1]

    def headers(self, subject: str | None = "web", *, service: str = "orders", **claims: Any) -> dict[str, str]:
        """Host and Authorization for a request of `subject` to a service."""
        headers = {"host": f"{service}.localhost"}
        if subject is not None:
            headers["authorization"] = f"Bearer {self.token(subject, **claims)}"
        return headers

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def health(self) -> tuple[int, dict[str, Any]]:
        """Status and document of `/readyz`."""
        transport = httpx.HTTPTransport(uds=None if self.admin_port else str(self.admin), verify=False)
        with httpx.Client(transport=transport, trust_env=False) as client:
            response = client.get(f"http://127.0.0.1:{self.admin_port or 80}/readyz")
            return response.status_code, response.json()

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def audit_lines(self) -> list[dict[str, Any]]:
        """Every complete line of the audit, file by file, but those that are about the chain itself."""
        complete = [
            json.loads(line)
            for path in sorted(self.audit.glob("*.ndjson"))
            for line in path.read_bytes().splitlines(keepends=True)
            if line.endswith(b"\n")
        ]
        return [line for line in complete if line["kind"] not in ("begin", "resume", "end", "pruned")]

    async def recorded(self, decision_id: str, *, lines: int, seconds: float = 60.0) -> list[dict[str, Any]]:
        """The lines of one decision, as soon as there are so many. The last one is written after the answer."""
        found: list[dict[str, Any]] = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = [line for line in self.audit_lines() if line.get("decision_id") == decision_id]
            if len(found) >= lines:
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(f"{len(found)} lines of {decision_id}, not {lines}: {found}")

    def leaked(self) -> list[str]:
        """Where a token is, whole or in part, in what the proxy has written."""
        files = [self.log, *(path for path in self.audit.rglob("*") if path.is_file())]
        secrets = {part.encode() for token in self.tokens for part in (token, *token.split(".")) if len(part) >= 16}
        return [
            str(path)
            for path in files
            for content in [path.read_bytes()]
            if _TOKEN.search(content) or any(secret in content for secret in secrets)
        ]

    def stop(self) -> int:
        """SIGTERM, and wait. The exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_END)


@dataclass
class running_proxy:  # noqa: N801 - a context manager, used like a function
    """Start the proxy when entered, end it when left.

    `place` is its directory; if None a short one below /tmp, because the paths of unix sockets are limited. `upstreams`
    are ports on 127.0.0.1 by service; each answers to `<service>.localhost` unless `hosts` says otherwise.
    `permissions` is the text of permissions.yaml, `rego` the organisation's Rego by file name. `service_extra` are
    further members of a service in ostiary.yaml (`"cors: {…}"`), `config_extra` further lines of it, `listen_extra`
    further members of its listener, which proves by `identity` (`"mtls, jwt"`), and `more_issuers` further items of its
    issuers. `environment` is added to the process's. A `listener` is passed to it, as systemd would. With an
    `admin_port` the administrative listener is there, on 127.0.0.1. With `clean` False nothing is demanded of its end:
    for tests that kill it.
    """

    place: Path | None = None
    upstreams: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    permissions: str = field(default=PERMISSIONS, kw_only=True)
    rego: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    hosts: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    service_extra: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    config_extra: str = field(default="", kw_only=True)
    opa_extra: str = field(default="", kw_only=True)
    listen_extra: str = field(default="", kw_only=True)
    identity: str = field(default="jwt", kw_only=True)
    more_issuers: str = field(default="", kw_only=True)
    trusted: Trusted | None = field(default=None, kw_only=True)
    workers: int = field(default=1, kw_only=True)
    environment: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    admin_port: int | None = field(default=None, kw_only=True)
    clean: bool = field(default=True, kw_only=True)
    listener: socket.socket | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> RunningProxy:
        with contextlib.ExitStack() as stack:
            proxy = stack.enter_context(self._running())
            self._stack = stack.pop_all()
        return proxy

    def __exit__(self, *error: Any) -> bool:
        return bool(self._stack.__exit__(*error))

    async def __aenter__(self) -> RunningProxy:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *error: Any) -> bool:
        return await asyncio.to_thread(self.__exit__, *error)

    @contextlib.contextmanager
    def prepared(self) -> Iterator[Path]:
        """Its directory with all that it needs, for tests that start it themselves, or that it cannot start in."""
        with self._directory() as place:
            self.trusted = self.trusted or Trusted(signer=DemoIssuer(place))
            self._write(place, self.trusted)
            yield place

    @contextlib.contextmanager
    def _running(self) -> Iterator[RunningProxy]:
        with self._directory() as place:
            trusted = self.trusted or Trusted(signer=DemoIssuer(place))
            self._write(place, trusted)
            log = place / "log"
            with log.open("ab") as output:
                passed = [] if self.listener is None else [self.listener.fileno()]
                process = subprocess.Popen(
                    [
                        *(passing(passed[0]) if passed else ()),
                        sys.executable,
                        "-m",
                        "ostiary",
                        "run",
                        "-c",
                        "ostiary.yaml",
                    ],
                    cwd=place,
                    pass_fds=passed,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **TRUSTING_NOBODY, **self.environment},
                )
            proxy = RunningProxy(place, process, trusted, log, admin_port=self.admin_port)
            try:
                _wait_until_ready(proxy)
                yield proxy
            except BaseException:
                _end_by_force(proxy)
                raise
            _end(proxy, clean=self.clean)

    @contextlib.contextmanager
    def _directory(self) -> Iterator[Path]:
        if self.place is not None:
            self.place.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield self.place
            return
        place = Path(tempfile.mkdtemp(prefix="ost-", dir="/tmp"))
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _write(self, place: Path, trusted: Trusted) -> None:
        policy = place / "policy"
        policy.mkdir(exist_ok=True)
        (policy / "permissions.yaml").write_text(self.permissions, encoding="utf-8")
        for name, text in self.rego.items():
            (policy / name).write_text(text, encoding="utf-8")
        shutil.rmtree(place / "bundle", ignore_errors=True)
        for name, content in _built(self.permissions, tuple(sorted(self.rego.items()))).items():
            path = place / "bundle" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (place / "jwks.json").write_text(json.dumps(trusted.signer.jwks()), encoding="utf-8")
        (place / "ostiary.yaml").write_text(self._configuration(trusted), encoding="utf-8")

    def _configuration(self, trusted: Trusted) -> str:
        services = "".join(
            f'  {name}: {{hosts: [{self.hosts.get(name, f"{name}.localhost")}], upstream: "http://127.0.0.1:{port}"'
            f"{_member(self.service_extra.get(name, ''))}}}\n"
            for name, port in self.upstreams.items()
        )
        admin = "unix:run/admin.sock" if self.admin_port is None else f"127.0.0.1:{self.admin_port}"
        issuers = f"""\
issuers:
  - {{issuer: "{trusted.issuer}", audience: {trusted.audience}, key_file: jwks.json,
     algorithms: [{trusted.algorithm}]{_member(trusted.options)}}}
{self.more_issuers}"""
        return f"""\
listen: {{data: "127.0.0.1:0", admin: "{admin}", identity: [{self.identity}]{_member(self.listen_extra)}}}
own_host: {OWN_HOST}
workers: {self.workers}
{issuers if "jwt" in self.identity else ""}services:
{services}opa: {{managed: {{bundle: bundle}}{_member(self.opa_extra)}}}
audit: {{path: audit/}}
{self.config_extra}"""


@functools.cache
def _built(permissions: str, rego: tuple[tuple[str, str], ...]) -> Mapping[str, bytes]:
    """The files of that policy's bundle. Built once: most proxies have the same one, and OPA is asked for each."""
    with tempfile.TemporaryDirectory() as place:
        policy, bundle = Path(place, "policy"), Path(place, "bundle")
        policy.mkdir()
        (policy / "permissions.yaml").write_text(permissions, encoding="utf-8")
        for name, text in rego:
            (policy / name).write_text(text, encoding="utf-8")
        build_bundle(policy, bundle, opa=ensure_opa(), sequence=1, rego_root=assets.rego())
        return {str(path.relative_to(bundle)): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def children(pid: int) -> list[int]:
    """The processes that it has started and that still run, oldest first; not the children of those."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name is in parentheses and may hold anything; the state, the parent and the start come after it.
            facts = status.read_text().rpartition(")")[2].split()
            if int(facts[1]) == pid and facts[0] != "Z":
                found.append((int(facts[19]), int(status.parent.name)))
    return [child for _, child in sorted(found)]  # ids begin again when they are used up


def command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def alive(pid: int) -> bool:
    """Whether it runs; one that has ended and was not waited for does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def memory(pid: int, what: str = "VmHWM") -> int:
    """Bytes of a process: `VmHWM` is the most that it ever had resident, `VmRSS` what it has now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(what)


def forget_peak(pid: int) -> None:
    """Make `VmHWM` begin anew at what the process has now (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def passing(descriptor: int, *, count: int = 1) -> list[str]:
    """What goes before a command whose process is told to listen on this descriptor: sd_listen_fds(3)."""
    program = (
        f"import os, sys; os.dup2({descriptor}, 3)\n"
        f"os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='{count}')\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", program]


def _member(text: str) -> str:
    return f", {text}" if text else ""


def _wait_until_ready(proxy: RunningProxy) -> None:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and proxy.process.poll() is None:
        if serving := _SERVING.search(proxy.log_text()):
            proxy.port = int(serving[1])
            health = proxy.health()[1]
            # Not its readiness: that waits for the keys of every issuer, and those of some tests never come.
            if health["policy"] == "serving" and health["workers_ready"] == health["workers"]:
                return
        time.sleep(0.02)
    raise ProxyFailed(f"exit status {proxy.process.poll()}\n{proxy.log_text()}")


def _end(proxy: RunningProxy, *, clean: bool) -> None:
    started = children(proxy.pid)
    try:
        status = proxy.stop()
    except subprocess.TimeoutExpired:
        _end_by_force(proxy)
        raise AssertionError(f"the proxy did not end within {_END} s:\n{proxy.log_text()}") from None
    if not clean:
        return
    assert status == 0, f"exit status {status}\n{proxy.log_text()}"
    _gone(started)
    assert not proxy.admin.exists()
    assert "Traceback" not in proxy.log_text(), proxy.log_text()
    assert proxy.leaked() == []


def _gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 30
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < deadline, f"left behind: {[command_line(pid) for pid in left]}"
        time.sleep(0.02)


def _end_by_force(proxy: RunningProxy) -> None:
    """The workers and OPA end by themselves when the supervisor is gone."""
    started = children(proxy.pid)
    if proxy.process.poll() is None:
        proxy.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            proxy.process.wait(5)
    if proxy.process.poll() is None:
        proxy.process.kill()
        proxy.process.wait()
    for pid in started:
        if alive(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
