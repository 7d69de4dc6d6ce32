"""The models of `listen`: where the proxy listens, by what callers prove who they are, and who is believed in front."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from ostiary.config.fields import UNIQUE, DistinctOrEmpty, Frozen, ListenAddress, PrivateAddress
from ostiary.config.proofs import STAND_IN_PEER, Dpop, Proofs, Tls, Xfcc
from ostiary.policy.mistakes import StandIn
from ostiary.policy.model import Strict
from ostiary.policy.values import FILLED, Distinct, Network, mistake, mistakes_at
from ostiary.policy.words import quoted
from ostiary.spiffe import SpiffeId

Port: TypeAlias = Annotated[int, Field(ge=1, le=65535)]


def _pinned(value: str) -> str:
    if value.endswith("/0"):
        raise mistake(f"{quoted(value)} is every address there is: name those of the proxies")
    return value


PinnedNetwork: TypeAlias = Annotated[Network, AfterValidator(_pinned)]


class Proxies(Strict):
    """Load balancers and proxies in front, which say whom they speak for. From others such words are dropped."""

    addresses: Annotated[tuple[PinnedNetwork, ...], Frozen, Distinct, FILLED]
    """Their own addresses, as networks: `10.0.7.0/28`. Whoever has one of these can claim any address, so name no
    network that clients are in."""
    header: Literal["proxy-v2", "x-forwarded-for", "forwarded"]
    """Where they say it. `proxy-v2`: in a PROXY protocol preamble, version 2, before anything else on a connection, a
    TLS handshake included. `x-forwarded-for`, `forwarded` (RFC 7239): in that header of each request, whose last hop
    counts that is not of `addresses`. What they do not say is refused, 400; before TLS, where nothing can be answered,
    the connection is cut."""


class Listen(Strict):
    """Where the proxy listens."""

    data: Annotated[ListenAddress, StandIn("127.0.0.1:0")]
    """`host:port` for the requests of callers. Port 0 lets the system choose."""
    admin: PrivateAddress | None = None
    """For what is administrative: `unix:path`, or a loopback `host:port`. The socket `admin.sock` below `state` if left
    out."""
    identity: Proofs = ("jwt",)
    """How callers prove who they are: `[jwt]` by a token, `[mtls]` by a client certificate, `[xfcc]` by one that a
    pinned proxy in front was shown. `[mtls, jwt]` and `[xfcc, jwt]` demand both: the token is the caller, the
    certificate is who acts for it (`context.actor`)."""
    tls: Tls | None = None
    xfcc: Xfcc | None = None
    dpop: Dpop | None = None
    bound_tokens: Literal["accepted", "required"] = "accepted"
    """Whether a token that is bound to nothing is taken. A bound one (`cnf`) is never taken without the proof that it
    is bound to: the client certificate, or the DPoP proof."""
    public_ports: Annotated[tuple[Port, ...], Frozen, DistinctOrEmpty, UNIQUE] = ()
    """Ports, besides the listener's own, that may stand in a request's Host: those that clients see in front of it."""
    proxies: Annotated[Proxies | None, StandIn({"addresses": ["192.0.2.1/32"], "header": "proxy-v2"})] = None

    @property
    def asks_clients(self) -> bool:
        """Whether clients are asked for a certificate."""
        return self.tls is not None and self.tls.asks_clients

    @property
    def dpop_algorithms(self) -> tuple[str, ...]:
        """Those of the proofs that tokens may be bound to keys by."""
        return () if self.dpop is None else self.dpop.algorithms

    @property
    def demands_dpop(self) -> bool:
        """Whether only tokens are taken that are bound to a key: then no bearer token is asked for."""
        return self.bound_tokens == "required" and not self.asks_clients

    @model_validator(mode="after")
    def _proofs_have_what_they_need(self) -> Listen:
        found: list[tuple[tuple[int | str, ...], str | PydanticCustomError]] = []
        proofs = set(self.identity)
        if proofs & {"mtls", "xfcc"} and not self.asks_clients:
            needs = "needs 'tls' with 'trust_domains' or 'client_ca': nothing could be proved without"
            told = mistake(f"{quoted(min(proofs - {'jwt'}))} {needs}", lacking=(), because=("listen", "tls"))
            found.append((("identity",), told))
        if "xfcc" in proofs and self.xfcc is None:
            needs = "'xfcc' needs to be told which peers may forward: 'xfcc: {peers, trust_domains}'"
            found.append((("identity",), mistake(needs, lacking=(), because=("listen", "xfcc"))))
        if "xfcc" not in proofs and self.xfcc is not None:
            found.append((("xfcc",), f"is not among the proofs of this listener, [{', '.join(self.identity)}]"))
        if self.xfcc is not None and self.tls is not None and "xfcc" in proofs:
            found.extend(
                (("xfcc", "peers", index), f"{quoted(peer)} {lacks}")
                for index, peer in enumerate(self.xfcc.peers)
                if peer != STAND_IN_PEER and (lacks := _unprovable(peer, self.tls))
            )
        if "jwt" not in proofs:
            if self.dpop is not None:
                found.append((("dpop",), "binds tokens, and this listener takes none"))
            if self.bound_tokens == "required":
                found.append((("bound_tokens",), "is about tokens, and this listener takes none"))
        elif self.bound_tokens == "required" and self.dpop is None and not self.asks_clients:
            found.append((("bound_tokens",), "needs 'dpop' or client certificates: no bound token could be proved"))
        if found:
            raise mistakes_at(found, lacking=())
        return self


def _unprovable(peer: str, tls: Tls) -> str:
    """Why a peer could never show a certificate of this name; nothing if it could."""
    if not peer.startswith("spiffe:"):
        return "" if tls.client_ca is not None else "is the subject of no certificate: there is no 'client_ca'"
    domain = SpiffeId.parse(peer).trust_domain
    return "" if domain in (tls.trust_domains or ()) else f"is of {quoted(domain)}, which is not in tls.trust_domains"
