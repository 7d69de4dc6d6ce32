"""Certificate authorities for tests, certificates that are right or wrong in any way, and a client that shows them."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from support.server import PATIENCE, Client

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)

SIGNING = "signing"
AUTHORITY = "authority"
CLIENT = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
SERVER = [ExtendedKeyUsageOID.SERVER_AUTH]


def usage(**on: bool) -> x509.KeyUsage:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: on.get(name, False) for name in names})


USAGES = {SIGNING: usage(digital_signature=True), AUTHORITY: usage(key_cert_sign=True, crl_sign=True)}


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


def dns(name: str) -> x509.GeneralName:
    return x509.DNSName(name)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A certificate and its key. `above` are the intermediate certificates that belong to it, nearest first."""

    certificate: x509.Certificate
    key: Any = field(repr=False)
    above: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> bytes:
        """The certificate alone: what stands in a bundle."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def chain(self) -> tuple[bytes, ...]:
        """As a client shows it."""
        return (self.der, *(one.public_bytes(Encoding.DER) for one in self.above))

    @property
    def chain_pem(self) -> bytes:
        return b"".join(one.public_bytes(Encoding.PEM) for one in (self.certificate, *self.above))

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def ends(self) -> int:
        return int(self.certificate.not_valid_after_utc.timestamp())

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """The chain and the key, as files of that name."""
        certificate, key = directory / f"{name}.pem", directory / f"{name}-key.pem"
        certificate.write_bytes(self.chain_pem)
        key.touch(mode=0o600)
        key.write_bytes(self.key_pem)
        return certificate, key

    def issue(
        self,
        *names: x509.GeneralName,
        subject: str | None = None,
        authority: bool = False,
        path_length: int | None = None,
        constraints: bool = True,
        key_usage: x509.KeyUsage | str | None = "",
        extended: Sequence[x509.ObjectIdentifier] | None = CLIENT,
        begins: datetime.datetime = NOW - DAY,
        ends: datetime.datetime = NOW + DAY,
        extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> Pair:
        """A certificate of this authority (or of what is none, which signs as well as any)."""
        below = () if self.certificate.issuer == self.certificate.subject else (self.certificate, *self.above)
        return make(
            *names,
            issuer=self,
            subject=subject,
            authority=authority,
            path_length=path_length,
            constraints=constraints,
            key_usage=key_usage,
            extended=None if authority else extended,
            begins=begins,
            ends=ends,
            extra=extra,
            above=below,
        )


def make(
    *names: x509.GeneralName,
    issuer: Pair | None,
    subject: str | None,
    authority: bool,
    path_length: int | None,
    constraints: bool,
    key_usage: x509.KeyUsage | str | None,
    extended: Sequence[x509.ObjectIdentifier] | None,
    begins: datetime.datetime,
    ends: datetime.datetime,
    extra: Sequence[tuple[x509.ExtensionType, bool]],
    above: tuple[x509.Certificate, ...],
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    own = x509.Name([] if subject is None else [x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(own)
        .issuer_name(own if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    if constraints:
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=path_length), critical=True)
    if key_usage == "":
        key_usage = AUTHORITY if authority else SIGNING
    if key_usage is not None:
        found = USAGES[key_usage] if isinstance(key_usage, str) else key_usage
        builder = builder.add_extension(found, critical=True)
    if extended is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=subject is None)
    for extension, critical in extra:
        builder = builder.add_extension(extension, critical=critical)
    certificate = builder.sign(key if issuer is None else issuer.key, hashes.SHA256())
    return Pair(certificate=certificate, key=key, above=above)


def root(name: str = "a root", **different: Any) -> Pair:
    """An authority that nobody stands above."""
    given: dict[str, Any] = {
        "authority": True,
        "path_length": None,
        "constraints": True,
        "key_usage": "",
        "extended": None,
        "begins": NOW - DAY,
        "ends": NOW + DAY,
        "extra": (),
    }
    return make(issuer=None, subject=name, above=(), **{**given, **different})


def workload(authority: Pair, path: str = "web", *, domain: str = "shop.test", **different: Any) -> Pair:
    """An X.509-SVID as SPIRE would make it."""
    return authority.issue(uri(f"spiffe://{domain}/{path}"), **different)


@dataclass(frozen=True, kw_only=True)
class Dialled:
    """A connection over TLS. `client` reads responses, `sock` is the secured socket."""

    client: Client
    sock: ssl.SSLSocket


@contextlib.contextmanager
def dial(
    port: int,
    *,
    trusted: Pair,
    shows: Pair | None = None,
    directory: Path | None = None,
    version: ssl.TLSVersion | None = None,
    session: ssl.SSLSession | None = None,
    context: ssl.SSLContext | None = None,
) -> Iterator[Dialled]:
    """Connect to 127.0.0.1, check the server's certificate, and show one's own."""
    context = context or client_context(trusted, shows=shows, directory=directory, version=version)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="localhost", session=session) as secured,
    ):
        yield Dialled(client=Client(secured), sock=secured)


def client_context(
    trusted: Pair,
    *,
    shows: Pair | None = None,
    directory: Path | None = None,
    version: ssl.TLSVersion | None = None,
) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=trusted.pem.decode())
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if shows is not None:
        assert directory is not None, "a certificate is shown from files"
        context.load_cert_chain(*shows.write(directory, f"shown-{shows.certificate.serial_number}"))
    return context
