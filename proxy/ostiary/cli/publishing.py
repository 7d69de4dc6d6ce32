"""`ostiary bundle publish`"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from ostiary.addresses import is_localhost
from ostiary.cli.examiner import AlgorithmOption, ArchiveExaminer, KeyIdOption, ScopeOption, examiner_for
from ostiary.cli.output import fail, note, print_json
from ostiary.cli.registry import login
from ostiary.decision.rollback import LARGEST_STATEMENT
from ostiary.distribution.access import TOKEN, read_tokens
from ostiary.distribution.archives import LARGEST, NAME, Archive, BundleRefused, ExaminedStatement
from ostiary.distribution.directory import DirectoryTarget
from ostiary.distribution.oci import OciTarget, Reference
from ostiary.distribution.publishing import PublishFailed, Target, publish
from ostiary.distribution.web import Connection, Trust, WebTarget
from ostiary.policy.archive import SUFFIX

TOKEN_VARIABLE: Final = "OSTIARY_BUNDLE_TOKEN"  # noqa: S105 - a variable's name

TokenOption = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help=f"The bearer token; ${TOKEN_VARIABLE} if left out."),
]
CaOption = Annotated[
    Path | None, typer.Option("--ca-file", metavar="FILE", help="Authorities of the server; the system's if left out.")
]
CertificateOption = Annotated[
    Path | None, typer.Option("--certificate", metavar="FILE", help="A client certificate to show, PEM.")
]
KeyOption = Annotated[Path | None, typer.Option("--certificate-key", metavar="FILE", help="Its private key, PEM.")]


def command(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="A bundle that was built as a file, .tar.gz.")],
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DESTINATION",
            help="A directory or file, https://host/name.tar.gz, s3://bucket/key, or oci://host/name:tag.",
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace a newer bundle, or what is none. Proxies refuse an older one.")
    ] = False,
    rollback: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Go back to ARCHIVE by this statement, which is published beside it."),
    ] = None,
    verification_key: Annotated[
        Path | None,
        typer.Option(
            "--verification-key",
            metavar="FILE",
            help="Publish only what this public key has signed, the statement too.",
        ),
    ] = None,
    key_id: KeyIdOption = None,
    scope: ScopeOption = "ostiary",
    algorithm: AlgorithmOption = "ES256",
    token_file: TokenOption = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Where the S3-compatible store is; AWS's if left out.")
    ] = None,
    token_host: Annotated[
        str | None,
        typer.Option(
            metavar="HOST", help="Where a registry's tokens are, if not there: it is told user and password, too."
        ),
    ] = None,
    ca_file: CaOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Publish ARCHIVE, in the place of an older one, as a whole, and never in the place of a newer one.

    With --rollback it takes the place of a newer one, and proxies go back to it. `ostiary bundle rollback` makes the
    statement; it is published at the bundle's address with `.rollback` behind it, which proxies have to know. They
    believe one of their own key alone: --verification-key says beforehand whether it is.

    Credentials for S3 are found as AWS's own tools find them; those for a registry are $OSTIARY_REGISTRY_USER and
    $OSTIARY_REGISTRY_PASSWORD, or what `docker login` has left.

    Exit status 0: it is published. 1: it is not, because a newer one is, or nobody answers. 2: ARCHIVE is no bundle, or
    is not signed as it has to be.
    """
    examiner = examiner_for(verification_key, key_id=key_id, scope=scope, algorithm=algorithm)
    with archive.open("rb") as file:
        content = file.read(LARGEST + 1)
    try:
        read = Archive.read(content, examiner)
    except BundleRefused as error:
        fail(f"{archive}: {error}")
    statement = None if rollback is None else _statement(rollback, read, examiner)
    if statement is not None and verification_key is None:
        note(f"{rollback}: whose signature it has was not looked at; give the key of proxies as --verification-key")
    try:
        connection = connect(token_file, ca_file=ca_file, certificate=certificate, key=key)
        if endpoint is not None and not destination.startswith("s3://"):
            fail("--endpoint is of a store for an s3:// destination")
        if token_host is not None and not destination.startswith("oci://"):
            fail("--token-host is of a registry, for an oci:// destination")
        with _target(destination, archive, examiner, connection, endpoint=endpoint, token_host=token_host) as target:
            outcome = publish(
                read, target, force=force, statement=statement, warn=lambda told: note(f"warning: {told}")
            )
    except PublishFailed as error:
        fail(f"{destination}: {error}" if not str(error).startswith(destination) else str(error), status=1)
    if as_json:
        print_json({"destination": destination, "revision": str(read.revision), "outcome": outcome})
        return
    done = "published" if outcome == "published" else "was published already"
    typer.echo(f"{destination}: revision {read.revision} {done}")


