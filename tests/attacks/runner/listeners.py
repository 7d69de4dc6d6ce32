"""Listeners that take certificates: `mtls`, `mtls+jwt`, `xfcc` and `xfcc+jwt`, beside the plain one that is `jwt`.

A listener takes one kind of proof and a proxy has one listener, so each is a proxy of its own. They share the service,
OPA with one bundle, and the issuers: whoever is one caller here and another there is so by the proof alone. What is
about the cache is tried on listeners that share that too (`shared`). The trust domain is `corp`; the proxy in front
that may forward certificates is `spiffe://corp/proxy`. `CN=web` is a plain certificate of an authority of its own.
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
from typing import Any, Final, Literal

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
from support.tls import DAY, NOW, Pair, client_context, dns, root, uri

LISTENERS: Final = ("jwt", "mtls", "mtls+jwt", "xfcc", "xfcc+jwt")
PINNED: Final = "spiffe://corp/proxy"
OWNER: Final = "spiffe://corp/sa/web"
"""The workload that is the caller `web` where a case does not say otherwise, and whose token is bound."""

OTHER: Final = "spiffe://corp/sa/other"

XFCC: Final = "X-Forwarded-Client-Cert"
PLAIN_ISSUER: Final = "https://ca.test"
"""Who vouches for certificates that are no workload's."""
_DOMAIN: Final = "corp"
_SPIFFE: Final = re.compile(r"spiffe://[^\s,;()\"]+")
_COMMON_NAME: Final = re.compile(r"(?i)\bCN\s*=\s*([\w.-]+)")
_STRANGER: Final = re.compile(
    r"(?i)\b(?:untrusted|self-?signed|unknown|attacker|(?:an)?other ca|wrong ca|foreign ca|stranger)\b"
)
_EXPIRED: Final = re.compile(r"(?i)\bexpired\b")
_NOBODY: Final = re.compile(
    r"(?i)(?:none|nobody|anonymous|null|(?:no|without)(?: an?| any)?(?: client| peer)?(?: cert(?:ificate)?))?"
)
_ABOUT_PEERS: Final = re.compile(
    r"(?i)\b(?:an?|the|ca|ou|by|peer|client|cert(?:ificate)?|svid|x\.?509|san|uri|spiffe|id|identity|subject|with|from"
    r"|of|untrusted|self-?signed|unknown|attacker|other|another|wrong|foreign|stranger|expired|plain)\b"
    r"|\bO\s*=\s*[\w. -]+|[=:,/()\"]"
)
_SHORT: Final = re.compile(r"(?i)(?:sa/)?(web|other|admin|nobody)")
_CARRIES_TOKEN: Final = re.compile(rb"\{(?:TOKEN|JWT)\}")


# Certificates. Keys are made once for the whole run.


@functools.cache
def _authority(name: str) -> Pair:
    return root(name)


Flaw = Literal["stranger", "expired"]
"""Of a certificate: an authority that nobody knows, or an end that has passed."""


@functools.cache
def _certificate(name: str, flaw: Flaw | None) -> Pair:
    """Of the workload of that name. One of another trust domain has the authority of `corp` above it too, so that the
    proxy has to judge it. `CN=name` is a plain one."""
    common_name = _COMMON_NAME.fullmatch(name)
    authority = _authority(flaw if flaw == "stranger" else "plain" if common_name else "corp")
    ends = NOW - DAY / 2 if flaw == "expired" else NOW + DAY
    return authority.issue(subject=common_name[1], ends=ends) if common_name else authority.issue(uri(name), ends=ends)


@functools.cache
def _shown(name: str | None, flaw: Flaw | None) -> ssl.SSLContext:
    with tempfile.TemporaryDirectory() as place:
        pair = None if name is None else _certificate(name, flaw)
        return client_context(_authority("servers"), shows=pair, directory=Path(place))


def bound_to(name: str) -> dict[str, str]:
    """The `cnf` of a token that only this workload may use."""
    return {"x5t#S256": b64(hashlib.sha256(_certificate(name, None).der).digest())}


def named(told: Any) -> str | None:
    """The workload, or the plain name, that a peer is said to be; None for one that shows no certificate.

    Raises `Unintelligible`.
    """
    text = "" if told is None else str(told).strip()
    if _NOBODY.fullmatch(text):
        return None
    if short := _SHORT.fullmatch(text):
        return f"spiffe://{_DOMAIN}/sa/{short[1].lower()}"
    workload, plain = _SPIFFE.search(text), _COMMON_NAME.search(text)
    found = workload or plain
    rest = text if found is None else text.replace(found[0], " ", 1)
    if _ABOUT_PEERS.sub(" ", rest).strip() or (found is None and not _flaw(text)):
        raise Unintelligible(f"{told!r} is no peer that this runner has a certificate of")
    return workload[0] if workload else f"CN={plain[1]}" if plain else OWNER


def _flaw(told: Any) -> Flaw | None:
    """What is said to be wrong with a peer's certificate."""
    if not isinstance(told, str):
        return None
    return "expired" if _EXPIRED.search(told) else "stranger" if _STRANGER.search(told) else None


