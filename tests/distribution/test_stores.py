"""Publishing to a real OCI registry and to an S3-compatible store; from the registry a real OPA gets its bundle."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import botocore.session
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from moto.server import DomainDispatcherApplication, ThreadedMotoServer, create_backend_app
from werkzeug.serving import make_server

from support.cli import Ran, ostiary
from support.distribution import archive, opa_client, wait_until
from support.faults import free_port
from support.tools import tool

USER = {"OSTIARY_REGISTRY_USER": "ci", "OSTIARY_REGISTRY_PASSWORD": "a password: of ci"}
# bcrypt of that password.
HTPASSWD = "ci:$2b$04$abcdefghijklmnopqrstuuAuuIUNHihhW8PtszfGRyFRbA4.hgBRm\n"


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's credentials but those of a test."""
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The `host:port` of a registry of which everybody may write."""
    with running_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@contextlib.contextmanager
def running_registry(place: Path, *, auth: str = "") -> Iterator[str]:
    port = free_port()
    config = place / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {place}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n{auth}",
        encoding="utf-8",
    )
    process = subprocess.Popen(
        [tool("registry"), "serve", config],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
    )
    try:
        wait_until(lambda: listens(port))
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


@pytest.fixture
def bundles(tmp_path: Path) -> list[Path]:
    return [archive(tmp_path / f"{number}.tar.gz", number) for number in range(4)]


def publish(bundle: Path, destination: str, *options: str, environ: dict[str, str] | None = None) -> Ran:
    return ostiary("bundle", "publish", bundle, destination, *options, environ=environ)


def test_a_real_opa_gets_what_is_published_in_a_registry(
    registry: str, bundles: list[Path], tmp_path: Path, opa_binary: Path
) -> None:
    place = f"oci://{registry}/policies/shop:latest"
    assert publish(bundles[1], place) == Ran(0, f"{place}: revision 1-0a1b2c3d published\n", "")
    config = {
        "services": {"registry": {"url": f"http://{registry}", "type": "oci"}},
        "bundles": {
            "shop": {
                "service": "registry",
                "resource": f"{registry}/policies/shop:latest",
                "polling": {"min_delay_seconds": 1, "max_delay_seconds": 1},
            }
        },
    }
    with opa_client(opa_binary, tmp_path / "opa", config) as opa:
        wait_until(lambda: opa.revision() == "1-0a1b2c3d")
        assert publish(bundles[2], place).status == 0
        wait_until(lambda: opa.revision() == "2-0a1b2c3d")

    assert publish(bundles[2], place) == Ran(0, f"{place}: revision 2-0a1b2c3d was published already\n", "")
    older = publish(bundles[1], place)
    assert older.status == 1
    assert "1-0a1b2c3d is older than 2-0a1b2c3d" in older.err
    assert publish(bundles[1], place, "--force").status == 0
    # Another tag is another place, and the bundle is there already.
    assert publish(bundles[1], f"oci://{registry}/policies/shop:old").status == 0


def test_what_another_tool_has_published_says_its_revision_itself(registry: str, bundles: list[Path]) -> None:
    place = f"oci://{registry}/other:latest"
    assert publish(bundles[2], place).status == 0
    url = f"http://{registry}/v2/other/manifests/latest"
    media = "application/vnd.oci.image.manifest.v1+json"
    manifest = httpx.get(url, headers={"accept": media}).json()
    layer = manifest["layers"][0]
    assert layer["digest"] == f"sha256:{hashlib.sha256(bundles[2].read_bytes()).hexdigest()}"
    assert manifest.pop("annotations") == {"org.opencontainers.image.version": "2-0a1b2c3d"}
    put = httpx.put(url, content=json.dumps(manifest), headers={"content-type": media})
    assert put.status_code == 201
    assert "1-0a1b2c3d is older than 2-0a1b2c3d" in publish(bundles[1], place).err
    assert publish(bundles[3], place).status == 0

    manifest["layers"] = []
    assert httpx.put(url, content=json.dumps(manifest), headers={"content-type": media}).status_code == 201
    assert "is no bundle that says its revision" in publish(bundles[3], place).err


def test_a_registry_that_asks_who_publishes(bundles: list[Path], tmp_path: Path) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD, encoding="utf-8")
    auth = f"auth: {{htpasswd: {{realm: test, path: {tmp_path}/htpasswd}}}}\n"
    with running_registry(tmp_path, auth=auth) as address:
        place = f"oci://{address}/shop:1"
        nobody = publish(bundles[1], place)
        assert (nobody.status, nobody.out) == (1, "")
        assert "user and password are missing, or are none that are known" in nobody.err
        wrong = publish(bundles[1], place, environ={**USER, "OSTIARY_REGISTRY_PASSWORD": "wrong"})
        assert wrong.status == 1
        assert publish(bundles[1], place, environ=USER).status == 0

        kept = base64.b64encode(b"ci:a password: of ci").decode()
        (tmp_path / "docker").mkdir()
        (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {address: {"auth": kept}}}))
        assert publish(bundles[2], place).status == 0
        (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {address: {"auth": "???"}}}))
        assert publish(bundles[2], place).err.endswith(f"config.json: the login for {address} cannot be read\n")


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """An S3-compatible store, with a bucket `policies`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client(url).create_bucket(Bucket="policies")
    try:
        yield url
    finally:
        server.stop()


