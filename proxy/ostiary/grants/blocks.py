"""A block: a mark (`ostiary.marks`) whose every identity is refused, until somebody lifts it or its time is up.

    blocked ─ active ─┬─ lifted
                      └─ expired

A mark has one block at a time. To block again what is blocked never shortens it: where the end is later, or there is
none any more, it is extended, and otherwise nothing happens. So who is not sure that it was done does it once more.

*It ends by the store.* No clock of a machine ends a block, and one that is due stands until the store has written down
that it has ended. And what gives counts once it is in the audit: a block that was lifted, or has expired, is in force
until that is recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal, TypeAlias

from ostiary.grants.life import MAX_REASON, Moment
from ostiary.grants.refusals import DurationRefused, ReasonRequired, ReasonTooLong
from ostiary.marks import Mark
from ostiary.models import Json, Owner

BlockState: TypeAlias = Literal["active", "lifted", "expired"]
BlockKind: TypeAlias = Literal["blocked", "extended", "lifted", "expired"]
"""What a step was."""

MAX_DURATION: Final = 10 * 366 * 86400
"""Seconds. What is longer is meant to have no end."""

MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "subject": ("issuer", "subject"),
    "token": ("issuer", "jti"),
    "digest": ("digest",),
    "key": ("issuer", "kid"),
    "thumbprint": ("thumbprint",),
    "certificate": ("certificate",),
}
"""What the parts of a mark are called, for people and programs. These names tell which mark it is."""


def shown_mark(mark: Mark) -> dict[str, str]:
    """A mark by the names of its parts."""
    return dict(zip(MEMBERS[mark[0]], mark[1:], strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStep:
    """`actor` is None where time took it. `ends_at` is when the block ends by it, None for never."""

    kind: BlockKind
    time: float
    actor: Owner | None
    reason: str = ""
    ends_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """`change` is the store's number for the last change. `ends_at` is in Unix seconds, None for never. `recorded` is
    how many steps are in the audit."""

    id: str
    change: int
    mark: Mark
    state: BlockState
    ends_at: int | None
    steps: tuple[BlockStep, ...]
    recorded: int = 0

    @property
    def in_force(self) -> bool:
        return self.state == "active" or self.recorded < len(self.steps)

    def document(self) -> dict[str, Json]:
        """As it is kept, and as `of` reads it."""
        return asdict(self)

    @classmethod
    def of(cls, document: Mapping[str, Json]) -> Block:
        """The block of a document that this version wrote. Raises `KeyError`, `TypeError` for what is none."""
        steps = (
            BlockStep(**step | {"actor": None if step["actor"] is None else (step["actor"][0], step["actor"][1])})
            for step in document["steps"]
        )
        return cls(**dict(document) | {"mark": tuple(document["mark"]), "steps": tuple(steps)})


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDraft:
    """A block that is not in the store yet. `duration` is in seconds, None for no end."""

    id: str
    mark: Mark
    actor: Owner
    reason: str
    duration: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSelection:
    """Which blocks: those in these states, the last that changed first, at most `limit`, and only those that come after
    `before`, the change and id of the last one that was seen."""

    states: Sequence[BlockState] = ("active",)
    limit: int = 1000
    before: tuple[int, str] | None = None


BlockTransition: TypeAlias = Callable[[Block, Moment], Block]


def begin(draft: BlockDraft, moment: Moment) -> Block:
    """Raises `GrantRefused`."""
    ends_at = _end(draft.duration, moment)
    step = BlockStep(kind="blocked", time=moment.now, actor=draft.actor, reason=_reason(draft.reason), ends_at=ends_at)
    return Block(id=draft.id, change=moment.change, mark=draft.mark, state="active", ends_at=ends_at, steps=(step,))


def again(draft: BlockDraft, block: Block, moment: Moment) -> Block:
    """What becomes of an active block when its mark is blocked once more. Raises `GrantRefused`."""
    ends_at, reason = _end(draft.duration, moment), _reason(draft.reason)
    if block.ends_at is None or (ends_at is not None and ends_at <= block.ends_at):
        return block
    after = _step(block, moment, "extended", draft.actor, reason=reason, ends_at=ends_at)
    return replace(after, ends_at=ends_at)


def lift(actor: Owner, *, reason: str) -> BlockTransition:
    """One that has ended stays as it is. Raises `GrantRefused`."""

    def transition(block: Block, moment: Moment) -> Block:
        told = _reason(reason)
        if block.state != "active":
            return block
        return replace(_step(block, moment, "lifted", actor, reason=told), state="lifted")

    return transition


def expire(block: Block, moment: Moment) -> Block:
    """End it, if it is due."""
    if block.state != "active" or block.ends_at is None or moment.now < block.ends_at:
        return block
    return replace(_step(block, moment, "expired", None), state="expired")


def _step(
    block: Block,
    moment: Moment,
    kind: BlockKind,
    actor: Owner | None,
    *,
    reason: str = "",
    ends_at: int | None = None,
) -> Block:
    time = max(moment.now, block.steps[-1].time)
    step = BlockStep(kind=kind, time=time, actor=actor, reason=reason, ends_at=ends_at)
    return replace(block, change=moment.change, steps=(*block.steps, step))


def _end(duration: int | None, moment: Moment) -> int | None:
    if duration is None:
        return None
    if not 1 <= duration <= MAX_DURATION:
        raise DurationRefused(f"1 to {MAX_DURATION} seconds")
    return math.ceil(moment.now) + duration


def _reason(text: str) -> str:
    if not text.strip():
        raise ReasonRequired
    if len(text) > MAX_REASON:
        raise ReasonTooLong(f"at most {MAX_REASON} characters")
    return text
