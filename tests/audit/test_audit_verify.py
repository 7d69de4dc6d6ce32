"""Whatever is done to an audit is found, and named; what happens to an honest one is not."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.audit.keys import AuditKey, read_keys
from ostiary.audit.signed import CheckpointBook
from ostiary.audit.verify import verify
from support.trail import Place, chained, checkpoints, found, notes, record, rewrite, trail, verified, written


def keys_of(place: Place) -> Mapping[str, AuditKey]:
    return read_keys(place.keys)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Records 1 to 9 of one process in a file of eleven lines, whose end a checkpoint covers."""
    place = Place(tmp_path)
    written(place, [range(1, 10)])
    return place


def tampered(
    place: Place, change: Callable[[list[bytes]], list[bytes]]
) -> list[tuple[str, str | None, int | None, int | None]]:
    rewrite(place.files()[0], change)
    return found(verified(place))


def test_an_audit_that_nobody_touched_is_whole(place: Place) -> None:
    report = verified(place)
    assert (report.verdict, report.remarks, report.records) == ("whole", [], 11)
    (chain,) = report.chains
    assert (chain.worker, chain.first, chain.last, chain.ended, chain.covered) == ("w0", 1, 11, True, 11)


# one record; line and seq are the same number in the first file


def test_a_record_whose_text_was_altered_is_named(place: Place) -> None:
    assert tampered(place, lambda lines: [*lines[:4], lines[4].replace(b'"/"', b'"/x"'), *lines[5:]]) == [
        ("altered", "01", 5, 5)
    ]
    assert verified(place).findings[0].decision_id == f"{4:032x}"


def test_a_record_whose_mac_was_altered_is_named_and_not_the_next(place: Place) -> None:
    def change(lines: list[bytes]) -> list[bytes]:
        other = b"0" if lines[4][-4:-3] != b"0" else b"1"
        return [*lines[:4], lines[4][:-4] + other + lines[4][-3:], *lines[5:]]

    assert tampered(place, change) == [("altered", "01", 5, 5)]


def test_a_record_whose_number_was_altered_is_named(place: Place) -> None:
    for number in (b"3", b"7", b"4000000000"):
        rewrite(place.files()[0], lambda lines: lines)
        copy = Place(place.home / number.decode())
        shutil.copytree(place.audit, copy.audit)
        rewrite(
            copy.files()[0],
            lambda lines, number=number: [*lines[:4], lines[4].replace(b'"seq":5,', b'"seq":%b,' % number), *lines[5:]],
        )
        report = verify([copy.audit], keys=keys_of(place))
        assert found(report) == [("altered", "01", 5, 5)]


def test_a_record_that_lost_its_seal_is_named_and_the_next_cannot_be_judged(place: Place) -> None:
    found_ = tampered(place, lambda lines: [*lines[:4], lines[4].partition(b',"seq"')[0] + b"}\n", *lines[5:]])
    assert found_ == [("altered", "01", 5, 5)]
    assert (
        verified(place).findings[0].what == "record 5 is not what was written; the next one cannot be judged without it"
    )


def test_two_records_in_a_row_that_were_altered_are_both_named(place: Place) -> None:
    def change(lines: list[bytes]) -> list[bytes]:
        return [*lines[:4], *(line.replace(b'"/"', b'"/x"') for line in lines[4:6]), *lines[6:]]

    assert tampered(place, change) == [("altered", "01", 5, 5), ("altered", "01", 6, 6)]


@pytest.mark.parametrize("count", [1, 3])
def test_records_that_were_removed_are_named(place: Place, count: int) -> None:
    assert tampered(place, lambda lines: lines[:4] + lines[4 + count :]) == [("removed", "01", 5, 5)]
    what = verified(place).findings[0].what
    assert what.startswith("record 5 is missing" if count == 1 else "records 5 to 7 are missing")


def test_records_that_were_swapped_are_named(place: Place) -> None:
    assert tampered(place, lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]]) == [("reordered", "01", 5, 6)]


def test_a_record_that_was_moved_to_later_is_named(place: Place) -> None:
    assert tampered(place, lambda lines: [*lines[:4], *lines[5:9], lines[4], *lines[9:]]) == [("reordered", "01", 9, 5)]


