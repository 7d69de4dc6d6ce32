"""Whether an audit is whole, and if not, what was done to it.

Every file is read once, from its begin to its end, in the order in which they were written; what is kept in memory does
not grow with the number of records. A record is judged by its MAC (`judge`), a file by what the next one says that it
goes on from, and the end of a chain by its last checkpoint.

What is named:

    altered     a record whose text or MAC is not what was written
    removed     records, or a file, that are missing between others
    reordered   a record that stands elsewhere than where it was written
    truncated   records that are missing at the end of a file or of a chain
    foreign     a line, or a file, that the proxy never wrote there

What is no finding, and said all the same, are notes: a `resume` after a process that died, with the records that no
checkpoint covers; files that were removed to keep their number; files from before there were chains.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ostiary.audit.begin import Begin, Follows
from ostiary.audit.chain import LONGEST
from ostiary.audit.files import AUDIT, FileName, file_names, opened
from ostiary.audit.findings import ChainReport, Kind, Remark, Report, span, those
from ostiary.audit.judge import ChainJudge, Line
from ostiary.audit.keys import AuditKey, Sealing
from ostiary.audit.signed import ChainCheckpoints, CheckpointBook

_BEGIN: Final = b'{"schema":1,"kind":"begin",'
_TIME: Final = re.compile(rb'"time":"([0-9TZ:.-]{24})"')
_CHAIN: Final = re.compile(rb'"chain":"([0-9a-f]{32})"')


def verify(
    directories: Sequence[Path],
    *,
    keys: Mapping[str, AuditKey],
    checkpoints: CheckpointBook | None = None,
    partial: bool = False,
) -> Report:
    """Read every audit file of the directories. `checkpoints` are those that were read before: an audit that grows
    meanwhile is then never behind them.

    With `partial`, what is missing before the first file is elsewhere, and no finding. Raises OSError.
    """
    report = Report()
    places: dict[FileName, Path] = {}
    for directory in directories:
        for name in file_names(directory, prefix=AUDIT):
            if name in places:
                report.add(Remark(kind="foreign", file=str(name), what=f"is in {directory} once more"))
            else:
                places[name] = directory / str(name)
    workers = {name.worker for name in places}
    if checkpoints is not None:
        workers |= checkpoints.workers
        for remark in checkpoints.remarks:
            report.add(remark)
    for worker in sorted(workers):
        mine = [(name, places[name]) for name in sorted(places) if name.worker == worker]
        _Worker(worker, report, keys, checkpoints, partial=partial).read(mine)
    return report


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """Where reading a file came to: the bytes of its lines, and those behind them. `sound` if there was nothing odd."""

    file: str
    whole: int
    torn: int
    sound: bool


class _Worker:
    """The files of one worker, in their order."""

    def __init__(
        self,
        worker: str,
        report: Report,
        keys: Mapping[str, AuditKey],
        checkpoints: CheckpointBook | None,
        *,
        partial: bool,
    ) -> None:
        self._worker = worker
        self._report = report
        self._keys = keys
        self._checkpoints = checkpoints
        self._partial = partial
        self._judge: ChainJudge | None = None
        self._end: _End | None = None  # of the last file of a chain that was read
        self._begun: str | None = None  # when the first chain that is here began, or went on
        self._seen: set[str] = set()  # the names of all files that there are
        self._missing: tuple[str, Remark] | None = None  # the file before the first, and what may have to be said of it
        self._pruned: set[str] = set()
        self._unknown: set[str] = set()

    def read(self, files: Sequence[tuple[FileName, Path]]) -> None:
        for name, path in files:
            self._seen.add(str(name))
            with opened(path) as file:
                if file is None:
                    self._say("foreign", str(name), None, "is not a regular file")
                else:
                    self._read(str(name), file)
        self._finish()
        self._judge_beginning()
        self._judge_absent()

    # files

    def _read(self, name: str, file: BinaryIO) -> None:
        before = self._doubts
        first = file.readline(LONGEST)
        if not first:
            return  # its process died before the first record
        if not first.endswith(b"\n") and len(first) < LONGEST:
            self._say("torn", name, 1, f"holds {len(first)} bytes that are no record: its process died in writing them")
            return
        line = Line.of(name, 1, first)
        if first.startswith(_BEGIN):
            self._begin(line, _peeked(file))
        elif line.seq is None and _peeked(file).seq is None:  # else it is a begin that was overwritten
            self._unchained(name, file)
            return
        elif self._judge is None:
            self._say("removed", name, 1, "its first record is missing, and with it which chain this is", line)
            return
        else:
            self._judge.take(line)
        self._report.records += 1
        torn = self._lines(name, file)
        judge = self._judge
        if judge is not None:
            whole = os.fstat(file.fileno()).st_size - torn
            sound = before == self._doubts and judge.sound
            self._end = _End(file=name, whole=whole, torn=torn, sound=sound)

    @property
    def _doubts(self) -> int:
        return len(self._report.remarks) + self._report.untold

    def _unchained(self, name: str, file: BinaryIO) -> None:
        count = 1 + sum(1 for _ in _lines_of(file))
        self._report.records += count
        if self._end is None:
            self._say("unchained", name, None, f"{count} records from before there were chains: nothing proves them")
        else:
            self._say("foreign", name, None, "has no chain, and stands among files that have one")

    def _lines(self, name: str, file: BinaryIO) -> int:
        """Every line but the first. How many bytes at the end are none."""
        judge, number = self._judge, 1
        for raw in _lines_of(file):
            number += 1
            if raw[-1:] != b"\n":
                return len(raw)
            self._report.records += 1
            if judge is not None and not judge.plain(raw, name, number):
                judge.take(Line.of(name, number, raw))
        return 0

    def _begin(self, line: Line, second: Line) -> None:
        """The first record of a file, and the second one, which tells under which key they are if the first is odd."""
        begin = Begin.of(line)
        sealing = self._sealing(begin.chain, begin.key)
        intact = begin.key != "" and line.seq == begin.seq and (sealing is None or line.follows(sealing, begin.mac))
        chain, other = begin.chain, None if intact and sealing is not None else self._other(begin.chain, line, second)
        if other is not None:
            chain, sealing = other
        elif sealing is None and begin.key and begin.key not in self._unknown:
            self._unknown.add(begin.key)
            self._say("key-missing", line.file, 1, f"the key {begin.key} is not there: nothing under it can be judged")
        if intact and other is None:
            self._join(line, chain, begin.follows)
        else:
            self._say("altered", line.file, 1, "the begin of the file is not what was written", line)
        judge = self._judge
        if judge is None or judge.chain != chain:
            self._finish()
            judge = self._judge = self._opened(chain, line, begin.seq)
        judge.begin(line, seq=line.seq or begin.seq, sealing=sealing)

    def _sealing(self, chain: str, key_id: str) -> Sealing | None:
        key = self._keys.get(key_id)
        return None if key is None else key.sealing(chain)

    def _other(self, chain: str, line: Line, second: Line) -> tuple[str, Sealing] | None:
        """A chain and a key under which the second record of a file goes on from the first, whatever that one says."""
        legible = [found.decode() for found in _CHAIN.findall(line.raw)[:1]]
        chains = [*([] if self._judge is None else [self._judge.chain]), chain, *legible]
        for key in self._keys.values():
            for one in chains:
                sealing = key.sealing(one)
                if second.follows(sealing, line.mac):
                    return one, sealing
        return None

    def _opened(self, chain: str, line: Line, first: int) -> ChainJudge:
        since = _time(line.raw)
        self._begun = self._begun or since
        book = self._checkpoints
        return ChainJudge(
            worker=self._worker,
            chain=chain,
            first=first,
            since=since,
            report=self._report,
            say=self._say,
            checkpoints=iter(()) if book is None else book.of(self._worker, chain),
        )

    def _join(self, line: Line, chain: str, before: Follows | None) -> None:
        """Compare what a file says that it goes on from with what was read there."""
        if before is None:
            if self._end is not None:
                self._say("anew", line.file, 1, "begins anew: its process found no file of an earlier one")
            return
        end, judge = self._end, self._judge
        if end is None or judge is None or end.file != before.file:
            self._absent(line, before)
            return
        judge.resolve_by(seq=before.seq, mac=before.mac)
        here, there = end.whole + end.torn, before.bytes + before.torn
        if judge.seq < before.seq:
            some = those(judge.seq + 1, before.seq)
            self._say("truncated", end.file, None, f"{some} missing at the end of the file", seq=judge.seq + 1)
        elif judge.seq > before.seq and here == there:
            judge.skip_to(seq=before.seq, mac=before.mac)  # of a write that failed and could not be taken back
        elif judge.mac != before.mac and end.sound:
            self._say("altered", end.file, None, "its last record is not the one that the next file goes on from")
        elif here != there and end.sound:
            what = f"{here - before.bytes} bytes behind its last record, where there were {before.torn}"
            self._say("foreign", end.file, None, what)
        if before.torn and here == there:
            self._say("torn", end.file, None, f"{before.torn} bytes at its end are no record: they were never whole")
        if chain != before.chain:
            self._finish(next_file=line)

    def _absent(self, line: Line, before: Follows) -> None:
        """The file that this one goes on from is not the one that was read before it."""
        judge = self._judge
        if before.file in self._seen and self._end is not None and before.file < self._end.file:
            what = f"is not known to {line.file}, which goes on from {before.file}"
            self._say("foreign", self._end.file, None, what)
            return
        if before.file in self._seen:
            what = f"holds none of its records, the last of which was {before.seq}"
            self._say("truncated", before.file, None, what, seq=before.seq)
        else:
            what = f"is not there; its last record was {before.seq} of chain {before.chain}"
            missing = Remark(kind="removed", file=before.file, seq=before.seq, what=what)
            if self._end is None:
                self._missing = (before.file, missing)
            else:
                self._report.add(missing)
        if judge is not None and judge.chain == before.chain:
            judge.settle_gaps()
            judge.skip_to(seq=before.seq, mac=before.mac)

    def _finish(self, next_file: Line | None = None) -> None:
        """The chain that was read has no more records here. `next_file` is the begin of the chain that goes on."""
        judge, self._judge = self._judge, None
        if judge is None:
            return
        end = None if self._end is None else self._end.file
        last = judge.settle()
        if last is not None and last.seq > judge.seq:
            some = those(judge.seq + 1, last.seq)
            what = f"{some} missing at the end of chain {judge.chain}: the checkpoint of {last.time} names the last"
            self._say("truncated", end, None, what, seq=judge.seq + 1)
        self._pruned |= judge.pruned
        self._report.chains.append(
            ChainReport(
                worker=judge.worker,
                chain=judge.chain,
                first=judge.first,
                last=judge.seq,
                since=judge.since,
                until=_time(judge.raw),
                ended=judge.ended,
                covered=None if judge.covered is None else judge.covered.seq,
            )
        )
        if judge.ended:
            return
        if next_file is not None:
            what = f"{self._worker}: a process died after record {judge.seq}; "
            self._say("resume", next_file.file, 1, what + self._uncovered(judge, _time(next_file.raw)), seq=judge.seq)
        else:
            what = f"{self._worker}: the chain has no end: it is being written, or its process died; "
            self._say("open", end, None, what + self._uncovered(judge, None), seq=judge.seq)

    def _uncovered(self, judge: ChainJudge, until: str | None) -> str:
        """What no checkpoint covers: records that are here, and those that somebody may have cut off."""
        window = "" if until is None else f" until {until}"
        if self._checkpoints is None:
            return "no checkpoints were read that tell whether there were more records"
        if judge.covered is None:
            return f"no checkpoint covers any of it, nor what else may have been written{window}"
        since = f"what else may have been written from {judge.covered.time}{window}"
        if judge.covered.seq == judge.seq:
            return f"checkpoints cover all but {since}"
        return f"no checkpoint covers {span(judge.covered.seq + 1, judge.seq)}, nor {since}"

    # what is not there

    def _judge_beginning(self) -> None:
        if self._missing is None:
            return
        file, remark = self._missing
        if file in self._pruned:
            what = "was removed by the proxy, which keeps a limited number of files, as were those before it"
            self._say("pruned", file, None, what, seq=remark.seq or 0)
        elif self._partial:
            self._say("pruned", file, None, "is elsewhere, as are those before it", seq=remark.seq or 0)
        else:
            self._report.add(remark)

    def _judge_absent(self) -> None:
        """Chains of which there are checkpoints and no record."""
        if self._checkpoints is None:
            return
        excused = self._missing is not None and (self._partial or self._missing[0] in self._pruned)
        known = {one.chain for one in self._report.chains if one.worker == self._worker}
        for chain in self._checkpoints.chains(self._worker):
            before_all = self._begun is not None and chain.last.time <= self._begun
            if chain.id not in known and not (excused and before_all):
                self._say("removed", None, None, _absent_chain(self._worker, chain), seq=chain.last.seq)

    def _say(
        self, kind: Kind, file: str | None, number: int | None, what: str, line: Line | None = None, *, seq: int = 0
    ) -> int | None:
        return self._report.add(
            Remark(
                kind=kind,
                file=file,
                line=number,
                seq=seq or (None if line is None else line.seq),
                decision_id=None if line is None else line.decision_id,
                what=what,
            )
        )


def _absent_chain(worker: str, chain: ChainCheckpoints) -> str:
    return (
        f"{worker}: no record of chain {chain.id} is there; checkpoints name {chain.last.seq} of them, "
        f"the last one of {chain.last.time}"
    )


def _peeked(file: BinaryIO) -> Line:
    """The next line, which is read again."""
    line = file.readline(LONGEST)
    file.seek(-len(line), os.SEEK_CUR)
    return Line.of("", 0, line)


def _lines_of(file: BinaryIO) -> Iterator[bytes]:
    """The lines that are left. One that is longer than any record comes in pieces; none of them is a record."""
    while raw := file.readline(LONGEST):
        yield raw if len(raw) < LONGEST or raw.endswith(b"\n") else raw[:-1] + b"\n"


def _time(raw: bytes) -> str | None:
    found = _TIME.search(raw)
    return None if found is None else found[1].decode()
