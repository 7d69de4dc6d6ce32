"""`ostiary bundle build`, `sign`, `verify`, `inspect`; `diff` and `report` are in `review`, `test` in `trial`;
`publish`, `serve`, `rollout` and `rollback` in modules of their own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from ostiary import assets
from ostiary.cli import publishing, review, rollback, rollout, serving, trial
from ostiary.cli.examiner import AlgorithmOption, ScopeOption
from ostiary.cli.lazy import Group
from ostiary.cli.output import fail, note, print_json, print_table
from ostiary.cli.sources import needed_opa, policy_directory
from ostiary.opa.archive import ArchiveError, Contents, Verification, read_archive, signed
from ostiary.opa.archive import verify as verify_signature
from ostiary.policy.archive import SUFFIX, pack
from ostiary.policy.archive import sign as sign_archive
from ostiary.policy.bundle import Bundle, build_bundle
from ostiary.policy.rego import Opa

app = typer.Typer(cls=Group, help="Policy bundles: what OPA loads.", no_args_is_help=True)

_LAST_SEQUENCE = 10**18 - 1

_Archive = Annotated[Path, typer.Argument(metavar="ARCHIVE", help="A bundle that was built as a file, .tar.gz.")]
_KeyId = Annotated[str, typer.Option("--key-id", metavar="ID", help="The id of the key that the signature names.")]
_Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.callback()
def _bundle() -> None:
    """Policy bundles: what OPA loads."""


@app.command("build")
def build(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="The directory with permissions.yaml and *.rego.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="OUT", help="The bundle directory to write, or an archive, .tar.gz."),
    ],
    sequence: Annotated[
        int | None,
        typer.Option(min=0, max=_LAST_SEQUENCE, help="The revision's sequence; the commit count if left out."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Compile DIR into the bundle OUT: a directory, which OPA loads as it is, or an archive to publish. Without tests.

    Every mistake is told, and OUT is then left as it was. Warnings do not keep it from being built.
    """
    policy = policy_directory(source)
    _refuse_other_archives(output)
    try:
        built = _built(policy, output, opa=needed_opa(), sequence=sequence)
    except OSError as error:
        fail(f"{output}: cannot be written: {error.strerror}")
    warnings = [*built.warnings, *_unordered(policy, output, built, sequence)]
    for warning in warnings:
        note(f"warning: {warning}")
    if as_json:
        print_json({"path": str(output), "revision": built.revision, "warnings": warnings})
        return
    typer.echo(f"{output}: revision {built.revision}")


def _unordered(source: Path, output: Path, built: Bundle, sequence: int | None) -> list[str]:
    """That nobody chose the sequence 0 of an archive. A directory is for the machine that it is built on."""
    if sequence is not None or not built.revision.startswith("0-") or not output.name.endswith(SUFFIX):
        return []
    told = "no commits are counted, so the sequence is 0, and nobody can tell an older archive of it from a newer one"
    return [f"{source}: {told}: give each a higher --sequence"]


def _refuse_other_archives(output: Path) -> None:
    """A name that looks like an archive of another kind would be that of a directory."""
    if output.name.endswith((".tar", ".tgz", ".zip", ".gz")) and not output.name.endswith(SUFFIX):
        fail(f"{output}: an archive is written as {SUFFIX}; a directory is not called so")


def _built(source: Path, output: Path, *, opa: Path, sequence: int | None) -> Bundle:
    if not output.name.endswith(SUFFIX):
        return build_bundle(source, output, opa=opa, sequence=sequence, rego_root=assets.rego())
    with tempfile.TemporaryDirectory(prefix="ostiary-bundle-") as directory:
        place = Path(directory) / "bundle"
        built = build_bundle(source, place, opa=opa, sequence=sequence, rego_root=assets.rego())
        pack(place, output)
        return built


@app.command("sign")
def sign(
    archive: _Archive,
    key: Annotated[Path, typer.Option(metavar="FILE", help="The private key, PEM.")],
    key_id: _KeyId,
    scope: ScopeOption = "ostiary",
    algorithm: AlgorithmOption = "ES256",
) -> None:
    """Sign ARCHIVE, in place of a signature that it has. What is signed is what it holds, file by file.

    The proxy that is to demand the signature is told the key, its id and the scope in `opa.managed.verification`.
    """
    contents = _contents(archive)
    opa = Opa(needed_opa())
    sign_archive(archive, key=key, key_id=key_id, scope=scope, algorithm=algorithm, opa=opa)
    typer.echo(f"{archive}: revision {contents.revision} signed as {key_id}")


@app.command("verify")
def verify(
    archive: _Archive,
    key: Annotated[Path, typer.Option(metavar="FILE", help="The public key, PEM.")],
    key_id: _KeyId,
    scope: ScopeOption = "ostiary",
    algorithm: AlgorithmOption = "ES256",
) -> None:
    """Say whether a proxy that demands this signature would load ARCHIVE: exit status 1 if not."""
    contents = _contents(archive)
    opa = Opa(needed_opa())
    try:
        verify_signature(contents, Verification(key=key, key_id=key_id, scope=scope, algorithm=algorithm))
    except ArchiveError as error:
        fail(f"{archive}: {error}", status=1)
    against = opa.verify(archive, key=key, key_id=key_id, scope=scope, algorithm=algorithm)
    if against is not None:
        fail(f"{archive}: {against}", status=1)
    typer.echo(f"{archive}: revision {contents.revision}, signed as {key_id} for {scope}")


@app.command("inspect")
def inspect(archive: _Archive, as_json: _Json = False) -> None:
    """Print what ARCHIVE says it is: its revision, its files, and who signed it. Nothing of it is verified."""
    contents = _contents(archive)
    signature = _signature(archive, contents)
    if as_json:
        print_json({"revision": contents.revision, "signature": signature, "files": contents.files})
        return
    typer.echo(f"revision   {contents.revision}")
    by = None if signature is None else f"{signature['algorithm']}, key {signature['key_id']}, for {signature['scope']}"
    typer.echo(f"signature  {by or 'none'}")
    typer.echo("")
    print_table(("file", "bytes"), [(name, str(size)) for name, size in sorted(contents.files.items())])


def _contents(archive: Path) -> Contents:
    try:
        with archive.open("rb") as file:
            return read_archive(file)
    except ArchiveError as error:
        fail(f"{archive}: {error}")


def _signature(archive: Path, contents: Contents) -> dict[str, Any] | None:
    if contents.signature is None:
        return None
    try:
        found = signed(contents.signature)
    except ArchiveError as error:
        fail(f"{archive}: {error}")
    return {"algorithm": found.algorithm, "key_id": found.key_id, "scope": found.scope}


# In the order of the help, behind those above.
app.command("test")(trial.command)
app.command("diff")(review.diff)
app.command("report")(review.report)
app.command("publish")(publishing.command)
app.command("serve")(serving.command)
app.command("rollout")(rollout.command)
app.command("rollback")(rollback.command)
