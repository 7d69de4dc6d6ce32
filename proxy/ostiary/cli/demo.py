"""`ostiary demo`"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from ostiary.cli.output import fail, note, print_json, print_table
from ostiary.demo.place import latest, new_demo
from ostiary.demo.run import running_demo
from ostiary.demo.tour import Outcome, Tour, guide
from ostiary.logs import configure_logging
from ostiary.opa.install import OpaNotFound
from ostiary.opa.probe import OpaNotReady


def command(
    check: Annotated[bool, typer.Option("--check", help="Take the tour by itself, print a table, and end.")] = False,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where its files go; a new private directory if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: as JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the log.")] = False,
) -> None:
    """Run an issuer, three services, OPA and the proxy on this machine, and show what they do."""
    # The tour kills OPA: what the supervisor says of that is no news unless the log was asked for.
    configure_logging(level="info" if verbose else "critical", form="text")
    level = "info" if verbose else "error"
    place = new_demo(directory)
    stay = f"its files stay in {place}"
    try:
        outcomes = asyncio.run(_check(place, level) if check else _show(place, level))
    except (OpaNotFound, OpaNotReady, OSError) as error:
        fail(str(error), f"The demo did not come up; {stay}.", status=1)
    except asyncio.CancelledError:  # a signal ended it
        if not check:
            typer.echo(f"The demo has ended; {stay}.")
        elif directory is None:
            shutil.rmtree(place, ignore_errors=True)
        raise typer.Exit(1 if check else 0) from None
    if as_json:
        print_json([outcome.document() for outcome in outcomes])
    else:
        _print(outcomes)
    held = all(outcome.held for outcome in outcomes)
    if held and directory is None:
        shutil.rmtree(place, ignore_errors=True)
    if place.exists():
        note(f"The demo has ended; {stay}.")
    if not held:
        raise typer.Exit(1)


async def _check(place: Path, level: str) -> list[Outcome]:
    _cancel_when_signalled()
    async with running_demo(place, level=level, progress=note) as demo:
        return await Tour(demo).check()


async def _show(place: Path, level: str) -> list[Outcome]:
    """Runs until a signal cancels it."""
    _cancel_when_signalled()
    async with running_demo(place, level=level, progress=note) as demo:
        with latest(place):
            typer.echo(guide(demo, ostiary=_this_command()))
            await asyncio.get_running_loop().create_future()
    return []


def _this_command() -> str:
    """What calls this very program in another terminal, quoted for a shell.

    Its name alone, if PATH finds it there too: not if that is so only because its environment is activated here.
    """
    program = Path(sys.argv[0]).absolute()
    if program.name != "ostiary" or not os.access(program, os.X_OK):
        return shlex.join([sys.executable, "-m", "ostiary"])
    found = shutil.which("ostiary")
    environment = os.environ.get("VIRTUAL_ENV")
    if found is None or not program.samefile(found) or (environment and program.is_relative_to(environment)):
        return shlex.quote(str(program))
    return "ostiary"


def _cancel_when_signalled() -> None:
    """SIGINT and SIGTERM cancel this task, which ends every part in order, wherever it is."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)


def _print(outcomes: list[Outcome]) -> None:
    rows = [("ok" if outcome.held else "FAILED", outcome.shows, outcome.seen) for outcome in outcomes]
    print_table(("", "what it shows", "seen"), rows)
    held = sum(outcome.held for outcome in outcomes)
    typer.echo(f"{held} held, {len(outcomes) - held} fell short")
