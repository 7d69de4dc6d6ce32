"""What is fetched from, and with what: addresses, TLS, tokens, discovery."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pytest_httpserver import HTTPServer

from ostiary.addresses import REFUSED
from ostiary.identity.fetch import DocumentFetcher, GuardedBackend
from ostiary.identity.keys import KeySourceError
from ostiary.identity.sources import DiscoverySource
from support.identity import KeyServer, SigningKey, answer, jwks, private_key, raw_server

KEYS = jwks(SigningKey())


async def cause_of(awaitable: Any) -> str:
    with pytest.raises(KeySourceError) as caught:
        await awaitable
    return caught.value.cause


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1%eth0", "2002:a9fe:a9fe::1", "no address"])
def test_an_address_where_no_issuer_lives_is_refused(address: str) -> None:
    backend = GuardedBackend(refused=REFUSED, loopback_only=False)
    assert not backend.allows((address, 443))


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "203.0.113.7", "2001:db8::1", "fd00::1", "::1"])
def test_other_addresses_are_fetched_from(address: str) -> None:
    assert GuardedBackend(refused=REFUSED, loopback_only=False).allows((address, 443))


def test_plain_http_is_for_loopback_wherever_the_name_leads() -> None:
    backend = GuardedBackend(refused=REFUSED, loopback_only=True)
    assert [backend.allows((address, 80)) for address in ("127.0.0.1", "::1", "10.0.0.1")] == [True, True, False]
    assert [backend.allows((address, 80)) for address in ("::ffff:127.0.0.1", "2002:7f00:1::")] == [True, False]
    assert not backend.allows(None)


async def test_the_address_really_connected_to_is_looked_at_before_a_byte_is_written() -> None:
    """SSRF: the name was fine when it was configured; where it led is what counts. Not even the token is sent."""
    served = KeyServer(KEYS)
    refused = ((ipaddress.ip_network("127.0.0.2/32"), "another's"),)
    async with raw_server(served, host="127.0.0.2") as server:
        url = f"http://127.0.0.2:{server.port}/jwks"
        assert await cause_of(DocumentFetcher(refused=refused).get(url)) == "address-refused"
        assert (served.requests, bytes(server.received)) == (0, b"")
        assert await DocumentFetcher().get(url) == KEYS


@pytest.mark.parametrize("url", ["http://idp.test/jwks", "file:///etc/passwd", "https://a:b@idp.test/", "x"])
async def test_only_https_is_fetched(url: str) -> None:
    assert await cause_of(DocumentFetcher().get(url)) == "url-refused"


async def test_a_closed_port_is_unreachable() -> None:
    async with raw_server(KeyServer(b"")) as server:
        port = server.port
    assert await cause_of(DocumentFetcher().get(f"http://127.0.0.1:{port}/")) == "unreachable"


async def test_the_environment_sets_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with raw_server(KeyServer(KEYS)) as server:
        assert await DocumentFetcher().get(f"http://127.0.0.1:{server.port}/") == KEYS


async def test_a_redirect_is_not_followed() -> None:
    target = KeyServer(KEYS)
    async with raw_server(target) as other:
        location = f"location: http://127.0.0.1:{other.port}/\r\n".encode()
        redirecting = KeyServer(b"")
        redirecting.raw = answer(b"", status="307 Elsewhere", headers=location)
        async with raw_server(redirecting) as server:
            assert await cause_of(DocumentFetcher().get(f"http://127.0.0.1:{server.port}/")) == "redirect"
    assert target.requests == 0


async def test_a_cookie_is_not_kept() -> None:
    served = KeyServer(KEYS)
    served.raw = answer(KEYS, headers=b"set-cookie: a=b\r\n")
    async with raw_server(served) as server:
        fetcher = DocumentFetcher()
        for _ in range(2):
            assert await fetcher.get(f"http://127.0.0.1:{server.port}/") == KEYS
        assert b"cookie" not in server.received.lower()


async def test_a_chunked_answer_without_end_is_cut_at_the_limit() -> None:
    served = KeyServer(b"")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    served.raw = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk * 5
    async with raw_server(served) as server:
        assert await cause_of(DocumentFetcher().get(f"http://127.0.0.1:{server.port}/")) == "oversized"


async def test_the_token_file_is_read_at_each_fetch(tmp_path: Path) -> None:
    """A Kubernetes API server wants a token, and it is rotated."""
    token_file = tmp_path / "token"
    async with raw_server(KeyServer(KEYS)) as server:
        fetcher = DocumentFetcher(token_file=token_file)
        url = f"http://127.0.0.1:{server.port}/"
        assert await cause_of(fetcher.get(url)) == "token-file"
        for token in ("first.token", "second.token"):
            token_file.write_text(f"{token}\n")
            assert await fetcher.get(url) == KEYS
        token_file.write_text("two words\r\nx-injected: yes")
        assert await cause_of(fetcher.get(url)) == "token-file"
    heads = bytes(server.received).lower()
    assert [heads.count(b"authorization: bearer " + name) for name in (b"first.token", b"second.token")] == [1, 1]
    assert server.connections == 2


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = private_key("ES256", "tls")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


@asynccontextmanager
async def tls_server(authority: tuple[Path, Path]) -> AsyncIterator[HTTPServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority)
    server = HTTPServer(host="127.0.0.1", ssl_context=context)
    server.expect_request("/jwks").respond_with_data(KEYS)
    server.start()
    try:
        yield server
    finally:
        server.clear()
        server.stop()


async def test_an_issuer_is_believed_by_its_own_ca_file_only(authority: tuple[Path, Path], tmp_path: Path) -> None:
    async with tls_server(authority) as server:
        url = f"https://127.0.0.1:{server.port}/jwks"
        assert await DocumentFetcher(ca_file=authority[0]).get(url) == KEYS
        assert await cause_of(DocumentFetcher().get(url)) == "unreachable"
        named = f"https://localhost:{server.port}/jwks"
        assert await cause_of(DocumentFetcher(ca_file=authority[0]).get(named)) == "unreachable"
        assert await cause_of(DocumentFetcher(ca_file=tmp_path / "none").get(url)) == "ca-file"


def discovery(**members: Any) -> bytes:
    return json.dumps(members).encode()


async def discovering(httpserver: HTTPServer, issuer: str, document: bytes) -> bytes:
    httpserver.expect_request("/tenant/.well-known/openid-configuration").respond_with_data(document)
    httpserver.expect_request("/keys").respond_with_data(KEYS)
    return await DiscoverySource(issuer=issuer, fetcher=DocumentFetcher()).read()


@pytest.mark.parametrize("slash", ["", "/"])
async def test_discovery_finds_the_keys_of_the_issuer(httpserver: HTTPServer, slash: str) -> None:
    issuer = httpserver.url_for("/tenant") + slash
    document = discovery(issuer=issuer, jwks_uri=httpserver.url_for("/keys"), scopes_supported=["openid"])
    assert await discovering(httpserver, issuer, document) == KEYS


@pytest.mark.parametrize(
    ("members", "cause"),
    [
        ({"issuer": "https://evil.test"}, "issuer-mismatch"),
        ({"issuer": "{issuer}/"}, "issuer-mismatch"),
        ({"issuer": None}, "issuer-mismatch"),
        ({"jwks_uri": None}, "malformed"),
        ({"jwks_uri": "https://evil.test/keys"}, "origin-mismatch"),
        ({"jwks_uri": "http://127.0.0.1:1/keys"}, "origin-mismatch"),
        ({"jwks_uri": "http://evil.test/keys"}, "url-refused"),
        ({"jwks_uri": "/keys"}, "url-refused"),
        ({"jwks_uri": "file:///etc/passwd"}, "url-refused"),
    ],
)
async def test_a_discovery_document_that_leads_elsewhere_is_refused(
    httpserver: HTTPServer, members: dict[str, Any], cause: str
) -> None:
    issuer = httpserver.url_for("/tenant")
    given = {name: value.format(issuer=issuer) if isinstance(value, str) else value for name, value in members.items()}
    document = discovery(**{"issuer": issuer, "jwks_uri": httpserver.url_for("/keys"), **given})
    assert await cause_of(discovering(httpserver, issuer, document)) == cause
    assert [request.path for request, _ in httpserver.log] == ["/tenant/.well-known/openid-configuration"]


@pytest.mark.parametrize("document", [b"", b"[]", b'{"issuer": "a", "issuer": "b"}'])
async def test_a_discovery_document_that_is_none_is_refused(httpserver: HTTPServer, document: bytes) -> None:
    assert await cause_of(discovering(httpserver, httpserver.url_for("/tenant"), document)) == "malformed"
