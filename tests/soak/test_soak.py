"""A short soak; `make soak` is the long one. And what its judge is worth."""

from __future__ import annotations

from pathlib import Path

import pytest

from soak.oracle import Asked, Oracle
from soak.run import Soak
from soak.traffic import permissions

ISSUER = "http://idp.localhost"


@pytest.mark.timeout(240)
async def test_a_proxy_under_traffic_and_faults_decides_right_and_records_all(opa_binary: Path) -> None:
    """Every answer is the one that the map gives, or a refusal that a fault of that moment explains."""
    soak = Soak(seconds=20, seed=1)
    await soak.run()
    print(soak.report)
    assert soak.wrong == [], soak.report


def ask(path: str, subject: str = "web", *, method: str = "GET", query: str = "", **claims: object) -> bool:
    oracle = Oracle(permissions(second=False), service="orders")
    return oracle.allows(Asked(issuer=ISSUER, subject=subject, claims=claims, method=method, path=path, query=query))


def test_the_oracle_reads_the_map() -> None:
    """By examples, each with its opposite: it is not to agree with the proxy because both say no."""
    assert ask("/orders/42")
    assert not ask("/orders/42", method="DELETE")
    assert not ask("/orders/42", "stranger")
    assert not ask("/orders/Admin")
    assert not ask("/archive/2020/01")
    assert ask("/orders", method="POST")
    assert ask("/orders/42", "day")
    assert not ask("/orders/42", "night")
    assert ask("/orders/42", "ann", groups=["support"])
    assert not ask("/orders", "ann", groups=["support"], method="POST")
    assert ask("/orders", "ann", groups=["support"], query="status=open&page=2")
    assert not ask("/orders", "ann", groups=["support"], query="status=lost")
    assert not ask("/orders", "ann", groups=["support"], query="status=open&status=paid")
    assert ask("/tenants/acme/orders", "bob", groups=["tenants"], tenant="acme")
    assert not ask("/tenants/other/orders", "bob", groups=["tenants"], tenant="acme")
    assert ask("/orders/admin", "bob", groups=["tenants"], tenant="acme")
    assert not ask("/orders/admin", "eve", groups=["tenants"], tenant="other")
    assert ask("/documents/a-pdf", "day")
    assert not ask("/documents/a-doc", "day")