def put(store: str, key: str, content: bytes) -> None:
    """As another tool would."""
    client(store).put_object(Bucket="policies", Key=key, Body=content)


def client(store: str) -> Any:
    session = botocore.session.get_session()
    session.set_credentials("other", "another secret")
    return session.create_client("s3", region_name="us-east-1", endpoint_url=store)


KEYS = {"AWS_ACCESS_KEY_ID": "ci", "AWS_SECRET_ACCESS_KEY": "a secret of ci"}


def test_an_s3_compatible_store_gets_newer_bundles_only(store: str, bundles: list[Path], tmp_path: Path) -> None:
    place = ("s3://policies/shop/b.tar.gz", "--endpoint", store)
    assert publish(bundles[2], *place, environ=KEYS) == Ran(0, f"{place[0]}: revision 2-0a1b2c3d published\n", "")
    stored = client(store).get_object(Bucket="policies", Key="shop/b.tar.gz")["Body"]
    with contextlib.closing(stored):
        assert stored.read() == bundles[2].read_bytes()
    assert publish(bundles[2], *place, environ=KEYS).out.endswith("was published already\n")
    older = publish(bundles[1], *place, environ=KEYS)
    assert older.status == 1
    assert "1-0a1b2c3d is older than 2-0a1b2c3d" in older.err
    assert publish(bundles[3], *place, environ=KEYS).status == 0
    assert publish(bundles[1], *place, "--force", environ=KEYS).status == 0

    # Credentials are found in files, too, as AWS's own tools do.
    (tmp_path / "aws-credentials").write_text("[default]\naws_access_key_id=a\naws_secret_access_key=b\n")
    assert publish(bundles[2], *place).status == 0


def test_what_another_tool_has_put_into_a_store(store: str, bundles: list[Path]) -> None:
    place = ("s3://policies/other.tar.gz", "--endpoint", store)
    put(store, "other.tar.gz", bundles[2].read_bytes())
    assert "1-0a1b2c3d is older than 2-0a1b2c3d" in publish(bundles[1], *place, environ=KEYS).err
    assert publish(bundles[3], *place, environ=KEYS).status == 0
    put(store, "other.tar.gz", b"no bundle")
    assert "is no bundle that says its revision" in publish(bundles[3], *place, environ=KEYS).err


def test_of_two_publishers_the_second_is_told(store: str, bundles: list[Path]) -> None:
    """The store compares: what was put there between the look and the publication is not replaced unseen."""
    from ostiary.cli.examiner import ArchiveExaminer
    from ostiary.distribution.archives import Archive
    from ostiary.distribution.publishing import TargetChanged
    from ostiary.distribution.s3 import S3Target

    examiner = ArchiveExaminer()
    read = [Archive.read(bundle.read_bytes(), examiner) for bundle in bundles]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        target = S3Target("policies", "two.tar.gz", endpoint=store, ca_file=None, examiner=examiner)
        target.put(read[1], instead_of=None, force=False)
        with pytest.raises(TargetChanged):
            target.put(read[2], instead_of=None, force=False)
        found = target.find()
        target.put(read[2], instead_of=found, force=False)
        with pytest.raises(TargetChanged):
            target.put(read[3], instead_of=found, force=False)


