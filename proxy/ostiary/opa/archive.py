"""A bundle as one file, `.tar.gz`, read with bounds before OPA sees it, and its signature.

An archive is published by somebody else, so it is read like a message from the network: so many bytes unpacked and no
more, regular files only, each name once. Where a signature is wanted it is checked here (algorithm, key, key id,
scope, and that it lists every file) and again by OPA, which compares what the files hash to. OPA alone would take any
key id (1.22), and has a bound of its own for what it downloads only.

The form of `.signatures.json` is OPA's: one compact JWS over `{"files": [{"name", "hash", "algorithm"}], "keyid",
"scope"}`.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, Literal, TypeAlias

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ostiary.models import Json
from ostiary.strictjson import NotStrict, read_object

MANIFEST: Final = ".manifest"
SIGNATURES: Final = ".signatures.json"

Algorithm: TypeAlias = Literal["ES256", "RS256", "EdDSA"]
PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

LARGEST: Final = 1024**3
"""Bytes that an archive may unpack to: a map of a million permissions has a third of that."""
_BLOCK: Final = 64 * 1024
_MOST_FILES: Final = 10_000
_SMALL: Final = 8 * 1024**2
"""Bytes of the signatures, which name every file."""
_MANIFEST: Final = 64 * 1024
"""Bytes of the manifest. It is read on event loops, again and again where it is none, before it is verified."""
_HEADERS: Final = 64 * 1024
"""Bytes of all headers before one member, which are held in memory as a whole: a long name is one."""


class ArchiveError(Exception):
    """This is no bundle that may be loaded. The message is a clause, without the archive's own text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Whose signature a bundle must have. `key` is the path of a public key, PEM; the algorithm is fixed by whoever
    configures it, never taken from what was signed."""

    key: Path
    key_id: str
    scope: str
    algorithm: Algorithm

    def public_key(self) -> PublicKey:
        """Raises `ArchiveError` if the file has no public key that fits the algorithm."""
        try:
            return _fitting(load_pem_public_key(self.key.read_bytes()), self.algorithm)
        except OSError as error:
            raise ArchiveError(f"the key {self.key} cannot be read: {error.strerror}") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ArchiveError(f"{self.key} holds no public key (PEM)") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What an archive holds: the size in bytes of each file by its name, and the two that say what it is.

    `manifest` is the document in `.manifest`, `signature` the JWS of `.signatures.json`, None without one.
    """

    files: dict[str, int]
    manifest: dict[str, Json]
    signature: str | None

    @property
    def revision(self) -> Json:
        """As the manifest has it, whatever that is."""
        return self.manifest.get("revision")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What a signature says: who signed, for what, and which files (name to SHA-256 in hex)."""

    algorithm: str
    key_id: str | None
    scope: str | None
    files: dict[str, str]


def read_archive(file: BinaryIO, *, largest: int = LARGEST) -> Contents:
    """Read an archive through, unpacking at most `largest` bytes. Blocks; raises `ArchiveError`, and OSError."""
    files: dict[str, int] = {}
    small: dict[str, bytes] = {}
    with _members(file, largest) as (members, unpacked):
        for name, member in _files(members, unpacked):
            if name in files:
                raise ArchiveError("a file is in it twice")
            if len(files) >= _MOST_FILES:
                raise ArchiveError(f"it has more than {_MOST_FILES} files")
            files[name] = member.size
            if name in (MANIFEST, SIGNATURES):
                small[name] = _content(members, member, _MANIFEST if name == MANIFEST else _SMALL)
        unpacked.expect(largest)
        while unpacked.read(_BLOCK):
            pass  # to the end, where the checksum is
    if MANIFEST not in small:
        raise ArchiveError("it has no manifest")
    signatures = small.get(SIGNATURES)
    return Contents(
        files=files,
        manifest=_document(small[MANIFEST], "manifest"),
        signature=None if signatures is None else _only_signature(signatures),
    )


def read_contents(file: BinaryIO) -> dict[str, bytes]:
    """Every file of an archive by its name, in memory, with the bounds of `read_archive`. Raises as that does."""
    read_archive(file)
    file.seek(0)
    with _members(file, LARGEST) as (members, unpacked):
        return {
            name: content.read()
            for name, member in _files(members, unpacked)
            if (content := members.extractfile(member)) is not None
        }


def read_manifest(file: BinaryIO) -> dict[str, Json]:
    """The manifest of an archive, which is its first file where it was built here. Raises `ArchiveError`, and OSError.

    The rest is not looked at."""
    with _members(file, _MANIFEST + _HEADERS) as (members, unpacked):
        for name, member in _files(members, unpacked):
            if name == MANIFEST:
                return _document(_content(members, member, _MANIFEST), "manifest")
            break
    raise ArchiveError("its first file is not the manifest")


def signed(signature: str) -> Signed:
    """What a signature claims, whoever made it. Raises `ArchiveError`."""
    try:
        token = jwt.PyJWS().decode_complete(signature, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise ArchiveError("its signature is no JWS") from error
    return _claims(token["header"], token["payload"])


def verify(contents: Contents, verification: Verification) -> Signed:
    """What was signed, all of it to be believed but the files' hashes, which OPA compares. Raises `ArchiveError`."""
    if contents.signature is None:
        raise ArchiveError("it is not signed")
    key = verification.public_key()
    try:
        token = jwt.PyJWS().decode_complete(contents.signature, key=key, algorithms=[verification.algorithm])
    except jwt.PyJWTError as error:
        raise ArchiveError(f"its signature is none of {verification.algorithm} by the configured key") from error
    found = _claims(token["header"], token["payload"])
    if found.key_id != verification.key_id:
        raise ArchiveError(f"it is not signed as the key {verification.key_id!r}")
    if found.scope != verification.scope:
        raise ArchiveError(f"it is not signed for the scope {verification.scope!r}")
    listed, held = found.files.keys(), contents.files.keys() - {SIGNATURES}
    if listed != held:
        raise ArchiveError(
            f"{len(held - listed)} of its files are not signed, {len(listed - held)} that are, are missing"
        )
    return found


