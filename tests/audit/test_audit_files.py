"""The files: one at a time, never overwritten, never appended to by a later run, private."""

from __future__ import annotations

import re
import shutil
import stat
from pathlib import Path

import pytest

from ostiary.audit import AuditFiles
from ostiary.clock import Clock, ManualClock


def files(directory: Path, *, clock: Clock | None = None, max_bytes: int = 100, **settings: object) -> AuditFiles:
    return AuditFiles(directory=directory, worker="w0", clock=clock or ManualClock(), max_bytes=max_bytes, **settings)


def contents(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(directory.glob("*.ndjson"))]


def test_files_are_private_and_named_by_worker_time_and_number(tmp_path: Path) -> None:
    sink = files(tmp_path / "deep" / "audit")
    sink.open()
    sink.append([b"1\n", b"2\n"])
    (path,) = (tmp_path / "deep" / "audit").iterdir()

    assert path.name == "audit-w0-20260921T141320000Z-000001.ndjson"
    assert path.read_bytes() == b"1\n2\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    sink.close()


def test_the_next_file_begins_before_a_group_that_does_not_fit(tmp_path: Path) -> None:
    sink = files(tmp_path)
    for group in ([b"a" * 59 + b"\n"], [b"b" * 39 + b"\n"], [b"c\n"], [b"d" * 199 + b"\n"], [b"e\n"]):
        sink.append(group)
    sink.close()

    assert [len(content) for content in contents(tmp_path)] == [100, 2, 200, 2]


def test_with_keep_the_oldest_files_of_this_worker_alone_are_removed(tmp_path: Path) -> None:
    others = ["audit-w1-20200101T000000000Z-000001.ndjson", "audit-w0-notes.ndjson", "readme"]
    for name in others:
        (tmp_path / name).touch()
    sink = files(tmp_path, keep=2)
    for letter in (b"a", b"b", b"c", b"d"):
        sink.append([letter * 79 + b"\n"])
    sink.close()

    kept = sorted(path.read_bytes()[:1] for path in tmp_path.glob("audit-w0-2*"))
    assert kept == [b"c", b"d"]
    assert all((tmp_path / name).exists() for name in others)


def test_a_name_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    """Also when it is a link to elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"precious")
    directory = tmp_path / "audit"
    directory.mkdir()
    first = directory / "audit-w0-20260921T141320000Z-000001.ndjson"
    first.write_bytes(b'{"cut off by a dea')
    (directory / "audit-w0-20260921T141320000Z-000002.ndjson").symlink_to(elsewhere)
    sink = files(directory)
    sink.append([b"1\n"])
    sink.close()

    assert first.read_bytes() == b'{"cut off by a dea'
    assert elsewhere.read_bytes() == b"precious"
    assert (directory / "audit-w0-20260921T141320000Z-000003.ndjson").read_bytes() == b"1\n"


def test_a_file_in_which_nothing_was_written_is_removed(tmp_path: Path) -> None:
    sink = files(tmp_path)
    sink.open()
    assert len(list(tmp_path.iterdir())) == 1
    sink.close()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("removed", ["file", "directory"])
def test_a_file_that_is_removed_underneath_is_replaced_and_the_group_written_there(
    tmp_path: Path, removed: str
) -> None:
    directory = tmp_path / "audit"
    sink = files(directory)
    sink.append([b"1\n"])
    if removed == "file":
        next(directory.iterdir()).unlink()
    else:
        shutil.rmtree(directory)
    sink.append([b"2\n"])
    sink.append([b"3\n"])
    sink.close()

    assert contents(directory) == [b"2\n3\n"]


def test_a_directory_that_is_a_file_is_an_error_and_ends_when_it_no_longer_is(tmp_path: Path) -> None:
    directory = tmp_path / "audit"
    directory.write_bytes(b"")
    sink = files(directory)
    with pytest.raises(OSError, match="exists"):
        sink.append([b"1\n"])
    directory.unlink()
    sink.append([b"2\n"])
    sink.close()

    assert contents(directory) == [b"2\n"]


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_directory_that_others_can_write_in_is_not_used(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(PermissionError, match="others can write in the directory"):
        files(tmp_path).open()


def test_with_sync_lines_are_written_all_the_same(tmp_path: Path) -> None:
    sink = files(tmp_path, sync=True)
    sink.append([b"1\n"])
    sink.close()

    assert contents(tmp_path) == [b"1\n"]


@pytest.mark.parametrize("worker", ["", "a-b", "../x", "a" * 33, "a\n"])
def test_a_worker_name_that_could_be_mistaken_in_a_file_name_is_refused(tmp_path: Path, worker: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(worker))):
        AuditFiles(directory=tmp_path, worker=worker, clock=ManualClock(), max_bytes=100)


@pytest.mark.parametrize("settings", [{"max_bytes": 0}, {"keep": 0}])
def test_settings_that_would_keep_nothing_are_refused(tmp_path: Path, settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        files(tmp_path, **settings)
