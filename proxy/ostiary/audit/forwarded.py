"""The two lines of a forwarded request, put together from text: nearly all lines there are.

They say what `render` would say of the record's documents, which a test compares, for a third of the time: most of a
line is the same for every request of an identity, under one decision, to one target, with one credential, and each of
these parts is rendered and judged once. Whatever is not plainly text of this proxy's own making is left to `render`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final, TypeVar

import orjson

from ostiary.audit.lines import MAX_LINE, SCHEMA, clean
from ostiary.bounded import Memo
from ostiary.exchange import Exchange
from ostiary.models import AccessRequest, Credential, Decision, Identity, Target

_DECISION: Final = f'{{"schema":{SCHEMA},"kind":"decision","time":"'
_COMPLETION: Final = f'{{"schema":{SCHEMA},"kind":"completion","time":"'

_T = TypeVar("_T")


class Parts:
    """What many lines have in common, rendered once, by the object that it was made from.

    An object is known again by being the same one, so it must not change: records and their documents do not. At most
    `capacity` objects are remembered of each kind, which is what `make` takes: strangers choose targets, and are not
    to push out identities.
    """

    __slots__ = ("_known",)

    def __init__(self, *, capacity: int = 1024) -> None:
        self._known: defaultdict[object, Memo[int, tuple[object, Any]]] = defaultdict(lambda: Memo(capacity))

    def of(self, source: _T, make: Callable[[_T], tuple[str, ...]]) -> tuple[str, ...]:
        """`make(source)`, perhaps made before. Raises what it raises."""
        kind = self._known[make]
        known = kind.get(id(source))
        if known is not None and known[0] is source:
            made: tuple[str, ...] = known[1]
            return made
        made = make(source)
        kind.put(id(source), (source, made))
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
    trace_id: str | None = None,
) -> bytes | None:
    """The `decision` line, or None where it takes `render` to write it. `seconds` are what the decision took."""
    target, method, source_ip = request.target, request.method, request.source_ip
    try:
        proven, subject, actor = parts.of(request.identity, _of_identity)
        caller, endpoint, found, cached, result = parts.of(decision, _of_decision)
        asked = parts.of(target, _of_target)
        # A credential for one call comes once, and would only push out those that come again.
        given = _of_credential(credential) if credential.per_call else parts.of(credential, _of_credential)
        foretold = endpoint if request.endpoint == decision.endpoint else _json(request.endpoint)
        grants = _json([grant.document() for grant in request.grants]) if request.grants else "[]"
    except TypeError:
        return None
    if not (asked and given and _is_plain(f"{method}{source_ip}") and _is_clean(foretold) and _is_clean(grants)):
        return None  # may have to be escaped, or to be searched for a token; the other parts have been
    predicted = "" if request.endpoint is None else f',"endpoint":{foretold}'
    line = (
        f'{_DECISION}{now}","decision_id":"{decision_id}"{_traced(trace_id)},"caller":{caller},"service":"{target.service}",'
        f'"endpoint":{endpoint},"method":"{method}","path":"{target.path}",{found},"credential":{given[0]},'
        f'"cached":{cached},"identity":{proven},"source_ip":"{source_ip}","decision_ms":{seconds * 1000:.3f},'
        f'"input":{{"subject":{subject},"action":{{"name":"{method}"}},"resource":{asked[0]}{predicted}}}}},'
        f'"context":{{"time":{request.time},"source_ip":"{source_ip}","actor":{actor},"grants":{grants}}}}},'
        f'"result":{result}}}\n'
    ).encode()
    return line if len(line) <= MAX_LINE else None


def completion_line(exchange: Exchange, *, outcome: str, now: str, seconds: float) -> bytes:
    """The `completion` line of an exchange that was not refused. `seconds` are what it took in all."""
    status = "null" if exchange.status is None else exchange.status
    return (
        f'{_COMPLETION}{now}","decision_id":"{exchange.id}"{_traced(exchange.trace_id)},"outcome":"{outcome}","status":{status},"reasons":[],'
        f'"detail":null,"bytes_received":{exchange.bytes_received},"bytes_sent":{exchange.bytes_sent},'
        f'"duration_ms":{seconds * 1000:.3f}}}\n'
    ).encode()


def _traced(trace_id: str | None) -> str:
    return "" if trace_id is None else f',"trace_id":"{trace_id}"'


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


def _of_target(target: Target) -> tuple[str, ...]:
    """The beginning of the resource, to which the predicted endpoint and two braces are missing; or nothing."""
    asked = _json({"segments": target.segments, "query": target.pairs})[:-1]
    if not (_is_plain(f"{target.service}{target.path}") and _is_clean(asked)):
        return ()
    return (f'{{"type":"service","id":"{target.service}","properties":{asked}',)


def _of_credential(credential: Credential) -> tuple[str, ...]:
    if not _is_plain(credential.id):
        return ()
    per_call = "true" if credential.per_call else "false"
    return (f'{{"jti":"{credential.id}","per_call":{per_call},"expires_at":{credential.expires_at}}}',)


def _is_plain(text: str) -> bool:
    """Whether this may stand between two quotes as it is."""
    return '"' not in text and "\\" not in text and _is_clean(text)


def _is_clean(json_text: str) -> bool:
    """Whether `clean` leaves this alone for sure."""
    return json_text.isascii() and json_text.isprintable() and "%" not in json_text and ".e" not in json_text


def _part(document: Any) -> str:
    """A part that may stand in a line as it is."""
    return clean(orjson.dumps(document)).decode()


def _json(document: Any) -> str:
    return orjson.dumps(document).decode()
