"""`ostiary replay`: recorded decisions, made again by a policy that is not deployed yet."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from ostiary.cli.candidates import POLICY, candidate
from ostiary.cli.output import fail, print_json, print_lines
from ostiary.cli.sources import needed_opa
from ostiary.config import CONFIGURATION, load_config
from ostiary.errors import ConfigurationError, PolicyUnavailable
from ostiary.models import Json
from ostiary.opa.client import OpaClient
from ostiary.opa.probe import OpaNotReady
from ostiary.opa.sidecar import ManagedOpa
from ostiary.policy.replay.pieces import STDIN, audit_paths, size_of
from ostiary.policy.replay.run import replay
from ostiary.policy.replay.tally import Tally, in_words

_DEADLINE: Final = 60.0
"""Seconds for one batch. Nobody waits for it but this command."""
_ALONE: Final = 16 * 1024 * 1024
"""Bytes up to which reading is not worth starting processes for."""


class FailOn(StrEnum):
    NEWLY_ALLOWED = "newly-allowed"
    NEWLY_DENIED = "newly-denied"


def command(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE...", help="Files of an audit (.ndjson, .ndjson.gz), its directories, or - for stdin."
        ),
    ] = None,
    bundle: Annotated[str, typer.Option("--bundle", metavar="NEW", help=POLICY)] = ...,  # type: ignore[assignment]
    audit: Annotated[
        list[Path] | None,
        typer.Option("--audit", metavar="FILE", help="The same as FILE. May be given several times."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("-c", "--config", metavar="FILE", help="Whose audit it is, if no FILE is named; ./ostiary.yaml."),
    ] = None,
    fail_on: Annotated[
        list[FailOn] | None,
        typer.Option(
            "--fail-on",
            help="Exit with 1 if there is such a decision, with 2 if a line is malformed. May be given twice.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, which 'ostiary bundle report' reads.")] = False,
) -> None:
    """Say which recorded decisions would be others with another policy.

    Every request is in the audit with what the policy was asked, and the policy's answer depends on nothing else. What
    cannot be replayed is counted, by why. Exit status 2: there was nothing to replay, or it could not be done.
    """
    tally, document = replayed(bundle, [*(files or []), *(audit or [])], config)
    if as_json:
        print_json(document)
    else:
        print_lines(list(in_words(tally)), hang=12)
    counts = tally.counts()
    if not counts.total():
        fail("there is no recorded decision that can be replayed")
    if any(counts[kind.value] for kind in fail_on or ()):
        raise typer.Exit(1)
    if fail_on and tally.malformed_count:
        lines = "1 line is" if tally.malformed_count == 1 else f"{tally.malformed_count:,} lines are"
        fail(f"{lines} malformed, so it is not known whether there is a decision to fail on")


def replayed(bundle: str, named: Sequence[Path], config: Path | None) -> tuple[Tally, dict[str, Json]]:
    """What came of it, and the same as the document that is reported. Raises `ConfigurationError`, and OSError."""
    paths = audit_paths(named or [load_config(config or CONFIGURATION, os.environ).audit.path])
    sizes = {path: size_of(path) for path in paths}
    binary = needed_opa()
    logging.getLogger("ostiary").addHandler(logging.NullHandler())  # what OPA warns of is about servers
    with candidate(bundle) as found, _progress(sizes) as passed, _readers(sizes) as (readers, ahead):
        try:
            tally, revision = asyncio.run(_replay(binary, found.path, paths, readers, ahead, passed))
        except OpaNotReady as error:
            raise ConfigurationError([f"{bundle}: OPA does not serve it: {error}"]) from error
        except PolicyUnavailable as error:
            raise ConfigurationError([f"{bundle}: {error.detail}"]) from error
    policy = {"policy": bundle, "revision": None if found.built_here else revision}
    return tally, tally.document(policy)


async def _replay(
    binary: Path, bundle: Path, paths: Sequence[Path], readers: Executor, ahead: int, passed: Callable[[str, int], None]
) -> tuple[Tally, str | None]:
    async with (
        ManagedOpa(binary=binary, bundle=bundle) as opa,
        OpaClient(address=opa.address, deadline=_DEADLINE) as client,
    ):
        return await replay(paths, client, readers=readers, ahead=ahead, passed=passed), opa.revision


@contextmanager
def _readers(sizes: dict[Path, int]) -> Iterator[tuple[Executor, int]]:
    """Who reads pieces, and how many of them may be under way."""
    if sum(sizes.values()) <= _ALONE and STDIN not in sizes:
        with ThreadPoolExecutor(1) as thread:
            yield thread, 2
        return
    count = os.cpu_count() or 1
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as processes:
        yield processes, count + 2


@contextmanager
def _progress(sizes: dict[Path, int]) -> Iterator[Callable[[str, int], None]]:
    """How much of the audit is read, for whoever watches."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _file, _bytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    total = None if STDIN in sizes else sum(sizes.values())
    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task, read = progress.add_task("replay", total=total), dict[str, int]()

        def passed(file: str, count: int) -> None:
            read[file] = count
            progress.update(task, completed=sum(read.values()))

        yield passed
