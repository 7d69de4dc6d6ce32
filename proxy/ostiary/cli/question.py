"""From what is asked on the command line to what the policy is asked.

The request goes through the proxy's own parts for everything that comes before a decision (`Targets`, the concierge),
so that what the proxy would refuse or answer itself is told here too, and told alike.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import orjson
from pydantic_core import PydanticCustomError

from ostiary.cli.output import fail
from ostiary.concierge import JWKS_PATH, PROTECTED_RESOURCE_PATH, ProxyConcierge
from ostiary.config import Config
from ostiary.errors import AccessError, HostUnknown, IdentityInvalid, MethodRefused
from ostiary.exchange import Exchange
from ostiary.models import AccessRequest, Identity, Json, Target
from ostiary.policy import values
from ostiary.policy.explain import Specimen
from ostiary.policy.values import HIDDEN_CLAIMS
from ostiary.policy.words import closest, quoted
from ostiary.routes import METHODS
from ostiary.target import OWN_SERVICE, Targets

T = TypeVar("T")

_EXAMPLE: Final = '"GET http://orders.localhost/orders/42"'
_REQUEST: Final = re.compile(r"([A-Za-z]+) +(?:(https?)://)?([^/?# ]+)([^? ]*)(?:\?([^ ]*))?")
_PORT: Final = re.compile(r"(.+):([0-9]{1,5})")
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}

# Hosts of a question without a configuration: nobody else can have them (RFC 6761 section 6.4).
_SOME_HOST: Final = "service.invalid"
_OWN_HOST: Final = "ostiary.invalid"


class AnsweredByProxy(Exception):
    """The proxy answers this request itself, to anyone, and asks no policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request line as a client would send it. `host` is the Host header, with the port where clients send one."""

    method: str
    host: str
    path: bytes
    query: bytes

    @classmethod
    def parse(cls, text: str) -> Question:
        """Read `GET http://orders.localhost/orders/42`. Ends the command where that is no request at all."""
        found = _REQUEST.fullmatch(text)
        if found is None:
            fail(f"{text!r} is not a request, which is written {_EXAMPLE}")
        method, scheme, host, path, query = found.groups()
        if "@" in host:
            fail("a request names no user and no password: who asks is said with --caller")
        port = _PORT.fullmatch(host)
        if port is not None and port[2] == _DEFAULT_PORTS.get(scheme or ""):
            host = port[1]  # clients leave it out
        return cls(
            method=method,
            host=host,
            path=os.fsencode(path) or b"/",
            query=os.fsencode(query or ""),
        )

    @property
    def hostname(self) -> str:
        port = _PORT.fullmatch(self.host)
        return (self.host if port is None else port[1]).lower()

    @property
    def line(self) -> str:
        """For people: what was asked, before anybody judged it. The query may hold a credential and is left out."""
        return f"{self.method} {self.path.decode('ascii', 'backslashreplace')}{'?…' if self.query else ''}"

    def target(self, config: Config | None, services: Collection[str]) -> Target:
        """What it is aimed at: by the configuration's hosts, or without one by the host's first label.

        Raises the `AccessError` with which the proxy would refuse it before a decision, and `AnsweredByProxy`.
        """
        if self.method not in METHODS:
            raise MethodRefused(f"{self.method}{closest(self.method, METHODS)}")
        if config is None:
            targets, host = self._by_label(services)
        else:
            targets, host = _configured(config, self.host), self.host
        exchange = Exchange(self._scope(host), _never, _ignored)
        target = targets.resolve(exchange)
        if asyncio.run(_concierge().answer(exchange, target)):
            raise AnsweredByProxy
        return target

    def _by_label(self, services: Collection[str]) -> tuple[Targets, str]:
        label = self.hostname.partition(".")[0]
        if label != OWN_SERVICE and label not in services:
            fail(
                f"the map has no service {quoted(label)}{closest(label, services)}: without -c FILE, "
                "the first label of a host is taken for the service"
            )
        hosts = {} if label == OWN_SERVICE else {_SOME_HOST: label}
        targets = Targets(hosts=hosts, own_host=_OWN_HOST, ports=frozenset())
        return targets, _OWN_HOST if label == OWN_SERVICE else _SOME_HOST

    def _scope(self, host: str) -> dict[str, Any]:
        return {
            "type": "http",
            "method": self.method,
            "raw_path": self.path,
            "query_string": self.query,
            "headers": [(b"host", os.fsencode(host))],
        }


def _configured(config: Config, host: str) -> Targets:
    port = config.listen.data.port
    if port == 0:  # the system chooses one: whichever is asked for is the one
        asked = _PORT.fullmatch(host)
        port = 0 if asked is None else int(asked[2])
    return Targets(
        hosts={name: service for service, settings in config.services.items() for name in settings.hosts},
        own_host=config.own_host,
        ports=frozenset({port, *config.listen.public_ports}),
        target_bytes=config.limits.target_bytes,
    )


def _concierge() -> ProxyConcierge:
    """As a worker has it, but for the content. Preflights, which headers make, cannot be asked about."""
    return ProxyConcierge(cors={}, documents=dict.fromkeys((JWKS_PATH, PROTECTED_RESOURCE_PATH), (b"", b"")))


async def _never() -> dict[str, Any]:
    raise RuntimeError("no body is looked at before a decision")


async def _ignored(message: Mapping[str, Any]) -> None:
    """Nobody is there to receive it."""


def refusal_hint(refusal: AccessError, config: Config | None, question: Question) -> str:
    """What would do, where the proxy refuses before a decision; nothing where the refusal says it all."""
    if isinstance(refusal, HostUnknown) and config is not None:
        hosts = [config.own_host, *config.hosts]
        if question.hostname in hosts:
            return f"no port, the listener's own ({config.listen.data.port}), or one of listen.public_ports"
        return f"one of the hosts that are configured: {', '.join(sorted(hosts))}{closest(question.hostname, hosts)}"
    if isinstance(refusal, IdentityInvalid):
        return "another configuration; with --policy DIR and without -c, the policy alone is asked"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who asks, as the policy would see it. `notes` are for people: what was assumed or left out."""

    identity: Identity
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, specimen: Specimen, *, subject: str | None, claims: Mapping[str, Json]) -> Asker:
        return cls(
            identity=Identity(
                issuer=specimen.issuer,
                subject=specimen.subject if subject is None else subject,
                method=specimen.method,
                expires_at=0,
                claims={**specimen.claims, **claims},
            )
        )

    def seen_by(self, config: Config | None) -> Asker:
        """With the claims alone that the issuer is configured to show. Raises `IdentityInvalid` for no such issuer."""
        if config is None:
            return self
        identity = self.identity
        if identity.issuer.removeprefix("spiffe://") in config.trust_domains:
            return self
        client_ca = None if config.listen.tls is None else config.listen.tls.client_ca
        if client_ca is not None and identity.issuer == client_ca.issuer:
            return replace(self, identity=replace(identity, method="mtls", claims={}))
        if identity.method != "jwt":
            proofs = ", ".join(config.listen.identity)
            raise IdentityInvalid(f"a listener with identity [{proofs}] never proves a SPIFFE ID")
        issuer = next((one for one in config.issuers if one.issuer == identity.issuer), None)
        if issuer is None:
            raise IdentityInvalid(f"the issuer {quoted(identity.issuer)} is not configured")
        hidden = [name for name in identity.claims if name not in issuer.claims]
        shown = {name: value for name, value in identity.claims.items() if name in issuer.claims}
        return replace(
            self,
            identity=replace(identity, claims=shown),
            notes=(
                *self.notes,
                *(f"the claim {quoted(name)} is left out: issuers[].claims does not list it" for name in hidden),
            ),
        )

    def request(self, question: Question, target: Target, *, at: int, source_ip: str) -> AccessRequest:
        return AccessRequest(
            identity=self.identity, method=question.method, target=target, time=at, source_ip=source_ip
        )


