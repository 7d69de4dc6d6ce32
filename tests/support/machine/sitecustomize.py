"""Stands in for parts of the machine that a test cannot change: its clocks, its resolver, and the disk of an audit.

Python imports this by its name when it starts, because `support.machine` puts its directory on PYTHONPATH for a proxy.
Everything above the interpreter is the real thing and knows nothing of it.
"""

import errno
import mmap
import os
import socket
import struct
import time
from pathlib import Path


def _move_clocks(path):
    """Unix time and the monotonic clock run ahead of the machine's by two numbers of seconds in a file."""
    with path.open("r+b") as file:
        moved = mmap.mmap(file.fileno(), 16)
    wall, monotonic = time.time, time.monotonic
    time.time = lambda: wall() + struct.unpack_from("d", moved, 0)[0]
    time.monotonic = lambda: monotonic() + struct.unpack_from("d", moved, 8)[0]


def _resolve_by(path):
    """Names below .test have the addresses in a file, a line each: `name address ...`. No file: nothing answers."""
    import uvloop

    class Loop(uvloop.Loop):
        async def getaddrinfo(self, host, port, **options):
            name = host.decode() if isinstance(host, bytes) else host
            if name is None or not name.endswith(".test"):
                return await super().getaddrinfo(host, port, **options)
            try:
                lines = [line.split() for line in path.read_text().splitlines()]
            except OSError:
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution") from None
            found = [address for known, *addresses in lines if known == name for address in addresses]
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [_resolved(address, port) for address in found]

    uvloop.new_event_loop = Loop


def _resolved(address, port):
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)


def _write_by(path):
    """Writing to an audit's file goes as a file says: `write EIO`, `fsync EIO`, `write 2`, which are seconds."""

    def faulty(name, real):
        def call(descriptor, *arguments):
            told = path.read_text().split() if path.exists() else []
            if told[:1] == [name] and Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".ndjson":
                if not told[1].isdigit():
                    number = getattr(errno, told[1])
                    raise OSError(number, os.strerror(number))
                time.sleep(int(told[1]))
            return real(descriptor, *arguments)

        return call

    os.write, os.fsync = faulty("write", os.write), faulty("fsync", os.fsync)


if "MACHINE_DISK" in os.environ:
    _write_by(Path(os.environ["MACHINE_DISK"]))
if "MACHINE_CLOCKS" in os.environ:
    _move_clocks(Path(os.environ["MACHINE_CLOCKS"]))
if "MACHINE_HOSTS" in os.environ:
    _resolve_by(Path(os.environ["MACHINE_HOSTS"]))
