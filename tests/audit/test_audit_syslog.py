"""The copy for a syslog relay: what it looks like, that nobody waits for it, and that what is lost is said."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ostiary.audit import AuditTrail, SyslogAddress, SyslogCopy
from ostiary.clock import ManualClock
from support.trail import Place, chained, checkpoints, record, verified

MESSAGE = re.compile(rb"<(\d+)>1 (\S+) \S+ ostiary (\S+) (\S+) - (\{.*\})", re.DOTALL)


def datagrams(receiver: socket.socket, count: int) -> list[tuple[bytes, ...]]:
    receiver.settimeout(10)
    return [parsed(receiver.recv(1 << 20)) for _ in range(count)]


def parsed(message: bytes) -> tuple[bytes, ...]:
    found = MESSAGE.fullmatch(message)
    assert found is not None, message
    return found.groups()


def written(place: Place, address: SyslogAddress) -> None:
    """Two records, whose chain ends in a checkpoint, through a whole trail."""
    copy = SyslogCopy(address, worker="w0")
    files, chain = chained(place, written=copy.offer)
    signing = checkpoints(place, chain, interval=3600, written=copy.offer)
    trail = AuditTrail(files, signing, worker="w0", clock=ManualClock(), copy=copy)
    trail.open()
    trail.append([record(1)])
    trail.append([record(2)])
    trail.close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as receiver:
        receiver.bind(("127.0.0.1", 0))
        yield receiver


def copied(place: Place) -> list[bytes]:
    return [
        *(line for path in place.files() for line in path.read_bytes().splitlines()),
        *(line for path in sorted(place.checkpoints.iterdir()) for line in path.read_bytes().splitlines()),
    ]


def test_every_record_and_checkpoint_is_copied_as_it_is_in_its_file(place: Place, udp: socket.socket) -> None:
    written(place, SyslogAddress(transport="udp", host="127.0.0.1", port=udp.getsockname()[1]))
    found = datagrams(udp, 5)

    assert [line for *_, line in found] == copied(place)
    assert [kind for *_, kind, _ in found] == [b"begin", b"decision", b"decision", b"end", b"checkpoint"]
    assert found[1][:3] == (b"110", b"2026-09-21T14:13:20.000Z", b"w0")


def test_a_unix_socket_takes_the_same(place: Place) -> None:
    path = place.home / "log"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as receiver:
        receiver.bind(str(path))
        written(place, SyslogAddress(transport="unix", path=path))
        assert [line for *_, line in datagrams(receiver, 5)] == copied(place)


def test_on_tcp_each_message_says_its_length(place: Place) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        received = bytearray()

        def read() -> None:
            connection, _ = server.accept()
            with connection:
                while piece := connection.recv(65536):
                    received.extend(piece)

        reader = threading.Thread(target=read)
        reader.start()
        written(place, SyslogAddress(transport="tcp", host="127.0.0.1", port=server.getsockname()[1]))
        reader.join(10)
    found, rest = [], bytes(received)
    while rest:
        length, _, rest = rest.partition(b" ")
        found.append(parsed(rest[: int(length)])[-1])
        rest = rest[int(length) :]
    assert found == copied(place)


def test_a_refusal_is_a_notice(place: Place, udp: socket.socket) -> None:
    copy = SyslogCopy(SyslogAddress(transport="udp", host="127.0.0.1", port=udp.getsockname()[1]), worker="w0")
    copy.open()
    copy.offer(b'{"schema":1,"kind":"refusal","time":"2026-09-21T14:13:20.000Z"}\n')
    copy.offer(b'{"odd":1}\n')
    copy.close()
    assert [one[:4] for one in datagrams(udp, 2)] == [
        (b"109", b"2026-09-21T14:13:20.000Z", b"w0", b"refusal"),
        (b"110", b"-", b"w0", b"-"),
    ]


def test_without_a_relay_records_are_written_and_what_is_lost_is_recorded(place: Place) -> None:
    """The queue holds three groups, and nobody takes any."""
    copy = SyslogCopy(SyslogAddress(transport="unix", path=place.home / "nowhere"), worker="w0", queue_bytes=700)
    clock = ManualClock()
    files, _ = chained(place, written=copy.offer)
    trail = AuditTrail(files, worker="w0", clock=clock, copy=copy)
    trail.open()
    for number in range(20):
        trail.append([record(number)])
    before = copy.dropped()
    clock.advance(10)
    trail.append([record(20)])
    trail.append([record(21)])
    trail.close()

    lines = place.lines()
    assert [int(line["decision_id"], 16) for line in lines if line["kind"] == "decision"] == list(range(22))
    first, *_ = [line for line in lines if line["kind"] == "uncopied"]
    assert before.lines >= 14
    assert {**first, "seq": 0, "mac": ""} == {
        "schema": 1,
        "kind": "uncopied",
        "time": "2026-09-21T14:13:30.000Z",
        "worker": "w0",
        "to": f"unix:{place.home}/nowhere",
        "lines": before.lines,
        "error": first["error"],
        "seq": 0,
        "mac": "",
    }
    assert first["error"] in ("No such file or directory", "the relay is too slow")
    assert verified(place).findings == []


def test_a_relay_that_comes_back_gets_what_waited(place: Place) -> None:
    path = place.home / "log"
    copy = SyslogCopy(SyslogAddress(transport="unix", path=path), worker="w0")
    copy.open()
    copy.offer(record(1))
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as receiver:
        receiver.bind(str(path))
        (found,) = datagrams(receiver, 1)
    copy.close()
    assert json.loads(found[-1])["decision_id"] == f"{1:032x}"


def test_a_relay_that_reads_nothing_holds_up_neither_records_nor_the_end(place: Place) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = SyslogAddress(transport="tcp", host="127.0.0.1", port=server.getsockname()[1])
        copy = SyslogCopy(address, worker="w0", queue_bytes=1 << 20)
        files, _ = chained(place, written=copy.offer, max_bytes=1 << 30)
        trail = AuditTrail(files, worker="w0", clock=ManualClock(), copy=copy)
        trail.open()
        for number in range(300):
            trail.append([record(number, size=100_000)])
        trail.close()
    assert copy.dropped().lines > 100
    assert verified(place).findings == []


def test_a_line_that_fits_into_no_datagram_is_counted(place: Place, udp: socket.socket) -> None:
    copy = SyslogCopy(SyslogAddress(transport="udp", host="127.0.0.1", port=udp.getsockname()[1]), worker="w0")
    copy.open()
    copy.offer(record(1, size=70_000))
    copy.offer(record(2))
    (found,) = datagrams(udp, 1)
    copy.close()
    assert json.loads(found[-1])["decision_id"] == f"{2:032x}"
    assert copy.dropped().lines == 1