def read_claims(given: Sequence[str]) -> dict[str, Json]:
    """`NAME=VALUE` each: JSON, or text as it is."""
    claims: dict[str, Json] = {}
    for one in given:
        name, mark, value = one.partition("=")
        if not name or not mark:
            fail(f"{one!r} is not a claim, which is written NAME=VALUE")
        if name in claims:
            fail(f'the claim {name!r} is given twice; several values are a list: {name}=\'["one", "other"]\'')
        if name in HIDDEN_CLAIMS:
            fail(f"the claim {name!r} is never shown to the policy, so nothing depends on it")
        try:
            claims[name] = orjson.loads(value)
        except orjson.JSONDecodeError:
            claims[name] = value
    return claims


def read_subject(text: str | None) -> str | None:
    if text is not None and not (text.isascii() and text.isprintable() and text.strip() == text and text):
        fail(f"{text!r} is not a subject, which is printable ASCII without spaces around it")
    return text


def read_time(at: str | None) -> int:
    """Whole Unix seconds; now, if nothing is given."""
    if at is None:
        return int(time.time())
    return _read(values.read_instant, at)


def read_address(text: str) -> str:
    """As the listener gives it: an IPv4-mapped address is the IPv4 address."""
    return _read(values.read_address, text)


def _read(read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except PydanticCustomError as error:
        fail(str(error))
