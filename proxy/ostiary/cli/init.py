"""`ostiary init`: a project to begin with, of nothing or of what OpenAPI documents say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated, Final

import typer

from ostiary.cli.output import note, visible
from ostiary.cli.project import Starter, texts
from ostiary.cli.writing import write_project
from ostiary.errors import ConfigurationError
from ostiary.policy.imports.names import service_name
from ostiary.policy.imports.openapi import ImportedService, read_openapi
from ostiary.policy.values import NAME_PATTERN, NO_NAME
from ostiary.policy.words import quoted
from ostiary.target import OWN_SERVICE

_NAME: Final = re.compile(NAME_PATTERN)


def command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it.")] = Path(),
    documents: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="[NAME=]FILE",
            help="An OpenAPI 3.0 or 3.1 document, whose operations become the endpoints of a service; again for more. "
            "The service is called after its title unless NAME says otherwise.",
        ),
    ] = None,
) -> None:
    """Write a project to begin with: configuration, policy with its tests, Makefile and CI.

    Nothing is overwritten: if a file is there already, nothing is written. What a document says that no endpoint can
    say is left out, which means denied, and told.
    """
    services = _imported(documents or [])
    written = write_project(directory, texts([Starter.of(name, service) for name, service in services.items()]))
    for service in services.values():
        for left_out in service.left_out:
            note(f"warning: {visible(str(left_out))}")
    for path in written:
        typer.echo(path)
    there = "" if directory.resolve() == Path.cwd() else f"cd {shlex.quote(str(directory))} && "
    note(f"Next: {there}make test check, then put your issuer and services into ostiary.yaml")


def _imported(documents: list[str]) -> dict[str, ImportedService]:
    """The services by name, or all mistakes of all documents."""
    found: dict[str, ImportedService] = {}
    mistakes: list[str] = []
    for written in documents:
        named, path = _split(written)
        if named is not None and not _NAME.fullmatch(named):
            mistakes.append(f"{path}: {quoted(named)} {NO_NAME}")
            continue
        try:
            service = read_openapi(path)
        except ConfigurationError as error:
            mistakes += error.mistakes
            continue
        name = service_name(service.title) if named is None else named
        if not name:
            mistakes.append(f"{path}: its title names no service: say which, --from NAME={path}")
        elif name == OWN_SERVICE:
            reserved = f"the service name {quoted(name)} is reserved for the proxy itself"
            mistakes.append(f"{path}: {reserved}: say another, --from NAME={path}")
        elif name in found:
            mistakes.append(f"{path}: {found[name].source} is the service {name!r}, too: name one, --from NAME={path}")
        else:
            found[name] = service
    if mistakes:
        raise ConfigurationError(mistakes)
    return found


def _split(written: str) -> tuple[str | None, Path]:
    """`NAME=FILE`, or a file that is called so: what is there, or whose directory has the sign in its name, is one."""
    name, sign, file = written.partition("=")
    if not sign or "/" in name or Path(written).exists():
        return None, Path(written)
    return name, Path(file)
