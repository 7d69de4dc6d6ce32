"""The command `ostiary`. One module per command; this one puts them together and shows mistakes."""

from __future__ import annotations

import typer

from ostiary.cli import bundle, check, demo, explain, map, opa, run, schema, token, version
from ostiary.cli.output import reporting_mistakes

app = typer.Typer(
    name="ostiary",
    help="A zero-standing-privilege access proxy: every request is decided by Open Policy Agent.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.command)
app.command("run")(run.command)
app.command("check")(check.command)
app.command("explain")(explain.command)
app.command("map")(map.command)
app.command("token")(token.command)
app.command("schema")(schema.command)
app.command("version")(version.command)
app.add_typer(bundle.app, name="bundle")
app.add_typer(opa.app, name="opa")


def main() -> None:
    """Exit status 0: done. 1: the answer is no. 2: something that people wrote, or the command itself, is wrong."""
    with reporting_mistakes():
        app()
