"""`ostiary bundle publish`"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from ostiary.addresses import is_localhost
from ostiary.cli.examiner import ArchiveExaminer
from ostiary.cli.output import fail, print_json
from ostiary.distribution.access import TOKEN, read_tokens
from ostiary.distribution.archives import LARGEST, NAME, Archive, BundleRefused
from ostiary.distribution.directory import DirectoryTarget
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
        typer.Argument(metavar="DESTINATION", help="A directory or file, or https://host/name.tar.gz."),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace a newer bundle, or what is none. Proxies refuse an older one.")
    ] = False,
    token_file: TokenOption = None,
    ca_file: CaOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Publish ARCHIVE, in the place of an older one, as a whole, and never in the place of a newer one.

    Exit status 0: it is published. 1: it is not, because a newer one is, or nobody answers. 2: ARCHIVE is no bundle.
    """
    examiner = ArchiveExaminer()
    with archive.open("rb") as file:
        content = file.read(LARGEST + 1)
    try:
        read = Archive.read(content, examiner)
    except BundleRefused as error:
        fail(f"{archive}: {error}")
    try:
        connection = connect(token_file, ca_file=ca_file, certificate=certificate, key=key)
        with _target(destination, archive=archive, examiner=examiner, connection=connection) as target:
            outcome = publish(read, target, force=force)
    except PublishFailed as error:
        fail(f"{destination}: {error}" if not str(error).startswith(destination) else str(error), status=1)
    if as_json:
        print_json({"destination": destination, "revision": str(read.revision), "outcome": outcome})
        return
    done = "published" if outcome == "published" else "was published already"
    typer.echo(f"{destination}: revision {read.revision} {done}")


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
def _target(destination: str, *, archive: Path, examiner: ArchiveExaminer, connection: Connection) -> Iterator[Target]:
    scheme, separator, _ = destination.partition("://")
    if not separator:
        yield DirectoryTarget(_file(Path(destination), archive), examiner=examiner)
    elif scheme in ("http", "https"):
        refuse_unsafe(destination)
        url = f"{destination}{archive.name}" if destination.endswith("/") else destination
        with WebTarget(url, connection=connection, examiner=examiner) as target:
            yield target
    else:
        fail(f"{destination}: publish to a directory, or to an https:// URL")


def _file(place: Path, archive: Path) -> Path:
    path = place if place.name.endswith(SUFFIX) and not place.is_dir() else place / archive.name
    if not path.parent.is_dir():
        fail(f"{path.parent}: there is no such directory")
    if path.is_dir():
        fail(f"{path}: is a directory, and is not replaced")
    if not NAME.fullmatch(path.name):
        fail(f"{path}: a published bundle's name has letters, digits, '.', '_' and '-', and ends in {SUFFIX}")
    return path
