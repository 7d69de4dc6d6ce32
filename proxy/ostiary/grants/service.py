"""Everything that can be done with requests and grants, in the order in which it becomes true:

    stored (durable) → on the board (all workers of the machine) → in the audit → acknowledged

What takes away counts once it is stored, and is on the board before it is acknowledged; if it cannot be recorded at the
moment it is done all the same, and recorded later. The store is told that it is recorded after the acknowledgement.
What gives counts only once it is in the audit: until then the board does not have it, whoever reads the store. A
process that dies in between leaves steps that are not known to be in the audit; any other one finds them (`tidy`) and
records them. So a step is in the audit at least once, and seldom twice: its grant and number say which one it is.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final, Protocol

from ostiary.errors import AuditUnavailable, GrantsUnavailable
from ostiary.grants import life
from ostiary.grants.life import Ruling, Transition
from ostiary.grants.looking import Looking
from ostiary.grants.publisher import Publisher
from ostiary.grants.records import Actor, Asked, Record
from ostiary.grants.store import Draft, GrantStore, Selection
from ostiary.models import Json, Owner

_log = logging.getLogger("ostiary.grants")

_TIDY: Final = 5.0
"""Seconds between two looks for what is due, and for what is not recorded."""
_REVOKING: Final = 5.0
"""Seconds after which whoever revokes many is told how far it has come."""
_SHOWN: Final = 1000
"""Records of those that were revoked together that are shown."""


class StepLog(Protocol):
    """The audit, for steps."""

    async def step(self, document: Mapping[str, Json]) -> None:
        """Done once it is on disk. Raises `AuditUnavailable`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """`count` were revoked, of which the first few are `records`. `complete`: none of those that were selected is
    left."""

    records: Sequence[Record]
    count: int
    complete: bool


