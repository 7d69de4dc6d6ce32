"""The two lines of a forwarded request, put together from text: nearly all lines there are.

They say what `render` would say of the record's documents, which a test compares, for a third of the time: most of a
line is the same for every request of an identity under one decision, and that part is rendered once. Whatever is not
plainly text of this proxy's own making is left to `render`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import orjson

from ostiary.audit.lines import MAX_LINE, SCHEMA, clean
from ostiary.exchange import Exchange
from ostiary.models import AccessRequest, Credential, Decision, Identity

_DECISION: Final = f'{{"schema":{SCHEMA},"kind":"decision","time":"'
_COMPLETION: Final = f'{{"schema":{SCHEMA},"kind":"completion","time":"'

_T = TypeVar("_T")


class Parts:
    """What many lines have in common, rendered once, by the object that it was made from.

    An object is known again by being the same one, so it must not change: records and their documents do not. At most
    `capacity` objects are remembered.
    """

    __slots__ = ("_capacity", "_known")

    def __init__(self, *, capacity: int = 2048) -> None:
        self._capacity = capacity
        self._known: dict[int, tuple[object, Any]] = {}

    def of(self, source: _T, make: Callable[[_T], tuple[str, ...]]) -> tuple[str, ...]:
        """`make(source)`, perhaps made before. Raises what it raises."""
        known = self._known.get(id(source))
        if known is not None and known[0] is source:
            made: tuple[str, ...] = known[1]
            return made
        made = make(source)
        if len(self._known) >= self._capacity:
            self._known.clear()
        self._known[id(source)] = (source, made)
        return made


def identity_document(identity: Identity) -> dict[str, Any]:
    return {
        "issuer": identity.issuer,
        "subject": identity.subject,
        "method": identity.method,
        "token_id": identity.token_id,
    }


def decision_line(
    parts: Parts,
    request: AccessRequest,
    decision: Decision,
    credential: Credential,
    *,
    decision_id: str,
    now: str,
    seconds: float,
) -> bytes | None:
    """The `decision` line, or None where it takes `render` to write it. `seconds` are what the decision took."""
    target, method, source_ip, token = request.target, request.method, request.source_ip, credential.id
    service, path = target.service, target.path
    given = f"{method}{source_ip}{service}{path}{token}"
    if '"' in given or "\\" in given:
        return None
    try:
        proven, subject, actor = parts.of(request.identity, _of_identity)
        caller, endpoint, found, cached, result = parts.of(decision, _of_decision)
        properties: dict[str, Any] = {"segments": target.segments, "query": target.pairs}
        if request.endpoint is not None:
            properties["endpoint"] = request.endpoint
        asked = _json(properties)
        grants = _json([grant.document() for grant in request.grants]) if request.grants else "[]"
    except TypeError:
        return None
    given = f"{given}{asked}{grants}"
    if not given.isascii() or not given.isprintable() or "%" in given or ".e" in given:
        return None  # may have to be escaped, or to be searched for a token; the parts have been
    per_call = "true" if credential.per_call else "false"
    line = (
        f'{_DECISION}{now}","decision_id":"{decision_id}","caller":{caller},"service":"{service}",'
        f'"endpoint":{endpoint},"method":"{method}","path":"{path}",{found},"credential":{{"jti":"{token}",'
        f'"per_call":{per_call},"expires_at":{credential.expires_at}}},"cached":{cached},"identity":{proven},'
        f'"source_ip":"{source_ip}","decision_ms":{seconds * 1000:.3f},"input":{{"subject":{subject},'
        f'"action":{{"name":"{method}"}},"resource":{{"type":"service","id":"{service}","properties":{asked}}},'
        f'"context":{{"time":{request.time},"source_ip":"{source_ip}","actor":{actor},"grants":{grants}}}}},'
        f'"result":{result}}}\n'
    ).encode()
    return line if len(line) <= MAX_LINE else None


def completion_line(exchange: Exchange, *, outcome: str, now: str, seconds: float) -> bytes:
    """The `completion` line of an exchange that was not refused. `seconds` are what it took in all."""
    status = "null" if exchange.status is None else exchange.status
    return (
        f'{_COMPLETION}{now}","decision_id":"{exchange.id}","outcome":"{outcome}","status":{status},"reasons":[],'
        f'"detail":null,"bytes_received":{exchange.bytes_received},"bytes_sent":{exchange.bytes_sent},'
        f'"duration_ms":{seconds * 1000:.3f}}}\n'
    ).encode()


def _of_identity(identity: Identity) -> tuple[str, ...]:
    actor = None if identity.actor is None else dict(identity.actor)
    return _part(identity_document(identity)), _part(identity.document()), _part(actor)


def _of_decision(decision: Decision) -> tuple[str, ...]:
    found = _part(
        {
            "reasons": decision.reasons,
            "revision": decision.revision,
            "permission": decision.permission,
            "grant": decision.grant,
        }
    )
    document = _part(dict(decision.document))
    return _part(decision.caller), _part(decision.endpoint), found[1:-1], _part(decision.cached), document


def _part(document: Any) -> str:
    """A part that may stand in a line as it is."""
    return clean(orjson.dumps(document)).decode()


def _json(document: Any) -> str:
    return orjson.dumps(document).decode()
