"""Listeners that take certificates: `mtls`, `mtls+jwt`, `xfcc` and `xfcc+jwt`, beside the plain one that is `jwt`.

A listener takes one kind of proof and a proxy has one listener, so each is a proxy of its own. They share the service,
OPA with one bundle, and the issuers: whoever is one caller here and another there is so by the proof alone. The trust
domain is `corp`; the proxy in front that may forward certificates is `spiffe://corp/proxy`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import re
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from attacks.runner import fixture
from attacks.runner.corpus import Case, Unintelligible, filled
from attacks.runner.faults import KeyServer
from attacks.runner.fixture import attacked_proxy, build
from attacks.runner.forgery import ISSUER, b64, jwks
from attacks.runner.labs import Findings, Lab, Place, _lab, opa, short_directory
from attacks.runner.plans import Plan
from attacks.runner.service import Service
from attacks.runner.verdicts import judged, message_parts
from attacks.runner.wire import Conversation, Garbled
from support.tls import Pair, client_context, dns, root, uri

LISTENERS: Final = ("jwt", "mtls", "mtls+jwt", "xfcc", "xfcc+jwt")
PINNED: Final = "spiffe://corp/proxy"
OWNER: Final = "spiffe://corp/sa/web"
"""The workload that is the caller `web` where a case does not say otherwise, and whose token is bound."""

OTHER: Final = "spiffe://corp/sa/other"

XFCC: Final = "X-Forwarded-Client-Cert"
_DOMAIN: Final = "corp"
_SPIFFE: Final = re.compile(r"spiffe://[^\s,;()]+")
_STRANGER: Final = re.compile(r"(?i)\b(?:untrusted|self-signed|unknown|attacker|other ca|another ca|stranger)\b")
_NOBODY: Final = frozenset({"", "none", "nobody", "no certificate", "without certificate", "anonymous"})
_CARRIES_TOKEN: Final = re.compile(rb"\{(?:TOKEN|JWT)\}")


# Certificates. Keys are made once for the whole run.


@functools.cache
def _authority(name: str) -> Pair:
    return root(name)


@functools.cache
def _certificate(name: str, trusted: bool) -> Pair:
    """Of the workload of that name. One of another trust domain has the authority of `corp` above it too, so that the
    proxy has to judge it; what is not `trusted` has an authority that nobody knows."""
    return _authority("corp" if trusted else "stranger").issue(uri(name))


@functools.cache
def _shown(name: str | None, trusted: bool) -> ssl.SSLContext:
    with tempfile.TemporaryDirectory() as place:
        pair = None if name is None else _certificate(name, trusted)
        return client_context(_authority("servers"), shows=pair, directory=Path(place))


def bound_to(name: str) -> dict[str, str]:
    """The `cnf` of a token that only this workload may use."""
    return {"x5t#S256": b64(hashlib.sha256(_certificate(name, True).der).digest())}


def named(told: Any) -> str | None:
    """The workload that a peer is said to be, None for one that shows no certificate. Raises `Unintelligible`."""
    if isinstance(told, str) and _STRANGER.search(told):
        found = _SPIFFE.search(told)
        return found[0] if found else OWNER
    if told is None or str(told).strip().lower() in _NOBODY:
        return None
    if _SPIFFE.fullmatch(str(told)):
        return str(told)
    raise Unintelligible(f"{told!r} is no peer that this runner has a certificate of")


# The lab.


def listening(listener: str, names: Iterable[str], *, permissions: str = fixture.PERMISSIONS) -> Place:
    """A place with these listeners, where these workloads may do what `web` may."""
    names = sorted(set(names))
    callers = "".join(f'  workload-{number}: {{spiffe: "{name}"}}\n' for number, name in enumerate(names))
    granted = "".join(
        f"  - {{caller: workload-{number}, service: orders, endpoints: [create-order, get-order]}}\n"
        for number in range(len(names))
    )
    permissions = permissions.replace("callers:\n", f"callers:\n{callers}", 1)
    permissions = permissions.replace("\npermissions:\n", f"\npermissions:\n{granted}", 1)
    return Place(permissions=permissions, extra={"listeners": listener})


@contextlib.asynccontextmanager
async def listeners_lab(place: Place) -> AsyncIterator[Lab]:
    """`known["listeners"]` has a lab for each kind that the place names; the first of them is the lab itself."""
    names = place.extra["listeners"].split()
    async with contextlib.AsyncExitStack() as stack:
        service = await stack.enter_async_context(Service().running())
        keys = await stack.enter_async_context(KeyServer(good={"idp": jwks()}).running())
        here = await stack.enter_async_context(short_directory())
        await asyncio.to_thread(build, here, place.permissions, {}, sequence=1)
        await stack.enter_async_context(opa(here, "--bundle", str(here / "bundle"), socket=here / "opa.sock"))
        _authority("servers").issue(dns("localhost")).write(here, "server")
        (here / "corp.pem").write_bytes(_authority("corp").pem)
        found: dict[str, Lab] = {}
        for name in names:
            proxy = attacked_proxy(
                issuers={ISSUER: keys.url("idp")} if "jwt" in name else {},
                origins={"orders": f"http://127.0.0.1:{service.port}"},
                limits={**fixture.PATIENT, **place.limits},
                opa=f"unix://{here / 'opa.sock'}",
                extra={"listen": _listen(name, here)},
            )
            found[name] = await stack.enter_async_context(_lab(proxy, service, keys, listeners=found))
        yield found[names[0]]


def _listen(name: str, here: Path) -> Mapping[str, Any]:
    proofs = name.split("+")
    listen: dict[str, Any] = {"data": "127.0.0.1:0", "admin": "unix:run/admin.sock", "identity": proofs}
    if name != "jwt":
        listen["tls"] = {
            "certificate": str(here / "server.pem"),
            "key": str(here / "server-key.pem"),
            "trust_domains": {_DOMAIN: str(here / "corp.pem")},
        }
    if "xfcc" in proofs:
        listen["xfcc"] = {"peers": [PINNED], "trust_domains": [_DOMAIN]}
    return listen


def on(lab: Lab, listener: str, peer: str | None = None, *, trusted: bool = True) -> Lab:
    """The lab of that listener, as this peer reaches it."""
    one: Lab = lab.known["listeners"][listener]
    return one if listener == "jwt" else dataclasses.replace(one, tls=_shown(peer, trusted))


# Cases.


async def tried_on(
    lab: Lab, case: Case, message: bytes, secrets: Iterable[str] = (), *, expected: str | None = None
) -> Findings:
    """One message on a connection of its own, since a connection is its peer's for good."""
    mark = lab.mark()
    conversation = Conversation()
    try:
        conversation.answers.append(await lab.ask(message))
    except (Garbled, TimeoutError, OSError) as error:
        conversation.garbage, conversation.ended = str(error) or "no answer", not isinstance(error, TimeoutError)
    evidence = await lab.evidence(mark, conversation, message, secrets)
    evidence.kind = case.kind
    return judged(expected or case.expected, evidence)


