"""`ostiary bundle build`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ostiary import assets
from ostiary.cli.output import fail, note, print_json
from ostiary.cli.sources import needed_opa, policy_directory
from ostiary.policy.bundle import build_bundle

app = typer.Typer(help="Policy bundles: what OPA loads.", no_args_is_help=True)

_LAST_SEQUENCE = 10**18 - 1


@app.callback()
def _bundle() -> None:
    """Policy bundles: what OPA loads."""


@app.command("build")
def build(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="The directory with permissions.yaml and *.rego.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="The bundle directory to write.")],
    sequence: Annotated[
        int | None,
        typer.Option(min=0, max=_LAST_SEQUENCE, help="The revision's sequence; the commit count if left out."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Compile DIR into the bundle directory OUT, which OPA and `opa test` load as it is.

    Every mistake is told, and OUT is then left as it was. Warnings do not keep it from being built.
    """
    opa = needed_opa()
    try:
        built = build_bundle(policy_directory(source), output, opa=opa, sequence=sequence, rego_root=assets.rego())
    except OSError as error:
        fail(f"{output}: cannot be written: {error.strerror}")
    for warning in built.warnings:
        note(f"warning: {warning}")
    if as_json:
        print_json({"path": str(built.path), "revision": built.revision, "warnings": list(built.warnings)})
        return
    typer.echo(f"{built.path}: revision {built.revision}")
