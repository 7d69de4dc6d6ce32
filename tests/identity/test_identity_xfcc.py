"""What a pinned proxy forwards, and what nobody else may say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ostiary.clock import ManualClock
from ostiary.errors import HeaderDuplicated, IdentityInvalid, IdentityMissing
from ostiary.exchange import Exchange
from ostiary.identity import MtlsAuthenticator, XfccAuthenticator, build_authenticator
from ostiary.identity.certificates import Anchors, Bundle, CertificateTrust, PlainAuthority
from ostiary.identity.xfcc import forwarded
from ostiary.models import Identity
from ostiary.peer import PeerCertificate
from support.identity import Issuer, SigningKey, b64, exchange, jwks, key_file, settings
from support.tls import NOW, Pair, dns, root, workload

MESH, PLAIN = root("mesh"), root("plain")
INGRESS = workload(MESH, "ingress", domain="mesh.test")
WEB = "spiffe://corp/sa/web"
HASH = "0123456789abcdef" * 4


def header(value: str | bytes) -> tuple[bytes, bytes]:
    return b"x-forwarded-client-cert", value if isinstance(value, bytes) else value.encode()


# The header by itself.


@pytest.mark.parametrize(
    ("value", "hash_"),
    [
        (f"URI={WEB}", None),
        (f"uri={WEB}", None),
        (f'URI="{WEB}"', None),
        (f"By=spiffe://corp/proxy;URI={WEB}", None),
        (f"By=spiffe://corp/proxy;Hash={HASH};URI={WEB}", HASH),
        (f'By=spiffe://corp/proxy;Hash={HASH};Subject="CN=web,O=corp";URI={WEB}', HASH),
        (f'By=spiffe://corp/proxy;Hash={HASH};Subject="";URI={WEB};DNS=a.corp;DNS=b.corp', HASH),
        (f'URI={WEB};Subject="CN=a\\"b"', None),
        (f'URI={WEB};Subject="CN=a\\, b"', None),
        (f'URI={WEB};Cert="-----BEGIN%20CERTIFICATE-----%0AMIIB%3D%3D%0A"', None),
        (f"URI={WEB};DNS=", None),
        (f"By=spiffe://corp/a;By=spiffe://corp/b;URI={WEB}", None),
    ],
)
def test_one_element_with_one_workload_is_read(value: str, hash_: str | None) -> None:
    name, found = forwarded(value.encode())
    assert (name.text, name.trust_domain) == (WEB, "corp")
    assert found == (None if hash_ is None else bytes.fromhex(hash_))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(f"URI=spiffe://corp/sa/admin,By=spiffe://corp/proxy;URI={WEB}", id="HEADER-067 two elements"),
        pytest.param(f"URI={WEB},", id="an empty second element"),
        pytest.param(f",URI={WEB}", id="an empty first element"),
        pytest.param(f"URI={WEB}, URI=spiffe://corp/sa/admin", id="two elements, with a space"),
        pytest.param(f'Subject="CN=x,URI=spiffe://corp/sa/admin";URI={WEB}', id="HEADER-069 delimiter inside quotes"),
        pytest.param("By=spiffe://corp/proxy;URI=spiffe://corp/sa/x/../admin", id="HEADER-071 dot segment"),
        pytest.param("By=spiffe://corp/sa/admin", id="HEADER-075 only By"),
        pytest.param(f"URI={WEB};URI=spiffe://corp/sa/admin", id="two URIs"),
        pytest.param(f"URI={WEB};uri={WEB}", id="the same URI twice"),
        pytest.param(f"Hash={HASH};Hash={HASH};URI={WEB}", id="two hashes"),
        pytest.param(f"Hash={HASH[:-1]};URI={WEB}", id="a short hash"),
        pytest.param(f"Hash={HASH.upper()};URI={WEB}", id="a hash in upper case"),
        pytest.param(f"Hash=;URI={WEB}", id="an empty hash"),
        pytest.param(f'Subject="CN=x\\\\";URI={WEB}', id="an escaped backslash before the quote"),
        pytest.param(f'Subject="CN=x\\";URI={WEB}', id="a backslash that swallows the quote"),
        pytest.param(f'Subject="CN=x";URI=spiffe://corp/sa/admin;Subject="";URI={WEB}', id="injected by a subject"),
        pytest.param(f'Subject="CN="x";URI={WEB}', id="a bare quote inside"),
        pytest.param(f'Subject="CN=x"y;URI={WEB}', id="text behind the quotes"),
        pytest.param(f"Subject=CN=x;URI={WEB}", id="an equals sign without quotes"),
        pytest.param(f"New=a;URI={WEB}", id="an unknown key"),
        pytest.param(f"URI={WEB};", id="a separator at the end"),
        pytest.param(f";URI={WEB}", id="a separator in front"),
        pytest.param(f"URI={WEB};;DNS=a", id="two separators"),
        pytest.param(f"URI ={WEB}", id="a space in the key"),
        pytest.param(f"URI= {WEB}", id="a space in the value"),
        pytest.param(f"URI={WEB} ", id="a space at the end"),
        pytest.param(f"URI={WEB}\n", id="a line feed"),
        pytest.param("URI=", id="an empty URI"),
        pytest.param("URI", id="no value"),
        pytest.param("", id="nothing"),
        pytest.param(WEB, id="no key"),
        pytest.param("URI=https://corp/sa/web", id="no SPIFFE ID"),
        pytest.param("URI=spiffe://corp", id="a trust domain alone"),
        pytest.param("URI=spiffe%3A%2F%2Fcorp/sa/web", id="an encoded one"),
        pytest.param("URI=spiffe://corp/sa/%77eb", id="an encoded path"),
        pytest.param("URI=spiffe://Corp/sa/web", id="upper case"),
        pytest.param("URI=spiffe://corp:443/sa/web", id="a port"),
        pytest.param(f"URI={WEB}?a", id="a query"),
        pytest.param(f'URI="{WEB}', id="an open quote"),
        pytest.param(f"URI={WEB};DNS=" + "a" * 17000, id="too long"),
        pytest.param(f"URI={WEB}é", id="beyond ASCII"),
        pytest.param("URI=" + "a" * 10000, id="long and slow"),
        pytest.param('Subject="' + '\\"' * 5000, id="many escapes and no end"),
    ],
)
def test_whatever_has_a_doubt_is_refused(value: str) -> None:
    with pytest.raises(IdentityInvalid):
        forwarded(value.encode())


# Who may forward, and whom.


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW.timestamp())


@pytest.fixture
def trust() -> CertificateTrust:
    return CertificateTrust(
        Anchors(
            trust_domains={"mesh.test": Bundle.read(MESH.pem)},
            plain=PlainAuthority(issuer="https://ca.test", subject="dns", bundle=Bundle.read(PLAIN.pem)),
        )
    )


@pytest.fixture
def xfcc(trust: CertificateTrust, clock: ManualClock) -> XfccAuthenticator:
    return XfccAuthenticator(
        connections=MtlsAuthenticator(trust=trust, clock=clock),
        peers=[("spiffe://mesh.test", "spiffe://mesh.test/ingress"), ("https://ca.test", "ingress.corp")],
        trust_domains=["corp"],
    )


def through(pair: Pair | None, *values: str, name: bytes = b"x-forwarded-client-cert") -> Exchange:
    peer = None if pair is None else PeerCertificate(pair.chain)
    return exchange(*((name, value.encode()) for value in values), peer=peer)


async def test_what_a_pinned_peer_forwards_is_an_identity_until_the_peer_s_own_ends(xfcc: XfccAuthenticator) -> None:
    assert await xfcc.identify(through(INGRESS, f"By=spiffe://corp/proxy;Hash={HASH};URI={WEB}")) == Identity(
        issuer="spiffe://corp", subject=WEB, method="xfcc", expires_at=INGRESS.ends
    )


async def test_a_peer_may_be_pinned_by_its_plain_name(xfcc: XfccAuthenticator) -> None:
    assert (await xfcc.identify(through(PLAIN.issue(dns("ingress.corp")), f"URI={WEB}"))).subject == WEB


@pytest.mark.parametrize(
    "pair",
    [
        pytest.param(lambda: workload(MESH, "web", domain="mesh.test"), id="another workload of the mesh"),
        pytest.param(lambda: workload(MESH, "ingress/x", domain="mesh.test"), id="a longer name"),
        pytest.param(lambda: PLAIN.issue(dns("web.corp")), id="another plain name"),
        pytest.param(lambda: workload(root("mesh"), "ingress", domain="mesh.test"), id="by nobody's authority"),
        pytest.param(lambda: workload(PLAIN, "ingress", domain="mesh.test"), id="by another authority"),
    ],
)
async def test_nobody_else_s_word_counts(xfcc: XfccAuthenticator, pair: Callable[[], Pair]) -> None:
    assert await xfcc.identify(through(INGRESS, f"URI={WEB}")), "and what was read before is kept"
    with pytest.raises(IdentityInvalid):
        await xfcc.identify(through(pair(), f"URI={WEB}"))


async def test_without_a_client_certificate_nothing_is_looked_at(xfcc: XfccAuthenticator) -> None:
    with pytest.raises(IdentityMissing):
        await xfcc.identify(through(None, f"URI={WEB}"))


async def test_a_pinned_peer_is_nobody_by_itself(xfcc: XfccAuthenticator) -> None:
    with pytest.raises(IdentityMissing):
        await xfcc.identify(through(INGRESS))


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("spiffe://corp.evil.test/sa/web", id="HEADER-070 trust-domain prefix"),
        pytest.param("spiffe://evil.corp/sa/web", id="a suffix"),
        pytest.param("spiffe://mesh.test/web", id="the peer's own trust domain"),
    ],
)
async def test_a_pinned_peer_names_workloads_of_the_configured_trust_domains_alone(
    xfcc: XfccAuthenticator, uri: str
) -> None:
    with pytest.raises(IdentityInvalid):
        await xfcc.identify(through(INGRESS, f"By={WEB};URI={uri}"))


async def test_two_headers_are_refused(xfcc: XfccAuthenticator) -> None:
    with pytest.raises(HeaderDuplicated):
        await xfcc.identify(through(INGRESS, f"URI={WEB}", f"URI={WEB}"))


@pytest.mark.parametrize("name", [b"x_forwarded_client_cert", b"x-forwarded-client-cert-chain", b"client-cert"])
async def test_no_other_header_is_read(xfcc: XfccAuthenticator, name: bytes) -> None:
    with pytest.raises(IdentityMissing):
        await xfcc.identify(through(INGRESS, f"URI={WEB}", name=name))


async def test_a_peer_whose_authority_was_removed_forwards_nothing(
    xfcc: XfccAuthenticator, trust: CertificateTrust
) -> None:
    peer = PeerCertificate(INGRESS.chain)
    assert await xfcc.identify(exchange(header(f"URI={WEB}"), peer=peer))
    trust.replace(Anchors())
    with pytest.raises(IdentityInvalid):
        await xfcc.identify(exchange(header(f"URI={WEB}"), peer=peer))


async def test_on_a_listener_for_tokens_the_header_is_nothing(
    tmp_path: Path, clock: ManualClock, trust: CertificateTrust
) -> None:
    """HEADER-077: the token says web, the header says admin."""
    tokens = build_authenticator([settings(key_file(tmp_path, jwks(SigningKey())))], clock=clock)
    await tokens.start()
    bearing = (b"authorization", b"Bearer " + Issuer(clock=clock).token().encode())
    identity = await tokens.identify(exchange(bearing, header("URI=spiffe://corp/sa/admin")))
    assert (identity.subject, identity.method, identity.actor) == ("web", "jwt", None)
    await tokens.close()
    mtls = MtlsAuthenticator(trust=trust, clock=clock)
    assert (await mtls.identify(through(INGRESS, "URI=spiffe://corp/sa/admin"))).subject == (
        "spiffe://mesh.test/ingress"
    )


async def test_with_both_proofs_what_is_forwarded_is_the_actor_and_binds_tokens(
    xfcc: XfccAuthenticator, tmp_path: Path, clock: ManualClock
) -> None:
    both = build_authenticator(
        [settings(key_file(tmp_path, jwks(SigningKey())))], clock=clock, proofs=("xfcc", "jwt"), certificates=xfcc
    )
    await both.start()
    issuer, peer = Issuer(clock=clock), PeerCertificate(INGRESS.chain)

    def request(token: str, value: str) -> Exchange:
        return exchange((b"authorization", b"Bearer " + token.encode()), header(value), peer=peer)

    identity = await both.identify(request(issuer.token(), f"URI={WEB}"))
    assert identity.actor == {
        "type": "workload",
        "id": WEB,
        "properties": {"issuer": "spiffe://corp", "method": "xfcc", "claims": {}},
    }
    bound = issuer.token(claims={"cnf": {"x5t#S256": b64(bytes.fromhex(HASH))}})
    assert (await both.identify(request(bound, f"Hash={HASH};URI={WEB}"))).subject == "web"
    for value in (f"URI={WEB}", f"Hash={'0' * 64};URI={WEB}"):
        with pytest.raises(IdentityInvalid):
            await both.identify(request(bound, value))
    own = issuer.token(claims={"cnf": {"x5t#S256": b64(peer.thumbprint)}})
    with pytest.raises(IdentityInvalid):
        await both.identify(request(own, f"URI={WEB}"))
    await both.close()


def test_forwarding_by_nobody_or_of_nobody_is_refused(trust: CertificateTrust, clock: ManualClock) -> None:
    connections = MtlsAuthenticator(trust=trust, clock=clock)
    for peers, domains in (([], ["corp"]), ([("a", "b")], [])):
        with pytest.raises(ValueError, match="nobody"):
            XfccAuthenticator(connections=connections, peers=peers, trust_domains=domains)
