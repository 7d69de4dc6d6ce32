"""What both stores do, once: each operation is a generator that yields statements and is sent their rows.

It neither knows nor waits for a connection. A store runs it in one transaction: `BEGIN`, statement after statement,
`COMMIT` when it returns, `ROLLBACK` when it raises. Two words differ between the dialects: `{now}`, the store's time in
Unix seconds, and `{lock}`, which keeps a row that was read from others.

Every change begins with `tick`: it takes the next number, and with it the lock under which changes are made one after
the other. A use that is not the last one changes nothing that anybody else has to see, and locks its own row alone.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from ostiary.grants import life
from ostiary.grants.allowance import DAY, day_of, exceeds
from ostiary.grants.life import Moment, Transition
from ostiary.grants.records import OPEN, Actor, Record
from ostiary.grants.refusals import GrantUnknown, KeyReused, TimeSpent, TooManyAsked, TooManyOpen, WrongState
from ostiary.grants.store import Bounds, Draft, Held, News, Selection, Told
from ostiary.models import Owner

T = TypeVar("T")
Statement: TypeAlias = tuple[str, tuple[Any, ...] | list[tuple[Any, ...]]]
"""Its text and its values, or a list of them: then it is executed with each, and has no rows."""
Rows: TypeAlias = Sequence[Sequence[Any]]
Operation: TypeAlias = Generator[Statement, Rows, T]

MAX_OPEN: Final = 100
"""Requests of one identity that wait for approval, and its grants, which go along with each of its questions."""

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE grant_clock (
            one BIGINT PRIMARY KEY CHECK (one = 1),
            change BIGINT NOT NULL,
            store TEXT NOT NULL
        )""",
        """CREATE TABLE grant_records (
            id TEXT PRIMARY KEY,
            change BIGINT NOT NULL,
            issuer TEXT NOT NULL,
            subject TEXT NOT NULL,
            caller TEXT NOT NULL,
            service TEXT NOT NULL,
            state TEXT NOT NULL,
            due BIGINT,
            granted_at BIGINT,
            ends_at BIGINT,
            uses BIGINT NOT NULL,
            unrecorded BIGINT NOT NULL,
            held TEXT,
            idempotency_key TEXT,
            document TEXT NOT NULL,
            UNIQUE (issuer, subject, idempotency_key)
        )""",
        "CREATE INDEX grant_records_change ON grant_records (change)",
        "CREATE INDEX grant_records_due ON grant_records (due) WHERE due IS NOT NULL",
        "CREATE INDEX grant_records_held ON grant_records (change) WHERE held IS NOT NULL",
        "CREATE INDEX grant_records_unrecorded ON grant_records (change) WHERE unrecorded > 0",
        "CREATE INDEX grant_records_owner ON grant_records (issuer, subject, ends_at)",
    ),
    ("ALTER TABLE grant_records ADD COLUMN approvers TEXT",),
    (
        "ALTER TABLE grant_records ADD COLUMN asked_at BIGINT",
        "ALTER TABLE grant_records ADD COLUMN over_at BIGINT",
        "UPDATE grant_records SET over_at = CAST({now} AS BIGINT) WHERE state NOT IN ('pending', 'active')",
        "CREATE INDEX grant_records_asked ON grant_records (issuer, subject, asked_at)",
        "CREATE INDEX grant_records_over ON grant_records (over_at) WHERE over_at IS NOT NULL",
    ),
    ("CREATE INDEX grant_records_open ON grant_records (change, id) WHERE due IS NOT NULL",),
    (
        """CREATE TABLE grant_webhooks (
            webhook TEXT PRIMARY KEY,
            seen DOUBLE PRECISION NOT NULL,
            holder TEXT NOT NULL,
            held_until DOUBLE PRECISION NOT NULL
        )""",
        """CREATE TABLE grant_deliveries (
            webhook TEXT NOT NULL,
            grant_id TEXT NOT NULL,
            step BIGINT NOT NULL,
            change BIGINT NOT NULL,
            tries BIGINT NOT NULL,
            due DOUBLE PRECISION NOT NULL,
            PRIMARY KEY (webhook, grant_id, step)
        )""",
        "CREATE INDEX grant_deliveries_due ON grant_deliveries (webhook, due)",
    ),
    (
        """CREATE TABLE block_records (
            id TEXT PRIMARY KEY,
            change BIGINT NOT NULL,
            mark TEXT NOT NULL,
            state TEXT NOT NULL,
            due BIGINT,
            over_at BIGINT,
            unrecorded BIGINT NOT NULL,
            held TEXT,
            document TEXT NOT NULL
        )""",
        "CREATE UNIQUE INDEX block_records_mark ON block_records (mark) WHERE state = 'active'",
        "CREATE INDEX block_records_change ON block_records (change)",
        "CREATE INDEX block_records_due ON block_records (due) WHERE due IS NOT NULL",
        "CREATE INDEX block_records_over ON block_records (over_at) WHERE over_at IS NOT NULL",
        "CREATE INDEX block_records_held ON block_records (id) WHERE held IS NOT NULL",
        "CREATE INDEX block_records_unrecorded ON block_records (change) WHERE unrecorded > 0",
    ),
)
"""Each list of statements leads from one version of the tables to the next. What is in one stays as it is."""
VERSION: Final = len(MIGRATIONS)
"""Of the tables that this version of ostiary makes."""

