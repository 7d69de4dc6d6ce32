"""`ostiary candidate`: what a candidate would have decided otherwise, as the running proxy counts it."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ostiary.cli.health import asked
from ostiary.cli.output import fail, print_json, print_table
from ostiary.config import CONFIGURATION, load_config
from ostiary.config.fields import TcpAddress, UnixAddress

_DEADLINE = 10.0
"""Seconds: a proxy that is busy has three to ask its workers."""


def command(
    config: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE", help="The configuration; ./ostiary.yaml.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what the candidate beside a running proxy's policy would have decided otherwise.

    That is `candidate` of its configuration, and what was counted since it is served.
    Exit status 1: the candidate is not served.
    """
    loaded = load_config(config or CONFIGURATION, os.environ)
    if loaded.candidate is None:
        fail(f"{config or CONFIGURATION}: there is no candidate in it")
    found = _health(loaded.admin_address).get("candidate")
    if not isinstance(found, dict):
        fail("the proxy runs without a candidate: restart it with this configuration")
    if as_json:
        print_json(found)
    else:
        _print(found)
    if found["state"] != "serving":
        raise typer.Exit(1)


def _health(address: TcpAddress | UnixAddress) -> Mapping[str, Any]:
    if isinstance(address, UnixAddress) and not address.path.exists():
        fail(f"no proxy runs: there is no socket {address.path}")
    try:
        found = json.loads(asked(str(address), "/health", deadline=_DEADLINE)[1])
    except (OSError, http.client.HTTPException, ValueError) as error:
        fail(f"no proxy answers at {address}: {error}")
    return found if isinstance(found, dict) else {}


def _print(found: Mapping[str, Any]) -> None:
    differences = found["differences"]
    rows = [
        (each["kind"], each["caller"] or "", f"{each['service']}/{each['endpoint'] or ''}", f"{each['count']:,}")
        for each in differences
    ]
    if rows:
        print_table(("difference", "caller", "endpoint", "count"), rows)
    differ = sum(each["count"] for each in differences) + found["unnamed_differences"]
    candidate = "the candidate" if found["revision"] is None else f"candidate {found['revision']}"
    typer.echo(
        f"{candidate} is {found['state']}: {found['compared']:,} decisions compared, {differ:,} differ; "
        f"{found['dropped']:,} dropped, {found['unanswered']:,} unanswered"
    )
