"""A credential fits a request exactly where the service's whole route table says that endpoint."""

from __future__ import annotations

import pytest

from ostiary.clock import ManualClock
from ostiary.credential import SigningKey, public_jwks
from ostiary.routes import Endpoint, RouteTable
from ostiary.target import canonicalise
from ostiary.verify import CredentialInvalid, KeySet, Verifier
from support.credential import ISSUER, NOW, Catalog, Facts, access_request, allow, swapper

KEY = SigningKey.generate("EdDSA")
ENDPOINTS = [
    Endpoint.parse(f"e{number}", text)
    for number, text in enumerate(
        [
            "GET /orders",
            "POST /orders",
            "GET /orders/",
            "GET /orders/{order_id}",
            "PUT /orders/{id}",
            "DELETE /orders/admin/users",
            "GET /orders/export",
            "GET /orders/{order_id}/invoices/**",
            "POST /orders/{order_id}/invoices/{n}",
            "GET /orders/{order_id}/invoices/all/pdf",
            "GET /files/**",
            "GET /files/private/{name:file}",
            "GET /notes/{title:text}",
            "GET /",
        ]
    )
]
PATHS = [
    path.encode()
    for path in [
        "/",
        "/orders",
        "/orders/",
        "/orders/42",
        "/orders/admin",
        "/orders/ADMIN",
        "/orders/admin/users",
        "/orders/export",
        "/orders/Export",
        "/orders/42/invoices",
        "/orders/42/invoices/",
        "/orders/42/invoices/7",
        "/orders/42/invoices/7/8",
        "/orders/42/invoices/all",
        "/orders/42/invoices/all/pdf",
        "/orders/42/invoices/ALL/x",
        "/orders/export/invoices/1/2",
        "/files",
        "/files/a",
        "/files/a/b.txt",
        "/files/private",
        "/files/private/a.txt",
        "/files/private/a/b",
        "/files/Private/x",
        "/notes/caf%C3%A9",
        "/notes/a:b",
        "/notes/x",
        "/other",
    ]
]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: f"{endpoint.method} {endpoint.path}")
async def test_the_credential_fits_where_the_table_says_so(endpoint: Endpoint) -> None:
    table = RouteTable(ENDPOINTS)
    assert table.conflicts == ()
    facts = Facts(endpoint.method, endpoint.path, table.beside(endpoint))
    credential = await swapper(KEY, catalog=Catalog({("orders", endpoint.name): facts})).swap(
        access_request(method=endpoint.method), allow(endpoint=endpoint.name)
    )
    verifier = Verifier(
        issuer=ISSUER, audience="orders", keys=KeySet.parse(public_jwks([KEY.public])), clock=ManualClock(NOW)
    )
    fitting = 0
    for method in ("GET", "POST", "PUT", "DELETE"):
        for path in PATHS:
            expected = table.endpoint(method, canonicalise(path)) == endpoint
            try:
                accepted = (await verifier.verify(method, path, b"", credential.header[1])).endpoint == endpoint.name
            except CredentialInvalid:
                accepted = False
            assert accepted is expected, (method, path)
            fitting += expected
    assert fitting > 0, "the paths above exercise every endpoint"