def _statement(path: Path, archive: Archive, examiner: ArchiveExaminer) -> ExaminedStatement:
    """One by which proxies would go back to this archive, now."""
    with path.open("rb") as file:
        content = file.read(LARGEST_STATEMENT + 1)
    try:
        said = examiner.statement(content)
    except BundleRefused as error:
        fail(f"{path}: {error}")
    if said.to != archive.revision:
        fail(f"{path}: is for {said.to}, and not for {archive.revision}")
    if said.expires <= time.time():
        fail(f"{path}: has expired")
    return ExaminedStatement(content=content, said=said)


def connect(token_file: Path | None, *, ca_file: Path | None, certificate: Path | None, key: Path | None) -> Connection:
    """How to reach a server. Raises `ConfigurationError` for a token file that cannot be used, and OSError."""
    token = os.environ.get(TOKEN_VARIABLE) or None
    if token_file is not None:
        token = read_tokens(token_file)[0]
    elif token is not None and not TOKEN.fullmatch(token):
        fail(f"${TOKEN_VARIABLE} is no token: 16 to 512 letters, digits and . _ ~ + / -")
    if certificate is None and key is not None:
        fail("--certificate-key needs --certificate")
    return Connection(token=token, trust=Trust(ca_file=ca_file, certificate=certificate, key=key))


def refuse_unsafe(url: str) -> None:
    """End with what is wrong with the address of a server."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        fail(f"{url}: is no URL")
    if not host or "@" in parts.netloc or parts.fragment:
        fail("a URL has a host, no user, no password and no fragment here; a token is read from a file")
    if parts.scheme == "http" and not is_localhost(host):
        fail(f"{url}: policy and token would be read on the way: only https leaves this machine")


@contextlib.contextmanager
def _target(
    destination: str,
    archive: Path,
    examiner: ArchiveExaminer,
    connection: Connection,
    *,
    endpoint: str | None,
    token_host: str | None,
) -> Iterator[Target]:
    scheme, separator, _ = destination.partition("://")
    if not separator:
        yield DirectoryTarget(_file(Path(destination), archive), examiner=examiner)
    elif scheme in ("http", "https"):
        refuse_unsafe(destination)
        address = destination if urlsplit(destination).path else f"{destination}/"
        url = f"{address}{archive.name}" if address.endswith("/") else address
        with WebTarget(url, connection=connection, examiner=examiner) as target:
            yield target
    elif scheme == "oci":
        reference = Reference.parse(destination)
        if reference is None:
            fail(f"{destination}: is no place in a registry, which is written oci://host/name:tag")
        known = login(reference.registry, os.environ)
        trusted = Connection(trust=connection.trust)
        with OciTarget(reference, login=known, connection=trusted, examiner=examiner, token_host=token_host) as target:
            yield target
    elif scheme == "s3":
        yield _s3(destination, endpoint, examiner, connection)
    else:
        fail(f"{destination}: publish to a directory, or to an https://, s3:// or oci:// address")


def _s3(destination: str, endpoint: str | None, examiner: ArchiveExaminer, connection: Connection) -> Target:
    from ostiary.distribution.s3 import S3Target  # imported here: botocore is an extra, and takes its time

    bucket, _, key = destination.removeprefix("s3://").partition("/")
    if not bucket or not key or key.endswith("/"):
        fail(f"{destination}: is no object, which is written s3://bucket/key")
    if endpoint is not None:
        refuse_unsafe(endpoint)
    ca_file = connection.trust.ca_file
    return S3Target(
        bucket, key, endpoint=endpoint, ca_file=None if ca_file is None else str(ca_file), examiner=examiner
    )


def _file(place: Path, archive: Path) -> Path:
    path = place if place.name.endswith(SUFFIX) and not place.is_dir() else place / archive.name
    if not path.parent.is_dir():
        fail(f"{path.parent}: there is no such directory")
    if path.is_dir():
        fail(f"{path}: is a directory, and is not replaced")
    if not NAME.fullmatch(path.name):
        fail(f"{path}: a published bundle's name has letters, digits, '.', '_' and '-', and ends in {SUFFIX}")
    return path