class GrantService:
    """`patience` is how long a request waits for approval, in seconds."""

    def __init__(self, *, store: GrantStore, publisher: Publisher, audit: StepLog, patience: int) -> None:
        self._store = store
        self._publisher = publisher
        self._audit = audit
        self._patience = patience
        self._looking = Looking(self.tidy, name="grants-tidy")
        self._busy: set[str] = set()
        self._marking: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._looking.start(every=_TIDY)

    async def close(self) -> None:
        await self._looking.close()
        await asyncio.gather(*self._marking)

    # Giving

    async def ask(self, asked: Asked, *, ruling: Ruling | None = None, idempotency_key: str | None = None) -> Record:
        return await self._record(await self._store.ask(self._draft(asked, ruling, idempotency_key)))

    async def asked(self, owner: Owner, idempotency_key: str) -> Record | None:
        """What this owner asked for with that key."""
        record = await self._store.asked(owner, idempotency_key)
        return None if record is None else await self._record(record)

    async def would_ask(self, asked: Asked, *, ruling: Ruling | None = None) -> Record:
        """What would become of a request. Nothing is kept or recorded, and nobody is asked."""
        return await self._store.would_ask(self._draft(asked, ruling, None))

    def _draft(self, asked: Asked, ruling: Ruling | None, idempotency_key: str | None) -> Draft:
        return Draft(
            id=f"g-{secrets.token_hex(16)}",
            asked=asked,
            patience=self._patience,
            ruling=ruling,
            idempotency_key=idempotency_key,
        )

    async def approve(self, id: str, actor: Actor, *, digest: str, reason: str = "") -> Record:
        return await self._record(await self._store.change(id, life.approve(actor, digest=digest, reason=reason)))

    async def extend(self, id: str, actor: Actor, *, duration: int, reason: str) -> Record:
        return await self._record(await self._store.change(id, life.extend(actor, duration=duration, reason=reason)))

    # Taking away

    async def deny(self, id: str, actor: Actor, *, reason: str = "") -> Record:
        return await self._end(id, life.deny(actor, reason=reason))

    async def cancel(self, id: str, actor: Actor, *, reason: str = "") -> Record:
        return await self._end(id, life.cancel(actor, reason=reason))

    async def drop(self, id: str, actor: Actor, *, reason: str = "") -> Record:
        return await self._end(id, life.drop(actor, reason=reason))

    async def revoke(self, id: str, actor: Actor, *, reason: str) -> Record:
        return await self._end(id, life.revoke(actor, reason=reason))

    async def revoke_all(
        self, selection: Selection, actor: Actor, *, reason: str, seconds: float = _REVOKING
    ) -> Revoked:
        """All that wait or are active and are selected, and then those whose last use may be going on, some at a time:
        those of each step count no more, on this machine, when the next begins. After so many seconds it is left at
        that; asked again, it goes on."""
        until = time.monotonic() + seconds
        shown: list[Record] = []
        count = 0
        async with aclosing(self._store.change_all(selection, life.revoke(actor, reason=reason))) as steps:
            async for records in steps:
                await self._publisher.publish()
                await asyncio.gather(*self._marking)  # so that what is noted keeps up
                await self._record_if_possible(records)
                count += len(records)
                shown += records[: _SHOWN - len(shown)]
                if time.monotonic() > until:
                    return Revoked(records=shown, count=count, complete=False)
        return Revoked(records=shown, count=count, complete=True)

    async def use(self, id: str) -> None:
        """Take one use, for a request that is about to be let through. Raises `GrantRefused` if none is left."""
        record = await self._store.use(id)
        if record.state != "active":
            await self._publisher.publish()
            await self._record_if_possible([record])

    # Looking

    async def review(self, id: str, actor: Actor, *, reason: str) -> Record:
        return await self._record(await self._store.change(id, life.review(actor, reason=reason)))

    async def get(self, id: str, *, to: Actor | None = None) -> Record:
        """Raises `GrantUnknown`, also if it is neither theirs nor theirs to approve."""
        return await self._store.get(id, to=to)

    async def find(self, selection: Selection) -> list[Record]:
        return await self._store.find(selection)

    async def tidy(self) -> None:
        """End what is due, record what is not recorded, and let go what was kept long enough. Raises
        `GrantsUnavailable`, `AuditUnavailable`."""
        if await self._store.expire():
            await self._publisher.publish()
        for record in await self._store.unrecorded():
            if record.id not in self._busy:
                await self._record(record)
        if gone := await self._store.prune():
            _log.debug("%d record(s) of grants were kept long enough", gone)

    async def _end(self, id: str, transition: Transition) -> Record:
        record = await self._store.change(id, transition)
        await self._publisher.publish()
        await self._record_if_possible([record])
        return record

    async def _record_if_possible(self, records: Sequence[Record]) -> None:
        """What ended counts already. That the audit has it is written down when nobody waits for it any more."""
        self._busy |= {record.id for record in records}
        written: list[Record] = []
        try:
            for record, error in zip(records, await self._written(records), strict=True):
                if error is None:
                    written.append(record)
                else:
                    _log.error("a step of %s is recorded later: %s", record.id, error)
        finally:
            self._busy -= {record.id for record in records} - {record.id for record in written}
        if written:
            marking = asyncio.create_task(self._mark_if_possible(written), name="grants-mark")
            self._marking.add(marking)
            marking.add_done_callback(self._marking.discard)

    async def _written(self, records: Sequence[Record]) -> list[AuditUnavailable | None]:
        """Why the audit does not have the steps of each, None where it does."""
        return await asyncio.gather(*(self._write_if_possible(record) for record in records))

    async def _write_if_possible(self, record: Record) -> AuditUnavailable | None:
        try:
            await self._write(record)
        except AuditUnavailable as error:
            return error
        return None

    async def _mark_if_possible(self, records: Sequence[Record]) -> None:
        try:
            await self._store.all_recorded([(record.id, len(record.steps)) for record in records])
        except GrantsUnavailable as error:
            for record in records:
                _log.error("a step of %s is recorded once more: %s", record.id, error)
        finally:
            self._busy -= {record.id for record in records}

    async def _record(self, record: Record) -> Record:
        """Write the steps that are new into the audit; only then does what they give count."""
        if record.recorded == len(record.steps):
            return record
        self._busy.add(record.id)
        try:
            await self._write(record)
            await self._store.recorded(record.id, len(record.steps))
        finally:
            self._busy.discard(record.id)
        await self._publisher.publish()
        return replace(record, recorded=len(record.steps))

    async def _write(self, record: Record) -> None:
        """The steps that are new into the audit. Raises `AuditUnavailable`."""
        for number in range(record.recorded, len(record.steps)):
            await self._audit.step(step_document(record, number))


def step_document(record: Record, number: int) -> dict[str, Json]:
    """What the audit is told of a step."""
    asked, step = record.asked, record.steps[number]
    kinds = {each.kind for each in record.steps[: number + 1]}
    return {
        "grant": record.id,
        "step": number,
        "action": step.kind,
        "at": step.time,
        "actor": None if step.actor is None else {"issuer": step.actor[0], "subject": step.actor[1]},
        "approver": step.caller,
        "reason": step.reason,
        "holder": {"issuer": asked.issuer, "subject": asked.subject},
        "caller": asked.caller,
        "service": asked.service,
        "endpoints": list(asked.endpoints),
        "duration": asked.duration,
        "max_uses": asked.max_uses,
        "emergency": asked.emergency,
        "denial": asked.denial,
        "digest": record.digest,
        "granted_at": record.granted_at if "activated" in kinds else None,
        "expires_at": step.expires_at,
    }
