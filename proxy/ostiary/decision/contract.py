"""The decision document, and what it takes to be believed.

The order is the contract's (DESIGN section 6), and each step only ever narrows:

1. no HTTP 200 with a well-formed document never gets here: the query raised `PolicyUnavailable`;
2. `allow` is not the literal `true` (undefined, `"true"`, `1`, `{}`): a denial, whatever else the document says;
3. `allow` is true, but a field or the revision is missing, unexpected or not of this question: `PolicyUnavailable`.

A denial is read leniently, since nothing in it can open anything: what has the right shape is kept for the audit and
for the person refused, the rest is dropped, and a denial that is not whole is not cached.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final

import orjson

from ostiary.decision.query import Answer
from ostiary.decision.revision import Revision
from ostiary.errors import PolicyDenied, PolicyUnavailable
from ostiary.models import AccessRequest, CachePolicy, CredentialProfile, Decision, Grant, Json

LONGEST_MAX_AGE: Final = 5
"""Seconds. An answer that may be kept longer is kept this long (DESIGN section 6)."""

FIELDS: Final = frozenset(
    {
        "allow",
        "reasons",
        "caller",
        "service",
        "endpoint",
        "permission",
        "grant",
        "credential",
        "expires_at",
        "cache",
        "requestable",
        "observed",
        "shadow",
    }
)
"""The members of a decision: all of them, and no other."""

_REQUESTABLE: Final = frozenset({"caller", "service", "endpoint", "approvers", "max_duration"})
_SORTED: Final = orjson.OPT_SORT_KEYS
_NOT_CACHED: Final = CachePolicy(max_age=0, vary=())

_NO_ANSWER: Final = f"{PolicyDenied.reason}: the policy has no answer"
_NO_VERDICT: Final = f"{PolicyDenied.reason}: the policy's answer is neither yes nor no"


def parse_decision(answer: Answer, request: AccessRequest) -> Decision:
    """The decision that `answer` holds for `request`.

    Raises `PolicyUnavailable` for an allow that cannot be believed. Staleness and rollback are the authorizer's to see.
    """
    document = answer.result if answer.defined and isinstance(answer.result, dict) else None
    if document is None or document.get("allow") is not True:
        return _denial(answer, document)
    return _allow(document, _revision(answer), request)


def _denial(answer: Answer, document: dict[str, Json] | None) -> Decision:
    found: dict[str, Json] = {} if document is None else document
    cache = _cache(found.get("cache")) if found.get("allow") is False else None
    reasons = _strings(found.get("reasons")) or ()
    if not reasons:
        verdict = PolicyDenied.reason if found.get("allow") is False else _NO_VERDICT
        reasons = (verdict if answer.defined else _NO_ANSWER,)
    requestable = found.get("requestable")
    decision = Decision(
        allow=False,
        reasons=reasons,
        caller=_name(found.get("caller")),
        service=_name(found.get("service")),
        endpoint=_name(found.get("endpoint")),
        permission=_name(found.get("permission")),
        grant=_name(found.get("grant")),
        credential=None,
        expires_at=None,
        cache=cache if cache is not None and answer.revision is not None else _NOT_CACHED,
        requestable=requestable if _is_requestable(requestable) else None,
        observed=found.get("observed") is True,
        revision=answer.revision or "",
        shadow=_name(found.get("shadow")),
    )
    if document is None:
        return replace(decision, said={"result": answer.result} if answer.defined else {})
    return _faithful(decision, document)


def _faithful(decision: Decision, document: dict[str, Json]) -> Decision:
    """The decision, with what OPA said where its own members do not say the same."""
    # Compared as texts: to Python, 1 and true are equal.
    try:
        told, said = orjson.dumps(decision.document, option=_SORTED), orjson.dumps(document, option=_SORTED)
    except TypeError:  # an integer beyond 64 bits, for one
        return replace(decision, said=document)
    return decision if told == said else replace(decision, said=document)


def _allow(document: dict[str, Json], revision: str, request: AccessRequest) -> Decision:
    if document.keys() != FIELDS:
        odd = sorted(document.keys() ^ FIELDS)
        raise PolicyUnavailable(f"the decision's members are not the contract's: {_listed(odd)}")
    observed = document["observed"]
    if not isinstance(observed, bool):
        raise _unexpected("observed")
    reasons = _strings(document["reasons"])
    if reasons is None or bool(reasons) != observed:  # an allow has no reason against it, except where one observes
        raise _unexpected("reasons")
    shadow = document["shadow"]
    if shadow is not None and not (observed and _name(shadow)):  # what is allowed lacks no permission
        raise _unexpected("shadow")
    caller, endpoint = _name(document["caller"]), _name(document["endpoint"])
    if caller is None:
        raise _unexpected("caller")
    if document["service"] != request.target.service:
        raise _unexpected("service")
    if endpoint is None or (request.endpoint is not None and endpoint != request.endpoint):
        raise _unexpected("endpoint")
    requestable = document["requestable"]
    if requestable is not None and not _is_requestable(requestable):
        raise _unexpected("requestable")
    cache = _cache(document["cache"])
    if cache is None:
        raise _unexpected("cache")
    permission, grant, expires_at = _basis(document, caller, endpoint, request)
    decision = Decision(
        allow=True,
        reasons=reasons,
        caller=sys.intern(caller),  # like the rest that many decisions share, once for all of them
        service=request.target.service,
        endpoint=request.endpoint or endpoint,
        permission=permission,
        grant=grant,
        credential=_credential(document["credential"]),
        expires_at=expires_at,
        cache=cache,
        requestable=requestable,
        observed=observed,
        revision=request.revision if revision == request.revision else revision,
        shadow=shadow,
    )
    return _faithful(decision, document)


def _basis(
    document: dict[str, Json], caller: str, endpoint: str, request: AccessRequest
) -> tuple[str | None, str | None, int | None]:
    """Permission or grant, exactly one, and when it ends. An ended one is no basis, whatever the policy says.

    What is only observed has neither of the two, and an end.
    """
    permission, grant, expires_at = document["permission"], document["grant"], document["expires_at"]
    if expires_at is not None and not _is_whole(expires_at):
        raise _unexpected("expires_at")
    if expires_at is not None and expires_at <= request.time:
        raise PolicyUnavailable("the decision has ended before it was made")
    if document["observed"]:
        if permission is not None or grant is not None:
            raise _unexpected("observed")
        if expires_at is None:
            raise _unexpected("expires_at")
        return None, None, expires_at
    if grant is None:
        if _name(permission) is None:
            raise _unexpected("permission")
        return sys.intern(permission), None, expires_at
    if permission is not None:
        raise _unexpected("permission")
    sent = _sent(grant, request)
    if (
        sent is None
        or sent.caller != caller
        or sent.service != request.target.service
        or endpoint not in sent.endpoints
    ):
        raise _unexpected("grant")
    if expires_at is None or expires_at > sent.expires_at:
        raise _unexpected("expires_at")
    return None, sent.id, expires_at


def _sent(grant: Json, request: AccessRequest) -> Grant | None:
    """The grant of that id among those that were put to the policy: it cannot know of any other."""
    return next((sent for sent in request.grants if sent.id == grant), None)


def _credential(value: Json) -> CredentialProfile:
    if not isinstance(value, dict) or value.keys() != {"lifetime", "per_call"}:
        raise _unexpected("credential")
    lifetime, per_call = value["lifetime"], value["per_call"]
    if not _is_whole(lifetime) or lifetime < 1 or not isinstance(per_call, bool):
        raise _unexpected("credential")
    return _profile(lifetime, per_call)


@lru_cache(maxsize=1024)
def _profile(lifetime: int, per_call: bool) -> CredentialProfile:
    return CredentialProfile(lifetime=lifetime, per_call=per_call)


def _cache(value: Json) -> CachePolicy | None:
    if not isinstance(value, dict) or value.keys() != {"max_age", "vary"}:
        return None
    max_age, vary = value["max_age"], _strings(value["vary"])
    if not _is_whole(max_age) or max_age < 0 or vary is None:
        return None
    return _policy(min(max_age, LONGEST_MAX_AGE), vary)


@lru_cache(maxsize=1024)
def _policy(max_age: int, vary: tuple[str, ...]) -> CachePolicy:
    return CachePolicy(max_age=max_age, vary=vary)


def _revision(answer: Answer) -> str:
    if answer.revision is None:
        raise PolicyUnavailable("the answer does not say which bundle it is from")
    if Revision.parse(answer.revision) is None:
        raise PolicyUnavailable("the revision of the bundle is not a sequence and a digest")
    return answer.revision


def _is_requestable(value: Json) -> bool:
    return isinstance(value, Mapping) and value.keys() == _REQUESTABLE


def _is_whole(value: Json) -> bool:
    """Whether this is a JSON integer. Python's True is an int; JSON's true is not a number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _name(value: Json) -> str | None:
    return value if isinstance(value, str) and value else None


def _strings(value: Json) -> tuple[str, ...] | None:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return None
    return tuple(value)


def _unexpected(field: str) -> PolicyUnavailable:
    return PolicyUnavailable(f"the decision allows, but its {field!r} is not what the contract or the question has")


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name[:64]) for name in names[:8])
