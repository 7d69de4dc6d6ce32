"""What came of a replay: how many decisions would be others, for whom and where, with some of them as examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple, TypeAlias

import orjson

from ostiary.models import Json
from ostiary.policy.replay.pieces import Outcome
from ostiary.policy.replay.recorded import WHY, Why
from ostiary.target import encode

Kind: TypeAlias = Literal["newly-allowed", "newly-denied", "unchanged"]

EXAMPLES: Final = 3
"""Of each change."""
MALFORMED: Final = 100
"""Lines that are named."""
_ORDER: Final[tuple[Kind, ...]] = ("newly-allowed", "newly-denied", "unchanged")


class Verdict(NamedTuple):
    """What the candidate answers. One that fails to answer denies: the proxy would."""

    allow: bool
    caller: str | None
    endpoint: str | None
    reasons: tuple[str, ...]
    permission: str | None


class Change(NamedTuple):
    """A line of the result. `reasons` are those for which it was, or would be, denied."""

    kind: Kind
    caller: str | None
    service: str
    endpoint: str | None
    reasons: tuple[str, ...] = ()
    permission: str | None = None


class Example(NamedTuple):
    """A recorded decision, to be found in the audit by its id."""

    decision_id: str
    time: str
    subject: str
    issuer: str
    request: str
    source_ip: str


@dataclass(slots=True)
class Entry:
    count: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass(slots=True)
class Tally:
    """Counted while it goes on. `distinct` are the questions that were asked."""

    distinct: int = 0
    changes: dict[Change, Entry] = field(default_factory=dict)
    unchanged: Counter[str] = field(default_factory=Counter)
    not_replayable: Counter[Why] = field(default_factory=Counter)
    malformed: list[str] = field(default_factory=list)
    malformed_count: int = 0

    def add(self, question: bytes, outcome: Outcome, verdict: Verdict, count: int, decision_id: str) -> None:
        """So many requests had this outcome, and would have that verdict."""
        change = _change(outcome, verdict)
        entry = self.changes.get(change)
        if entry is None:
            entry = self.changes[change] = Entry()
        entry.count += count
        if change.kind == "unchanged":
            self.unchanged["allowed" if outcome.allow else "denied"] += count
            if not outcome.allow and set(outcome.reasons) != set(verdict.reasons):
                self.unchanged["other-reasons"] += count
        elif len(entry.examples) < EXAMPLES:
            entry.examples.append(_example(question, decision_id))

    def named_malformed(self, lines: list[str], count: int) -> None:
        self.malformed += lines[: max(MALFORMED - len(self.malformed), 0)]
        self.malformed_count += count

    def counts(self) -> Counter[Kind]:
        found: Counter[Kind] = Counter()
        for change, entry in self.changes.items():
            found[change.kind] += entry.count
        return found

    def sorted(self) -> list[tuple[Change, Entry]]:
        """The changes first, in each kind those of many requests."""
        return sorted(
            self.changes.items(),
            key=lambda each: (_ORDER.index(each[0].kind), -each[1].count, *map(str, each[0][1:])),
        )

    def document(self, policy: Mapping[str, Json]) -> dict[str, Json]:
        """For programs. `policy` says which one was asked."""
        counts = self.counts()
        return {
            "kind": "replay",
            "policy": dict(policy),
            "decisions": counts.total(),
            "distinct": self.distinct,
            "newly_allowed": counts["newly-allowed"],
            "newly_denied": counts["newly-denied"],
            "unchanged": {
                "allowed": self.unchanged["allowed"],
                "denied": self.unchanged["denied"],
                "for_other_reasons": self.unchanged["other-reasons"],
            },
            "changes": [_document(change, entry) for change, entry in self.sorted()],
            "not_replayable": {why: self.not_replayable[why] for why in WHY if self.not_replayable[why]},
            "malformed": {"lines": self.malformed_count, "named": self.malformed},
        }


def _change(outcome: Outcome, verdict: Verdict) -> Change:
    allow, caller, service, endpoint, reasons = outcome
    if allow == verdict.allow:
        return Change("unchanged", caller, service, endpoint)
    if allow:
        return Change("newly-denied", caller, service, endpoint, verdict.reasons)
    return Change("newly-allowed", verdict.caller, service, verdict.endpoint, reasons, verdict.permission)


def _example(question: bytes, decision_id: str) -> Example:
    asked = orjson.loads(question)
    subject, context = asked["subject"], asked["context"]
    return Example(
        decision_id=decision_id,
        time=datetime.fromtimestamp(context["time"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        subject=subject["id"],
        issuer=subject["properties"]["issuer"],
        request=f"{asked['action']['name']} {encode(asked['resource']['properties']['segments'])}",
        source_ip=context["source_ip"],
    )


def _document(change: Change, entry: Entry) -> dict[str, Json]:
    told = {**change._asdict(), "reasons": list(change.reasons), "count": entry.count}
    return told | {"examples": [each._asdict() for each in entry.examples]}


def in_words(tally: Tally) -> Iterator[str]:
    """For a person. Each line begins with what it is: ALLOWS, denies, or neither."""
    for change, entry in tally.sorted():
        if change.kind == "unchanged":
            continue
        yield _line("ALLOWS" if change.kind == "newly-allowed" else "denies", f"{_of(change, entry)}: {_why(change)}")
        for each in entry.examples:
            who = f"{each.subject} of {each.issuer} from {each.source_ip}"
            yield _line("", f"  {each.time}  {each.decision_id}  {each.request} by {who}")
    for change, entry in tally.sorted():
        if change.kind == "unchanged":
            yield _line("", _of(change, entry))
    for line in tally.malformed:
        yield _line("malformed", line)
    if tally.malformed_count > len(tally.malformed):
        yield _line("malformed", f"{tally.malformed_count - len(tally.malformed)} lines more")
    for why, sentence in WHY.items():
        if tally.not_replayable[why]:
            yield _line("left out", f"{tally.not_replayable[why]:,}: {sentence}")
    yield ""
    yield summary(tally)


def summary(tally: Tally) -> str:
    """In one sentence."""
    counts, other = tally.counts(), tally.unchanged["other-reasons"]
    return (
        f"{counts.total():,} decisions, {tally.distinct:,} distinct: {counts['newly-allowed']:,} newly allowed, "
        f"{counts['newly-denied']:,} newly denied, {counts['unchanged']:,} unchanged"
        f"{f' ({other:,} denied for other reasons)' if other else ''}"
    )


def _of(change: Change, entry: Entry) -> str:
    where = change.service if change.endpoint is None else f"{change.service}/{change.endpoint}"
    caller = "nobody known" if change.caller is None else change.caller
    kept = ", unchanged" if change.kind == "unchanged" else ""
    return f"{entry.count:,} of {caller} at {where}{kept}"


def _why(change: Change) -> str:
    reasons = ", ".join(change.reasons) or "no reason"
    return reasons if change.kind == "newly-denied" else f"by {change.permission}, was {reasons}"


def _line(word: str, text: str) -> str:
    return f"{word:10}{text}".rstrip()