# The lab.


def listening(listener: str, names: Iterable[str], *, permissions: str = fixture.PERMISSIONS) -> Place:
    """A place with these listeners, where who shows these certificates may do what `web` may."""
    names = sorted(set(names))
    callers = "".join(f"  workload-{number}: {_caller(name)}\n" for number, name in enumerate(names))
    granted = "".join(
        f"  - {{caller: workload-{number}, service: orders, endpoints: [create-order, get-order]}}\n"
        for number in range(len(names))
    )
    permissions = permissions.replace("callers:\n", f"callers:\n{callers}", 1)
    permissions = permissions.replace("\npermissions:\n", f"\npermissions:\n{granted}", 1)
    return Place(permissions=permissions, extra={"listeners": listener})


def _caller(name: str) -> str:
    if plain := _COMMON_NAME.fullmatch(name):
        return f'{{issuer: {PLAIN_ISSUER}, subject: "{plain[1]}"}}'
    return f'{{spiffe: "{name}"}}'


@contextlib.asynccontextmanager
async def listeners_lab(place: Place) -> AsyncIterator[Lab]:
    """`known["listeners"]` has a lab for each kind that the place names; the first of them is the lab itself."""
    names = place.extra["listeners"].split()
    async with surroundings(place) as (service, keys, here), contextlib.AsyncExitStack() as stack:
        found: dict[str, Lab] = {}
        for name in names:
            proxy = listening_proxy(name, place, service, keys, here)
            found[name] = await stack.enter_async_context(_lab(proxy, service, keys, listeners=found))
        yield found[names[0]]


@contextlib.asynccontextmanager
async def surroundings(place: Place) -> AsyncIterator[tuple[Service, KeyServer, Path]]:
    """What is around the listeners of a place: the service, the issuers' keys, and a directory with OPA's socket
    (`opa.sock`) and the certificates."""
    async with (
        Service().running() as service,
        KeyServer(good={"idp": jwks()}).running() as keys,
        short_directory() as here,
    ):
        await asyncio.to_thread(build, here, place.permissions, {}, sequence=1)
        _authority("servers").issue(dns("localhost")).write(here, "server")
        for name in ("corp", "plain"):
            (here / f"{name}.pem").write_bytes(_authority(name).pem)
        async with opa(here, "--bundle", str(here / "bundle"), socket=here / "opa.sock"):
            yield service, keys, here


def listening_proxy(name: str, place: Place, service: Service, keys: KeyServer, here: Path) -> attacked_proxy:
    return attacked_proxy(
        issuers={ISSUER: keys.url("idp")} if "jwt" in name else {},
        origins={"orders": f"http://127.0.0.1:{service.port}"},
        limits={**fixture.PATIENT, **place.limits},
        opa=f"unix://{here / 'opa.sock'}",
        extra={"listen": _listen(name, here)},
    )


def _listen(name: str, here: Path) -> Mapping[str, Any]:
    proofs = name.split("+")
    listen: dict[str, Any] = {"data": "127.0.0.1:0", "admin": "unix:run/admin.sock", "identity": proofs}
    if name != "jwt":
        listen["tls"] = {
            "certificate": str(here / "server.pem"),
            "key": str(here / "server-key.pem"),
            "trust_domains": {_DOMAIN: str(here / "corp.pem")},
            "client_ca": {"issuer": PLAIN_ISSUER, "file": str(here / "plain.pem"), "subject": "common_name"},
        }
    if "xfcc" in proofs:
        listen["xfcc"] = {"peers": [PINNED], "trust_domains": [_DOMAIN]}
    return listen


def on(lab: Lab, listener: str, peer: str | None = None, *, flaw: Flaw | None = None) -> Lab:
    """The lab of that listener, as this peer reaches it."""
    one: Lab = lab.known["listeners"][listener]
    return one if listener == "jwt" else dataclasses.replace(one, tls=_shown(peer, flaw))


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
    told = re.sub(r"client[- ]?cert(?:ificate)?s?", "mtls", listener.lower())
    words = re.findall(r"\w+", re.sub(r"bearer|token", "jwt", told).replace(" and ", " "))
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
    flaw: Flaw | None = _flaw(peer) or ("stranger" if case.expected == "connection-closed" else None)
    # Without a handshake there is nobody to answer.
    expected = case.expected if flaw is None else "connection-closed"
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
        found = await tried_on(on(lab, known, name, flaw=flaw), case, message, [token], expected=expected)
        if replayed and "mtls" in known:
            found += await _replayed(lab, case, request, recipe, name)
        return found + await still_served(lab, known)

    return Plan(case=case, attempt=attempt, lab="listeners", place=EVERYWHERE)


def _with_thumbprint(recipe: dict[str, Any], peer: str | None) -> dict[str, Any]:
    """`<… spiffe://corp/sa/web …>` and `<… peer …>` as `x5t#S256` are the certificate of that workload."""
    told = recipe["claims"]["cnf"]
    text = str(told.get("x5t#S256", "")) if isinstance(told, dict) else ""
    found = re.search(r"spiffe://[^\s>]+|CN=[\w.-]+", text)
    if found is None and not re.fullmatch(r"<[^<>]*>", text):
        return recipe
    name = found[0] if found else peer if "peer" in text else None
    return recipe if name is None else {**recipe, "claims": {**recipe["claims"], "cnf": {**told, **bound_to(name)}}}


