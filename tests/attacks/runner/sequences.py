"""The steps of a sequence, phrase by phrase: "GET /orders/123 Host b (not granted)", "push bundle without the rule".

A step is read by taking what is known out of it. What is left over has to be words that say nothing; anything else is
`Unintelligible`. Steps share a world (`cache_lab`): two services, two issuers, callers with and without permissions.
What is about grants is read by `access`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from attacks.runner import access
from attacks.runner.access_words import in_words
from attacks.runner.corpus import Case, Unintelligible
from attacks.runner.faults import KeyServer, opa_faults
from attacks.runner.fixture import PERMISSIONS, attacked_proxy, build, revision_of
from attacks.runner.forgery import ISSUER, Forge, jwks
from attacks.runner.labs import Findings, Lab, Place, _lab, eventually
from attacks.runner.listeners import CERTIFIED, EVERYWHERE, OWNER, Proof, bound_to, listening, proof
from attacks.runner.plans import Plan
from attacks.runner.service import Received, Reply, Service, answer
from attacks.runner.verdicts import judged
from attacks.runner.wire import Conversation, Garbled, connected
from support.proxy import memory

LEEWAY: Final = 10
TOTAL: Final = 4.0
"""Seconds that a request may take in all, in the world of sequences: what is said to go on for a minute does not."""

ISSUER_B: Final = "https://idp-b.test"
NEAR: Final = "127.0.0.2"
"""The address that one permission is for."""

_CALLERS: Final = f"""\
callers:
  nobody: {{issuer: {ISSUER}, subject: nobody}}
  other: {{issuer: {ISSUER}, subject: other}}
  near: {{issuer: {ISSUER}, subject: near}}
  a: {{issuer: {ISSUER}, subject: a}}
  b: {{issuer: {ISSUER_B}, subject: b}}
"""
_PERMISSIONS: Final = f"""\
permissions:
  - {{caller: other, service: other, endpoints: [get-order]}}
  - {{caller: near, service: orders, endpoints: [get-order], when: {{source: [{NEAR}/32]}}}}
  - {{caller: a, service: orders, endpoints: [note]}}
  - {{caller: b, service: other, endpoints: [get-order]}}
"""
WORLD: Final = (
    PERMISSIONS.replace("services:\n", "services:\n  other:\n    endpoints: {get-order: 'GET /orders/{order_id}'}\n")
    .replace("      get-order:", "      note: GET /{note:text}\n      get-order:")
    .replace("callers:\n", _CALLERS)
    .replace("permissions:\n", _PERMISSIONS)
)
WITHOUT_THE_RULE: Final = WORLD.replace("[create-order, get-order]", "[list-orders]")


@contextlib.asynccontextmanager
async def cache_lab(place: Place) -> AsyncIterator[Lab]:
    async with Service().running() as service, KeyServer(good={"idp": jwks()}).running() as keys:
        proxy = attacked_proxy(
            permissions=WORLD,
            issuers={ISSUER: keys.url("idp"), ISSUER_B: keys.url("idp")},
            origins=dict.fromkeys(("orders", "other"), f"http://127.0.0.1:{service.port}"),
            limits={"total_timeout": f"{TOTAL:g}s", "cached_decisions": 2000, "cached_per_identity": 1000},
        )
        async with _lab(proxy, service, keys, sequence=1) as lab:
            yield lab


# Steps.


@dataclass
class World:
    """What steps have done so far."""

    lab: Lab
    case: Case
    tag: str = ""
    began: float = 0.0
    token: str | None = None
    message: bytes | None = None
    source: str | None = None
    undo: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    stream: asyncio.Task[Conversation] | None = None


Act = Callable[[World, bool], Awaitable[Findings]]
"""Does a step; whether it is the one that the expectation is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    act: Act
    asks: bool = True
    """Whether it sends a request that can be judged."""
    seconds: float = 0.0
    """From the beginning, before which it does not happen."""
    pause: float = 0.0
    """How long it takes, in seconds, and does nothing."""
    opa: bool = False
    long: bool = False
    expects: int | None = None
    proof: Proof | None = None
    """How a step that is one request proves whose it is."""


