"""`ostiary bundle rollback`"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import TypeAdapter, ValidationError

from ostiary.cli.examiner import ArchiveExaminer
from ostiary.cli.output import fail
from ostiary.decision.revision import Revision
from ostiary.decision.rollback import SUFFIX, Statement
from ostiary.distribution.archives import LARGEST, BundleRefused
from ostiary.opa.archive import Algorithm
from ostiary.opa.rollback import sign_statement
from ostiary.policy.values import Duration

_LONGEST: Final = 7 * 86400
"""Seconds that a statement is good for: who goes back for longer builds the older policy under a higher sequence."""
_DURATION: Final[TypeAdapter[int]] = TypeAdapter(Annotated[int, Duration(least=60, most=_LONGEST, whole=True)])


def command(
    to: Annotated[
        str, typer.Option("--to", metavar="REVISION", help="The one that may be taken over, or its archive.")
    ],
    back_from: Annotated[
        str, typer.Option("--from", metavar="REVISION", help="The newest that is taken back, or its archive.")
    ],
    key: Annotated[Path, typer.Option(metavar="FILE", help="The private key, PEM: the one that signs bundles.")],
    key_id: Annotated[str, typer.Option("--key-id", metavar="ID", help="The id of the key that bundles name.")],
    expires: Annotated[str, typer.Option(metavar="DURATION", help="How long proxies may take it over: 60s to 168h.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help=f"The statement: beside the bundle, ARCHIVE{SUFFIX}.")
    ],
    scope: Annotated[str, typer.Option(metavar="SCOPE", help="What bundles are signed for.")] = "ostiary",
    algorithm: Annotated[Algorithm, typer.Option(help="How bundles are signed.")] = "ES256",
) -> None:
    """Sign a statement by which proxies go back to an older bundle. Nothing else makes them.

    The bundle itself is published again as it was: `ostiary bundle publish --rollback` does both. A proxy that has had
    a bundle active which is newer than --from does not believe the statement; one that went back takes over what is
    newer than --from, and not that again.
    """
    now = int(time.time())
    statement = Statement(
        back_from=_revision("--from", back_from),
        to=_revision("--to", to),
        scope=scope,
        expires=now + _duration(expires),
    )
    content = sign_statement(statement, key=key, key_id=key_id, algorithm=algorithm, now=now)
    try:
        beside = output.with_name(f".{output.name}.new")  # a proxy that looks now is to see all of it or nothing
        beside.write_bytes(content)
        beside.replace(output)
    except OSError as error:
        fail(f"{output}: cannot be written: {error.strerror}")
    until = datetime.fromtimestamp(statement.expires, UTC)
    typer.echo(f"{output}: back from {statement.back_from} to {statement.to}, until {until:%Y-%m-%dT%H:%M:%SZ}")


def _revision(option: str, text: str) -> Revision:
    """As it is written, or that of the archive with this name."""
    found = Revision.parse(text)
    if found is not None:
        return found
    try:
        with Path(text).open("rb") as file:
            return ArchiveExaminer().peek(file.read(LARGEST + 1))
    except OSError:
        fail(f"{option}: {text!r} is no revision, <sequence>-<digest>, and no archive of one")
    except BundleRefused as error:
        fail(f"{option}: {text}: {error}")


def _duration(text: str) -> int:
    try:
        return _DURATION.validate_python(text)
    except ValidationError as error:
        fail(f"--expires: {error.errors()[0]['msg']}")
