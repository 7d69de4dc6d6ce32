"""`ostiary bundle diff` and `report`: what a change of policy lets through, before it is deployed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from ostiary.cli.candidates import POLICY, candidate
from ostiary.cli.output import fail, print_json, print_lines
from ostiary.cli.sources import needed_opa
from ostiary.errors import ConfigurationError
from ostiary.opa.archive import ArchiveError, read_contents
from ostiary.policy.rego import Opa
from ostiary.policy.review.compare import compare
from ostiary.policy.review.markdown import NO_DOCUMENT, render
from ostiary.policy.review.rules import compare_rules
from ostiary.policy.review.snapshot import Published, read_published
from ostiary.policy.review.words import in_words


class FailOn(StrEnum):
    WIDENING = "widening"


def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help=POLICY)],
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
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="What 'ostiary bundle diff --json' or 'ostiary replay --json' printed; - reads it here.",
        ),
    ],
    audit: Annotated[
        list[Path] | None,
        typer.Option(
            "--audit",
            metavar="FILE",
            help="Also replay these files or directories of an audit with the NEW of the first diff.",
        ),
    ] = None,
    bundle: Annotated[
        str | None, typer.Option("--bundle", metavar="NEW", help="Replay them with this one instead.")
    ] = None,
) -> None:
    """Write documents as Markdown, for a comment on a pull request."""
    found = [(_called(name), _document(name)) for name in documents]
    if audit:
        from ostiary.cli.replay import replayed  # imported here: it is the parts of a proxy

        _, told = replayed(bundle or _new([document for _, document in found]), audit, None)
        found.append(("the replay", told))
    elif bundle is not None:
        fail("--bundle is for a replay: name the audit with --audit")
    typer.echo(render(found), nl=False)


def _new(documents: list[Mapping[str, Any]]) -> str:
    """What the first diff calls the newer policy."""
    named = [each["new"] for each in documents if each.get("kind") == "diff" and isinstance(each.get("new"), dict)]
    if not named:
        fail("no diff says which policy is to be asked: name it with --bundle")
    return str(named[0].get("policy"))


def _opa() -> Opa:
    return Opa(needed_opa())


def _published(name: str) -> Published:
    with candidate(name) as found:
        if found.path.is_dir():
            return read_published(_files(found.path), label=name, built_here=found.built_here)
        try:
            with found.path.open("rb") as file:
                return read_published(read_contents(file), label=name)
        except ArchiveError as error:
            fail(f"{name}: {error}")


def _files(bundle: Path) -> dict[str, bytes]:
    """Every file of a built directory by its name there, in memory."""
    return {each.relative_to(bundle).as_posix(): each.read_bytes() for each in bundle.rglob("*") if each.is_file()}


def _document(name: str) -> Mapping[str, Any]:
    content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    try:
        found = orjson.loads(content)
    except ValueError as error:
        raise ConfigurationError([f"{_called(name)}: is not JSON"]) from error
    if not isinstance(found, dict):
        raise ConfigurationError([f"{_called(name)}: {NO_DOCUMENT}"])
    return found


def _called(name: str) -> str:
    return "standard input" if name == "-" else name