def planned(case: Case, steps: list[Any]) -> Plan:
    """Raises `Unintelligible` for a step that nobody understands."""
    if not steps or not all(isinstance(step, str) for step in steps):
        raise Unintelligible("steps are texts, at least one")
    text = " / ".join(steps)
    if case.family == "jit" or _ABOUT_GRANTS.search(text):
        return access.planned(case, in_words(steps))
    read = [_read(step, streams=bool(_STREAM.match(str(steps[0])))) for step in _dated(steps)]
    whose = [index for index, step in enumerate(read) if step.asks]
    if not whose:
        raise Unintelligible("no step sends a request")
    arrows = any("->" in step for step in steps)
    # Where no step says what it is to bring, each is what the expectation is about.
    each = case.expected == "reject-4xx" and not arrows and all(step.asks for step in read)
    timed = any(step.seconds + step.pause > TOTAL for step in read)

    async def attempt(lab: Lab) -> Findings:
        world = World(lab, case, tag=f"?step={os.urandom(6).hex()}" if timed else "", began=time.monotonic())
        found: Findings = []
        try:
            for index, step in enumerate(read):
                await asyncio.sleep(max(0.0, world.began + step.seconds - time.monotonic()))
                wrong = await step.act(world, each or index == whose[-1])
                found += [f"step {index + 1}: {one}" for one in wrong]
        finally:
            for undo in reversed(world.undo):
                await undo()
        return found + await lab.served()

    if CERTIFIED.search(text):
        lab = "shared" if case.family == "cache" and not timed else "listeners"
        return Plan(case=case, attempt=attempt, lab=lab, place=_listening(case, read), slow=timed)
    if any(step.opa for step in read):
        return Plan(case=case, attempt=attempt, lab="opa")
    if timed:
        return Plan(case=case, attempt=attempt, lab="dos", slow=True)
    return Plan(case=case, attempt=attempt, lab="cache", last=any(step.long for step in read))


_ABOUT_GRANTS: Final = re.compile(
    r"(?i)(?<!not )\bgrants?\b(?!ed)|approv|\beligib|\bsingle[- ]use\b|(?:^|/ )(?:web )?requests? (?:with (?:an? )?)?"
    r"(?:path|ttl|duration|reason|role|scope|\d+ ?[kMG]i?B reason)\b"
)


def _dated(steps: list[str]) -> list[str]:
    """ "after exp + leeway" said in seconds, by the last expiry before it."""
    found, expiry = [], 0
    for step in steps:
        if told := re.search(_EXPIRY, step):
            expiry = int(told[1])
        late = expiry + LEEWAY + 2
        found.append(
            re.sub(r"(?i)\bafter (?:the )?exp(?:iry)?(?: ?(?:\+|and) ?(?:the )?leeway)?\b:?", f"t+{late}", step)
        )
    return found


def _listening(case: Case, read: list[Step]) -> Place:
    """The listeners that the steps come to. A workload may do something if a step says that it is served.

    Raises `Unintelligible`.
    """
    if any(step.proof is None for step in read):
        raise Unintelligible("where steps show certificates, each sends a request and nothing else")
    proofs = [step.proof for step in read if step.proof is not None]
    served = [step.expects == 200 for step in read]
    if case.expected == "forwarded-normalised" and read[-1].expects is None:
        served[-1] = True
    names = [
        one.workload for one, good in zip(proofs, served, strict=True) if good and one.workload and not one.has_token
    ]
    strangers = {one.workload for one in proofs if not one.has_token} - set(names)
    if OWNER not in strangers and {*names} <= {OWNER}:
        return EVERYWHERE
    return listening(" ".join(dict.fromkeys(["jwt", *(one.listener for one in proofs)])), names)


def rotates_keys(steps: list[Any]) -> bool:
    """Whether the steps are about a key that its issuer takes back."""
    text = " / ".join(map(str, steps))
    return re.search(r"(?i)rotat|key (is )?removed|remove[sd]? .*key|jwks (without|drops)", text) is not None


# Reading them.

_EXPIRY: Final = r"(?i)\bexp(?:ir(?:y|es|ing))?\s*(?:=|in\b|after\b)?\s*(?:(?:t0?|now)\s*\+\s*)?(\d+)(?: ?s\b)?"

_SAYS_NOTHING: Final = re.compile(
    r"(?i)\b(?:a|an|the|with|and|then|of|for|to|on|in|by|is|as|requests?|again|path|same|bearer|jwt|token|once|more|caller"
    r"|another|reused?|replayed|immediately|still|s|valid|good|activation|within)\b|[(),.;:+]"
)