def test_records_that_were_moved_to_earlier_are_named(place: Place) -> None:
    assert tampered(place, lambda lines: [*lines[:2], lines[7], *lines[2:7], *lines[8:]]) == [("reordered", "01", 3, 8)]


def test_a_line_that_was_put_in_is_named(place: Place) -> None:
    for inserted in (record(77), record(77)[:-2] + b',"seq":6,"mac":"' + b"a" * 64 + b'"}\n', b"not JSON\n", b"\n"):
        copy = Place(place.home / f"copy-{len(inserted)}")
        shutil.copytree(place.audit, copy.audit)
        rewrite(copy.files()[0], lambda lines, inserted=inserted: [*lines[:5], inserted, *lines[5:]])
        report = verify([copy.audit], keys=keys_of(place))
        assert [(kind, line) for kind, _, line, _ in found(report)] == [("foreign", 6)]


def test_a_record_that_is_there_twice_is_named(place: Place) -> None:
    assert tampered(place, lambda lines: [*lines[:8], lines[4], *lines[8:]]) == [("foreign", "01", 9, 5)]


def test_a_record_of_another_chain_is_named(place: Place) -> None:
    written(place, [range(20, 29)])
    other = place.files()[1].read_bytes().splitlines(keepends=True)[5]
    assert tampered(place, lambda lines: [*lines[:5], other, *lines[6:]]) == [
        ("altered", "01", 6, 6),
        ("altered", "01", 7, 7),
    ]
    assert verified(place).findings[1].what == (
        "record 7 is not what was written, or the MAC of the one before it is not"
    )


# the end


@pytest.mark.parametrize("left", [3, 10])
def test_an_end_that_was_cut_off_shows_by_the_checkpoint(place: Place, left: int) -> None:
    assert tampered(place, lambda lines: lines[:left]) == [("truncated", "01", None, left + 1)]


def test_half_a_record_at_the_end_is_not_taken_for_a_crash(place: Place) -> None:
    assert tampered(place, lambda lines: [*lines[:-1], lines[-1][:40]]) == [("truncated", "01", None, 11)]


def test_an_end_that_was_cut_off_before_the_next_process_shows_by_its_resume(place: Place) -> None:
    """Without any checkpoint."""
    written(place, [[20]])
    shutil.rmtree(place.checkpoints)
    assert tampered(place, lambda lines: lines[:7]) == [("truncated", "01", None, 8)]


def test_a_whole_chain_that_was_removed_shows_by_its_checkpoints(place: Place) -> None:
    place.files()[0].unlink()
    assert found(verified(place)) == [("removed", None, None, 11)]


def test_without_checkpoints_an_end_that_was_cut_off_is_said_to_be_unknown(place: Place) -> None:
    shutil.rmtree(place.checkpoints)
    rewrite(place.files()[0], lambda lines: lines[:7])
    report = verified(place)
    assert (report.verdict, notes(report)) == ("whole", ["open"])
    assert "no checkpoints were read" in report.remarks[0].what


def test_a_chain_rewritten_with_its_key_shows_by_the_checkpoint(place: Place) -> None:
    """Whoever has the key can make a chain that holds by itself, and cannot make what was signed elsewhere."""
    (original,) = place.files()
    forged = Place(place.home / "forged")
    shutil.copytree(place.keys, forged.keys)
    sink, chain = chained(forged)
    chain.head = chain.head._replace(chain=verified(place).chains[0].chain)
    sink.append([record(1), record(2), record(66), *(record(number) for number in range(4, 10))])
    sink.close()
    original.write_bytes(forged.files()[0].read_bytes())

    report = verified(place)
    assert found(report) == [("altered", "01", 11, 11)]
    assert "was signed over another record 11" in report.findings[0].what


# files


@pytest.fixture
def many(tmp_path: Path) -> Place:
    """Six files of three processes, the second of which died."""
    place = Place(tmp_path)
    written(place, [[number] for number in range(1, 4)], max_bytes=600)
    written(place, [[number] for number in range(4, 6)], max_bytes=600, end=False)
    written(place, [[6]])
    assert (verified(place).verdict, notes(verified(place))) == ("whole", ["resume"])
    return place


