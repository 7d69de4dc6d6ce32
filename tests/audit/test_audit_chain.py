"""The chain: every record is sealed to the one before it, across files, keys and processes."""

from __future__ import annotations

import json
import os
import re
import resource
import stat
import subprocess
from pathlib import Path

import pytest

from ostiary.audit.chain import FIRST
from ostiary.audit.keys import AuditKeys, Sealing, read_keys
from ostiary.clock import ManualClock
from support.trail import Place, chained, notes, record, verified, written


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_file_begins_with_its_chain_and_ends_with_its_end(place: Place) -> None:
    clock = ManualClock()
    written(place, [[1, 2]], clock=clock)
    begin, *records, end = place.lines()

    (key,) = read_keys(place.keys)
    assert begin == {
        "schema": 1,
        "kind": "begin",
        "time": "2026-09-21T14:13:20.000Z",
        "worker": "w0",
        "chain": begin["chain"],
        "key": key,
        "follows": None,
        "seq": 1,
        "mac": begin["mac"],
    }
    assert re.fullmatch("[0-9a-f]{32}", begin["chain"])
    assert [(line["seq"], int(line["decision_id"])) for line in records] == [(2, 1), (3, 2)]
    assert end == {
        "schema": 1,
        "kind": "end",
        "time": "2026-09-21T14:13:20.000Z",
        "worker": "w0",
        "seq": 4,
        "mac": end["mac"],
    }


def test_the_next_file_and_the_next_process_say_what_they_go_on_from(place: Place) -> None:
    written(place, [[1, 2, 3, 4], [5]], max_bytes=1200)
    written(place, [[6]])
    first, second, third = ([json.loads(line) for line in path.read_bytes().splitlines()] for path in place.files())

    names = [path.name for path in place.files()]
    for index, (before, after) in enumerate(((first, second), (second, third))):
        assert after[0]["follows"] == {
            "file": names[index],
            "chain": before[0]["chain"],
            "seq": before[-1]["seq"],
            "mac": before[-1]["mac"],
            "bytes": place.files()[index].stat().st_size,
            "torn": 0,
        }
    assert (second[0]["chain"] == first[0]["chain"], second[0]["seq"]) == (True, first[-1]["seq"] + 1)
    assert (third[0]["chain"] == first[0]["chain"], third[0]["seq"]) == (False, 1)
    assert [line["kind"] for line in third] == ["begin", "decision", "end"]


def test_after_a_death_the_first_record_is_a_resume_that_says_where_it_stopped(place: Place) -> None:
    written(place, [[1, 2]], end=False)
    with place.files()[0].open("ab") as file:
        file.write(b'{"schema":1,"kind":"deci')
    written(place, [[3]])
    dead = json.loads(place.files()[0].read_bytes().splitlines()[0])
    begin, resume, *_ = (json.loads(line) for line in place.files()[1].read_bytes().splitlines())

    assert begin["follows"]["torn"] == 24
    assert resume == {
        "schema": 1,
        "kind": "resume",
        "time": resume["time"],
        "worker": "w0",
        "chain": dead["chain"],
        "after": 3,
        "torn": 24,
        "seq": 2,
        "mac": resume["mac"],
    }
    assert (verified(place).verdict, notes(verified(place))) == ("whole", ["torn", "resume"])


def test_a_mac_can_be_computed_with_other_tools(place: Place) -> None:
    """With openssl and sed, as docs/audit.md says."""
    written(place, [[1]])
    (key,) = read_keys(place.keys).values()
    lines = place.files()[0].read_bytes().splitlines(keepends=True)
    chain = json.loads(lines[0])["chain"]

    def hmac(secret: str, message: bytes) -> str:
        command = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{secret}"]
        done = subprocess.run(command, input=message, capture_output=True, check=True)
        return done.stdout.split()[-1].decode()

    derived = hmac(key.secret.hex(), f"ostiary audit chain {chain}".encode())
    before = FIRST
    for number, line in enumerate(lines, start=1):
        sealed = json.loads(line)
        original = re.sub(rb',"seq":\d+,"mac":"[0-9a-f]{64}"', b"", line)
        assert sealed["seq"] == number
        assert sealed["mac"] == hmac(derived, f"{before}{number}".encode() + original)
        before = sealed["mac"]


@pytest.mark.parametrize("size", [0, 1, 2046, 2047, 2048, 5000])
def test_a_line_of_any_length_has_the_mac_of_the_standard(size: int) -> None:
    """RFC 2104; the fourth test case of RFC 4231 is one of them."""
    import hmac as standard

    key = bytes(range(1, 26))
    assert (
        Sealing(key).mac(b"head", b"x" * size) == standard.digest(key, b"head" + b"x" * size, "sha256").hex().encode()
    )
    assert Sealing(key).mac(b"", b"\xcd" * 50) == b"82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"


# keys


def test_keys_are_private_and_one_is_made_when_the_last_is_too_old(tmp_path: Path) -> None:
    clock = ManualClock()
    keys = AuditKeys(tmp_path / "keys", lifetime=3600)
    first = keys.current(clock.now())
    clock.advance(3599)
    assert keys.current(clock.now()) == first
    clock.advance(1)
    second = keys.current(clock.now())

    assert set(read_keys(tmp_path / "keys")) == {first.id, second.id}
    assert first.secret != second.secret
    assert first.secret.hex() not in repr(first)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()} == {0o600}