class _Text:
    """A step, and what of it was not understood yet."""

    def __init__(self, text: str) -> None:
        self.left = text

    def take(self, pattern: str) -> re.Match[str] | None:
        found = re.search(pattern, self.left)
        if found is not None:
            self.left = self.left[: found.start()] + " " + self.left[found.end() :]
        return found

    def done(self, step: str) -> None:
        rest = _SAYS_NOTHING.sub(" ", self.left).strip()
        if rest:
            raise Unintelligible(f"{rest!r} in the step {step!r} is not understood")


def _read(step: str, *, streams: bool = False) -> Step:
    """What a step does. `streams`: something is under way meanwhile, which is what a new bundle is about."""
    for pattern, make in _ACTIONS.items():
        found = re.fullmatch(pattern, step.strip(), re.IGNORECASE)
        if found is not None:
            return _revoke(found) if streams and make is _push else make(found)
    return _request(_plainly(step))


def _plainly(step: str) -> str:
    """The same, said in fewer ways."""
    step = re.sub(r"(?i)\bmethod[ =:]+(?=jwt|bearer|mtls|xfcc)", "", step)
    step = re.sub(r"(?i)\b(bearer|jwt) (?=(?:web|other|admin|nobody)\b)", r"\1 sub=", step)
    step = re.sub(r"^\s*([AB])\s*:", r"token \1", step)
    step = re.sub(r"(?i)^\s*(?:with |under )?(?:bundle|policy) (?:rev(?:ision)?|version|v)? ?\d+ ?:\s*", "", step)
    return re.sub(r"\b(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) https?://([^\s/]+)(/\S*)", r"\1 \3 Host \2", step)


@dataclass
class _Identity:
    subject: str = "web"
    issuer: str = ISSUER
    claims: dict[str, Any] = field(default_factory=dict)


def _request(step: str) -> Step:
    text = _Text(step)
    status = text.take(r"(?:->|→|=>)\s*(\d{3})")
    text.take(r"(?i)\(?\b(?:not granted|not permitted|denied|revoked|not allowed|no rule|no permission|cached)\b\)?")
    expects = int(status[1]) if status else None
    expiry = text.take(_EXPIRY)
    clock = text.take(r"\bt0?(?:\s*\+\s*(\d+))?(?:\s*\+\s*(leeway))?(?:\s*:|(?=\s|$))")
    text.take(r"(?i)within \d+ ?m?s(?: of activation)?")
    later = text.take(r"(?i)\b(?:at|after) (\d+) ?s\b")
    seconds = float((clock and clock[1]) or (later and later[1]) or 0) + (LEEWAY if clock and clock[2] else 0)
    both = text.take(r"(?i)\b(?:(?:token|caller|user) )?(?:A|web) and (?:(?:token|caller|user) )?(?:B|other)\b")
    together = text.take(
        r"(?i)\b(?:concurrent(?:ly)?|(?:in )?parallel|at the same time|simultaneous(?:ly)?|at once|together)\b"
    )
    if both and together:
        text.take(r"\bGET /orders/123(?= |$)")
        text.take(r"^\s*\d+\b")
        text.take(r"(?i)\b(?:B|other)\b")
        text.done(step)
        return Step(act=_together)
    line = text.take(r"\b(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/\S*)")
    stated = text.take(r"\bpath\s*=\s*(\S+)")
    same_token = text.take(r"(?i)\bsame token\b") is not None
    same_request = text.take(r"(?i)\b(?:same request|again|repeat(?:ed)?)\b") is not None
    host = text.take(r"(?i)\bhost[ =](\S+)")
    proved = proof(text.take, again=same_token)
    identity = _identity(text)
    source = _source(text, identity)
    header = text.take(r"\bwith ([A-Z][A-Za-z-]+): (.+)$")
    text.done(step)
    method, path = (line[1], line[2]) if line else ("GET", stated[1] if stated else "/orders/123")
    if not path.startswith("/"):
        path = "/" + path
    # What has no place in a path is there encoded, as it would have to be.
    path = re.sub(r"[|^`\"<>{} ]", lambda one: f"%{ord(one[0]):02X}", path)
    if span := re.search(r"%7B(\d+)\.\.(\d+)%7D", path):
        paths = [path.replace(span[0], str(number)) for number in range(int(span[1]), int(span[2]) + 1)]
    else:
        paths = [path]
    name = "other.test" if host and host[1].lower().rstrip(",;") in ("b", "other", "other.test") else "proxy.test"

    async def act(world: World, judge: bool) -> Findings:
        if same_request and world.message is not None:
            message = world.message
        else:
            if not (same_token and world.token):
                world.token = _token(world, identity, int(expiry[1]) if expiry else None, proved)
            token = world.token if proved.has_token else ""
            message = _message(method, paths[0] + world.tag, name, token, header, proved.header)
        world.message, world.source = message, source
        if len(paths) == 1:
            lab = proved.reached(world.lab) if "listeners" in world.lab.known else None
            return await _sent(world, message, expects, judge, source=source, header=header, host=name, lab=lab)
        found = await _all_refused(world, [_message(method, one, name, world.token or "") for one in paths[1:-1]])
        for one in (paths[0], paths[-1]):
            message = _message(method, one, name, world.token or "")
            found += await _sent(world, message, expects, judge, source=source, host=name)
        return found

    return Step(act=act, seconds=seconds, expects=expects, proof=proved)