def test_what_goes_back_lies_beside_the_bundle_in_a_store_and_nowhere_in_a_registry(
    store: str, registry: str, bundles: list[Path], tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    revisions = ("--from", "2-0a1b2c3d", "--to", "1-0a1b2c3d")
    signed = ("--key", "key.pem", "--key-id", "release", "--expires", "1h", "-o", "back")
    assert ostiary("bundle", "rollback", *revisions, *signed).status == 0

    place = ("s3://policies/back/b.tar.gz", "--endpoint", store)
    assert publish(bundles[2], *place, environ=KEYS).status == 0
    assert publish(bundles[1], *place, "--rollback", "back", environ=KEYS).status == 0
    for name, content in (("b.tar.gz", bundles[1]), ("b.tar.gz.rollback", tmp_path / "back")):
        stored = client(store).get_object(Bucket="policies", Key=f"back/{name}")["Body"]
        with contextlib.closing(stored):
            assert stored.read() == content.read_bytes()

    place = (f"oci://{registry}/back:latest",)
    assert publish(bundles[2], *place).status == 0
    ran = publish(bundles[1], *place, "--rollback", "back")
    assert (ran.status, ran.out) == (1, "")
    assert "a registry has nothing beside a bundle" in ran.err
    assert publish(bundles[2], *place).out.endswith("was published already\n")


@dataclass
class Unconditional:
    """A store that knows no conditions: what is put with one is answered 501, in S3's words or in none. With `nothing`
    so is all that is put. `puts` are the conditions that came."""

    worded: bool
    nothing: bool = False
    url: str = ""
    puts: list[str | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].count("/") > 1:
            match, none_match = environ.get("HTTP_IF_MATCH"), environ.get("HTTP_IF_NONE_MATCH")
            self.puts.append(match or none_match)
            if match or none_match or self.nothing:
                environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
                words = "<Error><Code>NotImplemented</Code><Message>A header is not known.</Message></Error>"
                start_response("501 Not Implemented", [("content-type", "application/xml")])
                return [words.encode()] if self.worded else []
        answer: Iterable[bytes] = self._moto(environ, start_response)
        return answer


@contextlib.contextmanager
def unconditional(*, worded: bool) -> Iterator[Unconditional]:
    store = Unconditional(worded)
    server = make_server("127.0.0.1", 0, store, threaded=True)
    store.url = f"http://127.0.0.1:{server.server_port}"
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        client(store.url).create_bucket(Bucket="unconditional")
        yield store
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


@pytest.mark.parametrize("worded", [True, False])
def test_a_store_that_knows_no_conditions_is_asked_without(bundles: list[Path], worded: bool) -> None:
    """Once for each publication; and an older bundle still takes no newer one's place."""
    with unconditional(worded=worded) as store:
        place = (f"s3://unconditional/{worded}.tar.gz", "--endpoint", store.url)
        assert publish(bundles[1], *place, environ=KEYS) == Ran(0, f"{place[0]}: revision 1-0a1b2c3d published\n", "")
        assert store.puts == ["*", None]
        assert publish(bundles[3], *place, environ=KEYS).status == 0
        [tag] = store.puts[2:-1]
        assert tag is not None
        assert tag.startswith('"')
        assert store.puts[-1] is None
        assert "2-0a1b2c3d is older than 3-0a1b2c3d" in publish(bundles[2], *place, environ=KEYS).err
        stored = client(store.url).get_object(Bucket="unconditional", Key=f"{worded}.tar.gz")["Body"]
        with contextlib.closing(stored):
            assert stored.read() == bundles[3].read_bytes()

        store.nothing = True
        ran = publish(bundles[2], *place, "--force", environ=KEYS)
        assert (ran.status, ran.out) == (1, "")
        assert ran.err.startswith(f"{place[0]}: the store says {'NotImplemented' if worded else '501'}: ")


@pytest.mark.parametrize(
    ("destination", "options", "status", "said"),
    [
        ("s3://policies", (), 2, "is no object, which is written s3://bucket/key"),
        ("s3://policies/b.tar.gz", ("--endpoint", "http://store.test"), 2, "only https leaves this machine"),
        ("https://policy.test/b.tar.gz", ("--endpoint", "https://store.test"), 2, "--endpoint is of a store"),
        ("s3://policies/b.tar.gz", ("--endpoint", "http://127.0.0.1:1"), 1, "redentials"),
        ("oci://registry.test/shop", (), 2, "is no place in a registry, which is written oci://host/name:tag"),
        ("oci://registry.test/Shop:1", (), 2, "is no place in a registry"),
    ],
)
def test_where_nothing_can_be_published(
    bundles: list[Path], destination: str, options: tuple[str, ...], status: int, said: str
) -> None:
    ran = publish(bundles[1], destination, *options)
    assert (ran.status, ran.out) == (status, "")
    assert said in ran.err
