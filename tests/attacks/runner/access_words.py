"""Sequences about grants, phrase by phrase: "grant web POST /orders/123/refund 2 s", "t+1 -> 200", "approver revokes".

Each becomes the steps that `access` takes. A phrase that is not known here is `Unintelligible`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from attacks.runner.access import ASKED, SECONDS, TIME, USED
from attacks.runner.amounts import size
from attacks.runner.corpus import Unintelligible
from attacks.runner.forgery import ISSUER

_USE: Final = (
    r"(?:use|replay|retry|call|refund|same request|POST (?P<path>/orders/[\w-]+/refund))"
    r"(?: (?:it|again|the grant|once|after|later|immediately|from cache|within \d+ ?m?s"
    r"|(?:as|by) (?P<who>web|other|nobody|peer|approver)))*"
)
_NUMBERS: Final = {"two": 2, "three": 3, "five": 5, "ten": 10, "twenty": 20, "fifty": 50, "hundred": 100}
_TEN_YEARS: Final = 10 * 365 * 86_400


def in_words(steps: Sequence[str]) -> list[dict[str, Any]]:
    """The steps of a sequence about grants, as objects. Raises `Unintelligible`."""
    found: list[dict[str, Any]] = []
    for step in steps:
        found += _said(step.strip())
    if not found:
        raise Unintelligible("there is no step")
    return found


def _said(step: str) -> list[dict[str, Any]]:
    text, arrow, status = re.sub(r"\s*(?:→|=>)\s*", " -> ", step).partition(" -> ")
    expected = {"status": int(status)} if arrow and status.strip().isdigit() else {}
    for pattern, make in _PHRASES:
        if told := re.fullmatch(pattern, text.strip(), re.IGNORECASE):
            done = make(told)
            if expected and [*done[-1]] == ["grant"]:  # what is used of it is the answer
                done.append({"as": "web", "use": USED})
            if expected:
                done[-1] |= expected
            return done
    raise Unintelligible(f"{step!r} is nothing that is done with a grant")


def _granted(told: re.Match[str]) -> list[dict[str, Any]]:
    asked: dict[str, Any] = {}
    text = told[0]
    if uses := re.search(r"(?i)(?:max_uses|uses)[ =:]*(\d+)|single[- ]use|one[- ]time|(\d+) uses?\b", text):
        asked["max_uses"] = int(uses[1] or uses[2] or 1)
        text = text.replace(uses[0], "")
    if duration := re.search(rf"(?i)(?:\bfor |\bttl[ =:]*|\bduration[ =:]*|\s){TIME}", text):
        asked["duration"] = int(float(duration[1]) * SECONDS[duration[2] or ""])
    return [{"grant": asked}]


def _used(told: re.Match[str], **more: Any) -> list[dict[str, Any]]:
    return [{"as": (told["who"] or "web").lower(), "use": told["path"] or USED, **more}]


def _member(told: re.Match[str]) -> list[dict[str, Any]]:
    """A request for access with this member, whatever it is, as a number, a text or so many bytes of one."""
    name, value = told["name"], told["value"].strip()
    try:
        return [_asking(**{name: "a" * size(value)})]
    except Unintelligible:
        return [_asking(**{name: int(value) if re.fullmatch(r"-?\d+", value) else value.strip('"')})]


def _straight(told: re.Match[str]) -> list[dict[str, Any]]:
    """A request to where others may have an API for grants: on the service's host and on the proxy's own."""
    step = {"as": (told["who"] or "web").lower(), told["method"].lower(): told["path"], "text": told["body"]}
    return [{**step, "headers": {"Host": "proxy.test"}}, step]


def _asking(**asked: Any) -> dict[str, Any]:
    return {"as": "web", "post": "requests", "body": {**ASKED, **asked}}


def _for_another(subject: str) -> list[dict[str, Any]]:
    """Whatever a body or a header says of whose it is to be: the one is refused, the other changes nothing."""
    members = ({"subject": subject}, {"sub": subject}, {"issuer": ISSUER, "subject": subject}, {"holder": subject})
    mine = {"issuer": ISSUER, "subject": "web"}
    headers = {"X-User": subject, "X-Forwarded-User": subject, "X-Subject": subject}
    return [
        {**_asking(), "headers": headers, "status": 201, "shows": {"holder": mine}},
        *({**_asking(**one), "status": 400, "reason": "body-malformed"} for one in members[:-1]),
        {**_asking(**members[-1]), "reason": "body-malformed"},
    ]


def _elsewhere(path: str) -> list[dict[str, Any]]:
    """A path, or a pattern of one, in the place of an endpoint's name."""
    return [
        {**_asking(endpoints=[f"POST {path}"]), "reason": "not-eligible"},
        {**_asking(endpoints=["refund", path]), "reason": "not-eligible"},
        {**_asking(endpoints=[path]), "reason": "not-eligible"},
    ]


def _lasting(told: re.Match[str]) -> list[dict[str, Any]]:
    if told["word"]:
        return [_asking(duration=_TEN_YEARS)]
    base, power, exponent = told["n"].partition("^")
    number = int(base) ** int(exponent) if power else int(float(base))
    return [_asking(duration=number * SECONDS[told["u"] or ""])]


