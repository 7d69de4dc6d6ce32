"""Who may read bundles, and who may publish them: whoever has a token, or a client certificate.

A token file has a token a line; empty lines, and those that begin with `#`, say nothing. It is read again when it
changes, so that tokens come and go without a restart. One that cannot be read any more admits nobody. What is compared
are digests, so that the time it takes says nothing about a token.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final, Literal, TypeAlias

from cryptography import x509
from cryptography.x509.oid import NameOID

from ostiary.distribution.files import Identity
from ostiary.errors import ConfigurationError
from ostiary.keyfile import read_key_file

_log = logging.getLogger("ostiary.distribution")

Role: TypeAlias = Literal["reader", "publisher"]

TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]{16,512}=*", re.ASCII)  # token68, RFC 9110 section 11.2
_LIMIT: Final = 1024 * 1024


def read_tokens(path: Path) -> list[str]:
    """The tokens of a file that this user, or a group of this process, alone can read.

    Raises `ConfigurationError`, without a token in it, and OSError.
    """
    content = read_key_file(path, what="the token file", limit=_LIMIT, group_readable=True)
    lines = content.decode("utf-8", "replace").splitlines()
    tokens: list[str] = []
    mistakes: list[str] = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        if TOKEN.fullmatch(line):
            tokens.append(line)
        else:
            mistakes.append(f"{path}:{number}: is no token: 16 to 512 letters, digits and . _ ~ + / -")
    if not tokens and not mistakes:
        mistakes.append(f"{path}: holds no token")
    if mistakes:
        raise ConfigurationError(mistakes)
    return tokens


class TokenFile:
    """The constructor raises as `read_tokens` does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = Identity.of(path.stat())
        self._digests = frozenset(map(_digest, read_tokens(path)))

    def has(self, token: str) -> bool:
        self._look()
        return _digest(token) in self._digests

    def _look(self) -> None:
        try:
            seen = Identity.of(self._path.stat())
            if seen == self._seen:
                return
            self._digests = frozenset(map(_digest, read_tokens(self._path)))
            self._seen = seen
        except ConfigurationError as error:
            self._forget("; ".join(error.mistakes))
        except OSError as error:
            self._forget(f"{self._path}: {error.strerror}")

    def _forget(self, why: str) -> None:
        if self._digests:
            _log.error("no token of %s is taken any more: %s", self._path, why)
        self._digests = frozenset()


class Access:
    """`readers` and `publishers` are token files; who may publish may read. `certificates` says that a client may read
    by a certificate of an authority of the listener's; `publisher_names` are names in such certificates.

    With neither reader tokens nor certificates everybody reads, which is for loopback.
    """

    def __init__(
        self,
        *,
        readers: Collection[TokenFile] = (),
        publishers: Collection[TokenFile] = (),
        certificates: bool = False,
        publisher_names: Collection[str] = (),
    ) -> None:
        self._readers = tuple(readers)
        self._publishers = tuple(publishers)
        self._certificates = certificates
        self._publisher_names = frozenset(publisher_names)

    @property
    def open(self) -> bool:
        return not self._readers and not self._certificates

    @property
    def publishes(self) -> bool:
        """Whether there is anybody who may publish."""
        return bool(self._publishers or self._publisher_names)

    def role(self, authorization: str | None, names: frozenset[str] | None) -> Role | None:
        """What the sender of this header, on a connection with a certificate that has these names, may do."""
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        if token and any(file.has(token) for file in self._publishers):
            return "publisher"
        if self._certificates and names is not None:
            return "publisher" if names & self._publisher_names else "reader"
        if token and any(file.has(token) for file in self._readers):
            return "reader"
        return "reader" if self.open and not token else None


def certificate_names(der: bytes) -> frozenset[str]:
    """The URIs and DNS names of a certificate, or its common name where it has neither."""
    certificate = x509.load_der_x509_certificate(der)
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        named: list[str] = []
    else:
        named = [
            *alternative.get_values_for_type(x509.UniformResourceIdentifier),
            *alternative.get_values_for_type(x509.DNSName),
        ]
    if not named:
        named = [str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return frozenset(named)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
