"""`ostiary explain`"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ostiary import assets
from ostiary.cli.output import fail, note, print_json, print_lines
from ostiary.cli.question import (
    AnsweredByProxy,
    Asker,
    Question,
    read_address,
    read_claims,
    read_subject,
    read_time,
    refusal_hint,
)
from ostiary.cli.sources import needed_opa, policy_directory
from ostiary.config import CONFIGURATION, Config, load_config
from ostiary.demo.place import latest_demo
from ostiary.errors import AccessError
from ostiary.policy.bundle import MANIFEST, build_bundle
from ostiary.policy.explain import ask, assumptions, in_words, outcome, read_map, specimen


def command(
    request: Annotated[
        list[str], typer.Argument(metavar="REQUEST", help='Method and URL: "GET http://orders.localhost/orders/42".')
    ],
    caller: Annotated[str, typer.Option(help="A caller of the permission map.")],
    policy: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A policy's sources or a built bundle; the configuration's if left out."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "-c",
            "--config",
            metavar="FILE",
            help="The configuration; without --policy ./ostiary.yaml, else the demo's.",
        ),
    ] = None,
    claim: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A claim of the token; JSON, or text as it is.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="The token's subject, where the caller does not say it.")] = None,
    source_ip: Annotated[str, typer.Option(metavar="ADDRESS", help="Where the request comes from.")] = "127.0.0.1",
    at: Annotated[str | None, typer.Option(metavar="TIME", help="When: 2026-09-21T10:00:00Z; now if left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say which permission allows a request, or each reason why not and what would.

    The caller is one that has no grants, and of claims those alone that make it this caller, unless --claim adds some.

    Exit status 0: allowed or observed, or answered by the proxy itself. 1: denied, or refused before a decision.
    """
    question = Question.parse(" ".join(request))
    claims, subject = read_claims(claim or []), read_subject(subject)
    instant, address = read_time(at), read_address(source_ip)
    loaded = _configuration(config, needed=policy is None)
    with _bundle(policy, loaded) as bundle:
        permission_map = read_map(bundle)
        asker = Asker.of(specimen(permission_map, caller), subject=subject, claims=claims)
        try:
            target = question.target(loaded, permission_map["services"])
            asker = asker.seen_by(loaded)
        except AnsweredByProxy:
            _answered(question, as_json=as_json)
            return
        except AccessError as refusal:
            _refused(question, refusal, refusal_hint(refusal, loaded, question), as_json=as_json)
        asked = asker.request(question, target, at=instant, source_ip=address)
        explanation = ask(needed_opa(), bundle, asked, rego_root=assets.rego())
    notes = [*asker.notes, *assumptions(explanation, caller, claims)]
    if as_json:
        print_json(
            {"outcome": outcome(explanation["decision"]), "input": asked.document(), **explanation, "notes": notes}
        )
    else:
        print_lines(in_words(asked, explanation, permission_map["endpoints"], notes), hang=12)
    if explanation["decision"]["allow"] is not True:
        raise typer.Exit(1)


def _answered(question: Question, *, as_json: bool) -> None:
    what = "the proxy answers this itself, to anyone: no identity is needed and no policy is asked"
    if as_json:
        print_json({"outcome": "answered", "request": question.line})
    else:
        print_lines([f"ANSWERED  {question.line}", what], hang=0)


def _refused(question: Question, refusal: AccessError, hint: str, *, as_json: bool) -> NoReturn:
    """The proxy says no before it asks the policy."""
    if as_json:
        said = {"reasons": refusal.reasons, "title": refusal.sentence, "detail": refusal.detail, "hint": hint}
        print_json({"outcome": "refused", "request": question.line, "status": refusal.status, **said})
        raise typer.Exit(1)
    lines = [
        f"REFUSED  {question.line}",
        f"status      {refusal.status}, before the policy is asked",
        f"reason      {refusal.reason}: {refusal.sentence}",
    ]
    lines += [f"detail      {refusal.detail}"] if refusal.detail else []
    lines += [f"would do    {hint}"] if hint else []
    print_lines(lines, hang=12)
    raise typer.Exit(1)


def _configuration(path: Path | None, *, needed: bool) -> Config | None:
    """The configuration that is named; else, where it is needed, the one here, and then that of the demo that runs."""
    if path is None:
        if not needed:
            return None
        path = _found_configuration()
        note(f"policy: the one of {path}")
    return load_config(path, os.environ)


def _found_configuration() -> Path:
    if CONFIGURATION.exists():
        return CONFIGURATION
    demo = latest_demo()
    if demo is None:
        fail(
            f"there is no {CONFIGURATION} here and no demo runs: name the configuration with -c FILE, "
            "or the policy with --policy DIR"
        )
    return demo / CONFIGURATION


@contextlib.contextmanager
def _bundle(policy: Path | None, config: Config | None) -> Iterator[Path]:
    """A built bundle: the one that is named, the configuration's, or one built here from sources."""
    if policy is None:
        if config is None or config.opa.managed is None:
            fail("the configuration has an OPA that others run, whose bundle is not here: name it with --policy DIR")
        yield config.opa.managed.bundle
        return
    if (policy_directory(policy) / MANIFEST).exists():
        yield policy
        return
    with tempfile.TemporaryDirectory(prefix="ostiary-explain-") as place:
        built = build_bundle(policy, Path(place) / "bundle", opa=needed_opa(), sequence=0, rego_root=assets.rego())
        yield built.path
