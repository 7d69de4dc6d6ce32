"""Whom a client certificate speaks for, and who may say so. The chains are made by real authorities."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from ostiary.errors import IdentityInvalid
from ostiary.identity.certificates import Anchors, Bundle, BundleError, CertificateTrust, PlainAuthority, SubjectKind
from ostiary.models import Identity
from support.tls import CLIENT, DAY, NOW, SERVER, Pair, dns, root, uri, usage, workload

SHOP, CORP, PLAIN = root("shop"), root("corp"), root("plain")
AT = NOW.timestamp()
PLAIN_ISSUER = "https://ca.test"


def trust(subject: SubjectKind = "dns") -> CertificateTrust:
    return CertificateTrust(
        Anchors(
            trust_domains={"shop.test": Bundle.read(SHOP.pem), "corp.test": Bundle.read(CORP.pem)},
            plain=PlainAuthority(issuer=PLAIN_ISSUER, subject=subject, bundle=Bundle.read(PLAIN.pem)),
        )
    )


def judge(pair: Pair, *, at: float = AT, subject: SubjectKind = "dns") -> Identity:
    return trust(subject).judge(pair.chain, at)


def refusal(pair: Pair, *, at: float = AT, subject: SubjectKind = "dns") -> str:
    with pytest.raises(IdentityInvalid) as refused:
        judge(pair, at=at, subject=subject)
    return refused.value.detail


def test_an_svid_is_its_spiffe_id_of_its_trust_domain_until_it_ends() -> None:
    pair = workload(SHOP, "payments/web")
    assert judge(pair) == Identity(
        issuer="spiffe://shop.test",
        subject="spiffe://shop.test/payments/web",
        method="mtls",
        expires_at=pair.ends,
    )


def test_a_plain_certificate_is_its_configured_name_of_its_configured_issuer() -> None:
    pair = PLAIN.issue(dns("Web.Shop.Test"), subject="whatever")
    assert judge(pair) == Identity(issuer=PLAIN_ISSUER, subject="web.shop.test", method="mtls", expires_at=pair.ends)


@pytest.mark.parametrize(
    ("kind", "pair", "subject"),
    [
        ("email", lambda: PLAIN.issue(x509.RFC822Name("ann@shop.test"), subject="x"), "ann@shop.test"),
        ("uri", lambda: PLAIN.issue(uri("urn:web"), dns("other.test")), "urn:web"),
        ("common_name", lambda: PLAIN.issue(dns("other.test"), subject="web 1"), "web 1"),
    ],
)
def test_another_kind_of_name_can_be_the_subject(kind: SubjectKind, pair: Callable[[], Pair], subject: str) -> None:
    assert judge(pair(), subject=kind).subject == subject


def test_intermediate_authorities_are_taken_from_the_client_and_the_first_end_counts() -> None:
    between = SHOP.issue(subject="between", authority=True, ends=NOW + DAY / 2)
    below = between.issue(subject="below", authority=True)
    pair = workload(below)
    assert len(pair.chain) == 3
    assert judge(pair).expires_at == between.ends < pair.ends


def test_an_intermediate_authority_may_stand_in_the_bundle_itself() -> None:
    between = SHOP.issue(subject="between", authority=True)
    anchors = Anchors(trust_domains={"shop.test": Bundle.read(between.pem)})
    leaf = workload(between)
    assert CertificateTrust(anchors).judge([leaf.der], AT).subject == "spiffe://shop.test/web"


def test_what_other_extended_usages_a_certificate_has_does_not_matter() -> None:
    for extended in (None, CLIENT, [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE], [ExtendedKeyUsageOID.CLIENT_AUTH]):
        assert judge(workload(SHOP, extended=extended)).subject == "spiffe://shop.test/web"


# One authority cannot vouch for another's names.


@pytest.mark.parametrize("authority", [CORP, PLAIN], ids=["of another domain", "of plain certificates"])
def test_an_authority_vouches_for_no_name_of_another_s(authority: Pair) -> None:
    assert refusal(workload(authority, domain="shop.test")).startswith("certificate: validation failed")


def test_an_authority_of_a_trust_domain_vouches_for_no_plain_certificate() -> None:
    assert refusal(SHOP.issue(dns("web.shop.test"))).startswith("certificate: validation failed")


def test_a_trust_domain_that_is_not_configured_has_no_workloads() -> None:
    for domain in ("evil.test", "shop.test.evil.test", "sub.shop.test", "shop"):
        assert refusal(workload(SHOP, domain=domain)) == "certificate: of a trust domain that is not configured"


def test_a_certificate_that_says_spiffe_is_an_svid_or_nothing() -> None:
    """Not even where it has the plain name that would do: it would be two identities."""
    pair = PLAIN.issue(uri("spiffe://shop.test/web"), dns("web.shop.test"))
    assert refusal(pair).startswith("certificate: validation failed")
    for text in ("SPIFFE://shop.test/web", "Spiffe:x"):
        assert refusal(PLAIN.issue(uri(text), dns("web.shop.test"))) == "certificate: not the SPIFFE ID of a workload"


def test_a_listener_without_a_plain_authority_takes_svids_alone() -> None:
    only = CertificateTrust(Anchors(trust_domains={"shop.test": Bundle.read(SHOP.pem)}))
    with pytest.raises(IdentityInvalid, match=r"not an X\.509-SVID"):
        only.judge(PLAIN.issue(dns("web.shop.test")).chain, AT)


def test_nobody_is_trusted_where_nobody_is_configured() -> None:
    with pytest.raises(IdentityInvalid):
        CertificateTrust().judge(workload(SHOP).chain, AT)


# The rules of X.509-SVID.


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://shop.test",
        "spiffe://shop.test/",
        "spiffe://shop.test/a/",
        "spiffe://shop.test//a",
        "spiffe://shop.test/./a",
        "spiffe://shop.test/a/../web",
        "spiffe://shop.test/..",
        "spiffe://shop.test/a%2fb",
        "spiffe://shop.test/a?b",
        "spiffe://shop.test/a#b",
        "spiffe://shop.test:443/a",
        "spiffe://user@shop.test/a",
        "spiffe://Shop.test/a",
        "spiffe:///a",
        "spiffe:/shop.test/a",
        "spiffe://shop.test/a\n",
        "spiffe://shop.test/" + "a" * 2048,
    ],
)
def test_what_is_no_spiffe_id_is_none(text: str) -> None:
    assert refusal(SHOP.issue(uri(text))) == "certificate: not the SPIFFE ID of a workload"


def test_an_svid_has_one_uri_and_no_other() -> None:
    for names in (
        [uri("spiffe://shop.test/web"), uri("spiffe://shop.test/admin")],
        [uri("spiffe://shop.test/web"), uri("spiffe://shop.test/web")],
        [uri("spiffe://shop.test/web"), uri("https://shop.test/")],
        [uri("https://shop.test/"), uri("spiffe://shop.test/web")],
    ):
        assert refusal(SHOP.issue(*names)) == "certificate: more than one URI"


def test_an_svid_may_have_other_names_beside_its_uri() -> None:
    assert judge(SHOP.issue(uri("spiffe://shop.test/web"), dns("web.internal"))).subject == "spiffe://shop.test/web"


def test_an_authority_is_no_workload() -> None:
    for pair in (
        SHOP.issue(uri("spiffe://shop.test/web"), authority=True),
        SHOP.issue(uri("spiffe://shop.test/web"), authority=True, key_usage=usage(digital_signature=True)),
        SHOP.issue(uri("spiffe://shop.test/web"), key_usage=usage(digital_signature=True, key_cert_sign=True)),
        SHOP.issue(uri("spiffe://shop.test/web"), key_usage=usage(digital_signature=True, crl_sign=True)),
    ):
        assert refusal(pair).startswith("certificate: ")


def test_an_svid_s_key_is_for_signatures_and_says_so() -> None:
    assert refusal(workload(SHOP, key_usage=None)) == "certificate: an SVID says what its key is for"
    assert (
        refusal(workload(SHOP, key_usage=usage(key_encipherment=True))) == "certificate: its key is not for signatures"
    )


# Paths.


def test_a_certificate_for_servers_alone_is_no_client_s() -> None:
    assert "not for client authentication" in refusal(workload(SHOP, extended=SERVER))
    between = SHOP.issue(subject="between", authority=True, extra=[(x509.ExtendedKeyUsage(SERVER), False)])
    assert refusal(workload(between)).startswith("certificate: validation failed")


def test_a_workload_issues_nothing() -> None:
    """Its own certificate would join the chain to the authority."""
    for web in (
        workload(SHOP, "web", subject="web"),
        workload(SHOP, "web", subject="web", constraints=False),
        workload(SHOP, "web", subject="web", key_usage=usage(digital_signature=True, key_cert_sign=True)),
    ):
        forged = web.issue(uri("spiffe://shop.test/admin"))
        assert len(forged.chain) == 2
        assert refusal(forged).startswith("certificate: validation failed")


def test_path_lengths_hold() -> None:
    last = SHOP.issue(subject="last", authority=True, path_length=0)
    assert judge(workload(last)).subject == "spiffe://shop.test/web"
    assert refusal(workload(last.issue(subject="one more", authority=True))).startswith("certificate: validation")


def test_a_path_that_is_too_long_is_none() -> None:
    below = SHOP
    for depth in range(8):
        below = below.issue(subject=f"depth {depth}", authority=True)
    assert refusal(workload(below)).startswith("certificate: validation failed")


def test_name_constraints_hold_and_those_on_uris_refuse_the_path() -> None:
    """cryptography does not know how to apply the latter, so nothing below them is believed."""
    for names in ([dns("shop.test")], [uri("shop.test")]):
        constrained = SHOP.issue(
            subject="constrained", authority=True, extra=[(x509.NameConstraints(names, None), True)]
        )
        pair = constrained.issue(uri("spiffe://shop.test/web"), dns("evil.test"))
        assert refusal(pair).startswith("certificate: validation failed")


def test_a_critical_extension_that_is_not_understood_refuses() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    assert "critical" in refusal(workload(SHOP, extra=[(unknown, True)]))
    assert judge(workload(SHOP, extra=[(unknown, False)])).subject == "spiffe://shop.test/web"


def test_a_certificate_is_good_between_its_dates_alone() -> None:
    pair = workload(SHOP, begins=NOW, ends=NOW + DAY / 2)
    assert judge(pair, at=AT + 1).expires_at == pair.ends
    assert "not valid at validation time" in refusal(pair, at=AT - 1)
    assert "not valid at validation time" in refusal(pair, at=pair.ends + 1)


def test_nothing_is_vouched_for_by_an_authority_that_has_ended() -> None:
    old = root("old", ends=NOW + DAY / 4)
    anchors = Anchors(trust_domains={"shop.test": Bundle.read(old.pem)})
    pair = workload(old, ends=NOW + DAY)
    assert CertificateTrust(anchors).judge(pair.chain, AT).expires_at == old.ends
    with pytest.raises(IdentityInvalid):
        CertificateTrust(anchors).judge(pair.chain, old.ends + 1)


def test_a_name_that_an_authority_only_resembles_vouches_for_nothing() -> None:
    """Another key, the same name."""
    assert refusal(workload(root("shop"))).startswith("certificate: validation failed")


def test_a_signature_that_is_not_the_authority_s_is_refused() -> None:
    der = bytearray(workload(SHOP).der)
    der[-5] ^= 1
    with pytest.raises(IdentityInvalid):
        trust().judge([bytes(der)], AT)


@pytest.mark.parametrize("der", [b"", b"0", b"0\x82\xff\xff", b"\x30\x03\x02\x01\x01"])
def test_what_is_no_certificate_proves_nobody(der: bytes) -> None:
    with pytest.raises(IdentityInvalid):
        trust().judge([der], AT)


# Plain certificates.


@pytest.mark.parametrize(
    ("kind", "pair"),
    [
        pytest.param("dns", lambda: PLAIN.issue(subject="web"), id="no name"),
        pytest.param("dns", lambda: PLAIN.issue(dns("a.test"), dns("b.test")), id="two names"),
        pytest.param("dns", lambda: PLAIN.issue(dns("*.shop.test")), id="a wildcard"),
        pytest.param("dns", lambda: PLAIN.issue(x509.RFC822Name("ann@shop.test")), id="another kind"),
        pytest.param("email", lambda: PLAIN.issue(dns("a.test"), subject="ann@shop.test"), id="in the subject"),
        pytest.param("uri", lambda: PLAIN.issue(uri("urn:a"), uri("urn:b")), id="two URIs"),
        pytest.param("common_name", lambda: PLAIN.issue(dns("a.test")), id="no common name"),
        pytest.param("common_name", lambda: PLAIN.issue(dns("a.test"), subject="web\n"), id="a line feed"),
        pytest.param("common_name", lambda: PLAIN.issue(dns("a.test"), subject="wéb"), id="beyond ASCII"),
        pytest.param("common_name", lambda: PLAIN.issue(dns("a.test"), subject=" web"), id="a space in front"),
    ],
)
def test_a_plain_certificate_without_exactly_one_good_name_proves_nobody(
    kind: SubjectKind, pair: Callable[[], Pair]
) -> None:
    assert refusal(pair(), subject=kind).startswith("certificate: ")


# Bundles.


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        pytest.param(b"", "holds no certificates in PEM, or a broken one", id="nothing"),
        pytest.param(SHOP.pem[:-40], "holds no certificates in PEM, or a broken one", id="half-written"),
        pytest.param(SHOP.pem + CORP.pem[:-40], "holds something else than certificates", id="the second half-written"),
        pytest.param(SHOP.pem + SHOP.key_pem, "holds something else than certificates", id="with a private key"),
        pytest.param(
            workload(SHOP).pem,
            "holds a certificate that is no authority (basicConstraints, keyUsage)",
            id="a workload",
        ),
        pytest.param(
            root("bare", constraints=False).pem,
            "holds a certificate that is no authority (basicConstraints, keyUsage)",
            id="no basic constraints",
        ),
        pytest.param(
            root("mute", key_usage=usage(digital_signature=True)).pem,
            "holds a certificate that is no authority (basicConstraints, keyUsage)",
            id="not for certificates",
        ),
        pytest.param(SHOP.pem * 65, "holds more than 64 certificates", id="too many"),
    ],
)
def test_what_is_no_bundle_is_refused(pem: bytes, message: str) -> None:
    with pytest.raises(BundleError) as refused:
        Bundle.read(pem)
    assert str(refused.value) == message


def test_text_around_certificates_is_no_part_of_a_bundle() -> None:
    bundle = Bundle.read("# la première\n".encode() + SHOP.pem + b"\n# two\n" + CORP.pem)
    assert bundle.pem.encode() == SHOP.pem + CORP.pem


def test_each_change_of_the_authorities_is_another_generation() -> None:
    moving = trust()
    before = moving.generation
    moving.replace(Anchors())
    assert moving.generation == before + 1
    with pytest.raises(IdentityInvalid):
        moving.judge(workload(SHOP).chain, AT)
