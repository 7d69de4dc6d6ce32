"""`ostiary access`: ask for access, answer what others ask, and give it back, over the API of a proxy's own host."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ostiary.cli import blocks
from ostiary.cli.api import Api, AsJson, Token, TokenFile, Url, Why, instant, seconds
from ostiary.cli.lazy import Group
from ostiary.cli.output import fail, note, print_json, print_table, reporting_mistakes, visible

app = typer.Typer(cls=Group, help="Just-in-time access: ask for it, approve, and take it back.", no_args_is_help=True)
app.add_typer(blocks.app, name="block")
app.command("unblock")(blocks.unblock)
app.command("blocks")(blocks.blocks)

_LOOK: Final = 0.5
"""Seconds between two looks at what is waited for."""

Id = Annotated[str, typer.Argument(help="The id of a request, as `request` prints it.")]


@app.callback()
def _access() -> None:
    """Just-in-time access: ask for it, approve, and take it back.

    Exit status 0: done. 1: it was refused, or ended. 2: the command itself is wrong.
    """


@app.command("request")
def request(
    url: Url,
    service: Annotated[str | None, typer.Argument(help="The service.")] = None,
    endpoints: Annotated[list[str] | None, typer.Argument(help="Its endpoints, by name.")] = None,
    denial: Annotated[
        Path | None, typer.Option("--from-denial", help="Ask for what the body of a 403 was about: a file, or -.")
    ] = None,
    duration: Annotated[str | None, typer.Option("--for", help="For how long: 30s, 10m, 1h.")] = None,
    reason: Why = "",
    uses: Annotated[int | None, typer.Option("--uses", min=1, help="For how many requests.")] = None,
    caller: Annotated[str | None, typer.Option("--as", help="As which caller, where you are several.")] = None,
    emergency: Annotated[
        bool, typer.Option("--emergency", help="At once and by yourself; an approver reviews it afterwards.")
    ] = False,
    key: Annotated[str | None, typer.Option("--key", help="Asked again with the same key, it is the same.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask for nothing: say who would have to approve it.")
    ] = False,
    token: Token = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Ask for access. Prints the id of the request.

    What is asked for is a service with its endpoints; or, with --from-denial, what the body of a 403 was about, for as
    long as can be had where --for is left out.
    """
    access = _given(duration=None if duration is None else seconds(duration), max_uses=uses, emergency=emergency)
    if denial is not None:
        if service is not None or caller is not None or dry_run:
            fail("--from-denial says what is asked for, and as whom: give no service, no --as and no --dry-run")
        with Api(url, token, token_file) as api:
            _ask_by(api, _read_denial(denial), access, reason=reason, key=key, as_json=as_json)
        return
    if service is None or not endpoints or duration is None:
        fail("give a service, its endpoints and --for; or --from-denial")
    asked = {"service": service, "endpoints": endpoints, "reason": reason} | access
    asked |= _given(caller=caller, dry_run=dry_run)
    with Api(url, token, token_file) as api:
        found = api.post("requests", asked, key=key or secrets.token_hex(16))
    if as_json:
        print_json(found)
    elif dry_run:
        typer.echo(_would_be(found))
    else:
        _print_asked(found)
    if dry_run and found["state"] == "denied":
        raise typer.Exit(1)


def _given(**members: Any) -> dict[str, Any]:
    """Those that say something."""
    return {name: value for name, value in members.items() if value is not None and value is not False}


def _read_denial(path: Path) -> dict[str, Any]:
    """The body of a 403, if it says where access can be asked for."""
    try:
        content = sys.stdin.buffer.read() if path == Path("-") else path.read_bytes()
        document: Any = json.loads(content)
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    except ValueError:
        fail(f"{path}: is not the body of a 403: not JSON")
    denied: dict[str, Any] = document if isinstance(document, dict) else {}
    offered = denied.get("access_request")
    if not isinstance(offered, dict) or not {"endpoint", "binding_token"} <= offered.keys():
        fail(f"{path}: has no access_request: this denial is not one that can be lifted by asking", status=1)
    return denied


