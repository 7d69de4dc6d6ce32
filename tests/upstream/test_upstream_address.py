"""Where a connection goes, and to whom: addresses that are never upstreams, and names that certificates prove."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from ostiary.errors import ConfigurationError, UpstreamFailed
from ostiary.upstream import Forwarder, TlsSettings
from support.shipped import upstream_settings
from support.upstream import OK, Authority, RawUpstream, answers, forwarding, fronted


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "fe80::1", "fd00:ec2::254", "2002:a9fe:a9fe::1", "64:ff9b::a9fe:a9fe"]
)
async def test_a_metadata_address_is_not_connected_to(host: str) -> None:
    async with fronted(upstream_settings(host=host, port=80)) as front:
        assert (await front.call()).status == 502
    (refusal,) = front.refusals
    assert (type(refusal), f"{host} is no address of an upstream" in str(refusal)) == (UpstreamFailed, True)


async def test_a_name_is_resolved_when_it_is_connected_to() -> None:
    async with forwarding(answers(OK), host="localhost") as (front, _):
        assert (await front.call()).status == 200


async def test_a_name_without_an_address_is_502() -> None:
    async with fronted(upstream_settings(host="no-such-host.invalid", port=80)) as front:
        assert (await front.call()).status == 502


async def test_the_host_header_is_the_upstreams_authority() -> None:
    async with forwarding(answers(OK)) as (front, upstream):
        await front.call()
    assert upstream.requests[0].values("host") == [f"127.0.0.1:{upstream.port}"]


@pytest.mark.parametrize(
    ("host", "port", "scheme", "authority"),
    [("h", 80, "http", "h"), ("h", 443, "https", "h"), ("h", 443, "http", "h:443"), ("::1", 80, "http", "[::1]")],
)
def test_an_authority_is_written_as_urls_write_it(host: str, port: int, scheme: str, authority: str) -> None:
    assert upstream_settings(host=host, port=port, scheme=scheme).authority == authority  # type: ignore[arg-type]


@pytest.mark.parametrize(("host", "port"), [("", 80), ("h", 0), ("h", 65536)])
def test_what_is_no_address_is_no_setting(host: str, port: int) -> None:
    with pytest.raises(ValueError, match="not an upstream address"):
        upstream_settings(host=host, port=port)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


def serving(authority: Authority, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(*names))
    return context


async def over_tls(context: ssl.SSLContext, tls: TlsSettings, host: str = "127.0.0.1") -> tuple[list[int], list[str]]:
    """Two calls to an upstream that serves with this context: their statuses, and why they were refused."""
    async with RawUpstream(answers(OK), tls=context).running() as upstream:
        settings = upstream_settings(host=host, port=upstream.port, scheme="https", tls=tls)
        async with fronted(settings) as front:
            statuses = [(await front.call()).status for _ in range(2)]
            if 200 in statuses:
                assert upstream.connections == 1
            else:
                assert upstream.requests == []
            return statuses, [str(refusal) for refusal in front.refusals]


async def test_an_upstream_with_a_certificate_of_the_authority_is_called_over_tls(authority: Authority) -> None:
    context = serving(authority, "127.0.0.1")
    assert await over_tls(context, TlsSettings(ca_file=authority.ca_file)) == ([200, 200], [])


async def test_the_name_in_the_certificate_may_be_configured(authority: Authority) -> None:
    context = serving(authority, "orders.internal")
    tls = TlsSettings(ca_file=authority.ca_file, server_name="orders.internal")
    assert await over_tls(context, tls) == ([200, 200], [])


async def test_a_certificate_of_another_authority_is_502(authority: Authority, tmp_path: Path) -> None:
    context = serving(Authority(tmp_path, "theirs"), "127.0.0.1")
    statuses, reasons = await over_tls(context, TlsSettings(ca_file=authority.ca_file))
    assert (statuses, ["certificate verify failed" in reason.lower() for reason in reasons]) == ([502] * 2, [True] * 2)


async def test_a_certificate_for_another_name_is_502(authority: Authority) -> None:
    context = serving(authority, "billing.internal")
    statuses, reasons = await over_tls(context, TlsSettings(ca_file=authority.ca_file, server_name="orders.internal"))
    assert (statuses, ["hostname mismatch" in reason.lower() for reason in reasons]) == ([502] * 2, [True] * 2)


async def test_the_systems_authorities_do_not_know_ours(authority: Authority) -> None:
    assert (await over_tls(serving(authority, "127.0.0.1"), TlsSettings()))[0] == [502, 502]


async def test_an_upstream_below_tls_1_2_is_502(authority: Authority) -> None:
    context = serving(authority, "127.0.0.1")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    assert (await over_tls(context, TlsSettings(ca_file=authority.ca_file)))[0] == [502, 502]


async def test_an_upstream_without_tls_is_502_where_tls_is_configured(authority: Authority) -> None:
    async with RawUpstream(answers(OK)).running() as upstream:
        tls = TlsSettings(ca_file=authority.ca_file)
        settings = upstream_settings(host="127.0.0.1", port=upstream.port, scheme="https", tls=tls, connect_timeout=1)
        async with fronted(settings) as front:
            assert (await front.call()).status in (502, 504)
    assert upstream.requests == []


def test_a_ca_file_that_cannot_be_read_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    tls = TlsSettings(ca_file=tmp_path / "missing.pem")
    with pytest.raises(ConfigurationError, match=r"missing\.pem: cannot be used for TLS"):
        Forwarder({"orders": upstream_settings(host="h", port=1, scheme="https", tls=tls)})
