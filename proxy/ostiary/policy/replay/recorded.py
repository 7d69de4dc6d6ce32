"""One line of the audit as a question that can be asked again, with the answer that was given, or why it cannot be.

Everything the policy was asked is in the line's `input`. Two things are not asked again as they stand: the endpoint
that was predicted, which is the older map's and would be refused by a newer one, and the second. Questions that differ
in nothing but the second of one minute are one question, asked with the time of the first: conditions of the map do not
flip within a minute. Where grants were sent, whose ends are seconds, each second is a question of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Literal, TypeAlias

import orjson

from ostiary.audit.lines import SCHEMA
from ostiary.models import AccessRequest, Grant, Identity, Json, Target
from ostiary.target import encode

Why: TypeAlias = Literal["not-asked", "no-answer", "token-redacted", "left-out"]
"""Why a request cannot be replayed."""

WHY: Final[dict[Why, str]] = {
    "not-asked": "the policy was not asked: refused before that, or answered by the proxy itself",
    "no-answer": "no answer of the policy is recorded",
    "token-redacted": "a token was in the request, of which the audit has only a digest",
    "left-out": "counted by the audit instead of recorded, beyond its quota or for want of room",
}

_ASIDE: Final = tuple(b'{"schema":%d,"kind":"%b"' % (SCHEMA, kind) for kind in (b"completion", b"credential"))
"""How lines begin that say nothing of a decision: half of all."""
_OTHERS: Final = frozenset(
    {"completion", "credential", "grant", "outage", "uncopied", "begin", "resume", "pruned", "end", "checkpoint"}
)
_DIGEST: Final = b"[token sha256:"
_MINUTE: Final = 60
_LATEST: Final = 1 << 36  # the year 4147


@dataclass(frozen=True, slots=True)
class Recorded:
    """A decision that was made. `question` is the input to ask again, `key` equal for questions that are one."""

    key: bytes
    question: bytes
    decision_id: str
    allow: bool
    caller: str | None
    service: str
    endpoint: str | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotReplayable:
    why: Why
    count: int = 1


class Malformed(ValueError):
    """A line that is no record. The message says what is wrong with it, in a clause."""


def read_line(raw: bytes) -> Recorded | NotReplayable | None:
    """What a line holds; None where it is about no decision. Raises `Malformed`."""
    if raw.startswith(_ASIDE):
        return None
    line = _parsed(raw)
    if line.get("schema") != SCHEMA:
        raise Malformed(f"is of the schema {line.get('schema')!r:.40}, and {SCHEMA} is read here")
    kind = line.get("kind")
    if kind in ("decision", "refusal"):
        return _asked(line, raw)
    if kind == "answer":
        return NotReplayable("not-asked")
    if kind == "lost":
        return NotReplayable("left-out", _lost(line))
    if kind in _OTHERS:
        return None
    raise Malformed(f"is of the kind {kind!r:.40}, which is not known here")


def request_of(document: Json) -> AccessRequest:
    """The request that an `input` is about, without what was predicted. Raises `Malformed`."""
    try:
        subject, properties = document["subject"], document["resource"]["properties"]
        context, proof = document["context"], document["subject"]["properties"]
        segments, pairs = tuple(properties["segments"]), properties["query"]
        return AccessRequest(
            identity=Identity(
                issuer=proof["issuer"],
                subject=subject["id"],
                method=proof["method"],
                expires_at=0,
                claims=proof["claims"],
                actor=context["actor"],
            ),
            method=document["action"]["name"],
            target=Target(
                service=document["resource"]["id"],
                segments=segments,
                path=encode(segments),
                query=None,
                pairs=None if pairs is None else tuple((name, value) for name, value in pairs),
            ),
            time=_instant(context["time"]),
            source_ip=context["source_ip"],
            grants=tuple(Grant(**{**each, "endpoints": tuple(each["endpoints"])}) for each in context["grants"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Malformed("has an input that is not the decision contract's") from error


def _instant(value: Json) -> int:
    if isinstance(value, int) and 0 <= value < _LATEST:
        return value
    raise ValueError("not an instant")


def _parsed(raw: bytes) -> dict[str, Any]:
    readers: tuple[Callable[[bytes], Any], ...] = (orjson.loads, json.loads)
    for read in readers:  # the second takes lone surrogates, which a token may hold and the audit writes
        try:
            line = read(raw)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            return line
        break
    raise Malformed("is not a JSON object")


def _asked(line: dict[str, Any], raw: bytes) -> Recorded | NotReplayable:
    document, result = line.get("input"), line.get("result")
    if document is None:
        return NotReplayable("not-asked")
    if result is None:
        return NotReplayable("no-answer")
    if not isinstance(result, dict):
        raise Malformed("has a result that is not an object")
    try:
        document["resource"]["properties"].pop("endpoint", None)
        context = document["context"]
        instant, grants, service = context["time"], context["grants"], document["resource"]["id"]
        question = orjson.dumps(document)
        if not grants:
            context["time"] = instant - instant % _MINUTE
        key = blake2b(orjson.dumps(document), digest_size=16).digest()
    except (KeyError, TypeError, AttributeError) as error:
        raise Malformed("has an input that is not the decision contract's") from error
    if _DIGEST in raw and _DIGEST in question:
        return NotReplayable("token-redacted")
    reasons = result.get("reasons")
    return Recorded(
        key=key,
        question=question,
        decision_id=str(line.get("decision_id")),
        allow=result.get("allow") is True,
        caller=_name(result.get("caller")),
        service=str(service),
        endpoint=_name(result.get("endpoint")),
        reasons=tuple(map(str, reasons)) if isinstance(reasons, list) else (),
    )


def _name(value: Json) -> str | None:
    return value if isinstance(value, str) else None


def _lost(line: dict[str, Any]) -> int:
    """How many refusals a `lost` line counts. Completions that were left out took no decision with them."""
    try:
        tables = [line["over_quota"], line["other_identities"], line["no_room"]]
        tables += [each["over_quota"] for each in line["identities"]]
        return sum(int(count) for table in tables for name, count in table.items() if name not in _OTHERS)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Malformed("does not say what was left out") from error
