"""A bundle directory as one file, and signed: what is published. Equal bundles give equal bytes, but for the signature.

OPA makes the signature (`opa sign`), because OPA verifies it: what a JSON file hashes to is its own affair.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ostiary.disk import replacing
from ostiary.errors import ConfigurationError
from ostiary.policy.organisation import TESTS
from ostiary.policy.rego import Opa

SUFFIX: Final = ".tar.gz"
_SIGNATURES: Final = ".signatures.json"


def pack(bundle: Path, out: Path) -> None:
    """Write the bundle directory as an archive, without its tests, in place of what is there. Raises OSError."""
    files = {
        path.relative_to(bundle).as_posix(): path.read_bytes()
        for path in bundle.rglob("*")
        if path.is_file() and not path.match(TESTS)
    }
    _write(out, files)


def sign(archive: Path, *, key: Path, key_id: str, scope: str, algorithm: str, opa: Opa) -> None:
    """Put a signature by the private key (PEM) into an archive, in place of one that it has.

    Raises `ConfigurationError` with what OPA says against it, and OSError.
    """
    with archive.open("rb") as file, gzip.open(file) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as members:
        files = {
            member.name: content.read()
            for member in members
            if (content := members.extractfile(member)) is not None and member.name != _SIGNATURES
        }
    with tempfile.TemporaryDirectory(prefix=f".{archive.name}.", dir=archive.parent) as directory:
        place = Path(directory)
        unsigned, claims = place / f"unsigned{SUFFIX}", place / "claims.json"
        _write(unsigned, files)
        claims.write_text(json.dumps({"keyid": key_id, "scope": scope}), encoding="utf-8")
        opa.sign(unsigned, key=key, algorithm=algorithm, claims=claims, into=place)
        files[_SIGNATURES] = (place / _SIGNATURES).read_bytes()
    _write(archive, files)


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    if out.exists() and not out.is_file():
        raise ConfigurationError([f"{out}: is not a file, and is not replaced"])
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(out, mode=0o644, surely=False) as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as members,
    ):
        for path in sorted(files):
            member = tarfile.TarInfo(path)
            member.size = len(files[path])
            member.mode = 0o644
            members.addfile(member, io.BytesIO(files[path]))
