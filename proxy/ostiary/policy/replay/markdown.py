"""A replay as a section of `ostiary bundle report`, for a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from ostiary.models import Json
from ostiary.policy.replay.recorded import WHY
from ostiary.policy.review.spans import code, listed, side

_SHOWN: Final = 50
"""Changes of a kind that are named."""


def section(document: Mapping[str, Json]) -> Iterator[str]:
    """Of the document of `ostiary replay --json`."""
    allowed, denied, unchanged = (document[name] for name in ("newly_allowed", "newly_denied", "unchanged"))
    told = [f"**{allowed:,} newly allowed**"] if allowed else []
    told += [f"{denied:,} newly denied"] if denied else []
    yield "## Recorded decisions: " + (", ".join(told) or "none would be another")
    yield ""
    yield (
        f"Asked again of {side(document['policy'])}: {document['decisions']:,} decisions, {document['distinct']:,} "
        f"distinct. {unchanged['allowed']:,} stay allowed, {unchanged['denied']:,} stay denied, "
        f"{unchanged['for_other_reasons']:,} of them for other reasons."
    )
    yield from listed("Newly allowed", _changes(document, "newly-allowed"))
    yield from listed("Newly denied", _changes(document, "newly-denied"))
    yield from listed("Not replayed", _left(document))


def _changes(document: Mapping[str, Json], kind: str) -> Iterator[str]:
    changes = [each for each in document["changes"] if each["kind"] == kind]
    for each in changes[:_SHOWN]:
        who = "nobody known" if each["caller"] is None else code(each["caller"])
        where = (
            code(each["service"]) if each["endpoint"] is None else f"{code(each['service'])}: {code(each['endpoint'])}"
        )
        yield f"- {each['count']:,} of {who} at {where}, {_why(each)}"
        for example in each["examples"]:
            by = f"{code(example['subject'])} of {code(example['issuer'])} from {code(example['source_ip'])}"
            yield f"  - {code(example['request'])} by {by}, {code(example['time'])}, {code(example['decision_id'])}"
    if len(changes) > _SHOWN:
        yield f"- and {len(changes) - _SHOWN} more"


def _why(change: Mapping[str, Json]) -> str:
    reasons = _reasons(change["reasons"])
    return reasons if change["kind"] == "newly-denied" else f"by {code(change['permission'])}; was {reasons}"


def _reasons(reasons: Iterable[str]) -> str:
    return ", ".join(map(code, reasons)) or "denied without a reason"


def _left(document: Mapping[str, Json]) -> Iterator[str]:
    for why, sentence in WHY.items():
        if count := document["not_replayable"].get(why):
            yield f"- {count:,}: {sentence}"
    if lines := document["malformed"]["lines"]:
        yield f"- {lines:,} malformed lines"
        yield from (f"  - {code(line)}" for line in document["malformed"]["named"][:_SHOWN])
