"""The signing key's file: who may read it, who makes it, and that nothing tells what is in it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from ostiary.credential import SigningAlgorithm, SigningKey, ensure_signing_key, load_signing_key
from ostiary.errors import ConfigurationError
from ostiary.keyfile import examine

ALGORITHMS: list[SigningAlgorithm] = ["EdDSA", "ES256"]


def pem(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_is_made_once_and_found_again(tmp_path: Path, algorithm: SigningAlgorithm) -> None:
    path = tmp_path / "made" / "signing.pem"
    first = ensure_signing_key(path, algorithm)
    assert ensure_signing_key(path, algorithm).id == first.id == load_signing_key(path).id
    assert first.algorithm == algorithm
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.parent.stat().st_mode & 0o7777 == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["signing.pem"], "nothing else is left there"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_its_signatures_are_those_of_jws(algorithm: SigningAlgorithm) -> None:
    key = SigningKey.generate(algorithm)
    public = jwt.PyJWK(key.public.document())
    signature = key.sign(b"message")
    assert len(signature) == 64
    assert public.Algorithm.verify(b"message", public.key, signature)
    assert not public.Algorithm.verify(b"another", public.key, signature)


def test_a_hundred_es256_signatures_have_one_length() -> None:
    """R and S are padded: one in 128 is shorter than 32 bytes by itself."""
    key = SigningKey.generate("ES256")
    assert {len(key.sign(str(n).encode())) for n in range(1000)} == {64}


def test_processes_that_start_together_end_up_with_one_key(tmp_path: Path) -> None:
    path = tmp_path / "run" / "signing.pem"
    program = (
        "import sys, pathlib\n"
        "from ostiary.credential import ensure_signing_key\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(ensure_signing_key(pathlib.Path(sys.argv[1])).id)\n"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [racer.communicate()[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 6
    assert set(answers) == {load_signing_key(path).id + "\n"}
    assert [entry.name for entry in path.parent.iterdir()] == ["signing.pem"]


def test_whoever_comes_second_takes_the_key_that_is_there(tmp_path: Path) -> None:
    """The same between threads, released at one instant."""
    path = tmp_path / "signing.pem"
    barrier = threading.Barrier(8)

    def ensure(_: int) -> str:
        barrier.wait()
        return ensure_signing_key(path).id

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ensure, range(8))) == {load_signing_key(path).id}


@pytest.mark.parametrize("mode", [0o640, 0o440, 0o604, 0o620, 0o660, 0o602, 0o610, 0o644, 0o666])
def test_a_key_that_others_can_open_is_refused(tmp_path: Path, mode: int) -> None:
    remedy = "set secrets.group_readable" if mode in (0o640, 0o440) else "mount it so"
    path = write(tmp_path / "signing.pem", SigningKey.generate("EdDSA").pem(), mode)
    with pytest.raises(ConfigurationError) as error:
        ensure_signing_key(path)
    assert error.value.mistakes == (
        f"{path}: the signing key is open to others (mode {mode:04o}): chmod 600, or {remedy}",
    )


def test_a_mounted_key_may_be_readable_by_its_group_and_no_more(tmp_path: Path) -> None:
    key = SigningKey.generate("EdDSA")
    path = write(tmp_path / "signing.pem", key.pem(), 0o440)
    assert load_signing_key(path, group_readable=True).id == key.id
    for mode in (0o444, 0o460, 0o450):
        path.chmod(mode)
        with pytest.raises(ConfigurationError, match="open to others"):
            load_signing_key(path, group_readable=True)


def test_a_mounted_key_may_be_a_symbolic_link(tmp_path: Path) -> None:
    """As Kubernetes mounts secrets. What counts is the file that was opened."""
    key = SigningKey.generate("ES256")
    link = tmp_path / "link.pem"
    link.symlink_to(write(tmp_path / "signing.pem", key.pem()))
    assert load_signing_key(link).id == key.id
    (tmp_path / "signing.pem").chmod(0o644)
    with pytest.raises(ConfigurationError, match="open to others"):
        load_signing_key(link)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a key, and secret all the same",
        pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        pem(ec.generate_private_key(ec.SECP384R1())),
        ed25519.Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
        ),
    ],
    ids=["empty", "garbage", "rsa", "p-384", "encrypted"],
)
def test_what_is_no_signing_key_is_refused_and_not_quoted(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "signing.pem", content)
    with pytest.raises(ConfigurationError) as error:
        ensure_signing_key(path)
    assert error.value.mistakes == (
        f"{path}: not a signing key: an unencrypted PKCS #8 PEM with an Ed25519 or P-256 key is expected",
    )
    assert error.value.__cause__ is None
    assert path.read_bytes() == content, "a file that exists is never written to"


def test_another_algorithm_than_the_configured_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"
    ensure_signing_key(path, "ES256")
    with pytest.raises(
        ConfigurationError, match=r"signing\.pem: the signing key is for ES256, and EdDSA is configured"
    ):
        ensure_signing_key(path, "EdDSA")


def test_a_missing_mounted_key_is_refused_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        load_signing_key(tmp_path / "signing.pem")
    assert list(tmp_path.iterdir()) == []


def test_a_dangling_link_is_refused_not_written_through(tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"
    path.symlink_to(tmp_path / "elsewhere.pem")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        ensure_signing_key(path)
    assert not (tmp_path / "elsewhere.pem").exists()


def test_a_directory_and_a_pipe_are_refused(tmp_path: Path) -> None:
    """A pipe would be waited for, if it were opened as a file is."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (pipe, tmp_path):
        with pytest.raises(ConfigurationError, match="not a regular file"):
            load_signing_key(path)


def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "signing.pem", SigningKey.generate("EdDSA").pem())
    own = path.stat()
    plain: Any = {"what": "the key", "groups": (), "group_readable": False}
    examine(path, own, user=own.st_uid, **plain)
    given_away = os.stat_result((own.st_mode, *own[1:4], 12345, *own[5:]))
    examine(path, given_away, user=12345, **plain)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        examine(path, given_away, user=54321, **plain)


def test_a_group_that_is_not_the_process_s_own_may_never_read_a_key(tmp_path: Path) -> None:
    path = write(tmp_path / "signing.pem", SigningKey.generate("EdDSA").pem(), 0o440)
    found = path.stat()
    examine(path, found, what="the key", user=found.st_uid, groups={found.st_gid}, group_readable=True)
    with pytest.raises(ConfigurationError, match=r"open to others \(mode 0440\): chmod 600, or mount it so"):
        examine(path, found, what="the key", user=found.st_uid, groups={found.st_gid + 1}, group_readable=True)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_no_key_is_made_where_others_can_write(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(ConfigurationError, match="others may write to the directory"):
        ensure_signing_key(directory / "signing.pem")
    assert list(directory.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="the signing key cannot be made"):
        ensure_signing_key(tmp_path / "file" / "signing.pem")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nothing_shows_the_secret(algorithm: SigningAlgorithm) -> None:
    key = SigningKey.generate(algorithm)
    expected = f"SigningKey(public=PublicKey(id='{key.id}', algorithm='{algorithm}'))"
    assert [repr(key), str(key), f"{key}"] == [expected] * 3
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(key)


def test_other_algorithms_do_not_exist() -> None:
    with pytest.raises(ValueError, match="'HS256'"):
        SigningKey.generate("HS256")  # type: ignore[arg-type]