def _identity(text: _Text) -> _Identity:
    identity = _Identity()
    if actor := text.take(r"(?i)\bact(?:or)?(?:[ =:]+|\.sub ?= ?)([\w-]+)"):
        identity.claims["act"] = {"sub": actor[1]}
    text.take(r"(?i)\bsame (?:sub(?:ject)?|issuer|caller)\b")
    if issuer := text.take(r"(?i)\biss(?:uer)?[ =](\S+)"):
        identity.issuer = ISSUER_B if issuer[1].upper() == "B" or "b" in issuer[1].partition("//")[2][:5] else ISSUER
    if subject := text.take(r"(?i)\bsub(?:ject)?[ =](\S+)"):
        identity.subject = subject[1]
    elif token := text.take(
        r"\b(?i:token|jwt|bearer|caller|user|identity)(?: (?i:of|for|by|as))?[ =:]+(A|B|web|other|admin|nobody)\b"
    ):
        identity.subject = {"A": "web", "B": "other"}.get(token[1], token[1])
    elif name := text.take(r"(?i)\b(?:as |by )(web|other|admin|nobody)\b|^\s*(web|other|admin|nobody)\b"):
        identity.subject = (name[1] or name[2]).lower()
    for claim in ("scope", "role", "roles", "groups", "tenant", "azp", "client_id", "jti", "acr", "amr", "aud"):
        if text.take(rf"\b(?:without|no) (?:an? |any )?{claim}\b|\b{claim}\s*=\s*(?:none|\[\]|\"\")(?=[\s,;)]|$)"):
            identity.claims.pop(claim, None)
        elif found := text.take(rf"\b{claim}(?:\s*=\s*|\s+)([^\s,;()]+)"):
            identity.claims[claim] = found[1]
    return identity


_ADDRESS: Final = r"(?:(?P<address>\d+\.\d+\.\d+\.\d+)|(?P<letter>(?-i:[AB])))(?=[\s,;)]|$)"


def _source(text: _Text, identity: _Identity) -> str | None:
    """The address that a step comes from. One that is trusted is what a permission of the caller `near` demands."""
    place = r"(?:ips?|address|network|subnet|range|source|client|host)"
    near = text.take(rf"(?i)\bfrom (?:an? |the )?(?:trusted|allowed|office|internal) {place}\b")
    far = text.take(
        rf"(?i)\bfrom (?:an? |the )?(?:other|another|untrusted|foreign|external|different|disallowed) {place}\b"
    )
    told = None if near or far else text.take(rf"(?i)(?:\bfrom |\bvia |\bas )?(?:\b{place}[ =:]+|\bfrom ){_ADDRESS}")
    if told is not None:
        inside = told["letter"] == "A" or re.match(r"10\.|127\.0\.0\.2$|192\.168\.", told["address"] or "") is not None
        near, far = (told, None) if inside else (None, told)
    if near or far:
        identity.subject = "near"
    return NEAR if near else "127.0.0.3" if far else None


def _token(world: World, identity: _Identity, lifetime: int | None, proved: Proof | None = None) -> str:
    forge = Forge(issuer=identity.issuer, made=world.lab.forge.made)
    claims = dict(identity.claims)
    if proved is not None and proved.owner is not None:
        claims["cnf"] = bound_to(proved.owner)
    # One caller's requests are alike to the policy: what is kept for one would do for the next.
    claims["nonce"] = f"{world.case.id}"
    if lifetime is not None:
        claims["exp"] = int(time.time()) + lifetime
    return forge.token(identity.subject, **claims)


