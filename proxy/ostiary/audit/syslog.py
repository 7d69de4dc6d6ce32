"""A copy of the audit for a syslog relay on this machine: rsyslog, syslog-ng, or an OpenTelemetry collector.

It is a copy and never the record: lines are handed over once they are in their file, no request waits for it, and what
the relay does not take in time is dropped, counted, and said in an `uncopied` record. Since checkpoints are copied too,
it is also a way to have them on another machine within a second.

Messages are those of RFC 5424: facility 13 (log audit), severity informational or, of a refusal, notice; the message id
is the kind of the line, the message the line itself. Datagrams to a unix socket or to UDP (RFC 5426), or octet counting
on TCP (RFC 6587 section 3.4.1). TLS and the way to another machine are the relay's.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

_log = logging.getLogger("ostiary.audit")

QUEUE_BYTES: Final = 8 << 20
"""Lines that wait for the relay, at most."""

_TIMEOUT: Final = 5.0  # seconds for the relay to take something
_FIRST_RETRY: Final = 0.1  # seconds, doubled up to the last
_LAST_RETRY: Final = 10.0
_END: Final = 1.0  # seconds to hand over what waits when the proxy ends
_DATAGRAM: Final = 65_507  # bytes of the largest one on IPv4
_INFORMATIONAL: Final = 13 * 8 + 6
_NOTICE: Final = 13 * 8 + 5
_ABOUT: Final = re.compile(rb'\{"schema":\d+,"kind":"([a-z-]{1,32})","time":"([0-9TZ:.-]{20,30})"')
_HOST: Final = re.compile(r"[!-~]{1,255}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SyslogAddress:
    """Where the relay listens: a path, or host and port."""

    transport: Literal["unix", "udp", "tcp"]
    path: Path | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport}:{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Lines that were not copied, so far. `error` is why, as it was last seen."""

    lines: int
    error: str | None


class SyslogCopy:
    """Hands groups of lines over to a relay, from a thread of its own. `offer` may be called from any thread."""

    def __init__(self, address: SyslogAddress, *, worker: str, queue_bytes: int = QUEUE_BYTES) -> None:
        host = socket.gethostname()
        self.address = address
        self._about = f"{host if _HOST.fullmatch(host) else '-'} ostiary {worker}".encode()
        self._capacity = queue_bytes
        self._groups: deque[bytes] = deque()
        self._waiting = 0  # bytes
        self._dropped = 0
        self._error: str | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._socket: socket.socket | None = None
        self._pause = _FIRST_RETRY
        self._thread = threading.Thread(target=self._run, name="ostiary-syslog", daemon=True)

    def open(self) -> None:
        """Begin. A relay that is not there yet is no error."""
        self._thread.start()

    def offer(self, group: bytes) -> None:
        """Copy these lines, if there is room. Does not wait."""
        with self._changed:
            if self._waiting + len(group) > self._capacity:
                self._dropped += group.count(b"\n")
                self._error = self._error or "the relay is too slow"
                return
            self._groups.append(group)
            self._waiting += len(group)
            self._changed.notify()

    def dropped(self) -> Dropped:
        with self._changed:
            return Dropped(lines=self._dropped, error=self._error)

    def close(self) -> None:
        """Hand over what waits, for a moment, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(_END)

    def _run(self) -> None:
        while (group := self._next()) is not None:
            for line in group.splitlines():
                self._hand_over(line)
        self._disconnect()

    def _next(self) -> bytes | None:
        with self._changed:
            while not self._groups and not self._closing:
                self._changed.wait()
            if not self._groups:
                return None
            group = self._groups.popleft()
            self._waiting -= len(group)
            return group

    def _hand_over(self, line: bytes) -> None:
        """Until it is taken, or there is no hope for it."""
        message = self._message(line)
        while True:
            try:
                self._send(message)
            except OSError as error:
                self._disconnect()
                self._note(error)
                if self._closing or isinstance(error, _TooLong):
                    with self._changed:
                        self._dropped += 1
                    return
                self._rest()
            else:
                self._pause = _FIRST_RETRY
                return

    def _note(self, error: OSError) -> None:
        text = error.strerror or str(error) or type(error).__name__
        with self._changed:
            known, self._error = self._error, text
        if known != text:
            _log.warning("the copy of the audit cannot be handed to %s: %s", self.address, text)

    def _rest(self) -> None:
        """A pause that the end of the proxy cuts short."""
        until = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, _LAST_RETRY)
        with self._changed:
            while not self._closing and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    def _message(self, line: bytes) -> bytes:
        found = _ABOUT.match(line)
        kind, instant = (b"-", b"-") if found is None else found.groups()
        priority = _NOTICE if kind == b"refusal" else _INFORMATIONAL
        return b"<%d>1 %b %b %b - %b" % (priority, instant, self._about, kind, line)

    def _send(self, message: bytes) -> None:
        if self.address.transport == "tcp":
            self._connected().sendall(b"%d %b" % (len(message), message))
            return
        if self.address.transport == "udp" and len(message) > _DATAGRAM:
            raise _TooLong(f"a line of {len(message)} bytes fits into no datagram")
        self._connected().send(message)

    def _connected(self) -> socket.socket:
        if self._socket is None:
            last: OSError = ConnectionError(f"{self.address} is no address")
            for family, kind, where in self._places():
                made = socket.socket(family, kind)
                made.settimeout(_TIMEOUT)
                try:
                    made.connect(where)
                except OSError as error:
                    made.close()
                    last = error
                    continue
                self._socket = made
                return made
            raise last
        return self._socket

    def _places(self) -> Iterator[tuple[int, int, str | tuple[str, int]]]:
        address = self.address
        if address.path is not None:
            yield socket.AF_UNIX, socket.SOCK_DGRAM, str(address.path)
            return
        kind = socket.SOCK_STREAM if address.transport == "tcp" else socket.SOCK_DGRAM
        for family, _, _, _, where in socket.getaddrinfo(address.host, address.port, type=kind):
            yield family, kind, (str(where[0]), int(where[1]))

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _TooLong(OSError):
    """No datagram holds it."""
