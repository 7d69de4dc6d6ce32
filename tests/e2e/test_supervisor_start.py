"""What keeps the proxy from starting is told in words, the exit status is not 0, and nothing is left running."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ostiary import assets
from ostiary.credential import SigningKey
from ostiary.demo.issuer import DemoIssuer
from ostiary.policy.archive import pack, sign
from ostiary.policy.bundle import build_bundle
from ostiary.policy.rego import Opa
from support.faults import Ended, all_gone, changed_proxy, eventually, free_port, processes_of, run_until_it_ends
from support.proxy import PERMISSIONS, Trusted


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, opa_binary: Path) -> Path:
    source = tmp_path_factory.mktemp("policy")
    (source / "permissions.yaml").write_text(PERMISSIONS)
    return build_bundle(source, source / "bundle", opa=opa_binary, sequence=1, rego_root=assets.rego()).path


@pytest.fixture
def place(bundle: Path) -> Iterator[Path]:
    """A directory with all that a proxy needs, below /tmp, because the paths of unix sockets are limited."""
    place = Path(tempfile.mkdtemp(prefix="ost-", dir="/tmp"))
    shutil.copytree(bundle, place / "bundle")
    (place / "jwks.json").write_text(json.dumps(DemoIssuer(place).jwks()))
    yield place
    shutil.rmtree(place)


@pytest.fixture
def failing(place: Path) -> Callable[..., Ended]:
    """Run a proxy with these changes to its configuration, which keep it from starting."""

    def fail(config_extra: str = "", **changes: str) -> Ended:
        configured(place, config_extra, **changes)
        return run_until_it_ends(place)

    return fail


def configured(place: Path, config_extra: str = "", **changes: str) -> None:
    """Write the configuration of a proxy, with these changes."""
    names = {
        "workers": "workers: 1",
        "data": '"127.0.0.1:0"',
        "admin": '"unix:run/admin.sock"',
        "opa": "{managed: {bundle: bundle}}",
    }
    written = changed_proxy(
        place,
        upstreams={"orders": 9},
        config_extra=config_extra,
        changes={names[name]: text for name, text in changes.items()},
    )
    text = written._configuration(Trusted(signer=DemoIssuer(place)))
    (place / "ostiary.yaml").write_text(text)


Failing = Callable[..., Ended]


async def test_a_reload_that_comes_while_it_starts_ends_nothing(place: Path) -> None:
    """SIGUSR2 by its default does. Here the proxy waits for an OPA that does not say its version."""
    configured(place, opa="{managed: {bundle: bundle, binary: ./slow-opa}}")
    os.mkfifo(place / "go-on")
    slow = place / "slow-opa"
    slow.write_text(f"#!/bin/sh\n: > {place}/asked\nread word < {place}/go-on\n")
    slow.chmod(0o700)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ostiary", "run", cwd=place, stderr=asyncio.subprocess.PIPE
    )
    try:
        await eventually((place / "asked").exists)
        process.send_signal(signal.SIGUSR2)
        await asyncio.to_thread((place / "go-on").write_text, "on\n")
        async with asyncio.timeout(30):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, b"slow-opa" in said) == (1, True)


def test_a_bundle_that_is_not_there(failing: Failing, place: Path) -> None:
    assert failing(opa="{managed: {bundle: elsewhere}}") == Ended(
        1,
        f"ostiary.yaml: the bundle {place}/elsewhere has no manifest that can be read: No such file or directory\n",
        [],
    )


def test_a_bundle_that_opa_refuses_is_shown_in_opas_words(failing: Failing, place: Path) -> None:
    (place / "bundle" / "broken.rego").write_text("package policy\n\nallow if {")
    ended = failing()
    assert (ended.status, ended.left) == (1, [])
    assert "rego_parse_error" in ended.said
    assert "broken.rego:3" in ended.said


VERIFIED = "{managed: {bundle: bundle, verification: {key_file: key.pub.pem, key_id: release, algorithm: EdDSA}}}"


def test_a_bundle_that_is_not_signed_as_it_has_to_be(failing: Failing, place: Path, opa_binary: Path) -> None:
    """A directory is not, nor is an archive that was signed for something else; nothing is served."""
    key = Ed25519PrivateKey.generate()
    (place / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (place / "key.pub.pem").write_bytes(public)
    assert failing(opa=VERIFIED) == Ended(
        1,
        f"ostiary.yaml: the bundle {place}/bundle is a directory, and has to be an archive that is signed\n",
        [],
    )
    pack(place / "bundle", place / "bundle.tar.gz")
    sign(
        place / "bundle.tar.gz",
        key=place / "key.pem",
        key_id="release",
        scope="staging",
        algorithm="EdDSA",
        opa=Opa(opa_binary),
    )
    assert failing(opa=VERIFIED.replace("bundle: bundle,", "bundle: bundle.tar.gz,")) == Ended(
        1,
        f"ostiary.yaml: the bundle {place}/bundle.tar.gz is refused: it is not signed for the scope 'ostiary'\n",
        [],
    )


def test_a_key_that_no_bundle_can_be_signed_with(failing: Failing, place: Path) -> None:
    (place / "key.pub.pem").write_text("no key")
    assert failing(opa=VERIFIED) == Ended(
        2,
        f"{place}/key.pub.pem: the key_file of the bundle cannot be used: "
        f"{place}/key.pub.pem holds no public key (PEM)\n",
        [],
    )


def test_a_port_that_is_taken(failing: Failing) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert failing(data=f'"127.0.0.1:{port}"') == Ended(
            1, f"ostiary.yaml: cannot listen on 127.0.0.1:{port}: Address already in use\n", []
        )


def test_an_admin_port_that_is_taken(failing: Failing) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = failing(admin=f'"127.0.0.1:{port}"')
    assert (ended.status, ended.left) == (1, [])
    assert ended.said.endswith(f"ostiary.yaml: cannot listen on 127.0.0.1:{port}: Address already in use\n")


def test_an_admin_socket_whose_path_is_too_long(failing: Failing) -> None:
    ended = failing(admin=f'"unix:run/{"a" * 100}"')
    assert (ended.status, ended.left) == (2, [])
    assert ended.said.startswith("ostiary.yaml:1: listen.admin: the path of the socket is longer than 103 bytes")


def test_an_admin_socket_on_which_another_process_listens_is_not_taken_from_it(failing: Failing, place: Path) -> None:
    (place / "run").mkdir(mode=0o700)
    path = place / "run" / "admin.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        ended = failing()
        assert path.is_socket()
    assert (ended.status, ended.left) == (1, [])
    assert ended.said.endswith(f"ostiary.yaml: cannot listen on {path}: another process does\n")


@pytest.mark.parametrize("name", ["state", "run"])
def test_a_directory_that_others_can_enter(failing: Failing, place: Path, name: str) -> None:
    (place / name).mkdir()
    (place / name).chmod(0o750)
    ended = failing()
    assert (ended.status, ended.left) == (2, [])
    assert ended.said.endswith(f"{place}/{name}: holds keys and sockets, and has to be this user's alone (mode 0700)\n")


def test_a_signing_key_of_another_algorithm(failing: Failing, place: Path) -> None:
    key = place / "key.pem"
    key.write_bytes(SigningKey.generate("ES256").pem())
    key.chmod(0o600)
    ended = failing("signing: {key_file: key.pem}\n")
    assert (ended.status, ended.left) == (2, [])
    assert str(key) in ended.said
    assert "PRIVATE" not in ended.said


def test_a_key_file_of_an_issuer_that_cannot_be_used(failing: Failing, place: Path) -> None:
    (place / "jwks.json").unlink()
    assert failing() == Ended(
        2,
        f"{place}/jwks.json: the key_file of the issuer http://idp.localhost cannot be used: "
        f"{place}/jwks.json cannot be read: No such file or directory\n",
        [],
    )
    (place / "jwks.json").write_text('{"keys": [')
    assert failing() == Ended(
        2,
        f"{place}/jwks.json: the key_file of the issuer http://idp.localhost cannot be used: not a JWK Set: not JSON\n",
        [],
    )


def test_what_a_worker_says_of_its_failure_is_shown_once(failing: Failing, place: Path) -> None:
    """The audit is opened in the worker's lifespan, of which a server would show a traceback or nothing."""
    (place / "audit").write_text("a file where a directory should be")
    ended = failing(workers="workers: 2")
    assert (ended.status, ended.left) == (2, [])
    last = ended.said.splitlines()[-1]
    why = f"the audit cannot be opened: [Errno 17] File exists: '{place}/audit'"
    assert last in {f"w0 did not start: {why}", f"w1 did not start: {why}"}
    assert "Traceback" not in ended.said


