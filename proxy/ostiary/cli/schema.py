"""`ostiary schema`"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ostiary.config import config_schema
from ostiary.policy.schema import permissions_schema, schema_text


class File(StrEnum):
    PERMISSIONS = "permissions"
    CONFIG = "config"


def command(which: Annotated[File, typer.Argument(help="permissions.yaml or ostiary.yaml.")]) -> None:
    """Print the JSON Schema of a file format, for editors."""
    typer.echo(schema_text(permissions_schema() if which is File.PERMISSIONS else config_schema()), nl=False)