def _message(
    method: str, path: str, host: str, token: str, header: re.Match[str] | None = None, forwarded: str = ""
) -> bytes:
    """Without a token where that is empty."""
    more = (f"{header[1]}: {header[2]}\r\n" if header else "") + forwarded
    if token:
        more = f"Authorization: Bearer {token}\r\n{more}"
    body = '{"sku":"a"}' if method in ("POST", "PUT", "PATCH") else ""
    if body:
        more += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n{body}".encode("utf-8", "surrogatepass")


async def _sent(
    world: World,
    message: bytes,
    expects: int | None,
    judge: bool,
    *,
    source: str | None = None,
    header: re.Match[str] | None = None,
    host: str = "proxy.test",
    expected: str | None = None,
    lab: Lab | None = None,
) -> Findings:
    """Send it, judge it if it is what the expectation is about, else hold it against what the step says."""
    lab = lab or world.lab
    mark = lab.mark()
    reply = _with_header(header[1], header[2], world.tag) if header else None
    if lab.service is not None and reply is not None:
        lab.service.reply = reply
    conversation = Conversation()
    try:
        conversation.answers.append(await lab.ask(message, source=source))
    except (Garbled, TimeoutError, OSError) as error:
        conversation.garbage = str(error) or "no answer"
        conversation.ended = True
    finally:
        if lab.service is not None and reply is not None:
            lab.service.reply = None
    if expects is not None and conversation.statuses != [expects]:
        return [f"answered {conversation.statuses or conversation.garbage}, not {expects}"]
    if not judge:
        return []
    evidence = await lab.evidence(mark, conversation, message)
    evidence.kind, evidence.peer, evidence.host = world.case.kind, source or "127.0.0.1", host
    if world.tag and evidence.received is not None:
        evidence.received = [one for one in evidence.received if world.tag in one.target]
        evidence.lines = evidence.lines and [line for line in evidence.lines if _about(line, conversation)]
    return judged(expected or world.case.expected, evidence)


async def _all_refused(world: World, messages: list[bytes]) -> Findings:
    """None of many is served. The first and the last of them are looked at more closely."""
    lab, left = world.lab, iter(messages)
    mark = lab.mark()
    statuses: set[int] = set()

    async def ask() -> None:
        async with connected(lab.address) as client:
            for message in left:
                await client.send(message)
                one = await client.answer()
                statuses.add(one.status if one else 0)

    await asyncio.gather(*(ask() for _ in range(8)))
    found = [f"some were answered {status}" for status in sorted(statuses) if not 400 <= status < 500]
    return [*found, "the service was reached"] if lab.service and lab.service.since(mark[0]) else found


def _about(line: bytes, conversation: Conversation) -> bool:
    return any(one.decision_id and one.decision_id.encode() in line for one in conversation.answers)


def _with_header(name: str, value: str, tag: str) -> Reply:
    """The service's answer with a header more, for a cache to fall for."""

    async def reply(received: Received, writer: asyncio.StreamWriter) -> bool:
        usual = answer(received)
        if not tag or tag in received.target:
            usual = usual.replace(b"\r\n\r\n", f"\r\n{name}: {value}\r\n\r\n".encode(), 1)
        writer.write(usual)
        return True

    return reply


async def _together(world: World, judge: bool) -> Findings:
    """Two callers ask for the same at one instant, many times over: neither is given the other's decision."""
    lab, found = world.lab, []
    for turn in range(20):
        # Unlike before, so that nothing is kept from the last turn.
        a, b = (lab.forge.token(subject, nonce=f"{world.case.id}-{turn}") for subject in ("web", "other"))
        mark = lab.mark()
        messages = [_message("GET", "/orders/123", "proxy.test", token) for token in (a, b, a, b)]
        answers = await asyncio.gather(*(lab.ask(message) for message in messages))
        if [one.status for one in answers[::2]] != [200, 200]:
            found.append(f"A was answered {answers[0].status}")
        if judge:
            for one, message in zip(answers[1::2], messages[1::2], strict=True):
                evidence = await lab.evidence(mark, Conversation([one]), message)
                evidence.received = []
                found += judged(world.case.expected, evidence)
        seen = len(lab.service.since(mark[0])) if lab.service else 2
        if seen != 2:
            found.append(f"the service saw {seen} requests of A, and of B")
        if found:
            break
    return found


# What else is done.


