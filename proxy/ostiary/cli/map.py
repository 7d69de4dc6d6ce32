"""`ostiary map`: the access map."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ostiary.cli.output import console, print_json
from ostiary.policy.accessmap import access_map, dot, mermaid
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
    """Show who may call what, as it is written."""
    path = source / "permissions.yaml" if source.is_dir() else source
    rows = access_map(load_permissions(path), caller=caller, service=service)
    if as_json or form is Format.JSON:
        print_json([row.document() for row in rows])
    elif form is Format.MERMAID:
        typer.echo(mermaid(rows), nl=False)
    elif form is Format.DOT:
        typer.echo(dot(rows), nl=False)
    else:
        table = Table(box=None, pad_edge=False)
        for heading in ("caller", "service", "endpoint", "request", "kind", "when"):
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(
                row.caller, row.service, row.endpoint, f"{row.method} {row.path}", row.kind, "; ".join(row.when)
            )
        console().print(table)