def _ask_by(
    api: Api, denied: dict[str, Any], access: dict[str, Any], *, reason: str, key: str | None, as_json: bool
) -> None:
    offered = denied["access_request"]
    if not api.is_at(str(offered["endpoint"])):
        fail(f"the denial is of another proxy, {visible(str(offered['endpoint']))}, and this token is not for it")
    submission = {
        "denial": _given(
            evaluation_id=denied.get("evaluation_id"),
            expires_at=offered.get("expires_at"),
            binding_token=offered["binding_token"],
        ),
        "context": {"business_justification": reason},
        "requested_access": access,
    }
    found = api.post("tasks", submission, key=key)
    if as_json:
        print_json(found)
        return
    task = found["task"]
    awaited = task.get("progress", {}).get("awaiting")
    note(f"{task['status']}: approvers {', '.join(awaited)}" if awaited else task["status"])
    typer.echo(task["id"])


def _print_asked(found: dict[str, Any]) -> None:
    note(f"{found['state']}: approvers {', '.join(found['approvers'])}")
    typer.echo(found["id"])


def _would_be(found: dict[str, Any]) -> str:
    """In words what would become of a request."""
    if found["state"] == "pending":
        needed = found["approvals"]["needed"]
        return f"would be pending: approvers {', '.join(found['approvers'])}, approvals needed {needed}"
    reason = visible(found["steps"][1]["reason"])
    return f"would be {'refused' if found['state'] == 'denied' else 'granted'} at once: {reason}"


@app.command("list")
def list_(
    url: Url,
    to_approve: Annotated[bool, typer.Option("--to-approve", help="What waits for you to answer.")] = False,
    state: Annotated[str | None, typer.Option("--state", help="In these states, with commas.")] = None,
    token: Token = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Your requests and grants, or those of others that you may answer."""
    given = {"to": "approve" if to_approve else None, "state": state}
    with Api(url, token, token_file) as api:
        found = api.get("requests", {name: value for name, value in given.items() if value is not None})
    if as_json:
        print_json(found)
        return
    rows = [
        [
            one["id"],
            one["state"],
            visible(one["holder"]["subject"]),
            one["service"],
            ",".join(one["endpoints"]),
            f"{one['duration']}s",
            instant(one["expires_at"]),
            visible(one["reason"]),
        ]
        for one in found["requests"]
    ]
    print_table(["id", "state", "holder", "service", "endpoints", "for", "until", "reason"], rows)


@app.command("show")
def show(
    id: Id,  # noqa: A002
    url: Url,
    digest: Annotated[
        bool, typer.Option("--digest", help="Only what an approval has to name: that of what is asked for.")
    ] = False,
    token: Token = None,
    token_file: TokenFile = None,
) -> None:
    """All there is to know of a request, as JSON."""
    with Api(url, token, token_file) as api:
        found = api.get(f"requests/{id}")
    if digest:
        typer.echo((found["extension"] or found)["digest"])
    else:
        print_json(found)


@app.command("approve")
def approve(
    id: Id,  # noqa: A002
    url: Url,
    reason: Why = "",
    digest: Annotated[
        str | None, typer.Option("--digest", help="That of what you have read. Needed where nobody can be asked.")
    ] = None,
    token: Token = None,
    token_file: TokenFile = None,
) -> None:
    """Approve a request, or the extension that it asks for.

    Shows what is asked, and asks whether to approve it. Where there is no terminal, --digest says what was read.
    """
    with Api(url, token, token_file) as api:
        seen = api.get(f"requests/{id}")
        asked = seen["extension"] or seen
        note(
            f"{visible(seen['holder']['subject'])} asks for {seen['service']}: {', '.join(seen['endpoints'])},"
            f" {asked['duration']} s{' more' if seen['extension'] else ''}: {visible(asked['reason'])}"
        )
        if digest is None:
            _confirm(asked["digest"])
        found = api.post(f"requests/{id}/approve", {"digest": digest or asked["digest"], "reason": reason})
    typer.echo(found["state"])


def _confirm(digest: str) -> None:
    """Go on if whoever reads what was shown says yes."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        fail(f"nobody can be asked here: what you have read is approved with --digest {digest}")
    if not typer.confirm("Approve it?", err=True):
        raise typer.Exit(1)


@app.command("extend")
def extend(
    id: Id,  # noqa: A002
    url: Url,
    duration: Annotated[str, typer.Option("--for", help="How much longer, from when it is approved: 10m.")],
    reason: Why = "",
    token: Token = None,
    token_file: TokenFile = None,
) -> None:
    """Ask for more time; or give it, as an approver."""
    with Api(url, token, token_file) as api:
        found = api.post(f"requests/{id}/extend", {"duration": seconds(duration), "reason": reason})
    typer.echo("asked" if found["extension"] else f"until {instant(found['expires_at'])}")


def _simple(step: str, sentence: str) -> None:
    def command(id: Id, url: Url, reason: Why = "", token: Token = None, token_file: TokenFile = None) -> None:  # noqa: A002
        with Api(url, token, token_file) as api:
            typer.echo(api.post(f"requests/{id}/{step}", {"reason": reason})["state"])

    command.__doc__ = sentence
    app.command(step)(command)


_simple("deny", "Refuse a request, or the extension that it asks for.")
_simple("cancel", "Take back your request before it is answered.")
_simple("drop", "Give your grant back before it ends.")
_simple("revoke", "Take a grant away, or end a request that waits.")
_simple("review", "Close the review of an emergency.")


@app.command("revoke-all")
def revoke_all(
    url: Url,
    service: Annotated[str | None, typer.Option("--service", help="Those for this service.")] = None,
    endpoint: Annotated[str | None, typer.Option("--endpoint", help="Those for this endpoint.")] = None,
    caller: Annotated[str | None, typer.Option("--caller", help="Those that were had as this caller.")] = None,
    issuer: Annotated[str | None, typer.Option("--issuer", help="Those of one person: whose issuer is this,")] = None,
    subject: Annotated[str | None, typer.Option("--subject", help="and whose subject is this.")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="All that you are an approver of.")] = False,
    reason: Why = "",
    token: Token = None,
    token_file: TokenFile = None,
) -> None:
    """Take away all grants that fit, and that you are an approver of, and end the requests that wait."""
    which = {"service": service, "endpoint": endpoint, "caller": caller, "issuer": issuer, "subject": subject}
    asked = {name: value for name, value in which.items() if value is not None}
    if not asked and not everything:
        fail("of which: --service, --endpoint, --caller, --issuer with --subject, or --everything")
    count = 0
    with Api(url, token, token_file) as api:
        while not (found := api.post("revocations", asked | {"reason": reason}))["complete"]:
            count += found["count"]
            note(f"{count} so far")
    typer.echo(f"{count + found['count']} revoked")


