"""What a step of a block means to those who are told of it: that something is blocked, or is not any more.

A block is about every service. One that gets a later end is told of as it was when it began.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ostiary.grants.blocking import block_document
from ostiary.grants.blocks import Block, BlockKind, BlockState, BlockStep
from ostiary.grants.webhooks.notices import NAMES, BlockEvent, Notice, instant

_MEANS: Final[Mapping[BlockKind, tuple[BlockEvent, BlockState]]] = {
    "blocked": ("blocked", "active"),
    "extended": ("blocked", "active"),
    "lifted": ("unblocked", "lifted"),
    "expired": ("unblocked", "expired"),
}
_TITLES: Final[Mapping[BlockEvent, str]] = {"blocked": "Blocked", "unblocked": "Blocked no more"}


def block_notice(block: Block, number: int) -> Notice:
    """What is told of that step."""
    step = block.steps[number]
    event, state = _MEANS[step.kind]
    return Notice(
        id=f"{block.id}-{number}",
        about="block",
        event=event,
        time=step.time,
        service=None,
        data=block_document(block, number) | {"state": state},
        values=_values(block, step, event, state),
    )


def _values(block: Block, step: BlockStep, event: BlockEvent, state: BlockState) -> dict[str, str]:
    named = {
        "event": event,
        "title": _TITLES[event],
        "time": instant(step.time),
        "state": state,
        "reason": block.steps[0].reason,
        "actor": "" if step.actor is None else step.actor[1],
        "why": step.reason,
        "expires": "" if step.ends_at is None else instant(step.ends_at),
        "block": block.id,
        "by": block.mark[0],
        "blocked": " ".join(block.mark[1:]),
    }
    return dict.fromkeys(NAMES, "") | named | {"text": _sentence(step.kind, named)}


def _sentence(kind: BlockKind, named: Mapping[str, str]) -> str:
    what = f"the {named['by']} {named['blocked']}"
    until = f"until {named['expires']}" if named["expires"] else "until it is lifted"
    said: dict[BlockKind, str] = {
        "blocked": f"{named['actor']} has blocked {what} {until}: {named['why']}",
        "extended": f"{named['actor']} keeps {what} blocked {until}: {named['why']}",
        "lifted": f"{named['actor']} blocks {what} no more: {named['why']}",
        "expired": f"the time of the block of {what} is up",
    }
    return said[kind]
