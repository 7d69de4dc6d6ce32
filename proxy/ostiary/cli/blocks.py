"""`ostiary access block`, `unblock` and `blocks`: who is refused at once, over the API of a proxy's own host."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ostiary.cli.api import Api, AsJson, Token, TokenFile, Url, Why, instant, seconds
from ostiary.cli.lazy import Group
from ostiary.cli.output import fail, note, print_json, print_table, visible

app = typer.Typer(cls=Group, help="Refuse a subject, a token or a key from now on, everywhere.", no_args_is_help=True)

_JWT: Final = re.compile(rb"([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")

For = Annotated[str | None, typer.Option("--for", help="For how long: 10m, 2h. Until it is lifted, if left out.")]
Myself = Annotated[bool, typer.Option("--myself", help="Also if it is you who is refused then.")]
Issuer = Annotated[str | None, typer.Option("--issuer", help="Whose token or key it is.")]


@app.callback()
def _block() -> None:
    """Refuse a subject, a token or a key from now on, everywhere. Prints the id of the block.

    What is blocked already stays so: a later end, or none, is taken over.
    """


@app.command("subject")
def subject(
    issuer: Annotated[str, typer.Argument(help="The issuer; of a workload its trust domain, spiffe://example.org.")],
    name: Annotated[str, typer.Argument(metavar="SUBJECT", help="The subject; of a workload its SPIFFE ID.")],
    url: Url,
    reason: Why,
    duration: For = None,
    myself: Myself = False,
    token: Token = None,
    token_file: TokenFile = None,
) -> None:
    """Refuse somebody, and whoever acts for somebody as them."""
    with Api(url, token, token_file) as api:
        _post(api, {"issuer": issuer, "subject": name}, reason, duration, myself)


@app.command("token")
def token_(
    url: Url,
    reason: Why,
    issuer: Issuer = None,
    jti: Annotated[str | None, typer.Option("--jti", help="The token's id, with --issuer.")] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="The file that the token is in. It is not sent: its digest is.")
    ] = None,
    digest: Annotated[
        str | None, typer.Option("--digest", help="SHA-256 of the token without its signature, in hexadecimal digits.")
    ] = None,
    duration: For = None,
    myself: Myself = False,
    token: Token = None,
    token_file: TokenFile = None,
) -> None:
    """Refuse one token."""
    if from_ is not None:
        said: dict[str, str | None] = {"issuer": issuer, "jti": jti, "digest": digest or _digest_in(from_)}
    else:
        said = {"issuer": issuer, "jti": jti, "digest": digest}
    with Api(url, token, token_file) as api:
        _post(api, said, reason, duration, myself)


@app.command("key")
def key(
    url: Url,
    reason: Why,
    issuer: Issuer = None,
    kid: Annotated[str | None, typer.Option("--kid", help="The id of a key of the issuer, with --issuer.")] = None,
    thumbprint: Annotated[
        str | None,
        typer.Option("--thumbprint", help="RFC 7638: of an issuer's key, a client's own, or a certificate's."),
    ] = None,
    certificate: Annotated[
        str | None, typer.Option("--certificate", help="A client's certificate: its file (PEM), or its SHA-256.")
    ] = None,
    duration: For = None,
    myself: Myself = False,
    token: Token = None,
    token_file: TokenFile = None,
) -> None:
    """Refuse all that a key proves: an issuer's, a client's own, or that of a client's certificate."""
    said = {
        "issuer": issuer,
        "kid": kid,
        "thumbprint": thumbprint,
        "certificate": None if certificate is None else _certificate(certificate),
    }
    with Api(url, token, token_file) as api:
        _post(api, said, reason, duration, myself)


def unblock(
    id: Annotated[str, typer.Argument(help="The id of a block, as `block` and `blocks` print it.")],  # noqa: A002
    url: Url,
    reason: Why,
    token: Token = None,
    token_file: TokenFile = None,
) -> None:
    """Lift a block."""
    with Api(url, token, token_file) as api:
        typer.echo(api.post(f"blocks/{id}/lift", {"reason": reason})["state"])


def blocks(
    url: Url,
    state: Annotated[str, typer.Option("--state", help="In these states, with commas.")] = "active",
    token: Token = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """What is blocked."""
    found: list[dict[str, Any]] = []
    given = {"state": state}
    with Api(url, token, token_file) as api:
        while True:
            answer = api.get("blocks", given)
            found += answer["blocks"]
            if answer["next"] is None:
                break
            given["after"] = answer["next"]
    if as_json:
        print_json({"blocks": found})
        return
    rows = [
        [
            one["id"],
            one["state"],
            one["by"],
            visible(" ".join(one["blocked"].values())),
            instant(one["ends_at"]),
            visible(one["steps"][0]["actor"]["subject"]),
            visible(one["steps"][0]["reason"]),
        ]
        for one in found
    ]
    print_table(["id", "state", "by", "blocked", "until", "actor", "reason"], rows)


def _post(api: Api, said: dict[str, str | None], reason: str, duration: str | None, myself: bool) -> None:
    body: dict[str, Any] = {name: value for name, value in said.items() if value is not None} | {"reason": reason}
    if duration is not None:
        body["duration"] = seconds(duration)
    if myself:
        body["myself"] = True
    found = api.post("blocks", body)
    end = "it is lifted" if found["ends_at"] is None else instant(found["ends_at"])
    note(f"blocked by its {found['by']} until {end}")
    typer.echo(found["id"])


def _digest_in(path: Path) -> str:
    """What a token is known by, whatever its signature: of some kinds there are two that are good."""
    try:
        found = _JWT.fullmatch(path.read_bytes().strip())
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    if found is None:
        fail(f"{path}: not a token")
    return hashlib.sha256(found[1]).hexdigest()


def _certificate(said: str) -> str:
    """As it is written by `openssl x509 -fingerprint -sha256` too."""
    digest = said.replace(":", "").lower()
    if _SHA256.fullmatch(digest) is not None:
        return digest
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        return x509.load_pem_x509_certificate(Path(said).read_bytes()).fingerprint(SHA256()).hex()
    except OSError as error:
        fail(f"{visible(said)}: {error.strerror}: neither a file nor a SHA-256")
    except ValueError:
        fail(f"{visible(said)}: not a certificate in PEM")
