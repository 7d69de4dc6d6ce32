"""`ostiary bundle rollout`: which proxy has which revision, as the bundle server was told."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias

import orjson
import typer

from ostiary.cli.output import fail, print_json, print_table, visible
from ostiary.cli.publishing import CaOption, CertificateOption, KeyOption, TokenOption, connect, refuse_unsafe
from ostiary.distribution.publishing import PublishFailed
from ostiary.distribution.reports import SILENT
from ostiary.distribution.web import Connection, answers, said

State: TypeAlias = Literal["current", "behind", "refused", "failing", "unknown", "silent"]

_PAUSE: Final = 0.5
_HEADINGS: Final = ("proxy", "bundle", "revision", "state", "for", "heard")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    proxy: str
    bundle: str
    resource: str
    revision: str
    state: State
    since: float
    heard: float
    error: str | None
    refused: str | None


def command(
    url: Annotated[str, typer.Argument(metavar="URL", help="The bundle server, https://host.")],
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Wait so long for all to have what is published.")
    ] = 0,
    token_file: TokenOption = None,
    ca_file: CaOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show which proxy has which revision of its policy, and for how long.

    `current` has the revision of its bundle that is published; `behind` has another one; `refused` is one whose proxy
    does not use what its OPA has; `failing` has a bundle, but could not get or load the latest; of the bundle of an
    `unknown` one nothing is published under its name, or its label `resource`; `silent` has not reported for 15
    minutes, and does not count. Exit status 0: all are current. 1: not all are, none has reported, or nobody answers.
    """
    refuse_unsafe(url)
    connection = connect(token_file, ca_file=ca_file, certificate=certificate, key=key)
    deadline = time.monotonic() + wait
    while True:
        try:
            document = _status(f"{url.rstrip('/')}/status", connection)
        except PublishFailed as error:
            fail(str(error), status=1)
        rows = rows_of(document, now=time.time())
        done = is_done(rows)
        if done or time.monotonic() >= deadline:
            break
        time.sleep(_PAUSE)
    if as_json:
        print_json({**document, "done": done})
    else:
        _print(rows)
    if not done:
        raise typer.Exit(1)


def is_done(rows: list[Row]) -> bool:
    """Whether there are proxies, and all that report have what is published."""
    heard = [row.state for row in rows if row.state != "silent"]
    return bool(heard) and set(heard) == {"current"}


def rows_of(document: Mapping[str, Any], *, now: float) -> list[Row]:
    """What a server's `/status` says at this instant."""
    published = {name: one["revision"] for name, one in document["bundles"].items()}
    return [
        Row(
            proxy=one["proxy"],
            bundle=one["bundle"],
            resource=one["resource"] or one["bundle"],
            revision=one["revision"] or "-",
            state=_state(one, published, now=now),
            since=one["since"],
            heard=one["heard"],
            error=one["error"],
            refused=one.get("refused"),
        )
        for one in document["proxies"]
    ]


def _state(one: Mapping[str, Any], published: Mapping[str, str], *, now: float) -> State:
    if now - one["heard"] > SILENT:
        return "silent"
    if one.get("refused") is not None:
        return "refused"
    if one["error"] is not None:
        return "failing"
    if one["published"] is None:
        return "unknown"
    has = {one["revision"], one.get("counts") or one["revision"]}
    return "current" if has == {published[one["published"]]} else "behind"


def _status(url: str, connection: Connection) -> dict[str, Any]:
    with answers(url), connection.open(url) as client:
        response = client.get(url)
    if response.status_code != 200:
        raise PublishFailed(said(url, response.status_code, response.content))
    try:
        document = orjson.loads(response.content)
        rows_of(document, now=0.0)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise PublishFailed(f"{url}: is no bundle server of ostiary") from None
    return dict(document)


def _print(rows: list[Row]) -> None:
    now = time.time()
    print_table(
        _HEADINGS,
        [
            (
                visible(row.proxy),
                visible(row.bundle),
                visible(row.revision),
                row.state,
                _span(now - row.since),
                f"{_span(now - row.heard)} ago",
            )
            for row in rows
        ],
    )
    if not rows:
        typer.echo(
            "nobody has reported yet: let OPA's `status` plugin report here, or to a proxy with `opa.report_to`",
            err=True,
        )
    for row in rows:
        if row.refused is not None:
            typer.echo(f"{visible(row.proxy)}: {visible(row.refused)}", err=True)
        if row.error is not None:
            typer.echo(f"{visible(row.proxy)}: {visible(row.error)}", err=True)
        elif row.state == "unknown":
            told = f"nothing is published as {visible(row.resource)}: name it so in OPA's bundles"
            typer.echo(f"{visible(row.proxy)}: {told}, or by the label 'resource'", err=True)


def _span(seconds: float) -> str:
    seconds = max(int(seconds), 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