@pytest.mark.parametrize("index", range(6))
def test_a_file_that_was_removed_is_named(many: Place, index: int) -> None:
    files = many.files()
    files[index].unlink()
    report = verified(many)
    assert report.verdict == "findings"
    assert files[index].name in {one.file for one in report.findings} | {None}
    assert {one.kind for one in report.findings} <= {"removed", "truncated"}


def test_a_file_that_was_emptied_is_named(many: Place) -> None:
    emptied = many.files()[1]
    emptied.write_bytes(b"")
    assert {(one.kind, one.file) for one in verified(many).findings} == {("truncated", emptied.name)}


def test_a_begin_that_was_altered_is_named(many: Place) -> None:
    rewrite(many.files()[1], lambda lines: [lines[0].replace(b'"torn":0', b'"torn":1'), *lines[1:]])
    assert ("altered", "02", 1) in [(kind, file, line) for kind, file, line, _ in found(verified(many))]


def test_a_file_that_was_put_in_is_named(many: Place) -> None:
    first = many.files()[0]
    name = first.name.replace("-000001", "-000009").replace("audit-w0-2", "audit-w0-3")
    (many.audit / name).write_bytes(record(1))
    assert found(verified(many)) == [("foreign", "09", None, None)]


def test_bytes_behind_the_last_record_of_a_file_are_named(many: Place) -> None:
    with many.files()[0].open("ab") as file:
        file.write(b'{"schema":1,"ki')
    assert [(kind, file) for kind, file, _, _ in found(verified(many))] == [("foreign", "01")]


def test_files_from_before_there_were_chains_are_said_to_prove_nothing(place: Place) -> None:
    old = place.audit / "audit-w0-20200101T000000000Z-000001.ndjson"
    old.write_bytes(record(1) + record(2))
    report = verified(place)
    assert (report.verdict, notes(report)) == ("whole", ["unchained"])
    assert report.remarks[0].what == "2 records from before there were chains: nothing proves them"


