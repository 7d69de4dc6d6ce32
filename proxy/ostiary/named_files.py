"""The files that a configuration names and others write, read as they will be used.

A file that is half written, or of another kind, is found before it is relied on: at the start, at a reload, and by
`ostiary check --offline`. Nothing is connected to.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from ostiary.config import Config
from ostiary.config.issuers import Issuer
from ostiary.config.opa import Opa
from ostiary.identity.composition import key_reader
from ostiary.identity.keys import KeySourceError
from ostiary.identity.sources import FileSource
from ostiary.opa.archive import ArchiveError, Verification
from ostiary.stage_settings import bundle_verification, issuer_settings, verification_of

Mistake: TypeAlias = tuple[str, str]
"""The part whose file it is, and what is wrong with it: a sentence that begins with the file."""


def mistakes_in_files(config: Config) -> list[Mistake]:
    """What is wrong with the files of the issuers and of OPA. Blocks."""
    found = [("OPA", told) for told in _files_of_opa(config.opa)]
    found += [("issuer", told) for issuer in config.issuers for told in mistakes_of_issuer(issuer)]
    return found


def mistakes_of_issuer(issuer: Issuer) -> list[str]:
    """What is wrong with the files that it takes to have an issuer's keys. Blocks."""
    whose = f"the issuer {issuer.issuer}"
    return [*_keys(issuer), *_authorities(issuer.ca_file, whose), *_token(issuer.token_file, whose)]


def _keys(issuer: Issuer) -> Iterator[str]:
    if issuer.key_file is None:
        return
    try:
        key_reader(issuer_settings(issuer)).read(FileSource(path=issuer.key_file).read_now())
    except KeySourceError as error:
        yield f"{issuer.key_file}: the key_file of the issuer {issuer.issuer} cannot be used: {error}"


def _files_of_opa(opa: Opa) -> Iterator[str]:
    yield from _authorities(opa.ca_file, "OPA")
    if opa.managed is not None:
        yield from _verification_key(bundle_verification(opa.managed), "the bundle")
    if opa.rollback is not None:
        yield from _verification_key(verification_of(opa.rollback.verification), "opa.rollback")
        yield from _authorities(opa.rollback.ca_file, "opa.rollback")
        yield from _token(opa.rollback.token_file, "opa.rollback")
    if opa.report_to is not None:
        yield from _authorities(opa.report_to.ca_file, "opa.report_to")
        yield from _token(opa.report_to.token_file, "opa.report_to")


def _verification_key(verification: Verification | None, whose: str) -> Iterator[str]:
    if verification is None:
        return
    try:
        verification.public_key()
    except ArchiveError as error:
        yield f"{verification.key}: the key_file of {whose} cannot be used: {error}"


def _authorities(file: Path | None, whose: str) -> Iterator[str]:
    if file is None:
        return
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:
        yield f"{file}: the ca_file of {whose} cannot be used: {error}"


def _token(file: Path | None, whose: str) -> Iterator[str]:
    if file is None:
        return
    from ostiary.identity.fetch import read_token  # imported here: with httpx, a tenth of a start

    try:
        read_token(file)
    except KeySourceError as error:
        yield f"{file}: the token_file of {whose} cannot be used: {error}"
