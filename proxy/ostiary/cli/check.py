"""`ostiary check`"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from ostiary.cli.checks import check_files, check_policy
from ostiary.cli.findings import Finding, ok, wrong
from ostiary.cli.output import note, print_json, print_table
from ostiary.cli.reach import reach_parts
from ostiary.cli.sources import policy_directory
from ostiary.cli.stores import look_at_grants
from ostiary.cli.webhooks import look_at_webhooks
from ostiary.config import CONFIGURATION, Config, load_config
from ostiary.errors import ConfigurationError


def command(
    policy: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="A directory with permissions.yaml and *.rego, as sources.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("-c", "--config", metavar="FILE", help="The configuration; ./ostiary.yaml if left out."),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Look at files only; connect to nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Check the configuration, the permission map, the Rego, and whether every part can be reached.

    With DIR and no configuration here, the policy alone is checked. Nothing that runs is disturbed.

    Exit status 0: all is well, warnings aside. 1: something is not.
    """
    logging.getLogger("ostiary").addHandler(logging.NullHandler())  # what the parts log is told as a finding
    findings: list[Finding] = []
    loaded: Config | None = None
    if config is None and policy is not None and not CONFIGURATION.exists():
        note(f"there is no {CONFIGURATION} here: the policy alone is checked")
    else:
        path = config or CONFIGURATION
        try:
            loaded = load_config(path, os.environ)
            findings += ok("configuration", str(path))
        except ConfigurationError as error:
            findings += wrong("configuration", error)
    if policy is not None:
        try:
            findings += check_policy(policy_directory(policy), loaded, offline=offline)
        except ConfigurationError as error:
            findings += wrong("permission map", error)
    if loaded is not None:
        findings += check_files(loaded)
        if loaded.grants is not None:
            findings += asyncio.run(look_at_grants(loaded.grants, offline=offline))
            findings += look_at_webhooks(loaded)
    if loaded is not None and not offline:
        findings += asyncio.run(reach_parts(loaded))
    if as_json:
        print_json([finding.document() for finding in findings])
    else:
        print_table(("part", "state", "what"), [(each.part, each.state, each.what) for each in findings])
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)
