"""A bundle as a file, from the sources to what a proxy that demands a signature would say to it."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ostiary.decision.rollback import statement_beside
from ostiary.opa.archive import Verification
from ostiary.opa.rollback import verified
from support.cli import REGO, Ran, ostiary, write_policy


@pytest.fixture
def archive(policy: Path, tmp_path: Path) -> Path:
    """`b.tar.gz` with revision 12, and a key pair, `key.pem` and `key.pub.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub.pem").write_bytes(public)
    assert ostiary("bundle", "build", policy, "-o", "b.tar.gz", "--sequence", "12").status == 0
    return tmp_path / "b.tar.gz"


def test_an_archive_has_the_revision_of_the_directory_and_equal_sources_give_equal_bytes(
    policy: Path, tmp_path: Path, archive: Path
) -> None:
    directory = ostiary("bundle", "build", policy, "-o", "out", "--sequence", "12").out
    again = ostiary("bundle", "build", policy, "-o", "c.tar.gz", "--sequence", "12")
    assert again == Ran(0, directory.replace("out:", "c.tar.gz:"), "")
    assert archive.read_bytes() == (tmp_path / "c.tar.gz").read_bytes()


def test_what_is_signed_is_verified_and_told(archive: Path) -> None:
    inspected = json.loads(ostiary("bundle", "inspect", "b.tar.gz", "--json").out)
    revision = inspected["revision"]
    assert re.fullmatch(r"12-[0-9a-f]{16}", revision)
    assert inspected["signature"] is None
    assert ".signatures.json" not in inspected["files"]
    assert not [name for name in inspected["files"] if name.endswith("_test.rego")]

    signed = ostiary("bundle", "sign", "b.tar.gz", "--key", "key.pem", "--key-id", "release")
    assert signed == Ran(0, f"b.tar.gz: revision {revision} signed as release\n", "")
    verified = ostiary("bundle", "verify", "b.tar.gz", "--key", "key.pub.pem", "--key-id", "release")
    assert verified == Ran(0, f"b.tar.gz: revision {revision}, signed as release for ostiary\n", "")

    inspected = json.loads(ostiary("bundle", "inspect", "b.tar.gz", "--json").out)
    assert inspected["signature"] == {"algorithm": "ES256", "key_id": "release", "scope": "ostiary"}
    shown = ostiary("bundle", "inspect", "b.tar.gz").out.splitlines()
    assert shown[:3] == [f"revision   {revision}", "signature  ES256, key release, for ostiary", ""]
    assert [line.split()[0] for line in shown[4:]] == sorted(inspected["files"])


def test_a_signature_takes_the_place_of_another(archive: Path) -> None:
    for key_id in ("old", "new"):
        assert ostiary("bundle", "sign", "b.tar.gz", "--key", "key.pem", "--key-id", key_id).status == 0
    verify = ("bundle", "verify", "b.tar.gz", "--key", "key.pub.pem", "--key-id")
    assert ostiary(*verify, "old") == Ran(1, "", "b.tar.gz: it is not signed as the key 'old'\n")
    assert ostiary(*verify, "new").status == 0


def test_what_is_not_signed_as_it_should_be_is_told(archive: Path, tmp_path: Path) -> None:
    verify = ("bundle", "verify", "b.tar.gz", "--key", "key.pub.pem", "--key-id", "release")
    assert ostiary(*verify) == Ran(1, "", "b.tar.gz: it is not signed\n")
    ostiary("bundle", "sign", "b.tar.gz", "--key", "key.pem", "--key-id", "release", "--scope", "staging")
    assert ostiary(*verify) == Ran(1, "", "b.tar.gz: it is not signed for the scope 'ostiary'\n")
    assert ostiary(*verify, "--scope", "staging").status == 0
    assert ostiary(*verify, "--algorithm", "EdDSA") == Ran(1, "", "b.tar.gz: the key is none for EdDSA\n")
    (tmp_path / "b.tar.gz").write_bytes(archive.read_bytes()[:-50])
    assert ostiary(*verify).err == "b.tar.gz: it is no whole archive (tar, gzip)\n"


def test_what_cannot_be_signed_with_or_is_no_bundle(archive: Path, tmp_path: Path) -> None:
    before = archive.read_bytes()
    (tmp_path / "text").write_text("no archive")
    for arguments, words in [
        (("b.tar.gz", "--key", "nowhere.pem"), "nowhere.pem: OPA does not sign with this key: "),
        (("b.tar.gz", "--key", "text"), "text: OPA does not sign with this key: "),
        (("text", "--key", "key.pem"), "text: it is no whole archive (tar, gzip)\n"),
        (("nowhere.tar.gz", "--key", "key.pem"), "nowhere.tar.gz: No such file or directory\n"),
    ]:
        ran = ostiary("bundle", "sign", *arguments, "--key-id", "release")
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.startswith(words)
    assert archive.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_an_archive_without_a_sequence_of_its_own_is_warned_of(policy: Path) -> None:
    """Outside git each has the sequence 0. A directory is for this machine, and is built again and again."""
    said = f"{policy}: no commits are counted, so the sequence is 0, and nobody can tell an older"
    ran = ostiary("bundle", "build", policy, "-o", "d.tar.gz", "--json")
    assert ran.err.startswith(f"warning: {said}")
    assert [warning.startswith(said) for warning in json.loads(ran.out)["warnings"]] == [True]
    assert ostiary("bundle", "build", policy, "-o", "d.tar.gz", "--sequence", "0").err == ""
    assert ostiary("bundle", "build", policy, "-o", "d").err == ""


def test_an_archive_takes_the_place_of_a_file_only(policy: Path, tmp_path: Path) -> None:
    (tmp_path / "d.tar.gz").mkdir()
    ran = ostiary("bundle", "build", policy, "-o", "d.tar.gz")
    assert ran == Ran(2, "", "d.tar.gz: is not a file, and is not replaced\n")


def test_mistakes_leave_the_archive_that_is_there(archive: Path, tmp_path: Path) -> None:
    before = archive.read_bytes()
    wrong = write_policy(tmp_path / "wrong", rego=REGO.replace("package policy", "package ostiary.authz"))
    assert ostiary("bundle", "build", wrong, "-o", "b.tar.gz").status == 2
    assert archive.read_bytes() == before


def test_a_way_back_is_signed(archive: Path, tmp_path: Path) -> None:
    back = ("bundle", "rollback", "--from", "12-a", "--to", "11-b", "--key", "key.pem", "--key-id", "release")
    ran = ostiary(*back, "--expires", "1h", "-o", "b.tar.gz.rollback")
    assert (ran.status, ran.err) == (0, "")
    assert re.fullmatch(r"b\.tar\.gz\.rollback: back from 12-a to 11-b, until 20[0-9-]{8}T[0-9:]{8}Z\n", ran.out)
    verification = Verification(key=tmp_path / "key.pub.pem", key_id="release", scope="ostiary", algorithm="ES256")
    statement = verified(statement_beside(archive).read_bytes(), verification)
    assert (str(statement.back_from), str(statement.to)) == ("12-a", "11-b")
    assert 3500 < statement.expires - time.time() <= 3600


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--to", "11", "--to: '11' is no revision, <sequence>-<digest>, and no archive of one"),
        ("--to", "key.pem", "--to: key.pem: it is no whole archive"),
        ("--to", "13-c", "13-c is not older than 12-a"),
        ("--from", "x", "--from: 'x' is no revision"),
        ("--expires", "1d", "--expires: "),
        ("--expires", "169h", "--expires: '169h' is outside 1m to 168h"),
        ("--key", "key.pub.pem", "key.pub.pem: is no private key (PEM) for ES256"),
        ("--key", "none.pem", "none.pem: cannot be read"),
        ("--output", "none/out", "none/out: cannot be written"),
    ],
)
def test_a_way_back_that_is_none_is_not_signed(archive: Path, option: str, value: str, said: str) -> None:
    options = {
        "--from": "12-a",
        "--to": "11-b",
        "--key": "key.pem",
        "--key-id": "release",
        "--expires": "1h",
        "--output": "out",
    }
    options[option] = value
    ran = ostiary("bundle", "rollback", *(part for pair in options.items() for part in pair))
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(said)
