"""`ostiary check`"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ostiary.cli.checks import Finding, check_policy, reach_parts
from ostiary.cli.output import console, print_json
from ostiary.config import check_agreement, load_config
from ostiary.errors import ConfigurationError
from ostiary.policy.model import load_permissions


def command(
    policy: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A directory with permissions.yaml and *.rego, as sources.")
    ] = None,
    config: Annotated[Path, typer.Option("-c", "--config", metavar="FILE", help="The configuration.")] = Path(
        "ostiary.yaml"
    ),
    offline: Annotated[bool, typer.Option("--offline", help="Look at files only; connect to nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Check the configuration, the permission map, the Rego, and whether every part can be reached.

    Exit status 0: all is well, warnings aside. 1: something is not.
    """
    findings: list[Finding] = []
    loaded = None
    try:
        loaded = load_config(config, os.environ)
        findings.append(Finding("configuration", "ok", str(config)))
    except ConfigurationError as error:
        findings += [Finding("configuration", "wrong", mistake) for mistake in error.mistakes]
    if policy is not None:
        found, rego = None, True
        try:
            found = load_permissions(policy / "permissions.yaml")
            findings.append(Finding("permission map", "ok", str(policy / "permissions.yaml")))
        except ConfigurationError as error:
            rego = False
            findings += [Finding("permission map", "wrong", mistake) for mistake in error.mistakes]
        if rego:
            findings += check_policy(policy)
        if loaded is not None and found is not None:
            findings += [Finding("agreement", "warning", sentence) for sentence in check_agreement(loaded, found)]
    if loaded is not None and not offline:
        findings += asyncio.run(reach_parts(loaded))
    _show(findings, as_json=as_json)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)


def _show(findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        print_json([finding.document() for finding in findings])
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("part", "state", "what"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        table.add_row(finding.part, finding.state, finding.what)
    console().print(table)