def _own(told: re.Match[str]) -> list[dict[str, Any]]:
    """Asked and approved by the same person: one who may approve what others ask for."""
    mine = {"as": "approver", "post": "requests", "body": dict(ASKED), "status": 201}
    step = {"as": "approver", "post": "requests/{id}/approve", "body": {"digest": "{digest}"}, "reason": "own-request"}
    return [mine, step]


def _at_once(told: re.Match[str]) -> list[dict[str, Any]]:
    served = told["served"]
    word = (told["n"] or "20").lower()
    times = int(word) if word.isdigit() else _NUMBERS[word]
    return [{"as": "web", "use": USED, "times": times, "served": 1 if served is None else int(served)}]


_PHRASES: Final[Sequence[tuple[str, Callable[[re.Match[str]], list[dict[str, Any]]]]]] = (
    (r"grant (?:store|database|db) (?:is )?(?:unreachable|down|unavailable|gone|stopped|full)", lambda _: [
        {"grant": {}}, {"as": "web", "use": USED, "status": 200}, {"store": "gone"}]),
    (r"(?:single[- ]use|one[- ]time)(?: grant)?: (?P<n>\d+) (?:parallel|concurrent) (?:uses|POST /orders/\w+/refund)",
     lambda told: [{"grant": {"max_uses": 1}}, {"as": "web", "use": USED, "times": int(told["n"]), "served": 1}]),
    (r"(?:and )?(?:only|exactly) (?:one|1)(?: is| of them)? (?:200|succeeds?|served)", lambda _: []),
    (r"web (?:requests|asks for) (?:a |the )?(?:grant|refund|access)", lambda _: [{**_asking(), "status": 201}]),
    (r"web approves (?:it|the request|the grant)", lambda _: [
        {"as": "web", "post": "requests/{id}/approve", "body": {"digest": "{digest}"}}]),
    (r"GET /(?:admin|access)/(?:grants|requests)/\{(?P<a>\d+)\.\.(?P<b>\d+)\}(?: as web)?", lambda told: [
        {"as": "web", "get": f"/admin/grants/{{{told['a']}..{told['b']}}}", "headers": {"Host": "proxy.test"}},
        {"as": "web", "get": f"requests/{{{told['a']}..{told['b']}}}"}, {"grant": {}},
        {"as": "other", "get": "requests/{id}", "reason": "grant-unknown"}]),
    ((r"(?P<method>GET|POST|PUT|PATCH|DELETE) (?P<path>/(?:admin|access|grants)\S*)(?: (?P<body>\{.*\}))?"
      r"(?: (?:as|by) (?P<who>web|other|nobody))?(?: without (?:an? )?approval)?"), _straight),
    ((r"(?:single[- ]use |one[- ]time )?grant(?:ed)?(?: is)?(?: (?:active|issued|approved))?(?: (?:to|for))?(?: web)?"
      r"(?: (?:POST )?/orders/[\w-]+/refund| refund)?"
      r"(?:,? (?:for |ttl[ =]?|duration[ =]?|(?:max_)?uses[ =]?)?\d+ ?(?:s|sec|m|min|h|uses?)?|,? single[- ]use)*"),
     _granted),
    (rf"t\+(?P<n>\d+)(?: ?s)?:?(?: {_USE})?", lambda told: _used(told, at=int(told["n"]))),
    (_USE, _used),
    ((rf"(?P<n>\d+|{'|'.join(_NUMBERS)})?(?:x| )?(?:parallel|concurrent|simultaneous) (?:uses?|requests?|POSTs?)"
      r"(?: /orders/[\w-]+/refund)?"
      r"(?:,? (?P<served>\d+) (?:succeed|served|let through))?"), _at_once),
    (r"(?:approver )?(?:revokes?|withdraws?)(?: (?:it|the grant|grant))?", lambda _: [
        {"as": "approver", "post": "requests/{id}/revoke", "body": {"reason": "an incident"}, "status": 200}]),
    (r"(?:wait|sleep)s?(?: for)? (?P<n>\d+) ?s", lambda told: [{"wait": int(told["n"])}]),
    (rf"(?:set )?(?:the )?clock (?:is )?(?:set |moved |jumps )?(?:back|-)(?: by)? ?(?P<t>{TIME})", lambda told: [
        {"clock": f"-{told['t']}"}]),
    (r"(?:web )?(?:requests? )?(?:grant )?(?:for )?path ?[=:] ?(?P<path>/\S*)", lambda told: _elsewhere(told["path"])),
    (r"(?:web )?requests? (?:a )?grant (?:for|as|on behalf of) (?:sub(?:ject)?[ =:]*)?(?P<who>[a-z]\w*)", lambda told:
        _for_another(told["who"])),
    (r"(?:(?:web|requester|caller) )?(?:self[- ]approves?|approves? (?:its |their |his |her )?own(?: request| grant)?)",
     _own),
    ((r"(?:web )?(?:requests? )?(?:a )?(?:grant )?(?:with )?(?:ttl|duration|max_duration)[ =:]*"
      r"(?:(?P<n>-?\d+(?:[e^]\d+)?)(?: ?(?P<u>s|m|min|h|d))?|(?P<word>infinite|forever|unlimited))"), _lasting),
    (r"(?:web )?requests? (?:with )?(?P<name>[a-z_]+) ?= ?(?P<value>.+)", _member),
    (r"(?:web )?requests? with (?:an? )?(?P<value>\d+ ?[kMG]i?B) (?P<name>[a-z_]+)", _member),
)  # fmt: skip
