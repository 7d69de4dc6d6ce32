"""`ostiary health`: what a proxy or an OPA on this machine says of itself, as an exit status. For probes.

Only what this takes is imported, and with the address given no configuration is read: a probe runs every few seconds,
on the processor that serves requests.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ostiary.addresses import is_localhost
from ostiary.cli.output import fail

_DEADLINE: Final = 4.0
"""Seconds. A worker has three to answer the supervisor."""

_PAUSE: Final = 0.2

_MOST: Final = 16 * 1024 * 1024
"""Bytes of an answer."""


class _Connection(http.client.HTTPConnection):
    """Over a unix socket."""

    def __init__(self, path: str, *, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def command(
    ready: Annotated[bool, typer.Option("--ready", help="Whether a request could be allowed; the default.")] = False,
    live: Annotated[bool, typer.Option("--live", help="Whether it runs at all.")] = False,
    address: Annotated[
        str | None,
        typer.Option(
            "--admin",
            metavar="ADDRESS",
            help="The administrative listener, unix:PATH or 127.0.0.1:PORT; that of the configuration if left out.",
        ),
    ] = None,
    opa: Annotated[
        str | None,
        typer.Option("--opa", metavar="ADDRESS", help="Ask an OPA there instead; it is ready with its bundles."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE", help="./ostiary.yaml if left out.")
    ] = None,
    wait: Annotated[
        int, typer.Option("--wait", metavar="SECONDS", min=0, help="How long to ask again until it is well.")
    ] = 0,
) -> None:
    """Ask a proxy on this machine, or its OPA, how it is: for probes.

    Exit status 0: well. 1: it is not, or nobody answers.
    """
    if ready and live:
        fail("--ready and --live are two questions: ask one")
    if opa is not None and (address is not None or config is not None):
        fail("--opa asks an OPA, and --admin and --config are about the proxy")
    if opa is not None:
        where, path = opa, "/health" if live else "/health?bundles"
    else:
        where, path = address or _configured(config), "/livez" if live else "/readyz"
    until = time.monotonic() + wait
    well, told = _told(where, path)
    while not well and time.monotonic() < until:
        time.sleep(_PAUSE)
        well, told = _told(where, path)
    if not well:
        fail(told, status=1)
    typer.echo(told)


def _told(where: str, path: str) -> tuple[bool, str]:
    """Whether it is well, and what it says, or why nothing is heard. Ends the command for what is no address."""
    try:
        status, answer = asked(where, path, deadline=_DEADLINE)
    except ValueError as error:
        fail(str(error))
    except (OSError, http.client.HTTPException) as error:
        return False, f"{where}: does not answer: {error}"
    return status == http.client.OK, _shown(answer)


def _configured(config: Path | None) -> str:
    from ostiary.config import CONFIGURATION, load_config

    return str(load_config(config or CONFIGURATION, os.environ).admin_address)


def asked(address: str, path: str, *, deadline: float) -> tuple[int, bytes]:
    """Status and body. `deadline`, in seconds, is for each step. Raises `ValueError` for what is no address on this
    machine, `HTTPException` and `OSError`."""
    connection = _connection(address, deadline)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(_MOST)
    finally:
        connection.close()


def _connection(address: str, deadline: float) -> http.client.HTTPConnection:
    if address.startswith("unix:"):
        return _Connection(address.removeprefix("unix:").removeprefix("//"), timeout=deadline)
    host, _, port = address.removeprefix("http://").rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not is_localhost(host) or not port.isascii() or not port.isdecimal():
        raise ValueError(f"{address!r} is not unix:PATH or 127.0.0.1:PORT")
    return http.client.HTTPConnection(host, int(port), timeout=deadline)


def _shown(answer: bytes) -> str:
    """One line of JSON; of anything else, that it is."""
    try:
        found: Any = json.loads(answer or b"{}")
    except ValueError:
        return f"{len(answer)} bytes that are no JSON"
    return json.dumps(found)
