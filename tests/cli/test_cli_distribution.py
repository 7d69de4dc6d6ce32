"""`ostiary bundle publish`, `serve` and `rollout`: what people say to them, and what they answer."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ostiary.policy.archive import pack
from support.cli import Ran, ostiary
from support.distribution import PUBLISHER, READER, Process, archive, bundle_server, token_file, wait_until
from support.opa import write_bundle
from support.tls import SERVER, dns, root, uri


@pytest.fixture
def bundles(tmp_path: Path) -> list[Path]:
    """Bundles with the sequences 0 to 3, each as `b.tar.gz`, in directories of their own."""
    found = []
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        found.append(archive(tmp_path / str(number) / "b.tar.gz", number))
    return found


def test_a_directory_gets_newer_bundles_only(tmp_path: Path, bundles: list[Path]) -> None:
    place = tmp_path / "published"
    assert ostiary("bundle", "publish", bundles[1], "published") == Ran(
        2, "", "published: there is no such directory\n"
    )
    place.mkdir()
    said = "published: revision 2-0a1b2c3d published\n"
    assert ostiary("bundle", "publish", bundles[2], "published") == Ran(0, said, "")
    assert (place / "b.tar.gz").read_bytes() == bundles[2].read_bytes()
    again = ostiary("bundle", "publish", bundles[2], "published")
    assert again == Ran(0, "published: revision 2-0a1b2c3d was published already\n", "")

    older = ostiary("bundle", "publish", bundles[1], "published/b.tar.gz")
    assert (older.status, older.out) == (1, "")
    assert older.err.startswith("published/b.tar.gz: 1-0a1b2c3d is older than 2-0a1b2c3d, which is published; build ")
    assert (place / "b.tar.gz").read_bytes() == bundles[2].read_bytes()
    forced = ostiary("bundle", "publish", bundles[1], "published/b.tar.gz", "--force", "--json")
    assert json.loads(forced.out) == {
        "destination": "published/b.tar.gz",
        "revision": "1-0a1b2c3d",
        "outcome": "published",
    }
    assert (place / "b.tar.gz").read_bytes() == bundles[1].read_bytes()
    assert not list(place.glob(".b*"))


def test_a_bundle_with_the_sequence_of_the_one_before_is_warned_of(tmp_path: Path, bundles: list[Path]) -> None:
    (tmp_path / "published").mkdir()
    assert ostiary("bundle", "publish", bundles[2], "published").err == ""
    pack(write_bundle(tmp_path / "twin", revision="2-ffffffff"), tmp_path / "b.tar.gz")
    ran = ostiary("bundle", "publish", "b.tar.gz", "published")
    assert (ran.status, ran.out) == (0, "published: revision 2-ffffffff published\n")
    assert ran.err.startswith("warning: 2-ffffffff takes the place of 2-0a1b2c3d, which has the same sequence: ")
    assert ostiary("bundle", "publish", "b.tar.gz", "published").err == ""
    assert ostiary("bundle", "publish", bundles[3], "published").err == ""


def test_what_is_no_bundle_is_neither_published_nor_replaced(tmp_path: Path, bundles: list[Path]) -> None:
    (tmp_path / "text.tar.gz").write_text("no bundle")
    ran = ostiary("bundle", "publish", "text.tar.gz", ".")
    assert ran == Ran(2, "", "text.tar.gz: it is no whole archive (tar, gzip)\n")
    ran = ostiary("bundle", "publish", bundles[1], "text.tar.gz")
    said = "text.tar.gz: what is there is no bundle that says its revision; --force replaces it\n"
    assert ran == Ran(1, "", said)
    assert ostiary("bundle", "publish", bundles[1], "text.tar.gz", "--force").status == 0


@pytest.mark.parametrize(
    ("destination", "said"),
    [
        ("http://policy.test/b.tar.gz", "only https leaves this machine"),
        ("https://user:secret@policy.test/b.tar.gz", "no user, no password"),
        ("https://[/b.tar.gz", "is no URL"),
        ("ftp://policy.test/b.tar.gz", "publish to a directory"),
        ("b.txt/", "there is no such directory"),
    ],
)
def test_where_nothing_can_be_published(bundles: list[Path], destination: str, said: str) -> None:
    ran = ostiary("bundle", "publish", bundles[1], destination)
    assert (ran.status, ran.out) == (2, "")
    assert said in ran.err
    assert "secret@" not in ran.err


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    (tmp_path / "served").mkdir()
    readers = token_file(tmp_path / "readers", READER)
    publishers = token_file(tmp_path / "publishers", PUBLISHER)
    with bundle_server(tmp_path / "served", "--reader-tokens", readers, "--publisher-tokens", publishers) as running:
        yield running


def test_a_server_gets_bundles_and_says_who_has_them(server: Process, bundles: list[Path]) -> None:
    url = f"http://127.0.0.1:{server.port}"
    publish = ("bundle", "publish", bundles[2], f"{url}/", "--token-file", "publishers")
    assert ostiary(*publish) == Ran(0, f"{url}/: revision 2-0a1b2c3d published\n", "")
    assert ostiary(*publish) == Ran(0, f"{url}/: revision 2-0a1b2c3d was published already\n", "")
    assert ostiary("bundle", "publish", bundles[2], url, "--token-file", "publishers").status == 0  # without a slash
    older = ostiary("bundle", "publish", bundles[1], f"{url}/b.tar.gz", "--token-file", "publishers")
    assert older.status == 1
    assert "1-0a1b2c3d is older than 2-0a1b2c3d" in older.err
    token = {"OSTIARY_BUNDLE_TOKEN": READER}
    refused = ostiary("bundle", "publish", bundles[3], f"{url}/b.tar.gz", environ=token)
    said = f"{url}/b.tar.gz: the server says 403: only a publisher may do that\n"
    assert refused == Ran(1, "", said)

    rollout = ("bundle", "rollout", url, "--token-file", "publishers")
    nobody = ostiary(*rollout)
    assert (nobody.status, nobody.out) == (1, "proxy  bundle  revision  state  for  heard\n")
    assert nobody.err.startswith("nobody has reported yet: ")
    report(url, "orders-1", "2-0a1b2c3d")
    assert ostiary(*rollout).status == 0
    report(url, "billing-1", "1-0a1b2c3d")
    report(url, "audit-1\x1b[2J", "2-0a1b2c3d", code="bundle_error", message="no \x1b[2J route")
    ran = ostiary(*rollout)
    assert ran.status == 1
    lines = [line.split() for line in ran.out.splitlines()]
    assert [line[:5] for line in lines[1:]] == [
        ["audit-1", "[2J", "b", "2-0a1b2c3d", "failing"],
        ["billing-1", "b", "1-0a1b2c3d", "behind", *lines[2][4:5]],
        ["orders-1", "b", "2-0a1b2c3d", "current", *lines[3][4:5]],
    ]
    assert ran.err == "audit-1 [2J: no  [2J route\n"
    document = json.loads(ostiary(*rollout, "--json").out)
    assert document["done"] is False
    assert document["bundles"]["b.tar.gz"]["revision"] == "2-0a1b2c3d"

    began = time.monotonic()
    assert ostiary(*rollout, "--wait", "1").status == 1
    assert time.monotonic() - began >= 1
    said = f"{url}/status: the server says 403: only a publisher may do that\n"
    assert ostiary("bundle", "rollout", url, environ=token) == Ran(1, "", said)


def test_a_revision_is_current_under_the_name_of_its_own_bundle_alone(server: Process, bundles: list[Path]) -> None:
    url = f"http://127.0.0.1:{server.port}"
    for bundle, name in ((bundles[3], "shop.tar.gz"), (bundles[2], "stage.tar.gz")):
        assert ostiary("bundle", "publish", bundle, f"{url}/{name}", "--token-file", "publishers").status == 0
    rollout = ("bundle", "rollout", url, "--token-file", "publishers")

    def states() -> dict[str, str]:
        lines = [line.split() for line in ostiary(*rollout).out.splitlines()[1:]]
        return {proxy: state for proxy, _, _, state, *_ in lines}

    report(url, "a", "3-0a1b2c3d", bundle="shop")
    report(url, "b", "2-0a1b2c3d", bundle="stage.tar.gz")
    report(url, "c", "2-0a1b2c3d", bundle="any", resource="stage.tar.gz")
    report(url, "d", "2-0a1b2c3d", bundle="shop", resource="policies/stage.tar.gz")
    assert states() == dict.fromkeys("abcd", "current")
    assert ostiary(*rollout).status == 0

    report(url, "a", "2-0a1b2c3d", bundle="shop")
    report(url, "b", "3-0a1b2c3d", bundle="stage.tar.gz")
    report(url, "c", "2-0a1b2c3d", bundle="any", resource="shop.tar.gz")
    report(url, "e", "2-0a1b2c3d", bundle="any")
    ran = ostiary(*rollout)
    assert ran.status == 1
    assert ran.err == "e: nothing is published as any: name it so in OPA's bundles, or by the label 'resource'\n"
    assert states() == {"a": "behind", "b": "behind", "c": "behind", "d": "current", "e": "unknown"}
    proxies = json.loads(ostiary(*rollout, "--json").out)["proxies"]
    assert [one["published"] for one in proxies] == ["shop.tar.gz", "stage.tar.gz", "shop.tar.gz", "stage.tar.gz", None]


def report(
    url: str, proxy: str, revision: str, *, bundle: str = "b", resource: str | None = None, **status: str
) -> None:
    labels = {"id": proxy} if resource is None else {"id": proxy, "resource": resource}
    document = {"labels": labels, "bundles": {bundle: {"active_revision": revision, **status}}}
    answer = httpx.post(f"{url}/status", json=document, headers={"authorization": f"Bearer {READER}"})
    assert answer.status_code == 200


def test_going_back_publishes_the_statement_and_then_the_older_bundle(
    server: Process, bundles: list[Path], tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def back(back_from: int, to: int) -> None:
        """A statement in the file `back`. An archive stands for its revision."""
        revisions = ("--from", f"{back_from}-0a1b2c3d", "--to", bundles[to])
        signed = ("--key", "key.pem", "--key-id", "release", "--expires", "1h", "-o", "back")
        assert ostiary("bundle", "rollback", *revisions, *signed).status == 0

    url, beside = f"http://127.0.0.1:{server.port}/b.tar.gz", tmp_path / "served" / "b.tar.gz.rollback"
    for place, options in ((url, ("--token-file", "publishers")), ("served/b.tar.gz", ())):
        assert ostiary("bundle", "publish", bundles[2], place, *options, "--force").status == 0
        beside.unlink(missing_ok=True)

        def publish(number: int, place: str = place, options: tuple[str, ...] = options) -> Ran:
            return ostiary("bundle", "publish", bundles[number], place, "--rollback", "back", *options)

        back(2, 0)
        assert publish(1) == Ran(2, "", "back: is for 0-0a1b2c3d, and not for 1-0a1b2c3d\n")
        back(1, 1)
        refused = publish(1)
        assert (refused.status, refused.out) == (1, "")
        assert "2-0a1b2c3d is published, and the statement takes back what is not newer than 1-0a1b2c3d" in refused.err
        assert not beside.exists()
        back(2, 1)
        unseen = "back: whose signature it has was not looked at; give the key of proxies as --verification-key\n"
        assert publish(1) == Ran(0, f"{place}: revision 1-0a1b2c3d published\n", unseen)
        assert beside.read_bytes() == (tmp_path / "back").read_bytes()
        assert (tmp_path / "served" / "b.tar.gz").read_bytes() == bundles[1].read_bytes()
        # Once more, with another statement.
        back(3, 1)
        assert publish(1).out.endswith("was published already\n")
        assert beside.read_bytes() == (tmp_path / "back").read_bytes()

    assert (
        "the server says 403"
        in ostiary("bundle", "publish", bundles[1], url, "--rollback", "back", "--token-file", "readers").err
    )
    (tmp_path / "back").write_bytes(b"x" * 20_000)
    assert publish(1) == Ran(2, "", "back: it is too long\n")


def test_what_another_key_has_signed_is_not_published(bundles: list[Path], tmp_path: Path, opa_binary: Path) -> None:
    """Bundle and statement: proxies would refuse either. Nothing of it is published then."""
    for name in ("key", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        (tmp_path / f"{name}.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{name}.pub.pem").write_bytes(public)
    (tmp_path / "served").mkdir()
    place = tmp_path / "served" / "b.tar.gz"

    def sign(bundle: Path, key: str) -> None:
        assert ostiary("bundle", "sign", bundle, "--key", f"{key}.pem", "--key-id", "release").status == 0

    def publish(bundle: Path, *options: str) -> Ran:
        wanted = ("--verification-key", "key.pub.pem", "--key-id", "release")
        return ostiary("bundle", "publish", bundle, place, *wanted, *options)

    assert publish(bundles[2]) == Ran(2, "", f"{bundles[2]}: it is not signed\n")
    sign(bundles[2], "other")
    assert publish(bundles[2]).status == 2
    assert not place.exists()
    sign(bundles[2], "key")
    sign(bundles[1], "key")
    assert publish(bundles[2]).status == 0
    for key, status in (("other", 2), ("key", 0)):
        signed = ("--key", f"{key}.pem", "--key-id", "release", "--expires", "1h", "-o", "back")
        assert ostiary("bundle", "rollback", "--from", bundles[2], "--to", bundles[1], *signed).status == 0
        ran = publish(bundles[1], "--rollback", "back")
        assert ran.status == status
        assert ran.err.startswith("back: its signature is none of ES256") == bool(status)
        assert (tmp_path / "served" / "b.tar.gz.rollback").exists() is not bool(status)
        assert (place.read_bytes() == bundles[1].read_bytes()) is not bool(status)
    assert ostiary("bundle", "publish", bundles[1], place, "--key-id", "release").err.startswith("--key-id needs")


def test_nobody_answers(bundles: list[Path]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = "http://127.0.0.1:{1}".format(*closed.getsockname())
        for command in (("publish", bundles[1], f"{url}/b.tar.gz"), ("rollout", url)):
            ran = ostiary("bundle", *command)
            assert (ran.status, ran.out) == (1, "")
            assert ran.err.startswith(url)
            assert ": no answer: " in ran.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("nowhere",), "nowhere: there is no such directory"),
        ((".", "--listen", "9400"), "9400: is not an address to listen on, which is written 127.0.0.1:9400"),
        ((".", "--listen", "0.0.0.0:0"), "0.0.0.0 is not loopback: policy and tokens would be read on the way"),
        ((".", "--tls-key", "key.pem"), "--tls-certificate and --tls-key belong together"),
        ((".", "--client-ca", "ca.pem"), "--client-ca needs --tls-certificate"),
        ((".", "--publisher-name", "ci"), "--publisher-name needs --client-ca"),
        ((".", "--key-id", "release"), "--key-id needs --verification-key"),
        ((".", "--verification-key", "key.pem"), "--verification-key needs --key-id"),
        ((".", "--verification-key", "key.pem", "--key-id", "k"), "key.pem: the key key.pem cannot be read: No such"),
        ((".", "--reader-tokens", "open"), "open: the token file is open to others (mode 0644)"),
        ((".", "--reader-tokens", "empty"), "empty: holds no token"),
        ((".", "--reader-tokens", "short"), "short:3: is no token"),
    ],
)
def test_what_a_server_is_not_started_with(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    token_file(tmp_path / "open", READER).chmod(0o644)
    token_file(tmp_path / "empty")
    token_file(tmp_path / "short", "secret")
    ran = ostiary("bundle", "serve", *options)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(said)
    assert "secret" not in ran.err


def test_an_address_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "{}:{}".format(*taken.getsockname())
        ran = ostiary("bundle", "serve", ".", "--listen", address)
    assert ran == Ran(1, "", f"cannot listen on {address}: Address already in use\n")


def test_clients_are_known_by_certificates_and_bundles_by_signatures(tmp_path: Path, bundles: list[Path]) -> None:
    authority = root("clients")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    (tmp_path / "clients.pem").write_bytes(authority.pem)
    authority.issue(dns("localhost"), extended=SERVER).write(tmp_path, "server")
    authority.issue(uri("spiffe://shop.test/ci")).write(tmp_path, "ci")
    authority.issue(subject="opa").write(tmp_path, "opa")
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub.pem").write_bytes(public)
    (tmp_path / "served").mkdir()
    options = ["--tls-certificate", "server.pem", "--tls-key", "server-key.pem", "--client-ca", "clients.pem"]
    options += ["--publisher-name", "spiffe://shop.test/ci"]
    options += ["--verification-key", "key.pub.pem", "--key-id", "release"]
    with bundle_server(tmp_path / "served", *options) as server:
        url = f"https://localhost:{server.port}/b.tar.gz"

        def publish(bundle: Path, who: str, *options: str) -> Ran:
            shown = ("--certificate", f"{who}.pem", "--certificate-key", f"{who}-key.pem") if who else ()
            return ostiary("bundle", "publish", bundle, url, "--ca-file", "ca.pem", *shown, *options)

        unsigned = publish(bundles[1], "ci")
        assert unsigned == Ran(1, "", f"{url}: the server says 422: the bundle is refused: it is not signed\n")
        for bundle in bundles[1:]:
            sign = ("bundle", "sign", bundle, "--key", "key.pem", "--key-id", "release")
            assert ostiary(*sign).status == 0
        assert "the server says 401" in publish(bundles[1], "").err
        assert "the server says 403: only a publisher" in publish(bundles[1], "opa").err
        assert publish(bundles[1], "ci").status == 0
        assert (tmp_path / "served" / "b.tar.gz").read_bytes() == bundles[1].read_bytes()

        # A statement has to be signed, too.
        other = ec.generate_private_key(ec.SECP256R1())
        (tmp_path / "other.pem").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        for signing, said in (
            ("other.pem", "the server says 422: the statement is refused: its signature"),
            ("key.pem", ""),
        ):
            revisions = ("--from", "2-0a1b2c3d", "--to", "1-0a1b2c3d", "--expires", "1h", "-o", "back")
            assert ostiary("bundle", "rollback", *revisions, "--key", signing, "--key-id", "release").status == 0
            assert said in publish(bundles[1], "ci", "--rollback", "back").err
            assert (tmp_path / "served" / "b.tar.gz.rollback").exists() is not bool(said)

        # Another certificate is taken into use without a restart.
        other = root("others")
        other.issue(dns("localhost"), extended=SERVER).write(tmp_path, "server")
        wait_until(lambda: server.logged("the certificate was replaced"), 20)
        assert "CERTIFICATE_VERIFY_FAILED" in publish(bundles[2], "ci").err
        (tmp_path / "ca.pem").write_bytes(other.pem)
        assert publish(bundles[2], "ci").status == 0

        # And so are other authorities of clients: what the old one has signed is nothing any more.
        (tmp_path / "clients.pem").write_bytes(other.pem)
        wait_until(lambda: sum("was replaced" in line for line in server.lines) == 2, 20)
        assert publish(bundles[3], "ci").status == 1
        other.issue(uri("spiffe://shop.test/ci")).write(tmp_path, "ci")
        assert publish(bundles[3], "ci").status == 0