_FIELDS: Final = "document, uses"
_SWEPT_FIELDS: Final = f"{_FIELDS}, change, id, approvers"
_INSERT: Final = """
    INSERT INTO grant_records (change, issuer, subject, caller, service, state, due, granted_at, ends_at, uses,
    unrecorded, held, idempotency_key, document, approvers, asked_at, over_at, id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_UPDATE: Final = """
    UPDATE grant_records SET change = ?, issuer = ?, subject = ?, caller = ?, service = ?, state = ?, due = ?,
    granted_at = ?, ends_at = ?, uses = ?, unrecorded = ?, held = ?, idempotency_key = ?, document = ?,
    approvers = ?, asked_at = ?, over_at = ? WHERE id = ?
"""
_TELL: Final = """
    INSERT INTO grant_deliveries (webhook, grant_id, step, change, tries, due) VALUES (?, ?, ?, ?, 0, ?)
    ON CONFLICT (webhook, grant_id, step) DO NOTHING
"""
_BEFORE: Final = "(change < ? OR (change = ? AND id > ?))"
_BATCH: Final = 1000
_SWEPT: Final = 200
"""Records that a step of a sweep looks at: few, because nobody else changes anything meanwhile."""
_PRUNED: Final = 200
"""Records that are let go at a time."""
_LOOKED_AT: Final = 5000
"""Records that a list looks through: what it is to show, the store itself does not know of most of them."""


# Changes


def ask(draft: Draft, *, told: Told, bounds: Bounds) -> Operation[Record]:
    moment = yield from tick(told)
    if draft.idempotency_key is not None:
        found = yield from asked(draft.asked.owner, draft.idempotency_key)
        if found is not None:
            return _same(found, draft)
    record = yield from _made(draft, moment, bounds)
    yield _INSERT, _values(record)
    return record


def asked(owner: Owner, idempotency_key: str) -> Operation[Record | None]:
    rows = yield (
        f"SELECT {_FIELDS} FROM grant_records WHERE issuer = ? AND subject = ? AND idempotency_key = ?",
        (*owner, idempotency_key),
    )
    return _record(rows[0]) if rows else None


def would_ask(draft: Draft, *, told: Told, bounds: Bounds) -> Operation[Record]:
    """What `ask` would make of it now. Changes nothing."""
    rows = yield "SELECT {now}", ()
    return (yield from _made(draft, Moment(now=told(rows[0][0]), change=0), bounds))


def _made(draft: Draft, moment: Moment, bounds: Bounds) -> Operation[Record]:
    asked = draft.asked
    record = life.ask(
        asked,
        moment,
        id=draft.id,
        patience=draft.patience,
        ruling=draft.ruling,
        idempotency_key=draft.idempotency_key,
    )
    yield from _not_too_often(bounds.requests_per_day, asked.owner, moment.second)
    if record.state in OPEN:
        found = yield (
            "SELECT count(*) FROM grant_records WHERE issuer = ? AND subject = ? AND state IN ('pending', 'active')",
            asked.owner,
        )
        if found[0][0] >= MAX_OPEN:
            raise TooManyOpen(f"at most {MAX_OPEN}")
        yield from _within(bounds.time_per_day, record, moment.second, moment.second + asked.duration)
    return record


def _not_too_often(most: int | None, owner: Owner, second: int) -> Operation[None]:
    """Raise `TooManyAsked` if this identity has asked for so many today."""
    if most is None:
        return
    found = yield (
        "SELECT count(*) FROM grant_records WHERE issuer = ? AND subject = ? AND asked_at >= ?",
        (*owner, day_of(second)),
    )
    if found[0][0] >= most:
        raise TooManyAsked(f"at most {most} requests a day (UTC)", retry_after=day_of(second) + DAY - second)


def _same(found: Record, draft: Draft) -> Record:
    asked = draft.asked
    if asked.max_uses is None:
        asked = replace(asked, max_uses=asked.terms.max_uses)
    # The terms may have changed since: whoever asks again asks for the same all the same.
    if replace(asked, terms=found.asked.terms) != found.asked:
        raise KeyReused
    return found


def change(id: str, transition: Transition, *, told: Told, allowance: int | None) -> Operation[Record]:
    moment = yield from tick(told)
    before = yield from get(id, lock=True)
    return (yield from _change(before, transition, moment, allowance))


class Swept(NamedTuple):
    """What a step of a sweep has changed, and where the next one begins; None if nothing is left to look at."""

    changed: list[Record]
    after: tuple[int, str] | None


def sweep(
    selection: Selection, transition: Transition, after: tuple[int, str], *, told: Told, allowance: int | None
) -> Operation[Swept]:
    """Change those that fit among the next records that wait or are active, in the order of their last change.

    Whatever is changed meanwhile, by anybody, is numbered after all that there is, so that the sweep comes to it: when
    nothing is left, nothing that fits is, at that moment, as it was.
    """
    moment = yield from tick(told)
    conditions, values = _wanted(selection)
    conditions += ["due IS NOT NULL", "(change > ? OR (change = ? AND id > ?))"]
    text = f"SELECT {_SWEPT_FIELDS} FROM grant_records WHERE {' AND '.join(conditions)}"
    rows = yield f"{text} ORDER BY change, id LIMIT ? {{lock}}", (*values, after[0], *after, _SWEPT)
    changed = yield from _change_each(rows, selection, transition, moment, allowance)
    return Swept(changed, (rows[-1][2], rows[-1][3]) if len(rows) == _SWEPT else None)


def used_up(selection: Selection, *, told: Told) -> Operation[list[list[str]]]:
    """The ids of those whose uses are used up, but not their time, some at a time: what the last use let through may be
    going on."""
    rows = yield "SELECT {now}", ()
    conditions, values = _wanted(selection)
    conditions += ["state = 'used-up'", "(over_at IS NULL OR over_at > ?)"]
    found = yield (
        f"SELECT id FROM grant_records WHERE {' AND '.join(conditions)} ORDER BY change, id",
        (*values, int(told(rows[0][0]))),
    )
    ids = [row[0] for row in found]
    return [ids[begin : begin + _SWEPT] for begin in range(0, len(ids), _SWEPT)]


def sweep_used_up(
    ids: Sequence[str], selection: Selection, transition: Transition, *, told: Told, allowance: int | None
) -> Operation[list[Record]]:
    """Change those of these that fit."""
    moment = yield from tick(told)
    rows: list[Sequence[Any]] = []
    for each in ids:
        rows += yield f"SELECT {_SWEPT_FIELDS} FROM grant_records WHERE id = ? {{lock}}", (each,)
    return (yield from _change_each(rows, selection, transition, moment, allowance))


def _change_each(
    rows: Rows, selection: Selection, transition: Transition, moment: Moment, allowance: int | None
) -> Operation[list[Record]]:
    changed = []
    for row in rows:
        if selection.approvers is not None and selection.approvers.isdisjoint(_approvers(row[0], row[4])):
            continue
        before = _record(row)
        if not selection.fits(before):
            continue
        with suppress(WrongState):
            changed.append((yield from _changed(before, transition, moment, allowance)))
    if changed:
        yield _UPDATE, [_values(record) for record in changed]
    return changed


def due(*, told: Told) -> Operation[list[str]]:
    rows = yield "SELECT {now}", ()
    found = yield "SELECT id FROM grant_records WHERE due <= ? LIMIT ?", (int(told(rows[0][0])), _BATCH)
    return [row[0] for row in found]


def expire(ids: Sequence[str], *, told: Told) -> Operation[list[Record]]:
    moment = yield from tick(told)
    ended = []
    for each in ids:
        before = yield from get(each, lock=True)
        after = yield from _change(before, life.expire, moment, None)
        if after.state != before.state:
            ended.append(after)
    return ended


def use(id: str, *, told: Told) -> Operation[Record | None]:
    """Take a use that is not the last. None if it is: that is a change like any other."""
    record = yield from get(id, lock=True)
    rows = yield "SELECT {now}", ()
    after = life.use(record, Moment(now=told(rows[0][0]), change=record.change))
    if after.state != record.state:
        return None
    if after.uses != record.uses:
        yield "UPDATE grant_records SET uses = ? WHERE id = ?", (after.uses, id)
    return after


def recorded(marks: Sequence[tuple[str, int]], *, told: Told) -> Operation[None]:
    moment = yield from tick(told)
    changed: list[Record] = []
    marked: list[tuple[Record, int]] = []
    for id, steps in marks:  # noqa: A001
        record = yield from get(id, lock=True)
        if steps > record.recorded:
            changed.append(replace(record, change=moment.change, recorded=min(steps, len(record.steps))))
            marked.append((record, steps))
    if changed:
        yield _UPDATE, [_values(record) for record in changed]
        told_of = [(record.id, step) for record, until in marked for step in record.changes(record.recorded, until)]
        yield from tell(told_of, moment)


def over(keep: int, *, told: Told) -> Operation[bool]:
    """Whether there is anything to prune."""
    rows = yield "SELECT {now}", ()
    return bool((yield "SELECT 1 FROM grant_records WHERE over_at <= ? LIMIT 1", (int(told(rows[0][0])) - keep,)))


def prune(keep: int, *, told: Told) -> Operation[int]:
    """Let go what has been over for so many seconds, the oldest first. Nothing that counts changes by it, so it takes
    no number; two that do it at once wait for one another."""
    rows = yield "SELECT {now}", ()
    before = int(told(rows[0][0])) - keep
    found = yield (
        f"SELECT {_FIELDS} FROM grant_records WHERE over_at <= ? ORDER BY over_at, id LIMIT ? {{lock}}",
        (before, _PRUNED),
    )
    gone = 0
    for row in found:
        record = _record(row)
        ended = life.over_at(record)
        if ended is not None and ended <= before:
            yield "DELETE FROM grant_deliveries WHERE grant_id = ?", (record.id,)
            yield "DELETE FROM grant_records WHERE id = ?", (record.id,)
            gone += 1
        else:  # the migration knew no better
            yield from _keep(record)
    return gone


def tell(steps: Sequence[tuple[str, int]], moment: Moment) -> Operation[None]:
    """These are in the audit by now, each the step of that number of the grant or block of that id: they wait to be
    told to each webhook that is known (`outbox`)."""
    rows = yield "SELECT webhook FROM grant_webhooks ORDER BY webhook", ()
    waiting = [(row[0], id, number, moment.change, moment.now) for row in rows for id, number in steps]  # noqa: A001
    if waiting:
        yield _TELL, waiting


def tick(told: Told) -> Operation[Moment]:
    rows = yield "UPDATE grant_clock SET change = change + 1 RETURNING change, {now}", ()
    number, now = rows[0]
    return Moment(now=told(now), change=number)


def _change(before: Record, transition: Transition, moment: Moment, allowance: int | None) -> Operation[Record]:
    after = yield from _changed(before, transition, moment, allowance)
    if after != before:
        yield from _keep(after)
    return after


def _changed(before: Record, transition: Transition, moment: Moment, allowance: int | None) -> Operation[Record]:
    after = transition(before, moment)
    if after.expires_at is not None and after.expires_at != before.expires_at:
        begins = after.granted_at or moment.second
        yield from _within(allowance, after, begins, after.expires_at)
    return after


def _within(allowance: int | None, record: Record, begins: int, ends: int) -> Operation[None]:
    """Raise `TimeSpent` if the owner would have more time in a day than may be."""
    if allowance is None:
        return
    others = yield (
        "SELECT granted_at, ends_at FROM grant_records WHERE issuer = ? AND subject = ? AND ends_at > ? AND id <> ?",
        (*record.owner, day_of(begins), record.id),
    )
    if exceeds(allowance, (begins, ends), [(row[0], row[1]) for row in others]):
        raise TimeSpent(f"at most {allowance} seconds a day (UTC), all grants together")


def _keep(record: Record) -> Operation[None]:
    yield _UPDATE, _values(record)


def _values(record: Record) -> tuple[Any, ...]:
    asked, grant = record.asked, record.grant()
    ends = None if record.granted_at is None else (record.expires_at if record.ended_at is None else record.ended_at)
    return (
        record.change,
        *asked.owner,
        asked.caller,
        asked.service,
        record.state,
        life.due_at(record),
        record.granted_at,
        ends,
        record.uses,
        len(record.steps) - record.recorded,
        None if grant is None else as_json({**asdict(grant), "confirmed_at": record.confirmed_at}),
        record.idempotency_key,
        as_json(record.document()),
        as_json(asked.terms.approvers),
        int(record.steps[0].time),
        life.over_at(record),
        record.id,
    )


# Looking


def get(id: str, *, lock: bool = False, to: Actor | None = None) -> Operation[Record]:
    columns = f"{_FIELDS}, issuer, subject, approvers"
    rows = yield f"SELECT {columns} FROM grant_records WHERE id = ?{' {lock}' if lock else ''}", (id,)
    # What is somebody else's is not even read: that would take longer than what is not there.
    if not rows or (to is not None and not _concerns(to, rows[0])):
        raise GrantUnknown
    return _record(rows[0])


def _concerns(actor: Actor, row: Sequence[Any]) -> bool:
    document, _, issuer, subject, approvers = row
    return (issuer, subject) == actor.owner or not actor.callers.isdisjoint(_approvers(document, approvers))


def _approvers(document: str, approvers: str | None) -> list[str]:
    """A record that was not changed since they are kept apart has them in its document alone."""
    found: list[str] = (
        json.loads(document)["asked"]["terms"]["approvers"] if approvers is None else json.loads(approvers)
    )
    return found


def find(selection: Selection) -> Operation[list[Record]]:
    conditions, values = _wanted(selection)
    text = (
        f"SELECT {_FIELDS} FROM grant_records WHERE {' AND '.join([*conditions, _BEFORE])}"
        f" ORDER BY change DESC, id LIMIT ?"
    )
    found: list[Record] = []
    change, id = selection.before or (2**62, "")  # noqa: A001
    looked_at = 0
    while len(found) < selection.limit and looked_at < _LOOKED_AT:
        rows = yield text, (*values, change, change, id, _BATCH)
        records = [_record(row) for row in rows]
        found += [record for record in records if selection.fits(record)]
        looked_at += len(rows)
        if len(rows) < _BATCH:
            break
        change, id = records[-1].change, records[-1].id  # noqa: A001
    return found[: selection.limit]


def _wanted(selection: Selection) -> tuple[list[str], list[object]]:
    """What the store itself looks for of a selection: conditions, and their values."""
    wanted: dict[str, object] = {"caller = ?": selection.caller, "service = ?": selection.service}
    if selection.owner is not None:
        wanted |= {"issuer = ?": selection.owner[0], "subject = ?": selection.owner[1]}
    given = {condition: value for condition, value in wanted.items() if value is not None}
    conditions, values = list(given), list(given.values())
    if selection.states:
        conditions.append(f"state IN ({', '.join('?' * len(selection.states))})")
        values.extend(selection.states)
    return conditions, values


def unrecorded() -> Operation[list[Record]]:
    rows = yield f"SELECT {_FIELDS} FROM grant_records WHERE unrecorded > 0 ORDER BY change LIMIT ?", (_BATCH,)
    return [_record(row) for row in rows]


def news(after: int, *, told: Told) -> Operation[News]:
    rows = yield "SELECT store, {now}, change FROM grant_clock", ()
    store, now, last = rows[0]
    fields = "SELECT change, id, issuer, subject, held, state FROM grant_records WHERE"
    if not 0 < after <= last:  # the first time, or of a store that was there before this one
        found = yield f"{fields} held IS NOT NULL AND change <= ? ORDER BY change", (last,)
    else:
        found = yield f"{fields} change > ? AND change <= ? ORDER BY change", (after, last)
    return News(store=store, now=told(now), change=last, held=[Held(*row) for row in found])


def _record(row: Sequence[Any]) -> Record:
    document = json.loads(row[0])
    return Record.of({**document, "uses": row[1]})


def as_json(document: object) -> str:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=True)