async def still_served(lab: Lab, listener: str) -> Findings:
    """Whether the owner's good request is served on that listener."""
    good = on(lab, listener, PINNED if "xfcc" in listener else OWNER)
    forwarded = f"{XFCC}: By={PINNED};URI={OWNER}\r\n" if "xfcc" in listener else ""
    bearer = f"Authorization: Bearer {lab.forge.token()}\r\n" if "jwt" in listener else ""
    return await dataclasses.replace(good, proof=bearer + forwarded).served()


def env_listener(case: Case, listener: str, peer: Any, request: bytes, recipe: Mapping[str, Any] | None) -> Plan:
    """A request by that peer. Where the listener takes certificates alone, a token that must not do for somebody else
    is tried on the one that takes both as well: bound to its owner, who has used it."""
    words = re.findall(r"\w+", listener.lower().replace("bearer", "jwt"))
    known = "+".join(sorted(words, key=lambda word: word == "jwt"))
    if known not in LISTENERS:
        raise Unintelligible(f"{listener!r} is no kind of listener")
    if peer is None:
        whose = {"forwarded-normalised": OWNER, "deny-403": OTHER}
        peer = PINNED if "xfcc" in known else whose.get(case.expected)
    name = named(peer)
    forwards = XFCC.lower().encode() in request.lower()
    if forwards and known.startswith("mtls") and (name == PINNED or case.expected == "reject-4xx"):
        known = known.replace("mtls", "xfcc")
    trusted = case.expected != "connection-closed" and not (isinstance(peer, str) and _STRANGER.search(peer))
    # Without a handshake there is nobody to answer.
    expected = case.expected if trusted else "connection-closed"
    bound = recipe is not None and "cnf" in recipe.get("claims", {})
    if bound:
        # A listener that takes certificates alone does not read the token.
        recipe = _with_thumbprint(dict(recipe or {}), name)
        known = known if "jwt" in known else f"{known}+jwt"
    replayed = (
        _CARRIES_TOKEN.search(request) is not None and case.expected == "reject-4xx" and not bound and name != OWNER
    )

    async def attempt(lab: Lab) -> Findings:
        token = lab.forge.forged(recipe)
        message = filled(request, TOKEN=token, JWT=token)
        found = await tried_on(on(lab, known, name, trusted=trusted), case, message, [token], expected=expected)
        if replayed and "mtls" in known:
            found += await _replayed(lab, case, request, recipe, name)
        return found + await still_served(lab, known)

    return Plan(case=case, attempt=attempt, lab="listeners", place=EVERYWHERE)


