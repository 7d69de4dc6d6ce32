"""Who knows bundles, for those who publish and serve them: the reader of archives, and OPA where they are signed."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ostiary.cli.output import fail
from ostiary.cli.sources import needed_opa
from ostiary.decision.revision import Revision
from ostiary.decision.rollback import Statement
from ostiary.distribution.archives import BundleRefused
from ostiary.errors import ConfigurationError
from ostiary.opa.archive import Algorithm, ArchiveError, Verification, read_archive, read_manifest, verify
from ostiary.opa.rollback import StatementError, unverified, verified
from ostiary.policy.archive import SUFFIX
from ostiary.policy.rego import Opa

KeyIdOption = Annotated[str | None, typer.Option("--key-id", metavar="ID", help="The id of that key.")]
ScopeOption = Annotated[str, typer.Option(metavar="SCOPE", help="What the signature is for.")]
AlgorithmOption = Annotated[Algorithm, typer.Option(help="How it is signed.")]


class ArchiveExaminer:
    """Implements `distribution.archives.Examiner`. With `verification` a bundle has to be signed so, and OPA says
    whether its files are what was signed."""

    def __init__(self, *, verification: Verification | None = None, opa: Opa | None = None) -> None:
        if verification is not None and opa is None:
            raise ValueError("OPA compares what was signed")
        self._verification = verification
        self._opa = opa

    def examine(self, content: bytes) -> Revision:
        try:
            contents = read_archive(io.BytesIO(content))
            if self._verification is not None:
                verify(contents, self._verification)
        except ArchiveError as error:
            raise BundleRefused(str(error)) from error
        if self._verification is not None and self._opa is not None:
            self._compare(content, self._verification, self._opa)
        return _stated(contents.revision)

    def peek(self, content: bytes) -> Revision:
        try:
            return _stated(read_manifest(io.BytesIO(content)).get("revision"))
        except ArchiveError:
            pass  # it is not the first file: OPA's own bundles have it anywhere
        try:
            return _stated(read_archive(io.BytesIO(content)).revision)
        except ArchiveError as error:
            raise BundleRefused(str(error)) from error

    def statement(self, content: bytes) -> Statement:
        try:
            return unverified(content) if self._verification is None else verified(content, self._verification)
        except StatementError as error:
            raise BundleRefused(str(error)) from error

    def _compare(self, content: bytes, wanted: Verification, opa: Opa) -> None:
        with tempfile.TemporaryDirectory(prefix="ostiary-bundle-") as directory:
            archive = Path(directory) / f"bundle{SUFFIX}"
            archive.write_bytes(content)
            try:
                against = opa.verify(
                    archive, key=wanted.key, key_id=wanted.key_id, scope=wanted.scope, algorithm=wanted.algorithm
                )
            except ConfigurationError as error:
                raise BundleRefused("; ".join(error.mistakes)) from error
        if against is not None:
            raise BundleRefused("its files are not what was signed")


def _stated(text: object) -> Revision:
    revision = Revision.parse(text)
    if revision is None:
        raise BundleRefused("it has no revision of the form <sequence>-<digest>")
    return revision


def examiner_for(key: Path | None, *, key_id: str | None, scope: str, algorithm: Algorithm) -> ArchiveExaminer:
    """By the options of a command: of what has to be signed with this public key, or, without one, of everything. Ends
    with what is wrong with them."""
    if key is None:
        if key_id is not None:
            fail("--key-id needs --verification-key")
        return ArchiveExaminer()
    if key_id is None:
        fail("--verification-key needs --key-id: the id that the signature names")
    verification = Verification(key=key, key_id=key_id, scope=scope, algorithm=algorithm)
    try:
        verification.public_key()
    except ArchiveError as error:
        fail(f"{key}: {error}")
    return ArchiveExaminer(verification=verification, opa=Opa(needed_opa()))
