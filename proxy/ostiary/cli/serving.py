"""`ostiary bundle serve`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ostiary.addresses import is_loopback
from ostiary.cli.examiner import AlgorithmOption, KeyIdOption, ScopeOption, examiner_for
from ostiary.cli.output import fail
from ostiary.distribution.access import Access, TokenFile
from ostiary.logs import configure_logging


def command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory of published bundles, *.tar.gz.")],
    address: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 is any.")
    ] = "127.0.0.1:9400",
    readers: Annotated[
        list[Path] | None,
        typer.Option("--reader-tokens", metavar="FILE", help="Tokens of those who read. May be given several times."),
    ] = None,
    publishers: Annotated[
        list[Path] | None,
        typer.Option("--publisher-tokens", metavar="FILE", help="Tokens of those who publish, too."),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--tls-certificate", metavar="FILE", help="The server's certificate chain, PEM.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key, PEM.")] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option("--client-ca", metavar="FILE", help="Whose clients' certificates admit readers, PEM."),
    ] = None,
    publisher_names: Annotated[
        list[str] | None,
        typer.Option("--publisher-name", metavar="NAME", help="A URI, DNS or common name whose certificate publishes."),
    ] = None,
    verification_key: Annotated[
        Path | None,
        typer.Option("--verification-key", metavar="FILE", help="Serve only what this public key has signed."),
    ] = None,
    key_id: KeyIdOption = None,
    scope: ScopeOption = "ostiary",
    algorithm: AlgorithmOption = "ES256",
    connections: Annotated[int, typer.Option(min=1, help="The most connections at a time.")] = 10_000,
    per_peer: Annotated[
        int, typer.Option("--connections-per-peer", min=1, help="And from one address, or /64 of IPv6.")
    ] = 1000,
) -> None:
    """Serve the bundles in DIR to OPAs, which learn of another one at once, until SIGTERM or SIGINT.

    Other than on loopback it takes TLS, and tokens or client certificates. A token file has a token a line, and is
    read again when it changes.
    """
    configure_logging(level="info", form="text")
    if not directory.is_dir():
        fail(f"{directory}: there is no such directory")
    host, port = _address(address)
    if (certificate is None) != (key is None):
        fail("--tls-certificate and --tls-key belong together")
    access = Access(
        readers=[TokenFile(path) for path in readers or ()],
        publishers=[TokenFile(path) for path in publishers or ()],
        certificates=client_ca is not None,
        publisher_names=publisher_names or (),
    )
    if client_ca is not None and certificate is None:
        fail("--client-ca needs --tls-certificate: without TLS there are no certificates of clients")
    if publisher_names and client_ca is None:
        fail("--publisher-name needs --client-ca: nobody else says whose name it is")
    if not is_loopback(host):
        if certificate is None:
            fail(f"{host} is not loopback: policy and tokens would be read on the way; add --tls-certificate")
        if access.open:
            fail(f"{host} is not loopback: say who may read, by --reader-tokens or --client-ca")
    examiner = examiner_for(verification_key, key_id=key_id, scope=scope, algorithm=algorithm)
    from ostiary import bundle_server  # imported here: a second that the other commands have no use for

    try:
        bundle_server.serve(
            directory,
            host=host,
            port=port,
            access=access,
            examiner=examiner,
            connections=connections,
            per_peer=per_peer,
            tls=None if certificate is None or key is None else bundle_server.TlsFiles(certificate, key, client_ca),
        )
    except bundle_server.AddressTaken as error:
        fail(str(error), status=1)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        fail(f"{text}: is not an address to listen on, which is written 127.0.0.1:9400")
    return host.removeprefix("[").removesuffix("]"), int(port)
