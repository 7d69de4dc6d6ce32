"""What each expectation demands, and of every case: one clean request upstream or none, a record, and no secret."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from attacks.runner.corpus import encoded
from attacks.runner.service import Received
from attacks.runner.wire import Answer, Conversation

ALWAYS: Final = (
    "host", "via", "authorization", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "ostiary-decision-id",
)  # fmt: skip
"""What every forwarded request has, once (docs/headers.md)."""

# Said here again on purpose: a rule of the product is not tested against itself.
_NEVER: Final = re.compile(
    r"connection|keep-alive|proxy-.*|te|trailers?|transfer-encoding|upgrade|http2-.*|expect|proxy|cookie2?|forwarded"
    r"|x-forwarded.*|x-real-ip|true-client-ip|.*client-ip|cf-connecting-ip|x-original-.*|x-rewrite-.*|x-accel-.*"
    r"|x-envoy-.*|x-http-method.*|x-method-override|x-caller.*|x-auth.*|x-remote-.*|remote-.*|x-user.*|x-identity.*"
    r"|x-api-key|api-key|apikey|x-.*token|.*access-token|x-ssl-.*|ssl-client-.*|x-spiffe.*|x-client-cert.*|x-host|dpop"
    r"|impersonate.*|x-impersonate.*|x-consumer-.*|x-webauth-.*|x-roles?|x-groups?|x-email|sudo|x-on-behalf-of|x-tenant.*"
    r"|.*token|.*secret|.*api-?key|(x-)?jwt.*|.*-jwt|bearer|auth|auth-.*|(?!sec-fetch-).*-user(name)?|user(name)?"
    r"|(x-)?oidc-.*|x-hasura-.*|x-amzn-oidc-.*|x-client-verify|.*-dn|x-scope-orgid|(x-)?ostiary.*|.*-ip|(x-)?forward.*"
    r"|.*-forwarded-for|x-original.*|(x-)?request-uri|(x-)?path-info|.*-override|x-(method|verb|path|url)"
)
_SPOOFS: Final = (
    "header.alias", "header.identity-spoof", "header.forwarded", "header.url-override", "header.hop-by-hop",
    "header.xfcc", "method.override", "framing.trailer", "leak.credential", "ssrf.env",
)  # fmt: skip
"""Classes in which nothing but the plainest headers of the client may arrive."""
_PLAIN: Final = frozenset({"user-agent", "x-request-id", "content-type", "accept"})
_FRAMING: Final = frozenset({"content-length", "transfer-encoding"})


@dataclass
class Evidence:
    """What there is to see after a case. `received` and `lines` are None where they cannot be seen."""

    raw: bytes
    conversation: Conversation
    host: str
    received: list[Received] | None = None
    lines: list[bytes] | None = None
    log: str = ""
    secrets: Sequence[str] = ()
    """The caller's credentials, whole."""
    authority: str = ""
    """Of the service, as the proxy is configured."""
    peer: str = "127.0.0.1"
    kind: str = ""
    streamed: bool = False
    """A body without a length is on its way before it can be known to be too long: the service may see it begin, and be
    broken off, and never see it whole."""
    relayed: Callable[[Answer], str | None] | None = None
    """What is wrong with the answer that was to be relayed; None for the service's usual one."""
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The audit's lines by decision."""


def judged(expected: str, evidence: Evidence) -> list[str]:
    """What the case falls short of, in words; nothing if it holds."""
    evidence.records, found = _records(evidence)
    demand = {
        "reject-4xx": _rejected,
        "deny-403": _denied,
        "not-forwarded": _not_forwarded,
        "forwarded-normalised": _forwarded,
        "connection-closed": _closed,
    }[expected]
    found += demand(evidence)
    found += _clean_answers(evidence)
    found += _recorded(evidence)
    found += _kept_secret(evidence)
    if "Traceback" in evidence.log or "unforeseen" in evidence.log:
        found.append("the proxy logged an error that it did not foresee")
    return found


def final(conversation: Conversation) -> list[Answer]:
    return [answer for answer in conversation.answers if answer.status >= 200]


# What is demanded.


def _rejected(evidence: Evidence) -> list[str]:
    answers = final(evidence.conversation)
    if not answers:
        return [_silence(evidence.conversation)]
    found = []
    if not 400 <= answers[-1].status < 500:
        found.append(f"answered {answers[-1].status}, not 4xx")
    before = answers[:-1]
    if "pipeline" in evidence.kind:
        # Those before it on the connection were good, and each is one request upstream.
        found += [f"a request before it was answered {one.status}" for one in before if one.status != 200]
        found += _untouched(evidence, besides=len(before))
    else:
        if before:
            found.append(f"one message had {len(answers)} answers: {[one.status for one in answers]}")
        found += _untouched(evidence)
    return found


