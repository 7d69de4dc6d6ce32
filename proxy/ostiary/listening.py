"""Listening: the sockets, the private directories of those that have a name, and the uvicorn server behind them.

Several processes listen on one socket: workers of one proxy, and whole proxies where somebody else made it and passed
it on (`passed_socket`). Not on several sockets of one port (SO_REUSEPORT): each of those has a queue of its own, and
the connections in it are lost with it, those whose handshake is not over among them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
import stat
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, Final, Literal

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ostiary.addresses import SOCKET_PATH_BYTES
from ostiary.errors import ConfigurationError

_log = logging.getLogger("ostiary.listening")

BACKLOG: Final = 2048
"""Connections that wait to be accepted."""

_FIRST_PASSED: Final = 3
"""The number of the first descriptor that is passed on (sd_listen_fds(3))."""
_LOOK: Final = 1.0  # seconds to see whether somebody answers on a socket that is in the way


class Server(uvicorn.Server):
    """uvicorn's server, stopped by `stop` instead of by the signal handlers that it would install.

    `started` is called once it accepts. When it stops, what the kernel has accepted for it is served like every other
    connection: once, and the answer says that it was the last.
    """

    def __init__(self, config: uvicorn.Config, *, started: Callable[[], None] | None = None) -> None:
        super().__init__(config)
        self._tell_started = started
        self._queues: list[socket.socket] = []

    def stop(self) -> None:
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Copies: the event loop closes those that it is given, without a last look at what waits in them.
        self._queues = [one.dup() for one in sockets or ()]
        await super().startup(sockets=sockets)
        if self._tell_started is not None:
            self._tell_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for queue in self._queues:
            with contextlib.closing(queue):
                await self._take_in(queue)
        await super().shutdown(sockets=sockets)

    async def _take_in(self, queue: socket.socket) -> None:
        """Take over the connections that wait to be accepted: with the last copy of the socket they would be reset."""
        loop = asyncio.get_running_loop()
        for _ in range(BACKLOG):
            try:
                accepted, _ = queue.accept()
            except OSError:  # there is none, or no descriptor for one
                return
            accepted.setblocking(False)
            with contextlib.suppress(OSError):  # it has gone already
                _, protocol = await loop.connect_accepted_socket(self._protocol, accepted)
                protocol.shutdown()  # before its first byte is read

    def _protocol(self) -> Any:
        """As uvicorn makes them."""
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def quiet(
    application: ASGIApp,
    *,
    http: type[asyncio.Protocol] = HttpToolsProtocol,
    lifespan: Literal["on", "off"] = "off",
    patience: int = 1,
) -> uvicorn.Config:
    """How every listener here is served: no websocket, no log of its own, nothing believed of or told about a proxy.

    The protocol is named, because uvicorn would fall back to another in silence. `patience` is how long open requests
    may take to end when the server stops, in seconds.
    """
    return uvicorn.Config(
        application,
        http=http,
        ws="none",
        interface="asgi3",
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=patience,
    )


def allow_descriptors(needed: int, *, by: str) -> None:
    """Let this process open so many files, if the system does, and warn if it does not. `by` is what needs them.

    Without a descriptor a connection can neither be accepted nor made: clients are cut off before they are heard.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    granted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
        soft = granted
    if soft < needed:
        _log.warning("%s need %d open files, and %d are allowed (ulimit -n)", by, needed, soft)


def private_directory(path: Path) -> Path:
    """The directory, made 0700 if it is not there.

    Raises `ConfigurationError` if others can get into it, `OSError` if it cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigurationError([f"{path}: holds keys and sockets, and has to be this user's alone (mode 0700)"])
    return path


def bind(host: str, port: int) -> socket.socket:
    """A bound TCP socket, refusing connections until `listen` is called on it. Port 0 is any free one.

    Raises `OSError` with the address in it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise _cannot_listen(f"{host}:{port}", error) from error
    return bound


def passed_socket(environment: MutableMapping[str, str], *, host: str, port: int) -> socket.socket | None:
    """The socket that this process was given to listen on, or None: systemd's protocol, sd_listen_fds(3).

    Whoever made it keeps it while proxies come and go, so no connection is refused or lost between two. The variables
    are removed: no child is to take the socket for its own. Raises `ConfigurationError` if what was passed is not
    exactly one listening TCP socket of the configured address. Port 0 is any.
    """
    meant, count = environment.pop("LISTEN_PID", None), environment.pop("LISTEN_FDS", None)
    environment.pop("LISTEN_FDNAMES", None)
    if meant != str(os.getpid()) or count is None:
        return None
    if count != "1":
        raise ConfigurationError([f"{count} sockets were passed to listen on: exactly one is used, for listen.data"])
    try:
        passed = socket.socket(fileno=_FIRST_PASSED)
    except OSError as error:
        raise ConfigurationError([f"the socket that was passed to listen on is none: {error.strerror}"]) from error
    name = passed.getsockname()
    if (
        passed.family not in (socket.AF_INET, socket.AF_INET6)
        or passed.type != socket.SOCK_STREAM
        or not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        passed.close()
        raise ConfigurationError(["the socket that was passed to listen on is not a listening TCP socket"])
    if name[0] != host or port not in (0, name[1]):
        passed.close()
        raise ConfigurationError(
            [f"the socket that was passed to listen on is {name[0]}:{name[1]}, and listen.data is {host}:{port}"]
        )
    passed.set_inheritable(False)
    passed.setblocking(False)
    return passed


def listen(bound: socket.socket) -> None:
    """Let a bound TCP socket accept. Raises `OSError` with the address in it: two may bind, one may listen."""
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        raise _cannot_listen("{}:{}".format(*bound.getsockname()[:2]), error) from error


def listen_unix(path: Path) -> socket.socket:
    """A listening unix socket (0600) in a private directory; one that nobody answers on is replaced.

    Raises `OSError` with the path in it, `ConfigurationError` if the directory is open to others.
    """
    private_directory(path.parent)
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise OSError(f"cannot listen on {path}: the path of a unix socket has at most {SOCKET_PATH_BYTES} bytes")
    if path.is_socket():
        if _answers(path):
            raise OSError(f"cannot listen on {path}: another process does")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _cannot_listen(str(path), error) from error
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_LOOK)
        try:
            client.connect(str(path))
        except TimeoutError:
            return True  # its backlog is full
        except OSError:
            return False
    return True


def _cannot_listen(where: str, error: OSError) -> OSError:
    return OSError(f"cannot listen on {where}: {error.strerror or error}")
