"""A bundle as a file: read with bounds, believed only as it was signed, and loaded as it was looked at."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import io
import json
import logging
import shutil
import tarfile
import tracemalloc
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jwt
import pytest

from ostiary.opa.archive import (
    LARGEST,
    Algorithm,
    ArchiveError,
    Verification,
    read_archive,
    read_manifest,
    signed,
    verify,
)
from ostiary.opa.bundle import BundleError, PublishedBundle
from ostiary.opa.client import OpaClient
from ostiary.opa.probe import OpaNotReady
from ostiary.opa.record import PolicyRecord
from ostiary.opa.sidecar import ManagedOpa
from ostiary.opa.vetting import Vetting
from ostiary.policy.archive import pack
from ostiary.policy.rego import Opa
from support.opa import ALLOWED, REVISION, until, write_bundle
from support.signing import Signer

QUESTION = {"subject": {"id": "web"}}


@pytest.fixture
def signer(tmp_path: Path, opa_binary: Path) -> Signer:
    return Signer(tmp_path / "signer", opa_binary)


def files_of(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as members:
        return {one.name: members.extractfile(one).read() for one in members if one.isfile()}  # type: ignore[union-attr]


def write(archive: Path, files: Mapping[str, bytes] | list[tuple[str, bytes]]) -> Path:
    """Beside, then renamed: as whoever publishes should."""
    beside = archive.with_name("beside.tar.gz")
    with tarfile.open(beside, "w:gz") as members:
        for name, content in files.items() if isinstance(files, Mapping) else files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            members.addfile(member, io.BytesIO(content))
    return beside.replace(archive)


def read(archive: Path) -> Any:
    with archive.open("rb") as file:
        return read_archive(file)


MANIFEST = json.dumps({"revision": REVISION, "roots": ["ostiary"], "rego_version": 1}).encode()


# packing


def test_equal_bundles_are_equal_files_without_tests(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "authz_test.rego").write_text("package ostiary.authz_test")
    pack(bundle, tmp_path / "one.tar.gz")
    pack(shutil.copytree(bundle, tmp_path / "copy"), tmp_path / "two.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    contents = read(tmp_path / "one.tar.gz")
    assert list(contents.files) == [".manifest", "authz.rego", "data.json"]
    assert (contents.manifest["revision"], contents.signature) == (REVISION, None)


# reading


def test_it_unpacks_to_so_many_bytes_and_no_more(tmp_path: Path) -> None:
    """Of members, and of what a header says of itself."""
    bomb = write(tmp_path / "bomb.tar.gz", {".manifest": MANIFEST, "data.json": b"0" * 50_000_000})
    assert bomb.stat().st_size < 100_000
    with bomb.open("rb") as file, pytest.raises(ArchiveError, match="unpacks to more"):
        read_archive(file, largest=10_000_000)

    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 50_000_000
    raw = io.BytesIO(gzip.compress(header.tobuf() + b"0" * 50_000_000))
    with pytest.raises(ArchiveError, match="headers that are longer"):
        read_archive(raw, largest=10_000_000)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("before", [None, tarfile.REGTYPE, tarfile.DIRTYPE])
def test_a_header_is_not_held_in_memory_however_long_it_is(kind: bytes, before: bytes | None) -> None:
    first, header = tarfile.TarInfo("first"), tarfile.TarInfo("x")
    first.type, first.size = before or kind, 50_000_000 if before == tarfile.DIRTYPE else 0
    header.type, header.size = kind, 50_000_000
    raw = (first.tobuf() if before else b"") + header.tobuf() + b"0" * 50_000_000
    archive = io.BytesIO(gzip.compress(raw, compresslevel=1))
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match="headers that are longer"):
            read_archive(archive)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_file_with_holes_is_none() -> None:
    """What it says about its holes is a list of any length, and reading that took seconds for a kilobyte."""
    members = io.BytesIO()
    with tarfile.open(fileobj=members, mode="w", format=tarfile.PAX_FORMAT) as archive:
        holes = tarfile.TarInfo("data.json")
        holes.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        holes.size = 512
        archive.addfile(holes, io.BytesIO(b"1\n0\n0\n".ljust(512, b"\0")))
    with pytest.raises(ArchiveError, match="something else than files"):
        read_archive(io.BytesIO(gzip.compress(members.getvalue())))


def test_what_is_too_large_to_be_one_is_not_even_copied(tmp_path: Path) -> None:
    published = tmp_path / "b.tar.gz"
    with published.open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(BundleError, match="larger than"):
        PublishedBundle(published).stage(tmp_path / "copy", None)
    assert not (tmp_path / "copy").exists()


def test_large_files_follow_one_another(tmp_path: Path) -> None:
    files = {".manifest": MANIFEST, "a.json": b"0" * 1_000_000, "b.json": b"1" * 2_000_000, "c.rego": b""}
    assert read(write(tmp_path / "b.tar.gz", files)).files == {name: len(content) for name, content in files.items()}
    large = {".manifest": MANIFEST, ".signatures.json": json.dumps({"signatures": ["x" * 1_000_000]}).encode()}
    assert len(read(write(tmp_path / "large.tar.gz", large)).signature or "") == 1_000_000


def test_a_manifest_is_small(tmp_path: Path) -> None:
    """It is looked at every second: one of 8 MB, which packs into 8 KB, took two each time."""
    for size, fits in ((60_000, True), (66_000, False)):
        archive = write(tmp_path / f"{size}.tar.gz", {".manifest": MANIFEST[:-1] + b" " * size + MANIFEST[-1:]})
        for reading in (read_manifest, read_archive):
            with archive.open("rb") as file, nullcontext() if fits else pytest.raises(ArchiveError, match="more than"):
                reading(file)


@pytest.mark.parametrize("name", ["../.manifest", "a/../../b", "/../x", "a\nb"])
def test_a_name_stays_inside(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="a name that leaves it"):
        read(write(tmp_path / "b.tar.gz", {".manifest": MANIFEST, name: b""}))


def test_each_file_is_there_once_and_is_a_file(tmp_path: Path) -> None:
    twice = [(".manifest", MANIFEST), ("data.json", b"{}"), ("./data.json", b'{"a": 1}')]
    with pytest.raises(ArchiveError, match="twice"):
        read(write(tmp_path / "twice.tar.gz", twice))

    with tarfile.open(tmp_path / "link.tar.gz", "w:gz") as members:
        link = tarfile.TarInfo("data.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        members.addfile(link)
    with pytest.raises(ArchiveError, match="something else than files"):
        read(tmp_path / "link.tar.gz")


def test_there_are_not_too_many_files(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="more than 10000 files"):
        read(write(tmp_path / "many.tar.gz", {f"{number}.rego": b"" for number in range(10_001)}))


@pytest.mark.parametrize("cut", [0, 1, 20, 200])
def test_half_an_archive_is_none(tmp_path: Path, cut: int) -> None:
    pack(write_bundle(tmp_path / "bundle"), tmp_path / "b.tar.gz")
    whole = (tmp_path / "b.tar.gz").read_bytes()
    for part in (whole[:cut], whole[: -cut - 9], b"x" + whole):
        with pytest.raises(ArchiveError):
            read_archive(io.BytesIO(part))


def test_the_manifest_is_its_first_file(tmp_path: Path) -> None:
    """So that looking whether another one was published costs nothing, however large it is."""
    with pytest.raises(BundleError, match="its first file is not the manifest"):
        PublishedBundle(write(tmp_path / "late.tar.gz", {"a.rego": b"", ".manifest": MANIFEST})).revision()
    with pytest.raises(ArchiveError, match="no manifest"):
        read(write(tmp_path / "none.tar.gz", {"a.rego": b""}))
    archive = write(tmp_path / "b.tar.gz", {".manifest": MANIFEST})
    assert str(PublishedBundle(archive).revision()) == REVISION
    assert read_manifest(io.BytesIO(archive.read_bytes()))["revision"] == REVISION


@pytest.mark.parametrize("manifest", [b"", b"[]", b'{"revision": "1-a", "revision": "2-a"}', b'{"revision": 1}', b"{}"])
def test_a_manifest_that_says_no_revision_is_refused(tmp_path: Path, manifest: bytes) -> None:
    archive = write(tmp_path / "b.tar.gz", {".manifest": manifest})
    with pytest.raises(BundleError, match=r"the bundle .*b\.tar\.gz"):
        PublishedBundle(archive).revision()


# signatures


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "EdDSA"])
def test_what_is_signed_can_be_believed(tmp_path: Path, opa_binary: Path, algorithm: Algorithm) -> None:
    signer = Signer(tmp_path / "signer", opa_binary, algorithm)
    archive = signer.publish(tmp_path / "b.tar.gz")
    found = verify(read(archive), signer.verification)
    assert (found.algorithm, found.key_id, found.scope) == (algorithm, "release", "ostiary")
    assert found.files.keys() == {".manifest", "authz.rego", "data.json"}
    claims = dataclasses.asdict(signer.verification)
    assert Opa(opa_binary).verify(archive, **claims) is None


def test_who_signed_otherwise_is_not_believed(tmp_path: Path, signer: Signer, opa_binary: Path) -> None:
    archive = tmp_path / "b.tar.gz"
    other = Signer(tmp_path / "other", opa_binary)
    edwards = Signer(tmp_path / "edwards", opa_binary, "EdDSA")
    for publish, words in [
        (lambda: signer.publish(archive, key_id="staging"), "as the key 'release'"),
        (lambda: signer.publish(archive, scope="elsewhere"), "for the scope 'ostiary'"),
        (lambda: other.publish(archive), "none of ES256 by the configured key"),
        (lambda: edwards.publish(archive), "none of ES256 by the configured key"),
        (lambda: pack(write_bundle(tmp_path / "unsigned"), archive), "not signed"),
    ]:
        publish()
        with pytest.raises(ArchiveError, match=words):
            verify(read(archive), signer.verification)


def test_the_public_key_is_no_secret_to_sign_with(tmp_path: Path, signer: Signer) -> None:
    """HS256 with the text of the public key, and no algorithm at all (CVE-2022-29217)."""
    archive = signer.publish(tmp_path / "b.tar.gz")
    files = files_of(archive)
    payload = jwt.PyJWS().decode_complete(
        json.loads(files[".signatures.json"])["signatures"][0], options={"verify_signature": False}
    )["payload"]

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    for header in ({"alg": "HS256"}, {"alg": "none"}, {"alg": "ES256"}):
        forged = f"{encoded(json.dumps(header).encode())}.{encoded(payload)}.{encoded(b'x' * 64)}"
        files[".signatures.json"] = json.dumps({"signatures": [forged]}).encode()
        with pytest.raises(ArchiveError, match="none of ES256"):
            verify(read(write(archive, files)), signer.verification)


def test_every_file_is_signed_and_every_signed_file_is_there(tmp_path: Path, signer: Signer) -> None:
    archive = signer.publish(tmp_path / "b.tar.gz")
    files = files_of(archive)
    with pytest.raises(ArchiveError, match="1 of its files are not signed, 0 that are"):
        verify(read(write(archive, files | {"policy/more.rego": b"package policy"})), signer.verification)
    del files["authz.rego"]
    with pytest.raises(ArchiveError, match="0 of its files are not signed, 1 that are"):
        verify(read(write(archive, files)), signer.verification)


@pytest.mark.parametrize(
    "signatures",
    [
        b"",
        b"{}",
        b'{"signatures": []}',
        b'{"signatures": ["a", "b"]}',
        b'{"signatures": [1]}',
        b'{"signatures": ["a"]}',
    ],
)
def test_what_is_no_signature_is_none(tmp_path: Path, signer: Signer, signatures: bytes) -> None:
    archive = write(tmp_path / "b.tar.gz", {".manifest": MANIFEST, ".signatures.json": signatures})
    with pytest.raises(ArchiveError):
        verify(read(archive), signer.verification)


@pytest.mark.parametrize(
    ("algorithm", "of"), [("ES256", "EdDSA"), ("RS256", "ES256"), ("EdDSA", "RS256"), ("ES256", "private")]
)
def test_a_key_fits_its_algorithm(tmp_path: Path, opa_binary: Path, algorithm: Algorithm, of: str) -> None:
    signer = Signer(tmp_path / "signer", opa_binary, "ES256" if of == "private" else of)  # type: ignore[arg-type]
    key = signer.private if of == "private" else signer.public
    with pytest.raises(ArchiveError, match=r"none for|no public key"):
        dataclasses.replace(signer.verification, key=key, algorithm=algorithm).public_key()


# loading


@pytest.fixture
def archive(tmp_path: Path, signer: Signer) -> Path:
    return signer.publish(tmp_path / "published.tar.gz")


def managed(opa_binary: Path, archive: Path, tmp_path: Path, verification: Verification | None) -> ManagedOpa:
    return ManagedOpa(
        binary=opa_binary,
        bundle=archive,
        verification=verification,
        vetting=Vetting(record=PolicyRecord.read(tmp_path / "policy.json", name="shop")),
        directory=tmp_path / "run",
        interval=0.05,
        first_pause=0.05,
        longest_pause=0.2,
    )


async def test_opa_serves_a_signed_archive_and_the_next_one(
    opa_binary: Path, archive: Path, signer: Signer, tmp_path: Path
) -> None:
    opa = managed(opa_binary, archive, tmp_path, signer.verification)
    async with opa, OpaClient(address=opa.address, deadline=2) as client:
        answer = await client.query(QUESTION)
        assert (answer.result, answer.revision) == (ALLOWED, REVISION)
        signer.publish(archive, revision="8-b")
        await until(lambda: opa.revision == "8-b")
        assert (await client.query(QUESTION)).revision == "8-b"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["bundle.tar.gz", "lock"]


REFUSED: Mapping[str, Callable[[Path, Signer, Signer], object]] = {
    "unsigned": lambda out, signer, _: pack(write_bundle(signer.place / "plain", revision="8-b"), out),
    "by another key": lambda out, _, other: other.publish(out, revision="8-b"),
    "as another key": lambda out, signer, _: signer.publish(out, revision="8-b", key_id="other"),
    "for another scope": lambda out, signer, _: signer.publish(out, revision="8-b", scope="other"),
    "changed after signing": lambda out, signer, _: _changed(signer.publish(out, revision="8-b")),
    "older": lambda out, signer, _: signer.publish(out, revision="6-b"),
    "cut short": lambda out, signer, _: _cut(signer.publish(out, revision="8-b")),
    "a directory": lambda out, signer, _: _unpacked(signer.publish(out, revision="8-b")),
}


def _changed(archive: Path) -> None:
    files = files_of(archive)
    write(archive, files | {"authz.rego": files["authz.rego"].replace(b'== "web"', b'!= "web"')})


def _cut(archive: Path) -> None:
    beside = archive.with_name("cut")
    beside.write_bytes(archive.read_bytes()[:-30])
    beside.replace(archive)


def _unpacked(archive: Path) -> None:
    files = files_of(archive)
    archive.unlink()
    archive.mkdir()
    for name, content in files.items():
        (archive / name).write_bytes(content)


@pytest.mark.parametrize("how", REFUSED)
async def test_what_may_not_be_loaded_leaves_the_last_good_one_even_over_a_restart(
    opa_binary: Path, archive: Path, signer: Signer, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said as an error, OPA that dies comes back with the good one, and so does a proxy that is started again."""
    caplog.set_level(logging.ERROR, "ostiary.opa")
    other = Signer(tmp_path / "other", opa_binary)
    async with managed(opa_binary, archive, tmp_path, signer.verification) as opa:
        REFUSED[how](archive, signer, other)
        if how != "cut short":  # of which nobody can say that it is another one
            await until(lambda: "the new bundle is not taken over" in caplog.text)
        assert opa.revision == REVISION
        assert opa._process is not None
        opa._process._process.kill()
        await until(lambda: opa.restarts > 0 and opa.state == "serving")
        async with OpaClient(address=opa.address, deadline=2) as client:
            assert (await client.query(QUESTION)).revision == REVISION
    caplog.clear()
    async with managed(opa_binary, archive, tmp_path, signer.verification) as opa:
        assert opa.revision == REVISION
        assert "the published bundle is not taken over, the one that was active last is" in caplog.text
        if how == "a directory":
            shutil.rmtree(archive)
        signer.publish(archive, revision="9-c")
        await until(lambda: opa.revision == "9-c")


