"""`ostiary audit`: what can be asked of the audit, and whether it is whole."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from ostiary import __version__
from ostiary.audit.findings import Remark, Report
from ostiary.audit.keys import read_keys
from ostiary.audit.ocsf import api_activity
from ostiary.audit.ocsf_blocks import entity_management
from ostiary.audit.ocsf_grants import user_access
from ostiary.audit.query import QueryUnavailable
from ostiary.audit.query import query as search
from ostiary.audit.reading import Selection, follow, is_observed, last, requests, sizes
from ostiary.audit.signed import CheckpointBook
from ostiary.audit.verify import verify as verify_trail
from ostiary.cli.lazy import Group
from ostiary.cli.output import fail, json_line, note, print_json, print_table
from ostiary.config import CONFIGURATION, Config, load_config
from ostiary.credential import PublicKey, load_signing_key
from ostiary.errors import REASONS, ConfigurationError
from ostiary.policy.words import closest, quoted

app = typer.Typer(cls=Group, help="The audit: read it, search it, and prove that it is whole.", no_args_is_help=True)

_UNKNOWN: Final = 2
_UNWITNESSED: Final = "there is no checkpoint: the ends of chains, whole chains or all of them could be gone unseen"
_AGO: Final = re.compile(r"([0-9]{1,9})([smhd])")
_TEXT_OF_A_RULE: Final = "policy-denied: "
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Directories = Annotated[
    list[Path] | None,
    typer.Argument(metavar="DIR...", help="Directories with audit files; the configuration's if left out."),
]
Configured = Annotated[
    Path | None, typer.Option("-c", "--config", metavar="FILE", help="The configuration; ./ostiary.yaml if left out.")
]


@app.callback()
def _audit() -> None:
    """The audit: read it, search it, and prove that it is whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where an audit is, with what it is proved by. The key is that of the checkpoints: private, or its public half."""

    audit: list[Path]
    keys: Path | None
    checkpoints: list[Path]
    checkpoint_keys: list[Path]


@app.command("verify")
def verify(
    directories: Directories = None,
    config: Configured = None,
    keys: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The keys of the chains; the configuration's if left out.")
    ] = None,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Checkpoints; the configuration's if left out. May be given several times."),
    ] = None,
    checkpoint_key: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="PEM of the checkpoints' public key. May be given several times."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="The oldest files are elsewhere, and not missed here.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Name every record that was altered, removed, reordered or cut off, and every line that is not the proxy's.

    It may run while the audit is written. Exit status 0: the audit is whole. 1: it is not. 2: it cannot be told,
    because a key is missing, or because there are no checkpoints.
    """
    places = _places(directories or [], config)
    audit, keys = _existing(places.audit), keys or places.keys
    signed = [one for one in _existing(checkpoints or []) or places.checkpoints if one.is_dir()]
    book = CheckpointBook(signed, keys=_public_keys(checkpoint_key or places.checkpoint_keys)) if signed else None
    report = verify_trail(
        audit,
        keys={} if keys is None else read_keys(keys),
        checkpoints=book,
        partial=partial,
    )
    if book is None or not book.workers:
        report.add(Remark(kind="unwitnessed", what=_UNWITNESSED))
    if as_json:
        print_json(report.document())
    else:
        _print(report)
    if report.verdict != "whole":
        raise typer.Exit(1 if report.verdict == "findings" else _UNKNOWN)


@app.command("key")
def key(config: Configured = None) -> None:
    """Print the public key of the checkpoints, in PEM, for whoever verifies elsewhere."""
    path = load_config(config or CONFIGURATION, os.environ).checkpoint_key_file
    public = _public_key(path)
    typer.echo(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(), nl=False)