@app.command("wait")
def wait(
    id: Id,  # noqa: A002
    url: Url,
    command: Annotated[list[str] | None, typer.Argument(help="After --: what to run with access.")] = None,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds, after which it has failed.")] = 3600,
    token: Token = None,
    token_file: TokenFile = None,
) -> None:
    """Wait until a request is answered; with a command, run it then and give the grant back after it."""
    with Api(url, token, token_file) as api:
        until = time.monotonic() + timeout
        while (found := api.get(f"requests/{id}"))["state"] == "pending":
            if time.monotonic() > until:
                fail(f"{id}: not answered within {timeout:g} s", status=1)
            time.sleep(_LOOK)
        if found["state"] != "active":
            fail(f"{id}: {found['state']}", status=1)
        if not command:
            typer.echo(found["state"])
            return
        try:
            status = subprocess.run(command, check=False).returncode  # noqa: S603 - it is what was asked for
        finally:
            api.post(f"requests/{id}/drop", {"reason": "done"}, refusable=True)
    raise typer.Exit(status if status >= 0 else 128 - status)


@app.command("test-webhook")
def try_webhook(
    name: Annotated[str, typer.Argument(help="Its name in `grants.webhooks`.")],
    config: Annotated[
        Path, typer.Option("-c", "--config", metavar="FILE", help="The configuration; ./ostiary.yaml if left out.")
    ] = Path("ostiary.yaml"),
) -> None:
    """Send a webhook a message that says it is a test. Reads the configuration, and takes no proxy."""
    from ostiary.cli.webhooks import tried

    with reporting_mistakes():
        failure = tried(name, config)
    if failure is not None:
        fail(f"{name}: it {failure}", status=1)
    typer.echo(f"{name}: it was taken")
