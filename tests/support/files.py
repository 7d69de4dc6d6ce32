"""The files that people write, in tests: DESIGN's examples, and what a loader says of a wrong one."""

# ruff: noqa: E501 - the examples are the design's, to the letter

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from ostiary.errors import ConfigurationError

PERMISSIONS: Final = """\
services:
  orders:
    endpoints:
      list-orders:  GET /orders
      get-order:    GET /orders/{order_id}
      create-order: POST /orders
      invoices:     GET /orders/{order_id}/invoices/**
  billing:
    endpoints: {charge: POST /charges, refund: "POST /charges/{charge_id}/refund"}
roles:
  order-reader: {orders: [list-orders, get-order]}
callers:
  web:          {issuer: https://idp.test, subject: web}
  reporting:    {spiffe: spiffe://shop.test/reporting}
  support:      {issuer: https://idp.test, claims: {groups: support}}
  support-lead: {issuer: https://idp.test, claims: {groups: support-lead}}
permissions:
  - {caller: web, roles: [order-reader]}
  - {caller: web, service: orders, endpoints: [create-order], when: {source: [10.0.0.0/8]}}
  - {caller: web, service: billing, endpoints: [charge], credential: {per_call: true, lifetime: 30s}}
eligible:
  - {caller: support, service: billing, endpoints: [refund], approvers: [support-lead], approvals: 1,
     max_duration: 30m, max_uses: 5, reason_required: true, when: {source: [10.0.0.0/8]}}
"""

CONDITIONS: Final = """\
source: [10.0.0.0/8, "2001:db8::/32"]      # the peer's address (IPv4-mapped ones unmapped) is in one of these
hours: {from: "08:00", to: "18:00", days: [mon, tue, wed, thu, fri], timezone: Europe/Paris}
                                           # from inclusive, to exclusive; past midnight, the day is the one it began on
claims: {tenant: acme, groups: support}    # equal, or contained where the token's claim is a list
read_only: true                            # GET, HEAD and OPTIONS only
query: {status: [open, paid], page: "*"}   # these parameters only, each at most once, with one of these values
path: {tenant_id: {claim: tenant}}         # the path variable equals that claim (or is in it): tenant isolation
"""

CONFIG: Final = """\
listen: {data: 127.0.0.1:8080, admin: "unix:run/admin.sock", identity: [jwt]}
own_host: ostiary.localhost
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256], types: [JWT, at+jwt],
     leeway: 5s, max_lifetime: 1h, claims: [groups, tenant]}            # or discovery: true, or key_file; ca_file, token_file
services:
  orders:  {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001", credential: {strategy: minted, lifetime: 60s}}
opa: {managed: {bundle: build/demo}, deadline: 250ms, max_policy_age: 24h}   # or {url: "unix:///run/opa/opa.sock"}
audit: {path: audit/}
grants: {url: "sqlite:///ostiary.db"}
limits: {}                                                              # every limit has a safe default and a name
errors: {detail: full}
"""


def mistakes(load: Callable[[Path], object], path: Path, text: str) -> list[str]:
    """What `load` says is wrong with the text, complete lines, the file's name for its path."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as refused:
        load(path)
    return [line.replace(str(path), path.name) for line in refused.value.mistakes]