def test_another_file_is_begun_with_the_next_key_and_both_are_verified(place: Place) -> None:
    clock = ManualClock()
    sink, _ = chained(place, clock=clock, lifetime=3600)
    for number in range(3):
        sink.append([record(number)])
        clock.advance(3600)
    sink.close()

    begins = [line for line in place.lines() if line["kind"] == "begin"]
    assert len({line["key"] for line in begins}) == len(begins) == 4  # the end is written with a fourth one
    assert len({line["chain"] for line in begins}) == 1
    assert verified(place).verdict == "whole"


def test_without_a_next_key_the_old_one_goes_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    sink, _ = chained(place, clock=clock, lifetime=3600)
    sink.append([record(1)])
    place.keys.chmod(0o777)  # which is refused
    clock.advance(7200)
    sink.append([record(2)])
    sink.append([record(3)])
    place.keys.chmod(0o700)
    clock.advance(61)
    sink.append([record(4)])
    sink.close()

    begins = [line["key"] for line in place.lines() if line["kind"] == "begin"]
    assert len(begins) == 3
    assert (begins[0] == begins[1], begins[1] == begins[2]) == (True, False)
    assert verified(place).verdict == "whole"


@pytest.mark.parametrize("harm", ["open to others", "not a key", "a link"])
def test_a_key_that_is_not_the_owner_s_alone_is_not_used(tmp_path: Path, harm: str) -> None:
    keys = AuditKeys(tmp_path, lifetime=3600)
    made = keys.current(ManualClock().now())
    path = tmp_path / f"{made.id}.key"
    if harm == "open to others":
        path.chmod(0o640)
    elif harm == "not a key":
        path.write_text("guessable\n")
    else:
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"key|symbolic"):
        keys.current(ManualClock().now())
    with pytest.raises(OSError, match=r"key|symbolic"):
        read_keys(tmp_path)


def test_a_directory_of_keys_that_others_can_write_in_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    with pytest.raises(PermissionError, match="others can write in the directory of the audit's keys"):
        AuditKeys(tmp_path, lifetime=3600).current(0)


def test_without_a_key_nothing_is_written(place: Place) -> None:
    place.keys.mkdir(parents=True)
    place.keys.chmod(0o777)
    sink, _ = chained(place)
    with pytest.raises(PermissionError):
        sink.append([record(1)])
    assert place.lines() == []


# what a disk does


def test_a_group_that_could_not_be_written_leaves_no_gap(place: Place) -> None:
    sink, chain = chained(place)
    sink.append([record(1)])
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (place.files()[0].stat().st_size + 10, hard))
    try:
        with pytest.raises(OSError, match="large"):
            sink.append([record(2), record(3)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert chain.head.seq == 2
    sink.append([record(3)])
    sink.close()

    assert [line["seq"] for line in place.lines()] == [1, 2, 3, 4, 5]
    assert verified(place).remarks == []


def test_a_file_that_is_removed_is_missed_and_what_follows_is_whole(place: Place) -> None:
    sink, _ = chained(place)
    sink.append([record(1), record(2)])
    gone = place.files()[0]
    gone.unlink()
    sink.append([record(3)])
    sink.close()
    report = verified(place)

    assert [int(line["decision_id"]) for line in place.lines() if "decision_id" in line] == [3]
    (finding,) = report.findings
    assert (finding.kind, finding.file, finding.seq) == ("removed", gone.name, 3)


def test_files_that_somebody_puts_there_have_none_of_ours_removed(place: Place) -> None:
    """Named in a record of ours, what was removed so would be excused for ever."""
    written(place, [[1], [2]], keep=6)
    sink, _ = chained(place, keep=6, max_bytes=400)
    for number in range(3, 6):
        put = [place.audit / f"audit-w0-29991231T235959999Z-{number}0000{one}.ndjson" for one in range(6)]
        for path in put:
            path.touch()
        sink.append([record(number)])
        for path in put:
            path.unlink()
    assert len(place.files()) == 4
    for number in range(6, 10):
        sink.append([record(number)])
    sink.close()
    assert len(place.files()) == 6
    report = verified(place)
    assert (report.verdict, notes(report)) == ("whole", ["pruned"])


def test_files_that_are_removed_to_keep_their_number_are_named_first(place: Place) -> None:
    sink, _ = chained(place, keep=2, max_bytes=400)
    for number in range(5):
        sink.append([record(number)])
    sink.close()

    names = [path.name for path in place.files()]
    assert len(names) == 2
    (last,) = [line for line in place.lines() if line["kind"] == "pruned"][-1:]
    assert len(last["files"]) == 1
    assert last["files"][0] not in names
    report = verified(place)
    assert (report.verdict, notes(report)) == ("whole", ["pruned"])


def test_names_go_up_although_the_clock_was_set_back(place: Place) -> None:
    written(place, [[1]], clock=ManualClock(1_790_000_000))
    written(place, [[2]], clock=ManualClock(1_700_000_000))
    written(place, [[3]], clock=ManualClock(1_790_000_000))

    numbers = [int(line["decision_id"]) for line in place.lines() if "decision_id" in line]
    assert numbers == [1, 2, 3]
    assert verified(place).remarks == []


def test_what_is_in_the_place_of_a_file_is_not_waited_for(place: Place) -> None:
    place.audit.mkdir(mode=0o700)
    os.mkfifo(place.audit / "audit-w0-20260101T000000000Z-000001.ndjson")
    written(place, [[1]])

    (finding,) = verified(place).findings
    assert (finding.kind, finding.what) == ("foreign", "is not a regular file")