def test_what_a_worker_cannot_be_put_together_from_is_shown_as_it_is_written(failing: Failing, place: Path) -> None:
    (place / "old.pem").write_text("no key")
    ended = failing("signing: {extra_keys: [old.pem]}\n")
    assert (ended.status, ended.left) == (2, [])
    assert ended.said.splitlines()[-1].startswith(f"w0 did not start: {place}/old.pem: ")
    assert "Traceback" not in ended.said


def test_an_opa_that_is_no_program(failing: Failing, place: Path) -> None:
    assert failing(opa=f"{{managed: {{bundle: bundle, binary: {place}/nowhere}}}}") == Ended(
        1,
        f"ostiary.yaml: The OPA that is configured cannot be used: {place}/nowhere is not an OPA that runs.\n",
        [],
    )


async def test_a_signal_ends_a_start_that_waits(failing: Failing, place: Path) -> None:
    """The OPA of another does not come: nobody has to wait until its time is up."""
    text = changed_proxy(
        place, upstreams={"orders": 9}, changes={"{managed: {bundle: bundle}}": '{url: "unix:///nowhere/opa.sock"}'}
    )._configuration(Trusted(signer=DemoIssuer(place)))
    (place / "ostiary.yaml").write_text(text)
    with (place / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ostiary", "run", cwd=place, stdout=log, stderr=log
        )
        await eventually((place / "state" / "signing-key.pem").exists)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    await all_gone(processes_of(place))
    assert (place / "log").read_text() == ""


async def test_the_admin_listener_may_be_a_port_of_loopback(place: Path) -> None:
    port, signer = free_port(), DemoIssuer(place)
    (place / "jwks.json").write_text(json.dumps(signer.jwks()))
    text = changed_proxy(
        place, upstreams={"orders": 9}, changes={'"unix:run/admin.sock"': f'"127.0.0.1:{port}"'}
    )._configuration(Trusted(signer=signer))
    (place / "ostiary.yaml").write_text(text)
    log = place / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ostiary", "run", cwd=place, stdout=output, stderr=output
        )
    try:
        await eventually(lambda: "serving on" in log.read_text())
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"http://127.0.0.1:{port}/readyz")).json()["ready"] is True
    finally:
        process.terminate()
    assert await asyncio.wait_for(process.wait(), 60) == 0
