"""`ostiary schema`"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer

from ostiary.config import config_schema
from ostiary.grants.openapi import openapi_document
from ostiary.policy.schema import cases_schema, permissions_schema, schema_text


class File(StrEnum):
    PERMISSIONS = "permissions"
    CONFIG = "config"
    CASES = "cases"
    ACCESS = "access"


_SCHEMAS: Final = {
    File.PERMISSIONS: permissions_schema,
    File.CONFIG: config_schema,
    File.CASES: cases_schema,
    File.ACCESS: openapi_document,
}


def command(
    which: Annotated[
        File, typer.Argument(help="permissions.yaml, ostiary.yaml or *_cases.yaml; or the API of access, as OpenAPI.")
    ],
) -> None:
    """Print the JSON Schema of a file format, for editors.

    Or, with `access`, the OpenAPI document of the API of access, for programs that make clients of it.
    """
    typer.echo(schema_text(_SCHEMAS[which]()), nl=False)