@pytest.mark.parametrize("how", [how for how in REFUSED if how != "older"])
async def test_without_a_good_one_opa_does_not_come_up(
    opa_binary: Path, archive: Path, signer: Signer, tmp_path: Path, how: str
) -> None:
    REFUSED[how](archive, signer, Signer(tmp_path / "other", opa_binary))
    with pytest.raises(OpaNotReady):
        async with managed(opa_binary, archive, tmp_path, signer.verification):
            pass


async def test_what_was_kept_has_to_be_signed_too(
    opa_binary: Path, archive: Path, signer: Signer, tmp_path: Path
) -> None:
    """Whoever can write the one file may not be able to write the other, and a key may have been taken back."""
    async with managed(opa_binary, archive, tmp_path, signer.verification):
        pass
    other = Signer(tmp_path / "other", opa_binary)
    with pytest.raises(OpaNotReady, match=r"bundle\.tar\.gz is refused"):
        async with managed(opa_binary, archive, tmp_path, other.verification):
            pass


async def test_without_a_wanted_signature_an_archive_is_loaded_as_it_is(
    opa_binary: Path, archive: Path, tmp_path: Path
) -> None:
    async with managed(opa_binary, archive, tmp_path, None) as opa:
        assert opa.revision == REVISION


def test_what_a_signature_claims_can_be_told(archive: Path) -> None:
    contents = read(archive)
    found = signed(contents.signature)
    assert (found.algorithm, found.key_id, found.scope) == ("ES256", "release", "ostiary")