def _push(found: re.Match[str]) -> Step:
    permissions = WORLD if re.search(r"(?i)\bwith the\b|restor|again", found[0]) else WITHOUT_THE_RULE

    async def act(world: World, judge: bool) -> Findings:
        await _published(world, permissions)
        world.undo.append(lambda: _published(world, WORLD))
        return []

    return Step(act=act, asks=False)


async def _published(world: World, permissions: str) -> None:
    """Another bundle is active, and the proxy says so."""
    lab = world.lab
    assert lab.proxy is not None
    lab.known["sequence"] += 1
    revision = await asyncio.to_thread(build, lab.proxy.place, permissions, {}, sequence=lab.known["sequence"])
    proxy = lab.proxy
    if not await eventually(lambda: revision_of(proxy) == revision):
        raise TimeoutError(f"the bundle {revision} did not become active")


def _stream(found: re.Match[str]) -> Step:
    """An upload that goes on for as long as anybody takes it."""
    method, path = found["method"].upper(), found["path"]

    async def act(world: World, judge: bool) -> Findings:
        lab = world.lab
        mark = lab.mark()
        token = lab.forge.token(nonce=world.case.id)
        message = (
            f"{method} {path} HTTP/1.1\r\nHost: {lab.host}\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        ).encode()
        world.stream = asyncio.create_task(_uploading(lab, message))
        assert lab.service is not None
        service = lab.service
        if not await eventually(lambda: bool(service.since(mark[0])), seconds=5):
            return ["the upload did not begin"]
        return []

    return Step(act=act, asks=False)


async def _uploading(lab: Lab, message: bytes) -> Conversation:
    conversation = Conversation()
    async with connected(lab.address) as client:

        async def send() -> None:
            await client.send(message)
            while True:
                await client.send(b"200\r\n%s\r\n" % (b"a" * 512))
                await asyncio.sleep(0.2)

        sending = asyncio.create_task(send())
        try:
            found = await client.answer()
            if found is not None:
                conversation.answers.append(found)
            conversation.ended = await client.ended()
        except Garbled as error:
            conversation.garbage, conversation.ended = str(error), True
        except TimeoutError:
            conversation.garbage = "it went on and on"
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    return conversation


def _revoke(found: re.Match[str]) -> Step:
    """The permission is taken away, and what is under way is looked at."""

    async def act(world: World, judge: bool) -> Findings:
        mark = world.lab.mark()
        await _published(world, WITHOUT_THE_RULE)
        world.undo.append(lambda: _published(world, WORLD))
        if world.stream is None:
            return ["nothing is under way that could be cut off"]
        conversation = await world.stream
        if not judge:
            return []
        evidence = await world.lab.evidence(mark, conversation, b"")
        evidence.lines = None
        evidence.received = [one for one in evidence.received or [] if one.whole]
        return judged(world.case.expected, evidence)

    return Step(act=act)


def _opa(found: re.Match[str]) -> Step:
    told = re.sub(r"\s*(?:->|→|=>)\s*\d{3}$", "", found["fault"])
    if re.fullmatch(r"(?i)(?:is )?(?:back|up(?: again)?|recovers?|answers(?: again)?|restarts?)", told):

        async def act(world: World, judge: bool) -> Findings:
            world.lab.known["opa"].fault = None
            return []

        return Step(act=act, asks=False, opa=True)
    opa_faults(told)

    async def fails(world: World, judge: bool) -> Findings:
        front = world.lab.known["opa"]
        (front.fault, *_) = opa_faults(told, world.lab.known["revision"])

        async def repaired() -> None:
            front.fault = None

        world.undo.append(repaired)
        world.token = _token(world, _Identity(), None)
        world.message = _message("GET", "/orders/123", "proxy.test", world.token)
        refused = "deny-403" if world.case.expected == "deny-403" else "not-forwarded"
        return await _sent(world, world.message, None, True, expected=refused)

    return Step(act=fails, opa=True)


def _pause(found: re.Match[str]) -> Step:
    seconds = float(found["seconds"])

    async def act(world: World, judge: bool) -> Findings:
        await asyncio.sleep(seconds)
        return []

    return Step(act=act, asks=False, pause=seconds)


def _crowd(found: re.Match[str]) -> Step:
    """So many of one request, forty at a time: each is answered as the others are."""
    count, token_of = min(int(re.sub(r"\D", "", found["count"])), 5000), (found["who"] or "web").lower()

    async def act(world: World, judge: bool) -> Findings:
        lab = world.lab
        world.token = _token(world, _Identity(token_of), None)
        world.message = message = _message(found["method"].upper(), found["path"], lab.host, world.token)
        left, statuses = iter(range(count)), set[int]()

        async def ask() -> None:
            for _ in left:
                statuses.add((await lab.ask(message)).status)

        await asyncio.gather(*(ask() for _ in range(40)))
        return [] if len(statuses) == 1 else [f"one request was answered {sorted(statuses)}"]

    return Step(act=act, long=True)


def _distinct(found: re.Match[str]) -> Step:
    """A tenth of them: enough to fill every bound of this world many times."""
    count = min(int(re.sub(r"\D", "", found["count"])) // 10, 10_000)
    path, callers = found["path"] or "/orders/123", found["what"] is not None

    async def act(world: World, judge: bool) -> Findings:
        lab = world.lab
        assert lab.proxy is not None
        (worker,) = lab.proxy.worker_pids
        token = lab.forge.token(nonce=world.case.id)
        mark = lab.mark()
        odd: set[int] = set()
        left = iter(range(count))

        async def ask() -> None:
            async with connected(lab.address) as client:
                for _ in left:
                    target = re.sub(r"\{\w+\}", os.urandom(8).hex(), path)
                    own = lab.forge.token(nonce=os.urandom(8).hex()) if callers else token
                    await client.send(_message("GET", target, lab.host, own))
                    one = await client.answer()
                    if one is None or one.status != 200:
                        odd.add(one.status if one else 0)

        await asyncio.gather(*(ask() for _ in range(8)))
        # Half of them again: what is bounded was full before, and takes no more now.
        before = memory(worker, "VmRSS")
        left = iter(range(count // 2))
        await asyncio.gather(*(ask() for _ in range(8)))
        grown = memory(worker, "VmRSS") - before
        results: Findings = [f"some were answered {sorted(odd)}"] if odd else []
        if grown > 16 << 20:
            results.append(f"the worker grew by {grown >> 20} MiB")
        seen = lab.service.since(mark[0]) if lab.service else []
        if lab.service and len(seen) != count + count // 2:
            results.append(f"the service saw {len(seen)} of {count + count // 2} requests")
        return results

    return Step(act=act, long=True)


_STREAM: Final = re.compile(
    r"(?i)start (?:a )?(?:\d+ ?s )?(?:(?:chunked|long|streaming|slow|upload(?: of)?|request|body) )*"
    r"(?P<method>POST|PUT|PATCH) (?P<path>/\S*)"
)
_REVISION: Final = r"(?: (?:rev(?:ision)? |v)\d+)?"
_BUNDLE: Final = rf"(?:a |the )?(?:new |updated |another )?(?:policy )?(?:bundle|policy|permissions?|map){_REVISION}"

_ACTIONS: Final[dict[str, Callable[[re.Match[str]], Step]]] = {
    rf"(?:push|publish|activate|load|deploy|swap)\w*(?: in)? {_BUNDLE}\b.*": _push,
    rf"{_BUNDLE}(?: update| change)? (?:is |was )?(?:pushed|published|activated|deployed|loaded|updated?|changed?"
    r"|revokes|removes|drops|denies|without|with|that|restores)\b.*": _push,
    _STREAM.pattern.removeprefix("(?i)"): _stream,
    r"revoke\b.*": _revoke,
    r"(?:permission|rule|access) (?:is )?(?:revoked|removed)\b.*": _revoke,
    r"OPA (?:(?:returns?|answers?|says|responds?)(?: with)? )?(?P<fault>.+)": _opa,
    r"(?P<count>\d[\d _,]*) (?:distinct|different|unique|random) "
    r"(?:(?P<what>tokens?|identities|callers?)(?: (?:on|for))? ?)?(?:GETs? )?"
    r"(?:requests? (?:to|for) )?(?P<path>/\S+)?(?: as web)?(?: in \d+ ?s)?": _distinct,
    r"(?P<count>\d[\d _,]*) (?:concurrent|parallel|simultaneous) (?P<method>GET|HEAD|POST|PUT|DELETE) (?P<path>/\S*)"
    r"(?: (?:as|by) (?P<who>web|other|admin|nobody))?": _crowd,
    r"(?:wait|sleep|pause)s?(?: for)? (?P<seconds>\d+) ?s(?:econds?)?": _pause,
}
"""Steps that are no request, whole."""