@contextlib.contextmanager
def _members(file: BinaryIO, largest: int) -> Iterator[tuple[tarfile.TarFile, _Bounded]]:
    try:
        with gzip.GzipFile(fileobj=file, mode="rb") as stream:
            unpacked = _Bounded(stream, largest)
            with tarfile.open(fileobj=unpacked, mode="r|") as members:
                yield members, unpacked
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise ArchiveError("it is no whole archive (tar, gzip)") from error


def _files(members: tarfile.TarFile, unpacked: _Bounded) -> Iterator[tuple[str, tarfile.TarInfo]]:
    for member in members:
        if member.isdir():
            unpacked.expect(0)
            continue
        name = _name(member)
        unpacked.expect(member.size)
        yield name, member


class _Bounded(io.RawIOBase):
    """A stream that ends with an error where it should have ended by itself: members, and headers of members too."""

    def __init__(self, stream: gzip.GzipFile, most: int) -> None:
        self._stream = stream
        self._left = most
        self._next = 0
        self.expect(0)

    def expect(self, size: int) -> None:
        """What is read next are so many bytes of content, and then headers."""
        # Beside them, what fills the last block of the content, and what is read ahead.
        self._next = size + _HEADERS + 2 * tarfile.RECORDSIZE

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        wanted = self._left + 1 if size < 0 else min(size, self._left + 1)
        data = self._stream.read(wanted)
        self._left -= len(data)
        self._next -= len(data)
        if self._left < 0:
            raise ArchiveError("it unpacks to more than may be")
        if self._next < 0:
            raise ArchiveError("it has headers that are longer than may be")
        return data


def _name(member: tarfile.TarInfo) -> str:
    """The one name that a file has, relative to the root. OPA's own archives have names that begin with a slash."""
    if not member.isreg() or member.issparse():  # of a sparse one, the size is not how much of it is there
        raise ArchiveError("it holds something else than files")
    path = PurePosixPath("/", member.name)
    if ".." in path.parts or not path.name or not member.name.isprintable():
        raise ArchiveError("a file in it has a name that leaves it")
    return str(path.relative_to("/"))


def _content(members: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes:
    if member.size > most:
        raise ArchiveError(f"its {member.name} has more than {most} bytes")
    file = members.extractfile(member)
    return b"" if file is None else file.read()


def _document(text: bytes, what: str) -> dict[str, Json]:
    try:
        return read_object(text)
    except NotStrict as error:
        raise ArchiveError(f"its {what} cannot be read: {error}") from error


def _only_signature(text: bytes) -> str:
    found = _document(text, "signature").get("signatures")
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], str):
        raise ArchiveError("it does not have one signature")
    return found[0]


def _claims(header: dict[str, Json], payload: bytes) -> Signed:
    claims = _document(payload, "signature")
    files: dict[str, str] = {}
    listed = claims.get("files")
    for one in listed if isinstance(listed, list) else ():
        if not isinstance(one, dict) or one.get("algorithm") != "SHA-256":
            raise ArchiveError("its signature has files without a SHA-256")
        name, digest = one.get("name"), one.get("hash")
        if not isinstance(name, str) or not isinstance(digest, str):
            raise ArchiveError("its signature has files without a name or a hash")
        path = str(PurePosixPath("/", name).relative_to("/"))
        if path in files:
            raise ArchiveError("its signature has a file twice")
        files[path] = digest
    return Signed(
        algorithm=str(header.get("alg")),
        key_id=_text(claims.get("keyid")),
        scope=_text(claims.get("scope")),
        files=files,
    )


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) else None


def _fitting(key: object, algorithm: Algorithm) -> PublicKey:
    if algorithm == "ES256" and isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    if algorithm == "RS256" and isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
        return key
    if algorithm == "EdDSA" and isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise ArchiveError(f"the key is none for {algorithm}")