def confirmed(recipe: Mapping[str, Any] | None, told: Any) -> dict[str, Any]:
    """The token of that recipe, bound as it is told beside it: `cnf` itself, whose certificate it is, or in a word
    whether it is the peer's. Raises `Unintelligible`."""
    if not isinstance(told, dict):
        text = str(told).strip()
        if re.fullmatch(r"(?i)(?:the )?(?:peer|own|same|match(?:es|ing)?)", text):
            text = "<thumbprint of the peer>"
        elif re.fullmatch(r"(?i)(?:wrong|random|mis-?match(?:es|ed|ing)?|another|different|foreign|unknown)", text):
            text = "<thumbprint>"
        elif not re.fullmatch(r"<[^<>]*>", text):
            text = f"<thumbprint of {named(text)}>"
        told = {"x5t#S256": text}
    given = dict(recipe or {})
    return {**given, "claims": {**given.get("claims", {}), "cnf": told}}


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
    sender: str | None = None
    """Who forwards a certificate."""

    def reached(self, lab: Lab) -> Lab:
        return on(lab, self.listener, self.sender if "xfcc" in self.listener else self.workload)

    @property
    def header(self) -> str:
        if "xfcc" not in self.listener or self.workload is None:
            return ""
        plain = _COMMON_NAME.fullmatch(self.workload)
        return f"{XFCC}: By={PINNED};" + (f'Subject="{plain[0]}"\r\n' if plain else f"URI={self.workload}\r\n")

    @property
    def has_token(self) -> bool:
        return "jwt" in self.listener


CERTIFIED: Final = re.compile(r"(?i)\bmtls\b|\bclient cert|\bxfcc\b|x-forwarded-client-cert|spiffe:|\bCN=")
_BOUND: Final = r"(?i)\b(?:bound to|cnf)(?: (?:of|the certificate of))?[ =:]*(spiffe://[^\s,;()]+|CN=[\w.-]+)"
_WHO: Final = (
    r"[ =:]*(?:By=[^\s;]+;)?(?:URI=|Subject=|sub(?:ject)?[ =])?\"?"
    r"(?P<who>spiffe://[^\s,;()\"]+|CN=[\w.-]+|(?:web|other|admin|nobody)\b)\"?"
)
_WORDS: Final = (
    r"(?: (?:an?|the|as|by|for|from|of|with|peer|identity|listener|client|cert(?:ificate)?|spiffe(?: id(?:entity)?)?))*"
)
_FORWARDED: Final = rf"(?i)\b(?P<how>xfcc|x-forwarded-client-cert)\b(?: (?:header|element))?{_WORDS}{_WHO}"
_BY: Final = (
    r"(?i)(?:\b(?:over|from|via|by|as|on|with) )?(?:\b(?P<how>mtls|client cert(?:ificate)?|spiffe(?: id(?:entity)?)?)\b"
    rf"{_WORDS}|(?<![\w=])(?=spiffe:|CN=)){_WHO}"
)
_SENDER: Final = (
    r"(?i)\b(?:from|via|by|through|over|sent by)(?: mtls)? (?:an? |the )?(?:(?:peer|proxy|workload) )?(?P<who>spiffe://[^\s,;()]+"
    r"|(?P<far>(?:unpinned|untrusted|other|another|foreign|unknown)(?: (?:peer|proxy|workload|source))?)"
    r"|(?:pinned|trusted)(?: (?:peer|proxy|source))?|(?:proxy|envoy|ingress|peer)\b)"
)
_BARE: Final = r"(?i)\b(?:without|with no|no) (?:an? |any )?(?:client )?(?:certificate|cert|mtls)\b"


def proof(take: Callable[[str], re.Match[str] | None], *, again: bool) -> Proof:
    """What a step's text says of certificates, taken out of it: `take` is that of the text. `again`: the token is one
    that was there before."""
    owner, bare, forwarded = take(_BOUND), take(_BARE), take(_FORWARDED)
    by = forwarded or take(_BY)
    if by is None and bare is None:
        return Proof(owner=owner and owner[1])
    sender = take(_SENDER) if forwarded else None
    who = None if by is None else named(by["who"])
    tokens = take(r"(?i)\b(?:bearer|jwt)\b|(?=\b(?:token|sub(?:ject)?[ =]))") is not None or owner is not None
    how = "xfcc" if forwarded else "mtls"
    return Proof(
        listener=f"{how}+jwt" if tokens or again else how,
        workload=who,
        owner=owner and owner[1],
        sender=None if bare else _forwarder(sender),
    )


def _forwarder(told: re.Match[str] | None) -> str:
    if told is None:
        return PINNED
    return OTHER if told["far"] else told["who"] if ":" in told["who"] else PINNED
