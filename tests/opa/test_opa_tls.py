"""OPA over https: whoever cannot prove to be it, by an authority that was named, is asked nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ostiary.errors import ConfigurationError
from ostiary.opa.address import OpaAddress
from ostiary.opa.client import OpaClient
from ostiary.opa.external import ExternalOpa
from ostiary.opa.probe import OpaNotReady
from support.faults import free_port
from support.opa import ALLOWED, REVISION, write_bundle
from support.upstream import Authority

QUESTION = {"subject": {"id": "web"}}


@pytest.fixture
def private(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "private")


@pytest.fixture
async def port(opa_binary: Path, tmp_path: Path, private: Authority) -> AsyncIterator[int]:
    """That of an OPA whose certificate is for `localhost`."""
    port = free_port()
    certificate, key = private.issue("localhost")
    opa = await asyncio.create_subprocess_exec(
        *(opa_binary, "run", "--server", "--skip-version-check", "--log-level=error", f"--addr=127.0.0.1:{port}"),
        *(f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}"),
        *("--bundle", write_bundle(tmp_path / "bundle")),
    )
    yield port
    opa.kill()
    await opa.wait()


async def test_opa_is_asked_over_https_if_its_authority_was_named_and_its_name_is_the_address(
    port: int, private: Authority, tmp_path: Path
) -> None:
    address = OpaAddress.parse(f"https://localhost:{port}")
    async with ExternalOpa(address=address, ca_file=private.ca_file, start_timeout=10) as opa:
        assert opa.revision == REVISION
    async with OpaClient(address=address, ca_file=private.ca_file, deadline=2) as client:
        assert (await client.query(QUESTION)).result == ALLOWED

    other = Authority(tmp_path, "other").ca_file
    elsewhere = OpaAddress.parse(f"https://127.0.0.1:{port}")
    for asked, ca_file, why in (
        (address, None, "unable to get local issuer certificate"),
        (address, other, "unable to get local issuer certificate"),
        (elsewhere, private.ca_file, "IP address mismatch"),
    ):
        with pytest.raises(OpaNotReady, match=why):
            async with ExternalOpa(address=asked, ca_file=ca_file, start_timeout=0.3):
                pass


def test_authorities_that_cannot_be_read_are_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(ConfigurationError, match=rf"{name}: the ca_file of OPA cannot be used: "):
            OpaClient(address=OpaAddress.parse("https://localhost"), ca_file=tmp_path / name)