def _with_thumbprint(recipe: dict[str, Any], peer: str | None) -> dict[str, Any]:
    """`<… spiffe://corp/sa/web …>` and `<… peer …>` as `x5t#S256` are the certificate of that workload."""
    told = recipe["claims"]["cnf"]
    text = str(told.get("x5t#S256", "")) if isinstance(told, dict) else ""
    if not re.fullmatch(r"<[^<>]*>", text):
        return recipe
    found = re.search(r"spiffe://[^\s>]+", text)
    name = found[0] if found else peer if "peer" in text else None
    return recipe if name is None else {**recipe, "claims": {**recipe["claims"], "cnf": {**told, **bound_to(name)}}}


async def _replayed(
    lab: Lab, case: Case, request: bytes, recipe: Mapping[str, Any] | None, name: str | None
) -> Findings:
    given = dict(recipe or {})
    token = lab.forge.forged({**given, "claims": {**given.get("claims", {}), "cnf": bound_to(OWNER)}})
    message = filled(request, TOKEN=token, JWT=token)
    found = []
    if recipe is None:
        used = await tried_on(on(lab, "mtls+jwt", OWNER), case, message, [token], expected="forwarded-normalised")
        found += [f"by its owner: {one}" for one in used]
    replays = await tried_on(on(lab, "mtls+jwt", name), case, message, [token])
    return found + [f"bound to another's certificate: {one}" for one in replays]


_PART: Final = r'(?:By=[^;,"\s]+|Hash=[0-9a-f]{64}|DNS=[\w.-]+|Subject="(?:(?!uri=)[^"\\])*")'
_RIGHT: Final = re.compile(rf"(?i)(?:{_PART};)*URI=\"?spiffe://[a-z0-9._-]+(?:/[\w.-]*\w)+\"?(?:;{_PART})*")
"""What a proxy in front would write: wrong only of somebody who may not."""


async def forwarded_by_peers(lab: Lab, case: Case, message: bytes) -> Findings:
    """A certificate that is forwarded wrongly is believed of nobody, not even of who may forward."""
    values = [value for name, value in message_parts(message)[2] if name == XFCC.lower()]
    peers = [None, OTHER, OWNER]
    if len(values) != 1 or not _RIGHT.fullmatch(values[0]):
        peers.append(PINNED)
    found = []
    for peer in peers:
        wrong = await tried_on(on(lab, "xfcc", peer), case, message)
        found += [f"forwarded by {peer or 'nobody'}: {one}" for one in wrong]
    return found + await still_served(lab, "xfcc")


EVERYWHERE: Final = listening(" ".join(LISTENERS), [OWNER])


# Steps.


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """How a step of a sequence proves who it is."""

    listener: str = "jwt"
    workload: str | None = None
    """Who shows a certificate, or whose was shown to the proxy in front."""
    owner: str | None = None
    """Whom its token is bound to."""

    def reached(self, lab: Lab) -> Lab:
        return on(lab, self.listener, PINNED if "xfcc" in self.listener else self.workload)

    @property
    def header(self) -> str:
        return f"{XFCC}: By={PINNED};URI={self.workload}\r\n" if "xfcc" in self.listener else ""

    @property
    def has_token(self) -> bool:
        return "jwt" in self.listener


CERTIFIED: Final = re.compile(r"(?i)\bmtls\b|\bclient cert|\bxfcc\b|x-forwarded-client-cert|spiffe:")
_BOUND: Final = r"(?i)\b(?:bound to|cnf)(?: (?:of|the certificate of))?[ =:]*(spiffe://[^\s,;()]+)"
_BY: Final = (
    r"(?i)(?:\b(?:over|from|via|by|as|on|with) )?(?:\b(?P<how>mtls|client cert(?:ificate)?|xfcc"
    r"|x-forwarded-client-cert|spiffe(?: id(?:entity)?)?)\b(?: (?:as|by|for|from|of|peer|identity|listener))*"
    r"|(?<![\w=])(?=spiffe:))[ =:]*(?:URI=)?(?P<who>spiffe://[^\s,;()]+|(?:web|other|admin|nobody)\b)"
)
_BARE: Final = r"(?i)\b(?:without|with no|no) (?:client )?(?:certificate|cert|mtls)\b"


def proof(take: Callable[[str], re.Match[str] | None], *, again: bool) -> Proof:
    """What a step's text says of certificates, taken out of it: `take` is that of the text. `again`: the token is one
    that was there before."""
    owner, bare, by = take(_BOUND), take(_BARE), take(_BY)
    if by is None and bare is None:
        return Proof(owner=owner and owner[1])
    how = "xfcc" if by and "x" in (by["how"] or "").lower() else "mtls"
    who = by and (by["who"] if ":" in by["who"] else f"spiffe://{_DOMAIN}/sa/{by['who'].lower()}")
    tokens = take(r"(?i)\b(?:bearer|jwt)\b|(?=\b(?:token|sub(?:ject)?[ =]))") is not None or owner is not None
    tokens = tokens or again
    return Proof(listener=f"{how}+jwt" if tokens else how, workload=who, owner=owner and owner[1])
