"""The commands, put together. One module per command.

A command's module is imported when the command is used: the parts of a proxy take half a second to import, for which
`ostiary version` should not wait.
"""

from __future__ import annotations

from typing import Annotated, Final

import typer

from ostiary.cli.lazy import lazy_group

COMMANDS: Final = {
    "demo": "Run an issuer, three services, OPA and the proxy on this machine, and show what they do.",
    "init": "Write a project to begin with: configuration, policy with its tests, Makefile and CI.",
    "run": "Run the proxy until SIGTERM or SIGINT, which drain it. SIGHUP reads the configuration again.",
    "health": "Ask a proxy on this machine, or its OPA, how it is: for probes.",
    "check": "Check the configuration, the permission map, the Rego, and whether every part can be reached.",
    "explain": "Say which permission allows a request, or each reason why not and what would.",
    "map": "Show who may call what, as it is written.",
    "bundle": "Policy bundles: what OPA loads.",
    "access": "Just-in-time access: ask for it, approve, and take it back.",
    "replay": "Say which recorded decisions would be others with another policy.",
    "candidate": "Say what the candidate beside a running proxy's policy would have decided otherwise.",
    "audit": "The audit: read it, search it, and prove that it is whole.",
    "token": "Print a token of the demo's issuer.",
    "schema": "Print the JSON Schema of a file format, for editors.",
    "opa": "Open Policy Agent, the engine that decides.",
    "version": "Print the versions of ostiary and of what decides and parses for it.",
}
"""Every command, in the order of the help, with its line there. Each is the module of that name beside this one."""

app = typer.Typer(
    name="ostiary",
    cls=lazy_group(COMMANDS, package="ostiary.cli"),
    help="A zero-standing-privilege access proxy: every request is decided by Open Policy Agent.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        from ostiary.cli.version import command  # imported here: see above

        command()
        raise typer.Exit


@app.callback()
def _ostiary(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="The same as the command version.")
    ] = False,
) -> None:
    """A zero-standing-privilege access proxy: every request is decided by Open Policy Agent."""
