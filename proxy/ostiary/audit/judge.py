"""One chain, record by record: whether each is the next one, and if not, what was done.

When a line does not fit, the next one tells what it was: whether it takes up the chain at the odd line (then that was
altered), behind what is missing (then some were removed), or before it (then it is foreign). A record behind one whose
MAC is gone has nothing to be judged by; that is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import orjson

from ostiary.audit.chain import FIRST
from ostiary.audit.findings import Kind, Report, those
from ostiary.audit.keys import MAC_TEXT, Sealing
from ostiary.audit.signed import Checkpoint

_PARKED: Final = 64  # lines that stand too early, kept until their place comes
_TAIL: Final = len(b',"mac":""}\n') + MAC_TEXT
_MARK: Final = -_TAIL + len(b',"mac":"')
_SPECIAL: Final = frozenset({b"begin", b'end",', b"resum", b"prune"})  # what `kind` begins with
_KIND: Final = slice(len(b'{"schema":1,"kind":"'), len(b'{"schema":1,"kind":"') + 5)
_DECISION: Final = re.compile(rb'"decision_id":"([0-9a-f]{32})"')


@dataclass(slots=True)
class Line:
    """A line of a file, taken apart. `seq` is None where it has no seal."""

    file: str
    number: int
    raw: bytes
    seq: int | None
    mac: bytes
    original: bytes

    @classmethod
    def of(cls, file: str, number: int, raw: bytes) -> Line:
        at = raw.rfind(b',"seq":', -_TAIL - 35, -_TAIL)
        digits = raw[at + 7 : -_TAIL]
        sealed = raw[-_TAIL:_MARK] == b',"mac":"' and raw[-3:] == b'"}\n'
        if at <= 0 or not sealed or not digits.isdigit() or digits[:1] == b"0":
            return cls(file, number, raw, None, b"", b"")
        return cls(file, number, raw, int(digits), raw[_MARK:-3], raw[:at] + b"}\n")

    @property
    def decision_id(self) -> str | None:
        found = _DECISION.search(self.raw)
        return None if found is None else found[1].decode()

    def follows(self, sealing: Sealing, mac: bytes) -> bool:
        """Whether it is the record behind one with that MAC."""
        return self.seq is not None and sealing.mac(b"%b%d" % (mac, self.seq), self.original) == self.mac


class Say(Protocol):
    """Adds a remark, about a line where there is one; its place in the report."""

    def __call__(
        self, kind: Kind, file: str | None, number: int | None, what: str, line: Line | None = None, *, seq: int = 0
    ) -> int | None: ...


@dataclass(slots=True)
class _Anchor:
    """A place at which the next line may take up the chain, and what the odd line before it then was.

    `mac` is None if what would be needed to judge that next line is gone.
    """

    expected: int
    mac: bytes | None
    verdict: Kind


@dataclass(slots=True)
class _Suspect:
    """A line that did not fit, with its anchors in the order in which they are tried: the first, if none fits.

    `shaky` says that the line before did not fit either, so that its MAC may not be the right one.
    """

    line: Line
    expected: int
    before: bytes | None
    anchors: list[_Anchor]
    shaky: bool


@dataclass(slots=True)
class _Gap:
    """Records that were not met, `first` to `last`, before the line `at`. `before` is the MAC in front of them."""

    first: int
    last: int
    before: bytes | None
    at: Line


@dataclass(slots=True, eq=False)
class ChainJudge:
    """A chain as far as it was read: `seq` and `mac` are those of its last record, `raw` is its text.

    `first` is the first record that is here, `since` its time. `sealing` is None if the key is not known: then numbers
    are counted and nothing is proved. `covered` is the last checkpoint that agrees.
    """

    worker: str
    chain: str
    first: int
    since: str | None
    report: Report
    say: Say
    checkpoints: Iterator[Checkpoint]
    sealing: Sealing | None = None
    seq: int = 0
    mac: bytes | None = FIRST.encode()
    raw: bytes = b""
    ended: bool = False
    pruned: set[str] = field(default_factory=set)
    covered: Checkpoint | None = None
    _next: Checkpoint | None = None
    _suspect: _Suspect | None = None
    _shaky: bool = False
    _gaps: list[_Gap] = field(default_factory=list)
    _parked: dict[int, tuple[Line, int | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._next = next(self.checkpoints, None)
        while self._next is not None and self._next.seq < self.first:
            self._next = next(self.checkpoints, None)

    @property
    def sound(self) -> bool:
        """Whether the last line was taken without a doubt."""
        return self._suspect is None

    def begin(self, line: Line, *, seq: int, sealing: Sealing | None) -> None:
        """Go on in a file from its first record, whatever became of the last one."""
        self._suspect = None
        self.sealing = sealing
        self.seq, self.mac, self.raw = seq, line.mac or None, line.raw
        self._look(line.file, line.number)

    def plain(self, raw: bytes, file: str, number: int) -> bool:
        """Take what nearly every line is, the next record and whole. False if it is something else."""
        if self._suspect is not None or self.mac is None:
            return False
        if raw[-_TAIL:_MARK] != b',"mac":"' or raw[-3:] != b'"}\n':
            return False
        at = raw.rfind(b',"seq":', -_TAIL - 35, -_TAIL)
        seq = self.seq + 1
        head = b"%b%d" % (self.mac, seq)
        mac = raw[_MARK:-3]
        if at <= 0 or raw[at + 7 : -_TAIL] != head[MAC_TEXT:] or raw[_KIND] in _SPECIAL:
            return False
        if self.sealing is not None and self.sealing.mac(head, raw[:at] + b"}\n") != mac:
            return False
        self.seq, self.mac, self.raw = seq, mac, raw
        if self._next is not None and self._next.seq <= seq:
            self._look(file, number)
        return True

    def take(self, line: Line) -> None:
        """Any line but a file's first record."""
        if self._resolved(line) or self._is_next(line):
            return
        self._unpark()
        if self._is_next(line) or self._fills_gap(line):
            return
        self._suspect = self._doubt(line)

    def resolve_by(self, *, seq: int, mac: bytes) -> None:
        """The next file says what the last record of this one was."""
        suspect, self._suspect = self._suspect, None
        if suspect is None:
            return
        fitting = [one for one in suspect.anchors if one.expected == seq + 1 and one.mac in (None, mac)]
        self._decide(suspect, (fitting or suspect.anchors)[0])

    def settle(self) -> Checkpoint | None:
        """No more lines of this chain come. The last checkpoint that there is of it."""
        self.settle_gaps()
        last = self._next or self.covered
        for one in self.checkpoints:
            last = one
        return last

    def settle_gaps(self) -> None:
        """No line comes that could explain those before."""
        suspect, self._suspect = self._suspect, None
        if suspect is not None:
            self._decide(suspect, suspect.anchors[0])
        for gap in self._gaps:
            what = f"{those(gap.first, gap.last)} missing before this line, which cannot be judged without"
            self.say("removed", gap.at.file, gap.at.number, what, seq=gap.first)
        self._gaps.clear()

    def skip_to(self, *, seq: int, mac: bytes) -> None:
        """Go on behind records that are not here."""
        self._suspect = None
        self.seq, self.mac = seq, mac

    def _is_next(self, line: Line) -> bool:
        if line.seq != self.seq + 1:
            return False
        # Without the MAC before it there is nothing to judge it by, which was said of the record that had it.
        taken = self.sealing is None or self.mac is None or line.follows(self.sealing, self.mac)
        if taken:
            self._accept(line)
        return taken

    def _accept(self, line: Line) -> None:
        self._shaky = False
        self.seq, self.mac, self.raw = line.seq or 0, line.mac, line.raw
        kind = line.raw[_KIND]
        if kind == b'end",':
            self.ended = True
        elif kind == b"prune":
            self.pruned.update(str(name) for name in orjson.loads(line.raw)["files"])
        self._look(line.file, line.number)

    def _resolved(self, line: Line) -> bool:
        """Whether this line tells what an odd one before it was, by taking up the chain."""
        suspect, self._suspect = self._suspect, None
        if suspect is None:
            return False
        for anchor in suspect.anchors:
            if line.seq != anchor.expected:
                continue
            if anchor.mac is None or self.sealing is None or line.follows(self.sealing, anchor.mac):
                self._decide(suspect, anchor)
                self._accept(line)
                return True
        # Two odd lines in a row: the second one's number is all there is to go by.
        likely = [one for one in suspect.anchors if one.expected == line.seq]
        foreign = [one for one in suspect.anchors if one.verdict == "foreign"]
        self._decide(suspect, [*likely, *foreign][0])
        self._shaky = True
        return False

    def _decide(self, suspect: _Suspect, anchor: _Anchor) -> None:
        line = suspect.line
        self.seq, self.mac = anchor.expected - 1, anchor.mac
        if anchor.verdict == "foreign":
            place = self.say("foreign", line.file, line.number, "was not written here by the proxy", line)
            if line.seq is not None and line.seq >= suspect.expected and len(self._parked) < _PARKED:
                self._parked[line.seq] = (line, place)
        elif anchor.verdict == "removed":
            self._gaps.append(_Gap(suspect.expected, (line.seq or 0) - 1, suspect.before, line))
            self._look(line.file, line.number)
        else:
            what = f"record {suspect.expected} is not what was written"
            if suspect.shaky:
                what += ", or the MAC of the one before it is not"
            if anchor.mac is None:
                what += "; the next one cannot be judged without it"
            self.say("altered", line.file, line.number, what, line, seq=suspect.expected)
            self._look(line.file, line.number)

    def _doubt(self, line: Line) -> _Suspect:
        expected, before = self.seq + 1, self.mac
        foreign = _Anchor(expected, before, "foreign")
        altered = _Anchor(expected + 1, line.mac or None, "altered")
        if line.seq is None or line.seq < expected:
            anchors = [foreign, altered]
        elif line.seq > expected:
            anchors = [_Anchor(line.seq + 1, line.mac, "removed"), foreign, altered]
        else:
            anchors = [altered, foreign]
            if self.sealing is not None and before is not None:
                # Its text may be right and its MAC wrong: then the next one knows the right one.
                own = self.sealing.mac(b"%b%d" % (before, line.seq), line.original)
                anchors.insert(1, _Anchor(expected + 1, own, "altered"))
        shaky, self._shaky = self._shaky, False
        return _Suspect(line, expected, before, anchors, shaky)

    def _unpark(self) -> None:
        """Take lines that stood too early, and whose place this is."""
        while self.sealing is not None and self.mac is not None and (found := self._parked.get(self.seq + 1)):
            line, place = found
            if not line.follows(self.sealing, self.mac):
                return
            del self._parked[self.seq + 1]
            if place is not None:
                what = f"record {line.seq} stands before record {self.seq}"
                self.report.remarks[place] = replace(self.report.remarks[place], kind="reordered", what=what)
            self.seq, self.mac = self.seq + 1, line.mac

    def _fills_gap(self, line: Line) -> bool:
        if line.seq is None or self.sealing is None:
            return False
        for gap in self._gaps:
            if gap.first == line.seq and gap.before is not None and line.follows(self.sealing, gap.before):
                what = f"record {line.seq} stands behind record {self.seq}"
                self.say("reordered", line.file, line.number, what, line)
                gap.first, gap.before = gap.first + 1, line.mac
                if gap.first > gap.last:
                    self._gaps.remove(gap)
                return True
        return False

    def _look(self, file: str, number: int) -> None:
        """Hold the last record against the checkpoint that names it."""
        while self._next is not None and self._next.seq <= self.seq:
            if self._next.seq == self.seq and self.mac is not None:
                if self.mac == self._next.mac:
                    self.covered = self._next
                else:
                    what = f"the checkpoint of {self._next.time} was signed over another record {self.seq}"
                    self.say("altered", file, number, what, seq=self.seq)
            self._next = next(self.checkpoints, None)