def _places(directories: list[Path], config: Path | None) -> Places:
    """Those of the configuration. Without one, the directories that were named are all there is."""
    if config is None and directories and not CONFIGURATION.exists():
        return Places(audit=directories, keys=None, checkpoints=[], checkpoint_keys=[])
    loaded: Config = load_config(config or CONFIGURATION, os.environ)
    return Places(
        audit=directories or [loaded.audit.path],
        keys=loaded.audit_keys,
        checkpoints=[loaded.audit_checkpoints],
        checkpoint_keys=[loaded.checkpoint_key_file] if loaded.checkpoint_key_file.exists() else [],
    )


def _public_keys(paths: list[Path]) -> Mapping[str, Ed25519PublicKey]:
    keys = [_public_key(path) for path in paths]
    return {PublicKey.of(key).id: key for key in keys}


def _public_key(path: Path) -> Ed25519PublicKey:
    """The public half of a key of checkpoints, whichever half the file holds."""
    text = path.read_bytes()
    if b"PRIVATE KEY" in text:
        key = load_signing_key(path, algorithm="EdDSA", group_readable=True)  # only its public half is used
        found = load_pem_private_key(key.pem(), password=None).public_key()
    else:
        try:
            found = load_pem_public_key(text)
        except ValueError:
            raise ConfigurationError([f"{path}: is not a public key in PEM"]) from None
    if not isinstance(found, Ed25519PublicKey):
        raise ConfigurationError([f"{path}: is not an Ed25519 key, which checkpoints are signed with"])
    return found


def _print(report: Report) -> None:
    if report.remarks:
        print_table(("what", "file", "line", "seq", "decision", ""), [_row(one) for one in report.remarks])
    if any(one.kind == "key-missing" for one in report.remarks):
        note("the keys are where the configuration of the proxy says: name it by -c, or their directory by --keys")
    if report.untold:
        note(f"and {report.untold} findings more")
    chains = f"{len(report.chains)} chain{'' if len(report.chains) == 1 else 's'}"
    verdict = {
        "whole": "whole",
        "findings": "not whole",
        "unknown": "it cannot be told whether it is whole",
    }[report.verdict]
    typer.echo(f"{report.records} records of {chains}: {verdict}")


def _row(remark: Remark) -> tuple[str, ...]:
    cells = (remark.file, remark.line, remark.seq, remark.decision_id)
    return (remark.kind, *("" if cell is None else str(cell) for cell in cells), remark.what)


# reading

Caller = Annotated[str | None, typer.Option(metavar="NAME", help="Of this caller.")]
Service = Annotated[str | None, typer.Option(metavar="NAME", help="To this service.")]
Endpoint = Annotated[str | None, typer.Option(metavar="NAME", help="To this endpoint.")]
Reason = Annotated[str | None, typer.Option(metavar="REASON", help="With this reason: permission-missing.")]
Since = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Not before: 2026-11-22T15:16:30Z, or how long ago: 90s, 15m, 2h, 7d."),
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Before; written as for --since.")]
DecisionId = Annotated[str | None, typer.Option("--decision", metavar="ID", help="With this decision id.")]


@app.command("tail")
def tail(
    directories: Directories = None,
    config: Configured = None,
    count: Annotated[int, typer.Option("-n", "--lines", min=0, max=100_000, help="How many lines.")] = 20,
    following: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes, until Ctrl-C.")] = False,
    caller: Caller = None,
    service: Service = None,
    endpoint: Endpoint = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    as_json: Annotated[bool, typer.Option("--json", help="The lines as they are in the files.")] = False,
) -> None:
    """Show the last lines about requests, of all workers, in the order of their time."""
    selection = _selection(caller, service, endpoint, reason, since, until)
    places = _audit_directories(directories, config)
    now = sizes(places)
    for line in last(places, count, selection, until=now):
        typer.echo(_line(line, as_json=as_json))
    if following:
        with contextlib.suppress(KeyboardInterrupt):
            for line in follow(places, selection, since=now):
                typer.echo(_line(line, as_json=as_json))


