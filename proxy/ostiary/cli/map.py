"""`ostiary map`: the access map."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ostiary.cli.output import note, print_json, print_table, watched, width
from ostiary.cli.sources import permissions_file
from ostiary.policy.accessmap import AccessMap, access_map, observed_notes, outline
from ostiary.policy.diagrams import dot, mermaid
from ostiary.policy.model import load_permissions


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    MERMAID = "mermaid"
    DOT = "dot"


def command(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="The directory with permissions.yaml, or that file.")],
    caller: Annotated[str | None, typer.Option(help="This caller only.")] = None,
    service: Annotated[str | None, typer.Option(help="This service only.")] = None,
    form: Annotated[Format, typer.Option("--format", help="How to show it.")] = Format.TABLE,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Show who may call what, as it is written.

    As a table, it is grouped by caller for a person, and one line an access where the output is piped.
    """
    found = access_map(load_permissions(permissions_file(source)), caller=caller, service=service)
    if as_json or form is Format.JSON:
        print_json(found.document())
    elif form is Format.MERMAID:
        typer.echo(mermaid(found), nl=False)
    elif form is Format.DOT:
        typer.echo(dot(found), nl=False)
    elif watched():
        typer.echo(outline(found, width=width()))
    else:
        _print_flat(found)


def _print_flat(found: AccessMap) -> None:
    headings = ("caller", "service", "endpoint", "request", "kind", "credential", "when")
    rows = [
        (
            access.caller,
            access.service,
            access.endpoint.name,
            access.request,
            access.kind,
            access.credential,
            "; ".join(part for part in (access.terms, *access.conditions) if part),
        )
        for access in found.accesses
    ]
    print_table(headings, rows)
    for each in observed_notes(found):
        note(each)