def test_files_that_were_taken_elsewhere_are_missed_unless_that_is_said(many: Place, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    for path in many.files()[:2]:
        path.rename(archive / path.name)
    assert [one.kind for one in verified(many).findings] == ["removed"]
    report = verified(many, partial=True)
    assert (report.verdict, notes(report)) == ("whole", ["resume", "pruned"])
    together = verify([archive, many.audit], keys=keys_of(many))
    assert (together.verdict, [one.kind for one in together.findings]) == ("whole", [])


# keys and checkpoints


def test_without_its_key_nothing_can_be_told(place: Place) -> None:
    report = verify([place.audit], keys={})
    assert (report.verdict, notes(report)) == ("unknown", ["key-missing"])


def test_without_its_key_a_gap_still_shows(place: Place) -> None:
    rewrite(place.files()[0], lambda lines: lines[:4] + lines[5:])
    assert found(verify([place.audit], keys={})) == [("removed", "01", 5, 5)]


def test_checkpoints_by_an_unknown_key_cannot_be_judged(place: Place) -> None:
    book = CheckpointBook([place.checkpoints], keys={})
    report = verify([place.audit], keys=keys_of(place), checkpoints=book)
    assert (report.verdict, notes(report)) == ("unknown", ["key-missing"])


def test_a_checkpoint_that_was_forged_or_altered_is_named(place: Place) -> None:
    (path,) = place.checkpoints.iterdir()
    rewrite(path, lambda lines: [lines[0].replace(b'"seq":11', b'"seq":10')])
    assert [(one.kind, one.file) for one in verified(place).findings] == [("altered", path.name)]


def test_a_line_without_an_end_is_no_checkpoint(tmp_path: Path) -> None:
    """Its signature is not looked at, because a death may have cut it short: so nothing is covered by it either."""
    place = Place(tmp_path)
    sink, chain = chained(place)
    signing = checkpoints(place, chain, interval=3600)
    sink.append([record(1)])
    signing.take()
    sink.append([record(2)])
    (path,) = place.checkpoints.iterdir()
    last, line = place.lines()[-1], json.loads(path.read_bytes())
    path.write_bytes(path.read_bytes() + json.dumps({**line, "seq": last["seq"], "mac": last["mac"]}).encode())
    report = verified(place)
    assert [(one.last, one.covered) for one in report.chains] == [(3, 2)]


def test_checkpoints_that_were_removed_between_others_are_named(tmp_path: Path) -> None:
    place = Place(tmp_path)
    sink, chain = chained(place)
    signing = checkpoints(place, chain, interval=3600)
    sink.open()
    signing.open()
    for number in range(4):
        sink.append([record(number)])
        signing.take()
    sink.close()
    signing.close()
    (path,) = place.checkpoints.iterdir()
    assert verified(place).verdict == "whole"
    rewrite(path, lambda lines: lines[:1] + lines[3:])
    assert [(one.kind, one.file, one.line) for one in verified(place).findings] == [("removed", path.name, 2)]


def test_the_window_that_no_checkpoint_covers_is_named(tmp_path: Path) -> None:
    place = Place(tmp_path)
    sink, chain = chained(place)
    signing = checkpoints(place, chain, interval=3600)
    sink.append([record(1)])
    signing.take()
    sink.append([record(2), record(3)])  # and it is killed
    written(place, [[4]])
    report = verified(place)

    (resume,) = report.remarks
    assert (report.verdict, resume.kind, resume.seq) == ("whole", "resume", 4)
    assert resume.what.startswith(
        "w0: a process died after record 4; no checkpoint covers records 3 to 4, nor what else "
    )
    assert [(chain.last, chain.covered, chain.ended) for chain in report.chains] == [(4, 2, False), (4, 4, True)]


def test_an_audit_may_grow_while_it_is_verified(tmp_path: Path) -> None:
    place = Place(tmp_path)
    sink = trail(place, max_bytes=2000)
    sink.open()
    for number in range(50):
        sink.append([record(number)])
        report = verified(place)
        assert (report.findings, set(notes(report)) <= {"open"}) == ([], True)
    sink.close()


# anything


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("honest"))
    written(place, [[number, number + 100] for number in range(6)], max_bytes=1200)
    written(place, [[number] for number in range(6, 10)], max_bytes=1200, end=False)
    written(place, [[number] for number in range(10, 14)], max_bytes=1200)
    return place


@settings(max_examples=300)
@given(seed=st.integers(0, 2**32))
def test_whatever_is_done_to_a_file_is_found_where_it_was_done(
    honest: Place, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chance = random.Random(seed)
    place = Place(tmp_path_factory.mktemp("tampered"))
    shutil.copytree(honest.audit, place.audit)
    shutil.copytree(honest.home / "state", place.home / "state")
    path = chance.choice(place.files())
    text = path.read_bytes()
    lines = text.splitlines(keepends=True)
    index = chance.randrange(len(lines))
    what = chance.choice(["byte", "cut", "remove", "repeat", "swap", "insert"])
    if what == "byte":
        at = chance.randrange(len(text))
        path.write_bytes(text[:at] + bytes([text[at] ^ chance.randrange(1, 256)]) + text[at + 1 :])
    elif what == "cut":
        path.write_bytes(text[: chance.randrange(len(text))])
    elif what == "remove":
        path.write_bytes(b"".join(lines[:index] + lines[index + 1 :]))
    elif what == "repeat":
        path.write_bytes(b"".join([*lines[:index], lines[index], *lines[index:]]))
    elif what == "swap":
        other = chance.randrange(len(lines))
        lines[index], lines[other] = lines[other], lines[index]
        path.write_bytes(b"".join(lines))
    else:
        path.write_bytes(b"".join([*lines[:index], chance.choice(lines)[:-5] + b'a"}\n', *lines[index:]]))
    report = verified(place)
    if path.read_bytes() == text:
        assert report.verdict == "whole"
        return
    assert report.verdict == "findings", (what, path.name, index)
    assert path.name in {one.file for one in report.findings} or what == "cut", (what, index, report.findings)
