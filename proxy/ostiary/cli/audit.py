"""`ostiary audit`: what can be asked of the audit, and whether it is whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from ostiary.audit.findings import Remark, Report
from ostiary.audit.keys import read_keys
from ostiary.audit.signed import CheckpointBook
from ostiary.audit.verify import verify as verify_trail
from ostiary.cli.output import note, print_json, print_table
from ostiary.config import Config, load_config
from ostiary.credential import PublicKey, load_signing_key
from ostiary.errors import ConfigurationError

app = typer.Typer(help="The audit: read it, search it, and prove that it is whole.", no_args_is_help=True)

_CONFIGURATION: Final = Path("ostiary.yaml")
_UNKNOWN: Final = 2

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
    because a key is missing.
    """
    places = _places(directories or [], config)
    if keys is not None or checkpoints or checkpoint_key:
        places = Places(
            audit=places.audit,
            keys=keys or places.keys,
            checkpoints=checkpoints or places.checkpoints,
            checkpoint_keys=checkpoint_key or places.checkpoint_keys,
        )
    for directory in [*places.audit, *(checkpoints or [])]:
        if not directory.is_dir():
            raise ConfigurationError([f"{directory}: there is no such directory"])
    signed = [directory for directory in places.checkpoints if directory.is_dir()]
    book = CheckpointBook(signed, keys=_public_keys(places.checkpoint_keys)) if signed else None
    report = verify_trail(
        places.audit,
        keys={} if places.keys is None else read_keys(places.keys),
        checkpoints=book,
        partial=partial,
    )
    if as_json:
        print_json(report.document())
    else:
        _print(report)
    if report.verdict != "whole":
        raise typer.Exit(1 if report.verdict == "findings" else _UNKNOWN)


@app.command("key")
def key(config: Configured = None) -> None:
    """Print the public key of the checkpoints, in PEM, for whoever verifies elsewhere."""
    path = load_config(config or _CONFIGURATION, os.environ).checkpoint_key_file
    public = _public_key(path)
    typer.echo(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(), nl=False)


def _places(directories: list[Path], config: Path | None) -> Places:
    """Those of the configuration. Without one, the directories that were named are all there is."""
    if config is None and directories and not _CONFIGURATION.exists():
        return Places(audit=directories, keys=None, checkpoints=[], checkpoint_keys=[])
    loaded: Config = load_config(config or _CONFIGURATION, os.environ)
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
        private = load_pem_private_key(load_signing_key(path, algorithm="EdDSA").pem(), password=None)
        found = private.public_key()
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
