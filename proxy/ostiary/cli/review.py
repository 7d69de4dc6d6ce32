"""`ostiary bundle diff` and `report`: what a change of policy lets through, before it is deployed."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from ostiary import assets
from ostiary.cli.output import fail, print_json, print_lines
from ostiary.cli.sources import needed_opa
from ostiary.errors import ConfigurationError
from ostiary.opa.archive import ArchiveError, read_contents
from ostiary.policy.bundle import MANIFEST, build_bundle
from ostiary.policy.rego import Opa
from ostiary.policy.review.compare import compare
from ostiary.policy.review.markdown import render
from ostiary.policy.review.rules import compare_rules
from ostiary.policy.review.snapshot import Published, read_published
from ostiary.policy.review.words import in_words
from ostiary.policy.revisions import is_revision, write_revision

_POLICY = "A policy's sources, a built bundle, an archive (.tar.gz), or sources in git: REV:path."


class FailOn(StrEnum):
    WIDENING = "widening"


def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help=_POLICY)],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The same, after the change.")],
    fail_on: Annotated[
        FailOn | None, typer.Option("--fail-on", help="Exit with 1 if more is let through, or if that cannot be told.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, which 'ostiary bundle report' reads.")] = False,
) -> None:
    """Say what NEW lets through that OLD does not, and the reverse: who gains and loses which endpoint, and why.

    What counts is what is let through, not how it is written. WIDENS marks what lets more through, UNJUDGED what nobody
    can tell by reading it, such as a changed rule in Rego; it counts as a widening.
    """
    before, after = _published(old), _published(new)
    found = compare(before, after, rules=compare_rules(before, after, _opa))
    if as_json:
        print_json(found.document())
    else:
        print_lines(in_words(found), hang=12)
    if fail_on is not None and found.widening:
        raise typer.Exit(1)


def report(
    documents: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="What 'ostiary bundle diff --json' printed; - reads it here.")
    ],
) -> None:
    """Write documents as Markdown, for a comment on a pull request."""
    typer.echo(render([_document(name) for name in documents]), nl=False)


def _opa() -> Opa:
    return Opa(needed_opa())


def _published(name: str) -> Published:
    path = Path(name)
    if is_revision(name):
        return _built(lambda place: write_revision(name, place), name)
    if not path.exists():
        raise ConfigurationError([f"{name}: there is no such file or directory"])
    if path.is_file():
        try:
            with path.open("rb") as file:
                return read_published(read_contents(file), label=name)
        except ArchiveError as error:
            fail(f"{name}: {error}")
    if (path / MANIFEST).exists():
        return read_published(_files(path), label=name)
    return _built(None, name)


def _built(write: Callable[[Path], None] | None, name: str) -> Published:
    """From sources, compiled here. Mistakes are told of the sources as they were named."""
    with tempfile.TemporaryDirectory(prefix="ostiary-diff-") as directory:
        source, out = Path(directory) / "source", Path(directory) / "bundle"
        try:
            if write is not None:
                write(source)
            else:
                source = Path(name)
            built = build_bundle(source, out, opa=needed_opa(), sequence=0, rego_root=assets.rego())
        except ConfigurationError as error:
            raise ConfigurationError([line.replace(str(source), name) for line in error.mistakes]) from error
        return read_published(_files(built.path), label=name, built_here=True)


def _files(bundle: Path) -> dict[str, bytes]:
    """Every file of a built directory by its name there, in memory."""
    return {each.relative_to(bundle).as_posix(): each.read_bytes() for each in bundle.rglob("*") if each.is_file()}


def _document(name: str) -> Mapping[str, Any]:
    content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    try:
        found = orjson.loads(content)
    except ValueError as error:
        raise ConfigurationError([f"{name}: is not JSON"]) from error
    if not isinstance(found, dict):
        raise ConfigurationError([f"{name}: is not a document of 'ostiary bundle diff --json'"])
    return found