def _denied(evidence: Evidence) -> list[str]:
    answers = final(evidence.conversation)
    if not answers:
        return [_silence(evidence.conversation)]
    found = []
    if [one.status for one in answers] != [403]:
        found.append(f"answered {', '.join(str(one.status) for one in answers)}, not 403")
    elif evidence.lines is not None:
        lines = evidence.records.get(answers[0].decision_id or "", [])
        results = [line.get("result") for line in lines]
        if not any(isinstance(result, dict) and result.get("allow") is not True for result in results):
            found.append("the audit does not say that policy denied it")
    return found + _untouched(evidence)


def _not_forwarded(evidence: Evidence) -> list[str]:
    answers = final(evidence.conversation)
    if not answers:
        return [] if evidence.conversation.ended and not evidence.received else [_silence(evidence.conversation)]
    if evidence.received:
        return [] if answers[-1].status in (502, 503, 504) else [f"the service's answer came as {answers[-1].status}"]
    if not all(400 <= one.status < 600 for one in answers):
        return [f"answered {', '.join(str(one.status) for one in answers)}"]
    return []


def _closed(evidence: Evidence) -> list[str]:
    found = [] if evidence.conversation.ended else ["the connection was not closed"]
    found += [f"answered {one.status}" for one in final(evidence.conversation) if one.status < 400]
    return found + _untouched(evidence)


def _forwarded(evidence: Evidence) -> list[str]:
    answers = final(evidence.conversation)
    if not answers:
        return [_silence(evidence.conversation)]
    found = []
    if len(answers) != 1:
        found.append(f"one message had {len(answers)} answers: {[one.status for one in answers]}")
    if evidence.relayed is not None:
        wrong = evidence.relayed(answers[0])
        if wrong:
            found.append(wrong)
    elif answers[0].status != 200:
        reasons = (answers[0].problem or {}).get("reasons", "")
        found.append(f"answered {answers[0].status} {reasons}, not 200")
    if evidence.received is None:
        return found
    if len(evidence.received) != 1:
        return [*found, f"the service saw {len(evidence.received)} requests"]
    return found + unclean(evidence.received[0], evidence)


def _untouched(evidence: Evidence, *, besides: int = 0) -> list[str]:
    received = evidence.received
    if evidence.streamed and received is not None:
        received = [one for one in received if one.whole]
    if received is None or len(received) == besides:
        return []
    return [f"the service saw {len(received)} request(s): {', '.join(one.target or '?' for one in received)}"]


def _silence(conversation: Conversation) -> str:
    if conversation.garbage:
        return conversation.garbage
    return "the connection was closed without an answer" if conversation.ended else "no answer"


# One clean request.


def unclean(received: Received, evidence: Evidence) -> list[str]:
    """What of the request that arrived is not as it was decided, or not the proxy's own."""
    if received.unclean:
        return [f"what arrived is not clean: {received.unclean}"]
    found = []
    method, target, headers, body = message_parts(evidence.raw)
    if received.method != method:
        found.append(f"{method} arrived as {received.method}")
    if received.target != canonical(target):
        found.append(f"{target} arrived as {received.target}, not {canonical(target)}")
    if received.body != body:
        found.append(f"a body of {len(body)} bytes arrived with {len(received.body)}")
    counted = [name for name, _ in received.headers]
    found += [f"{name} arrived {counted.count(name)} times" for name in ALWAYS if counted.count(name) != 1]
    if not found:
        found += _own_headers(received, evidence)
    found += _client_headers(received, headers, evidence)
    return found


def _own_headers(received: Received, evidence: Evidence) -> list[str]:
    given = dict(received.headers)
    found = []
    if evidence.authority and given["host"] != evidence.authority:
        found.append(f"Host arrived as {given['host']!r}")
    if given["x-forwarded-host"].lower() != evidence.host:
        found.append(f"X-Forwarded-Host arrived as {given['x-forwarded-host']!r}")
    if given["x-forwarded-for"] != evidence.peer:
        found.append(f"X-Forwarded-For arrived as {given['x-forwarded-for']!r}")
    if not re.fullmatch(r"Bearer eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+", given["authorization"]):
        found.append("the swapped credential did not arrive")
    if len(_FRAMING & given.keys()) > 1:
        found.append("two framings arrived")
    return found


def _client_headers(received: Received, sent: list[tuple[str, str]], evidence: Evidence) -> list[str]:
    found = []
    named = {token.strip().lower() for name, value in sent if name == "connection" for token in value.split(",")}
    for name, value in received.headers:
        if name in ALWAYS or name in _FRAMING:
            continue
        if re.search(r"[_.]", name) or _NEVER.fullmatch(re.sub(r"[^a-z0-9]", "-", name)):
            found.append(f"the client's {name} arrived")
        elif name in named:
            found.append(f"{name} arrived, which Connection names")
        elif (name, value) not in sent:
            found.append(f"{name} arrived with a value that was not sent")
        elif evidence.kind in _SPOOFS and name not in _PLAIN:
            found.append(f"the client's {name} arrived")
    return found


