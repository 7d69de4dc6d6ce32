"""What docs/verify.md shows is run here, as it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from pytest_httpserver import HTTPServer

from ostiary.clock import SystemClock
from ostiary.credential import SigningKey, public_jwks
from ostiary.verify import CredentialInvalid, CredentialMissing, KeySet, Verifier
from support.credential import ISSUER, Catalog, Facts, access_request, allow, documents, swapper, token_of
from support.served import served

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "verify.md"
BLOCKS = dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', PAGE.read_text(encoding="utf-8"), re.M | re.S))
KEY = SigningKey.generate("EdDSA")
NEVER = 4_000_000_000


def run(title: str, *, jwks_at: str = "") -> dict[str, Any]:
    """The names that a block defines. The address of the proxy is the one thing that is replaced."""
    names: dict[str, Any] = {"__name__": title.removesuffix(".py")}
    exec(compile(BLOCKS[title].replace("http://127.0.0.1:8080", jwks_at), title, "exec"), names)
    return names


def test_every_block_has_a_test() -> None:
    assert sorted(BLOCKS) == ["header", "orders.py", "payload", "reports.py", "shared.py"]
    assert PAGE.read_text(encoding="utf-8").count("```") == 2 * len(BLOCKS)


async def test_the_service_of_the_page(httpserver: HTTPServer) -> None:
    jwks = "/.well-known/jwks.json"
    httpserver.expect_request(jwks, headers={"host": "ostiary.localhost"}).respond_with_data(public_jwks([KEY.public]))
    credential = await swapper(KEY, clock=SystemClock()).swap(access_request(token_ends=NEVER), allow())
    async with (
        served(run("orders.py", jwks_at=httpserver.url_for("").rstrip("/"))["app"]) as address,
        httpx.AsyncClient(base_url=address, trust_env=False) as client,
    ):
        allowed = await client.get("/orders/42", headers={"authorization": f"Bearer {token_of(credential)}"})
        refused = await client.get("/orders/42")
    assert (allowed.status_code, allowed.json()) == (200, {"order": "42", "for": "web", "as": "web"})
    assert refused.status_code == 401


async def test_the_shared_store_of_the_page(tmp_path: Path) -> None:
    stores = [run("shared.py")["SharedReplays"](str(tmp_path / "spent.db")) for _ in range(2)]
    keys = KeySet.parse(public_jwks([KEY.public]))
    verifiers = [Verifier(issuer=ISSUER, audience="orders", keys=keys, replays=store) for store in stores]
    credential = await swapper(KEY, clock=SystemClock()).swap(access_request(token_ends=NEVER), allow(per_call=True))
    assert (await verifiers[0].verify("GET", b"/orders/42", b"", credential.header[1])).single_use
    for verifier in verifiers:
        with pytest.raises(CredentialInvalid, match="used before"):
            await verifier.verify("GET", b"/orders/42", b"", credential.header[1])
    assert await stores[0].spend("ended", 1.0)
    assert await stores[1].spend("ended", NEVER), "what has expired is not kept"
    for store in stores:
        store._database.close()


async def test_the_synchronous_function_of_the_page() -> None:
    authorize = run("reports.py")["authorize"]
    catalog = Catalog({("reports", "daily"): Facts("GET", "/reports/{day}")})
    request = access_request(service="reports", path="/reports/monday", query="a=b", token_ends=NEVER)
    credential = await swapper(KEY, clock=SystemClock(), catalog=catalog).swap(
        request, allow(service="reports", endpoint="daily", per_call=True)
    )
    jwks = public_jwks([KEY.public])
    environ = {"RAW_URI": "/reports/monday?a=b", "REQUEST_METHOD": "GET"}
    with pytest.raises(CredentialMissing):
        authorize(environ, jwks)
    environ["HTTP_AUTHORIZATION"] = credential.header[1].decode()
    assert authorize(environ, jwks).endpoint == "daily"
    with pytest.raises(CredentialInvalid):
        authorize(environ, jwks)


async def test_the_documents_of_the_page_are_those_that_are_minted() -> None:
    credential = await swapper(KEY).swap(access_request(query="page=2"), allow(per_call=True))
    header, payload = documents(token_of(credential))
    assert json.loads(BLOCKS["header"]) == {**header, "kid": "<RFC 7638 thumbprint>"}
    assert json.loads(BLOCKS["payload"]) == {**payload, "jti": "<22 characters>"}
    assert len(payload["jti"]) == 22