@app.command("query")
def query(
    directories: Directories = None,
    config: Configured = None,
    caller: Caller = None,
    service: Service = None,
    endpoint: Endpoint = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    decision: DecisionId = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=10_000_000, help="The last so many.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Find requests: one row for each, with what came of it. Takes DuckDB: pip install 'ostiary[query]'.

    It reads what is there and proves nothing: that is what `ostiary audit verify` does.
    """
    selection = _selection(caller, service, endpoint, reason, since, until, decision)
    try:
        rows = search(_audit_directories(directories, config), selection, limit=limit)
    except QueryUnavailable as error:
        fail(str(error), status=1)
    if as_json:
        print_json(rows)
        return
    shown = ("time", "decision_id", "caller", "service", "endpoint", "method", "path", "status", "outcome", "reasons")
    print_table(shown, [tuple(_cell(row[name]) for name in shown) for row in rows])


@app.command("export")
def export(
    directories: Directories = None,
    config: Configured = None,
    form: Annotated[
        Literal["ocsf"],
        typer.Option(
            "--format", help="ocsf, 1.8.0: API Activity (6003), User Access (3005) and Entity Management (3004)."
        ),
    ] = "ocsf",
    caller: Caller = None,
    service: Service = None,
    endpoint: Endpoint = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
) -> None:
    """Print one event for each request and each step of a grant or block, one JSON object a line."""
    selection = _selection(caller, service, endpoint, reason, since, until)
    for line in requests(_audit_directories(directories, config), selection, steps=True):
        typer.echo(json_line(_FORMATS[form](line)))


def _ocsf(line: Mapping[str, Any]) -> dict[str, Any]:
    events = {"grant": user_access, "block": entity_management}
    return events.get(str(line.get("kind")), api_activity)(line, product_version=__version__)


_FORMATS: Final[Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {"ocsf": _ocsf}


def _audit_directories(directories: list[Path] | None, config: Path | None) -> list[Path]:
    return _existing(_places(directories or [], config).audit)


def _existing(directories: list[Path]) -> list[Path]:
    for directory in directories:
        if not directory.is_dir():
            raise ConfigurationError([f"{directory}: there is no such directory"])
    return directories


def _selection(
    caller: str | None,
    service: str | None,
    endpoint: str | None,
    reason: str | None,
    since: str | None,
    until: str | None,
    decision_id: str | None = None,
) -> Selection:
    # An audit may be older or newer than this version, so an unknown reason is looked for all the same.
    if reason is not None and reason not in REASONS and not reason.startswith(_TEXT_OF_A_RULE):
        note(f"--reason: {quoted(reason)} is no reason of this version{closest(reason, REASONS)}")
    return Selection(
        caller=caller,
        service=service,
        endpoint=endpoint,
        reason=reason,
        since=_instant("--since", since),
        until=_instant("--until", until),
        decision_id=decision_id,
    )


def _instant(option: str, text: str | None) -> str | None:
    """A time as the audit writes it."""
    if text is None:
        return None
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            instant = datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
        else:
            instant = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except (ValueError, OverflowError):
        fail(f"{option}: {text!r} is not a time, which is written 2026-11-22T15:16:30Z, or 15m for how long ago")
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _line(line: Mapping[str, Any], *, as_json: bool) -> str:
    if as_json:
        return json_line(line)
    # What is not known keeps its place: nobody is to take a service for a caller.
    about = (_cell(line.get(name)) or "-" for name in ("caller", "service", "endpoint", "method", "path"))
    end = (_cell(line.get(name)) for name in ("outcome", "status", "reasons", "detail"))
    words = (str(line.get("time")), str(line.get("decision_id")), str(line.get("kind")), *about, *_aside(line), *end)
    return " ".join(word for word in words if word)


def _aside(line: Mapping[str, Any]) -> Iterator[str]:
    """That a request is let through only because it is observed, and the shadow permission that it lacks."""
    if is_observed(line):
        yield "OBSERVED"
    result = line.get("result")
    if isinstance(result, Mapping) and result.get("shadow"):
        yield f"shadow={_cell(result['shadow'])}"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    # What a stranger sent may hold anything, and a terminal obeys some of it.
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