def message_parts(raw: bytes) -> tuple[str, str, list[tuple[str, str]], bytes]:
    """Method, target, headers and decoded body of the first message in these bytes."""
    head, _, rest = raw.lstrip(b"\r\n").partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    method, target = [*line.split(" "), "", ""][:2]
    headers = [(name.lower(), value.strip(" \t")) for name, _, value in (one.partition(":") for one in fields)]
    given = dict(headers)
    if given.get("transfer-encoding", "").lower() == "chunked":
        return method, target, headers, _unchunked(rest)
    length = given.get("content-length", "0")
    return method, target, headers, rest[: int(length)] if length.isdigit() else b""


def _unchunked(rest: bytes) -> bytes:
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        if not length:
            break
        body += rest[:length]
        rest = rest[length + 2 :]
    return body


def canonical(target: str) -> str:
    """Escapes of unreserved characters decoded once, everything else escaped in one way; the query as it was."""
    path, question, query = target.partition("?")
    decoded = re.sub("%([0-9A-Fa-f]{2})", lambda found: _unreserved(int(found[1], 16)) or found[0].upper(), path)
    # What is left beyond the unreserved is escaped, sub-delimiters too (the docstring of ostiary.target says why).
    escaped = quote(decoded, safe="/%~")
    return f"{escaped}{question}{query}" if query else escaped


def _unreserved(code: int) -> str | None:
    return chr(code) if re.fullmatch(r"[A-Za-z0-9._~-]", chr(code)) else None


# What goes for every case.


def _clean_answers(evidence: Evidence) -> list[str]:
    found = []
    if evidence.conversation.garbage and evidence.conversation.answers:
        found.append(evidence.conversation.garbage)
    for one in final(evidence.conversation):
        if one.status < 400 or evidence.relayed is not None or one.bodiless:
            continue
        problem = one.problem
        if problem is None or problem.get("status") != one.status:
            found.append(f"the answer {one.status} is no problem document")
    return found


def _records(evidence: Evidence) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    records: dict[str, list[dict[str, Any]]] = {}
    found = []
    for raw in evidence.lines or ():
        try:
            line = json.loads(raw, object_pairs_hook=_once)
        except ValueError as error:
            found.append(f"a line of the audit is not one JSON object: {error}")
            continue
        if not re.fullmatch(rb"[\x20-\x7e]*\n", raw):
            found.append("a line of the audit is not ASCII")
        records.setdefault(line.get("decision_id", ""), []).append(line)
    return records, found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a member is there twice")
    return document


def _recorded(evidence: Evidence) -> list[str]:
    """Each refusal has one line, each forwarded request two or more; nothing has more than it should."""
    if evidence.lines is None:
        return []
    found = []
    for one in final(evidence.conversation):
        lines = evidence.records.get(one.decision_id or "", [])
        kinds = [line["kind"] for line in lines]
        problem = one.problem
        refused = problem is not None or (one.bodiless and one.status >= 400)
        if kinds == ["answer"] and lines[0]["service"] == "ostiary" and refused:  # by the API on the proxy's own host
            found += (
                [] if lines[0]["status"] == one.status else [f"the audit says {lines[0]['status']} of {one.status}"]
            )
        elif kinds not in ([["refusal"], ["decision", "completion"]] if refused else [["decision", "completion"]]):
            found.append(f"the audit has {kinds or 'nothing'} for the answer {one.status}")
        elif problem is not None and (lines[-1]["status"], lines[-1]["reasons"]) != (one.status, problem["reasons"]):
            found.append(f"the audit says {lines[-1]['status']} {lines[-1]['reasons']} of the answer {one.status}")
    return found


def _kept_secret(evidence: Evidence) -> list[str]:
    """No credential of the caller in an answer, in the audit or the log, nor upstream."""
    found = []
    secrets = {
        encoded(part) for secret in evidence.secrets for part in (secret, *secret.split(".")[1:])
        if len(part) >= 16
    }  # fmt: skip
    places = {
        "an answer": [one.body for one in evidence.conversation.answers]
        + [value.encode("latin-1") for one in evidence.conversation.answers for _, value in one.headers],
        "the audit": evidence.lines or [],
        "the log": [evidence.log.encode()],
        "what the service saw": [one.head + one.body for one in evidence.received or ()],
    }
    for place, contents in places.items():
        if any(secret in content for content in contents for secret in secrets):
            found.append(f"the caller's credential is in {place}")
    return found
