"""`ostiary schema`"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer

from ostiary.config import config_schema
from ostiary.policy.schema import cases_schema, permissions_schema, schema_text


class File(StrEnum):
    PERMISSIONS = "permissions"
    CONFIG = "config"
    CASES = "cases"


_SCHEMAS: Final = {File.PERMISSIONS: permissions_schema, File.CONFIG: config_schema, File.CASES: cases_schema}


def command(which: Annotated[File, typer.Argument(help="permissions.yaml, ostiary.yaml or *_cases.yaml.")]) -> None:
    """Print the JSON Schema of a file format, for editors."""
    typer.echo(schema_text(_SCHEMAS[which]()), nl=False)
