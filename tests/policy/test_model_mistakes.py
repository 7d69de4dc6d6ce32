"""Each mistake that a permission map can hold is refused, with the line it is on and what would be right."""

# ruff: noqa: E501 - the complete lines, as people see them

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from ostiary.policy.model import load_permissions
from support.files import mistakes

BASE: Final = """\
services:
  orders:
    endpoints: {list-orders: GET /orders, get-order: "GET /orders/{order_id}", create-order: POST /orders}
  billing:
    endpoints: {charge: POST /charges, refund: "POST /charges/{charge_id}/refund"}
roles:
  order-reader: {orders: [list-orders, get-order]}
  order-writer: {orders: [create-order]}
callers:
  web: {issuer: https://idp.test, subject: web}
  ann: {issuer: https://idp.test, subject: ann}
  support: {issuer: https://idp.test, claims: {groups: support}}
"""

CASES: Final[dict[str, tuple[str, list[str]]]] = {
    "an empty file": (
        "",
        ["permissions.yaml:1: the file is empty"],
    ),
    "a file that is a list": (
        "- a\n",
        ["permissions.yaml:1: the file is not a mapping"],
    ),
    "no services": (
        "callers: {}\n",
        ["permissions.yaml:1: services: is missing"],
    ),
    "a key without a value": (
        """\
services:
  orders: {endpoints: {a: GET /a}}
callers:
""",
        ["permissions.yaml:3: callers: has no value"],
    ),
    "an unknown section": (
        BASE + "permisions: []\n",
        ["permissions.yaml:13: permisions: unknown key (did you mean 'permissions'?)"],
    ),
    "an unknown section far from any": (
        BASE + "zzz: []\n",
        [
            "permissions.yaml:13: zzz: unknown key (the keys here: services, roles, callers, permissions, eligible, observe, operators)"
        ],
    ),
    "no service": (
        "services: {}\n",
        ["permissions.yaml:1: services: is empty, which never means 'any': name what is meant"],
    ),
    "a reserved service": (
        """\
services:
  ostiary: {endpoints: {a: GET /a}}
""",
        ["permissions.yaml:2: services.ostiary: the service name 'ostiary' is reserved for the proxy itself"],
    ),
    "a service's name": (
        """\
services:
  Orders: {endpoints: {a: GET /a}}
""",
        [
            "permissions.yaml:2: services.Orders: 'Orders' is not a name: at most 63 lower-case letters, digits, '-' and '_', a letter or digit first"
        ],
    ),
    "a service that is a list": (
        """\
services:
  orders: []
""",
        ["permissions.yaml:2: services.orders: is not a mapping"],
    ),
    "no endpoint": (
        """\
services:
  orders: {endpoints: {}}
""",
        ["permissions.yaml:2: services.orders.endpoints: is empty, which never means 'any': name what is meant"],
    ),
    "an endpoint's name": (
        """\
services:
  orders: {endpoints: {Get.Order: GET /a}}
""",
        [
            "permissions.yaml:2: services.orders.endpoints.Get.Order: 'Get.Order' is not a name: at most 63 lower-case letters, digits, '-' and '_', a letter or digit first"
        ],
    ),
    "an endpoint that is no text": (
        """\
services:
  orders: {endpoints: {a: 5}}
""",
        [
            "permissions.yaml:2: services.orders.endpoints.a: an endpoint is a method and a path template, 'GET /orders', not 5"
        ],
    ),
    "an endpoint without a method": (
        """\
services:
  orders: {endpoints: {a: /orders}}
""",
        [
            "permissions.yaml:2: services.orders.endpoints.a: an endpoint is a method and a path template, 'GET /orders', not '/orders'"
        ],
    ),
    "an unknown method": (
        """\
services:
  orders: {endpoints: {a: FETCH /orders}}
""",
        [
            "permissions.yaml:2: services.orders.endpoints.a: the method 'FETCH' is not one of DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
        ],
    ),
    "a template outside the grammar": (
        """\
services:
  orders: {endpoints: {a: GET /orders//x}}
""",
        [
            "permissions.yaml:2: services.orders.endpoints.a: an empty segment is accepted only at the end, not inside '/orders//x'"
        ],
    ),
    "a template with an unknown type": (
        """\
services:
  orders: {endpoints: {a: "GET /orders/{id:hex}"}}
""",
        [
            "permissions.yaml:2: services.orders.endpoints.a: the type 'hex' in '/orders/{id:hex}' is unknown; there are file, int, name, text, uuid"
        ],
    ),
    "a duplicate template": (
        """\
services:
  orders: {endpoints: {a: "GET /orders/{id}", b: "GET /orders/{order}"}}
""",
        [
            "permissions.yaml:2: services.orders.endpoints.b: GET /orders/{order} matches the same requests as 'a', which is GET /orders/{id}"
        ],
    ),
    "an ambiguous template": (
        """\
services:
  orders: {endpoints: {a: "GET /orders/{id}", b: "GET /orders/{id:int}/x"}}
""",
        [
            "permissions.yaml:2: services.orders.endpoints.b: /orders/{id:int}/x has a variable of type 'int' where 'a' has one of type 'name'; the variables at one place have one type"
        ],
    ),
    "a method in lower case": (
        """\
services:
  orders: {endpoints: {a: "get /items/{id}"}}
""",
        [
            "permissions.yaml:2: services.orders.endpoints.a: the method 'get' is not one of DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT (did you mean 'GET'?)"
        ],
    ),
    "an unknown key of a service": (
        """\
services:
  orders: {endpoint: {a: GET /a}}
""",
        [
            "permissions.yaml:2: services.orders.endpoint: unknown key (did you mean 'endpoints'?)",
            "permissions.yaml:2: services.orders.endpoints: is missing",
        ],
    ),
    "a role with an unknown service": (
        """\
services:
  orders:
    endpoints: {list-orders: GET /orders, get-order: "GET /orders/{order_id}", create-order: POST /orders}
  billing:
    endpoints: {charge: POST /charges, refund: "POST /charges/{charge_id}/refund"}
roles:
  order-reader: {orders: [list-orders, get-order]}
  order-writer: {order: [create-order]}
callers:
  web: {issuer: https://idp.test, subject: web}
  ann: {issuer: https://idp.test, subject: ann}
  support: {issuer: https://idp.test, claims: {groups: support}}
""",
        ["permissions.yaml:8: roles.order-writer.order: unknown service 'order' (did you mean 'orders'?)"],
    ),
    "a role with an unknown endpoint": (
        """\
services:
  orders:
    endpoints: {list-orders: GET /orders, get-order: "GET /orders/{order_id}", create-order: POST /orders}
  billing:
    endpoints: {charge: POST /charges, refund: "POST /charges/{charge_id}/refund"}
roles:
  order-reader: {orders: [list-orders, get-order]}
  order-writer: {orders: [create-orders]}
callers:
  web: {issuer: https://idp.test, subject: web}
  ann: {issuer: https://idp.test, subject: ann}
  support: {issuer: https://idp.test, claims: {groups: support}}
""",
        [
            "permissions.yaml:8: roles.order-writer.orders[0]: unknown endpoint of 'orders': 'create-orders' (did you mean 'create-order'?)"
        ],
    ),
    "an empty role": (
        """\
services:
  orders:
    endpoints: {list-orders: GET /orders, get-order: "GET /orders/{order_id}", create-order: POST /orders}
  billing:
    endpoints: {charge: POST /charges, refund: "POST /charges/{charge_id}/refund"}
roles:
  order-reader: {orders: [list-orders, get-order]}
  order-writer: {}
callers:
  web: {issuer: https://idp.test, subject: web}
  ann: {issuer: https://idp.test, subject: ann}
  support: {issuer: https://idp.test, claims: {groups: support}}
""",
        ["permissions.yaml:8: roles.order-writer: is empty, which never means 'any': name what is meant"],
    ),
    "a role with an empty list": (
        """\
services:
  orders:
    endpoints: {list-orders: GET /orders, get-order: "GET /orders/{order_id}", create-order: POST /orders}
  billing:
    endpoints: {charge: POST /charges, refund: "POST /charges/{charge_id}/refund"}
roles:
  order-reader: {orders: [list-orders, get-order]}
  order-writer: {orders: []}
callers:
  web: {issuer: https://idp.test, subject: web}
  ann: {issuer: https://idp.test, subject: ann}
  support: {issuer: https://idp.test, claims: {groups: support}}
""",
        ["permissions.yaml:8: roles.order-writer.orders: is empty, which never means 'any': name what is meant"],
    ),
    "a role with an endpoint twice": (
        """\
services:
  orders:
    endpoints: {list-orders: GET /orders, get-order: "GET /orders/{order_id}", create-order: POST /orders}
  billing:
    endpoints: {charge: POST /charges, refund: "POST /charges/{charge_id}/refund"}
roles:
  order-reader: {orders: [list-orders, get-order]}
  order-writer: {orders: [create-order, create-order]}
callers:
  web: {issuer: https://idp.test, subject: web}
  ann: {issuer: https://idp.test, subject: ann}
  support: {issuer: https://idp.test, claims: {groups: support}}
""",
        ["permissions.yaml:8: roles.order-writer.orders[1]: 'create-order' is listed twice"],
    ),
    "a caller with an issuer only": (
        """\
services:
  orders: {endpoints: {a: GET /a}}
callers:
  web: {issuer: https://idp.test}
""",
        [
            "permissions.yaml:4: callers.web: this caller is everyone with a token of the issuer: add a subject or claims"
        ],
    ),
    "a caller without an issuer": (
        """\
services:
  orders: {endpoints: {a: GET /a}}
callers:
  web: {subject: web}
""",
        [
            "permissions.yaml:4: callers.web: a caller is an issuer with a subject or claims, or a SPIFFE ID, and this is neither"
        ],
    ),
    "a caller without anything": (
        """\
services:
  orders: {endpoints: {a: GET /a}}
callers:
  web: {}
""",
        [
            "permissions.yaml:4: callers.web: a caller is an issuer with a subject or claims, or a SPIFFE ID, and this is neither"
        ],
    ),
    "a caller with empty claims": (
        """\
services:
  orders: {endpoints: {a: GET /a}}
callers:
  web: {issuer: https://idp.test, claims: {}}
""",
        ["permissions.yaml:4: callers.web.claims: is empty, which never means 'any': name what is meant"],
    ),
    "a caller with a claim without a value": (
        """\
services:
  orders: {endpoints: {a: GET /a}}
callers:
  web: {issuer: https://idp.test, claims: {groups: []}}
""",
        ["permissions.yaml:4: callers.web.claims.groups: is empty, which never means 'any': name what is meant"],
    ),
    "a caller with a wildcard subject": (
        """\
services:
  orders: {endpoints: {a: GET /a}}
callers:
  web: {issuer: https://idp.test, subject: "*"}
""",
        ["permissions.yaml:4: callers.web.subject: '*' is not a wildcard here: a caller is never everyone"],
    ),
    "a caller with a wildcard claim": (
        """\
services:
  orders: {endpoints: {a: GET /a}}
callers:
  web: {issuer: https://idp.test, claims: {groups: [a, "*"]}}
""",
        ["permissions.yaml:4: callers.web.claims.groups[1]: '*' is not a wildcard here: a caller is never everyone"],
    ),
    "a caller with an empty subject": (
        """\
services:
  orders: {endpoints: {a: GET /a}}
callers:
  web: {issuer: https://idp.test, subject: ''}
""",
        ["permissions.yaml:4: callers.web.subject: is not a text of printable characters without spaces around it"],
    ),
    "a caller with a null subject": (
        """\
services:
  orders: {endpoints: {a: GET /a}}
callers:
  web: {issuer: https://idp.test, subject: null}
""",
        ["permissions.yaml:4: callers.web.subject: has no value: give one or leave the key out"],
    ),
    "a caller with a claim that is a number": (
        """\
services:
  orders: {endpoints: {a: GET /a}}
callers:
  web: {issuer: https://idp.test, claims: {level: 3}}
""",
        ["permissions.yaml:4: callers.web.claims.level: 3 is not a text: put it in quotes"],
    ),
    "a caller with a claim that policy never sees": (
        """\
services:
  orders: {endpoints: {a: GET /a}}
callers:
  web: {issuer: https://idp.test, claims: {jti: x}}
""",
        [
            "permissions.yaml:4: callers.web.claims.jti: the claim 'jti' is never shown to the policy, so nothing can depend on it"
        ],
    ),
    "a caller with SPIFFE ID and subject": (
        """\
services:
  orders: {endpoints: {a: GET /a}}
callers:
  web: {spiffe: spiffe://shop.test/a, subject: web}
""",
        ["permissions.yaml:4: callers.web: a SPIFFE ID stands alone: leave out issuer, subject and claims"],
    ),
    "a caller with a trust domain only": (
        """\
services:
  orders: {endpoints: {a: GET /a}}
callers:
  web: {spiffe: spiffe://shop.test}
""",
        [
            "permissions.yaml:4: callers.web.spiffe: 'spiffe://shop.test' is not a SPIFFE ID, which is written spiffe://shop.test/reporting"
        ],
    ),
    "a caller with a SPIFFE ID outside the grammar": (
        """\
services:
  orders: {endpoints: {a: GET /a}}
callers:
  web: {spiffe: spiffe://shop.test/a/../b}
""",
        [
            "permissions.yaml:4: callers.web.spiffe: 'spiffe://shop.test/a/../b' is not a SPIFFE ID, which is written spiffe://shop.test/reporting"
        ],
    ),
    "a trust domain as issuer": (
        """\
services:
  orders: {endpoints: {a: GET /a}}
callers:
  web: {issuer: spiffe://shop.test, subject: a}
""",
        [
            "permissions.yaml:4: callers.web.issuer: 'spiffe://shop.test' is no issuer of tokens: name the workload with 'spiffe'"
        ],
    ),
    "an unknown caller": (
        BASE
        + """\
permissions:
  - {caller: wob, roles: [order-reader]}
""",
        ["permissions.yaml:14: permissions[0].caller: unknown caller 'wob' (did you mean 'web'?)"],
    ),
    "an unknown role": (
        BASE
        + """\
permissions:
  - {caller: web, roles: [order-raeder]}
""",
        ["permissions.yaml:14: permissions[0].roles[0]: unknown role 'order-raeder' (did you mean 'order-reader'?)"],
    ),
    "an unknown service": (
        BASE
        + """\
permissions:
  - {caller: web, service: order, endpoints: [get-order]}
""",
        ["permissions.yaml:14: permissions[0].service: unknown service 'order' (did you mean 'orders'?)"],
    ),
    "an unknown endpoint": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-orders]}
""",
        [
            "permissions.yaml:14: permissions[0].endpoints[0]: unknown endpoint of 'orders': 'get-orders' (did you mean 'get-order'?)"
        ],
    ),
    "an endpoint of another service": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [xyz]}
""",
        ["permissions.yaml:14: permissions[0].endpoints[0]: unknown endpoint of 'orders': 'xyz'"],
    ),
    "an unknown key of a permission": (
        BASE
        + """\
permissions:
  - {caller: web, role: [order-reader]}
""",
        ["permissions.yaml:14: permissions[0].role: unknown key (did you mean 'roles'?)"],
    ),
    "no caller": (
        BASE
        + """\
permissions:
  - {roles: [order-reader]}
""",
        ["permissions.yaml:14: permissions[0].caller: is missing"],
    ),
    "neither roles nor service": (
        BASE
        + """\
permissions:
  - {caller: web}
""",
        ["permissions.yaml:14: permissions[0]: names neither roles nor a service with endpoints"],
    ),
    "both roles and service": (
        BASE
        + """\
permissions:
  - {caller: web, roles: [order-reader], service: orders, endpoints: [get-order]}
""",
        ["permissions.yaml:14: permissions[0]: names both roles and a service's endpoints: write two permissions"],
    ),
    "a service without endpoints": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders}
""",
        ["permissions.yaml:14: permissions[0]: 'endpoints' is missing: endpoints are named one by one"],
    ),
    "a wildcard for endpoints": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: "*"}
""",
        ["permissions.yaml:14: permissions[0].endpoints: there is no wildcard: endpoints are named one by one"],
    ),
    "a wildcard among endpoints": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: ["*"]}
""",
        ["permissions.yaml:14: permissions[0].endpoints[0]: '*' is no endpoint: there is no wildcard, each is named"],
    ),
    "an empty list of endpoints": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: []}
""",
        ["permissions.yaml:14: permissions[0].endpoints: is empty, which never means 'any': name what is meant"],
    ),
    "an empty list of roles": (
        BASE
        + """\
permissions:
  - {caller: web, roles: []}
""",
        ["permissions.yaml:14: permissions[0].roles: is empty, which never means 'any': name what is meant"],
    ),
    "the same permission twice": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order, list-orders]}
  - {caller: web, service: orders, endpoints: [list-orders, get-order]}
""",
        ["permissions.yaml:15: permissions[1]: is the same as permissions[0], line 14"],
    ),
    "a shadow of a permission that there is": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order]}
  - {caller: web, service: orders, endpoints: [get-order], shadow: true}
""",
        ["permissions.yaml:15: permissions[1]: is the same as permissions[0], line 14"],
    ),
    "an operator who is no caller": (
        BASE + "operators: [web, suport]\n",
        ["permissions.yaml:13: operators[1]: unknown caller 'suport' (did you mean 'support'?)"],
    ),
    "nobody as operators": (
        BASE + "operators: []\n",
        ["permissions.yaml:13: operators: is empty, which never means 'any': name what is meant"],
    ),
    "an operator who is named twice": (
        BASE + "operators: [web, web]\n",
        ["permissions.yaml:13: operators[1]: 'web' is listed twice"],
    ),
    "observing a service that there is not": (
        BASE + "observe: {ordres: {until: 2026-12-24T00:00:00Z}}\n",
        ["permissions.yaml:13: observe.ordres: unknown service 'ordres' (did you mean 'orders'?)"],
    ),
    "observing without an end": (
        BASE + "observe: {orders: {}}\n",
        ["permissions.yaml:13: observe.orders.until: is missing"],
    ),
    "observing until nobody knows when": (
        BASE + "observe: {orders: {until: 2026-12-24}}\n",
        ["permissions.yaml:13: observe.orders.until: '2026-12-24' says no time zone: end it with Z, or with an offset"],
    ),
    "a shadow that is none": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], shadow: false}
""",
        ["permissions.yaml:14: permissions[0].shadow: is true or left out, not false"],
    ),
    "permissions that are no list": (
        BASE + "permissions: {caller: web}\n",
        ["permissions.yaml:13: permissions: is not a list"],
    ),
    "no condition": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {}}
""",
        ["permissions.yaml:14: permissions[0].when: is empty: name a condition or leave the key out"],
    ),
    "a condition without a value": (
        BASE
        + """\
permissions:
  - {caller: web, roles: [order-reader], when: }
""",
        ["permissions.yaml:14: permissions[0].when: has no value: give one or leave the key out"],
    ),
    "an unknown condition": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {readonly: true}}
""",
        ["permissions.yaml:14: permissions[0].when.readonly: unknown key (did you mean 'read_only'?)"],
    ),
    "a bad network": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {source: [10.0.0/8]}}
""",
        [
            "permissions.yaml:14: permissions[0].when.source[0]: '10.0.0/8' is not a network: a network is written 10.0.0.0/8 or 2001:db8::/32"
        ],
    ),
    "a network with a netmask": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {source: [10.0.0.0/255.0.0.0]}}
""",
        [
            "permissions.yaml:14: permissions[0].when.source[0]: '10.0.0.0/255.0.0.0' is not a network: a network is written 10.0.0.0/8 or 2001:db8::/32"
        ],
    ),
    "a network with host bits": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {source: [10.0.0.1/8]}}
""",
        [
            "permissions.yaml:14: permissions[0].when.source[0]: '10.0.0.1/8' has bits set beyond its prefix (did you mean '10.0.0.0/8'?)"
        ],
    ),
    "an IPv4-mapped network": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {source: ["::ffff:10.0.0.0/104"]}}
""",
        [
            "permissions.yaml:14: permissions[0].when.source[0]: '::ffff:10.0.0.0/104' is an IPv4-mapped network, which never matches (did you mean '10.0.0.0/8'?)"
        ],
    ),
    "a source that is no list": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {source: 10.0.0.0/8}}
""",
        ["permissions.yaml:14: permissions[0].when.source: is not a list"],
    ),
    "an empty source": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {source: []}}
""",
        ["permissions.yaml:14: permissions[0].when.source: is empty, which never means 'any': name what is meant"],
    ),
    "a bad hour": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {hours: {from: 8:00, to: "18:00", timezone: UTC}}}
""",
        [
            "permissions.yaml:14: permissions[0].when.hours.from: '8:00' is not an hour, which is written 08:00, up to 24:00"
        ],
    ),
    "an hour after midnight's": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {hours: {from: "08:00", to: "24:30", timezone: UTC}}}
""",
        [
            "permissions.yaml:14: permissions[0].when.hours.to: '24:30' is not an hour, which is written 08:00, up to 24:00"
        ],
    ),
    "a window that begins at its day's end": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {hours: {from: "24:00", to: "08:00", timezone: UTC}}}
""",
        ["permissions.yaml:14: permissions[0].when.hours: a window does not begin at '24:00' (did you mean '00:00'?)"],
    ),
    "an empty window": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {hours: {from: "08:00", to: "08:00", timezone: UTC}}}
""",
        ["permissions.yaml:14: permissions[0].when.hours: from and to are the same hour, so the window is empty"],
    ),
    "a bad day": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {hours: {from: "08:00", to: "18:00", days: [mon, thur], timezone: UTC}}}
""",
        [
            "permissions.yaml:14: permissions[0].when.hours.days[1]: 'thur' is not mon, tue, wed, thu, fri, sat or sun (did you mean 'thu'?)"
        ],
    ),
    "no days": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {hours: {from: "08:00", to: "18:00", days: [], timezone: UTC}}}
""",
        ["permissions.yaml:14: permissions[0].when.hours.days: is empty, which never means 'any': name what is meant"],
    ),
    "an unknown time zone": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {hours: {from: "08:00", to: "18:00", timezone: Europe/Pari}}}
""",
        [
            "permissions.yaml:14: permissions[0].when.hours.timezone: unknown time zone 'Europe/Pari' (did you mean 'Europe/Paris'?)"
        ],
    ),
    "no time zone": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {hours: {from: "08:00", to: "18:00"}}}
""",
        ["permissions.yaml:14: permissions[0].when.hours.timezone: is missing"],
    ),
    "a claim without values": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {claims: {groups: []}}}
""",
        [
            "permissions.yaml:14: permissions[0].when.claims.groups: is empty, which never means 'any': name what is meant"
        ],
    ),
    "read_only that is false": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {read_only: false}}
""",
        ["permissions.yaml:14: permissions[0].when.read_only: is true or left out, not false"],
    ),
    "read_only on an endpoint that writes": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order, create-order], when: {read_only: true}}
""",
        ["permissions.yaml:14: permissions[0].when.read_only: never holds for create-order (POST /orders)"],
    ),
    "read_only on a role that only writes": (
        BASE
        + """\
permissions:
  - {caller: web, roles: [order-writer], when: {read_only: true}}
""",
        ["permissions.yaml:14: permissions[0].when.read_only: never holds for create-order (POST /orders)"],
    ),
    "a query value twice": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {query: {page: [a, a]}}}
""",
        ["permissions.yaml:14: permissions[0].when.query.page[1]: 'a' is listed twice"],
    ),
    "a query value that is a number": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {query: {page: 1}}}
""",
        ["permissions.yaml:14: permissions[0].when.query.page: 1 is not a text: put it in quotes"],
    ),
    "a wildcard among query values": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {query: {page: [a, "*"]}}}
""",
        ["permissions.yaml:14: permissions[0].when.query.page[1]: '*' stands for any one value and is written alone"],
    ),
    "no query value": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {query: {page: []}}}
""",
        ["permissions.yaml:14: permissions[0].when.query.page: is empty, which never means 'any': name what is meant"],
    ),
    "no query parameter": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {query: {}}}
""",
        ["permissions.yaml:14: permissions[0].when.query: is empty, which never means 'any': name what is meant"],
    ),
    "an unknown path variable": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {path: {orderid: {claim: tenant}}}}
""",
        [
            "permissions.yaml:14: permissions[0].when.path.orderid: no variable 'orderid' in get-order (GET /orders/{order_id}) (did you mean 'order_id'?)"
        ],
    ),
    "a path variable that no endpoint of a role has": (
        BASE
        + """\
permissions:
  - {caller: web, roles: [order-writer], when: {path: {order_id: {claim: tenant}}}}
""",
        [
            "permissions.yaml:14: permissions[0].when.path.order_id: no variable 'order_id' in create-order (POST /orders)"
        ],
    ),
    "a path condition without a claim": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {path: {order_id: tenant}}}
""",
        ["permissions.yaml:14: permissions[0].when.path.order_id: is not a mapping"],
    ),
    "a custom condition's name": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {custom: {a b: 1}}}
""",
        [
            "permissions.yaml:14: permissions[0].when.custom.a b: 'a b' is not a condition's name: letters, digits and . _ -, at most 63, a letter first"
        ],
    ),
    "a custom argument that JSON does not have": (
        BASE
        + """\
permissions:
  - {caller: web, service: orders, endpoints: [get-order], when: {custom: {a: [.inf]}}}
""",
        ["permissions.yaml:14: permissions[0].when.custom.a: inf is not a JSON number"],
    ),
    "an empty credential": (
        BASE
        + """\
permissions:
  - {caller: web, roles: [order-reader], credential: {}}
""",
        ["permissions.yaml:14: permissions[0].credential: is empty: set something or leave the key out"],
    ),
    "a lifetime out of bounds": (
        BASE
        + """\
permissions:
  - {caller: web, roles: [order-reader], credential: {lifetime: 2h}}
""",
        ["permissions.yaml:14: permissions[0].credential.lifetime: '2h' is outside 1s to 1h"],
    ),
    "a lifetime of a fraction": (
        BASE
        + """\
permissions:
  - {caller: web, roles: [order-reader], credential: {lifetime: 1500ms}}
""",
        ["permissions.yaml:14: permissions[0].credential.lifetime: '1500ms' is not a whole number of seconds"],
    ),
    "a lifetime that is no duration": (
        BASE
        + """\
permissions:
  - {caller: web, roles: [order-reader], credential: {lifetime: soon}}
""",
        [
            "permissions.yaml:14: permissions[0].credential.lifetime: 'soon' is not a duration, which is written 250ms, 5s, 30m or 24h"
        ],
    ),
    "per_call that is a word": (
        BASE
        + """\
permissions:
  - {caller: web, roles: [order-reader], credential: {per_call: yes}}
""",
        ["permissions.yaml:14: permissions[0].credential.per_call: 'yes' is neither true nor false"],
    ),
    "an eligibility without endpoints": (
        BASE
        + """\
eligible:
  - {caller: ann, service: billing, approvers: [web], max_duration: 5m}
""",
        ["permissions.yaml:14: eligible[0].endpoints: is missing"],
    ),
    "an eligibility for every endpoint": (
        BASE
        + """\
eligible:
  - {caller: ann, service: billing, endpoints: "*", approvers: [web], max_duration: 5m}
""",
        ["permissions.yaml:14: eligible[0].endpoints: there is no wildcard: endpoints are named one by one"],
    ),
    "an eligibility for a wildcard": (
        BASE
        + """\
eligible:
  - {caller: ann, service: billing, endpoints: [refund*], approvers: [web], max_duration: 5m}
""",
        [
            "permissions.yaml:14: eligible[0].endpoints[0]: 'refund*' is no endpoint: there is no wildcard, each is named"
        ],
    ),
    "an eligibility without a service": (
        BASE
        + """\
eligible:
  - {caller: ann, endpoints: [refund], approvers: [web], max_duration: 5m}
""",
        ["permissions.yaml:14: eligible[0].service: is missing"],
    ),
    "an eligibility without approvers": (
        BASE
        + """\
eligible:
  - {caller: ann, service: billing, endpoints: [refund], max_duration: 5m}
""",
        ["permissions.yaml:14: eligible[0].approvers: is missing"],
    ),
    "an eligibility with no approver": (
        BASE
        + """\
eligible:
  - {caller: ann, service: billing, endpoints: [refund], approvers: [], max_duration: 5m}
""",
        ["permissions.yaml:14: eligible[0].approvers: is empty, which never means 'any': name what is meant"],
    ),
    "an unknown approver": (
        BASE
        + """\
eligible:
  - {caller: ann, service: billing, endpoints: [refund], approvers: [suport], max_duration: 5m}
""",
        ["permissions.yaml:14: eligible[0].approvers[0]: unknown caller 'suport' (did you mean 'support'?)"],
    ),
    "an approver of one's own requests": (
        BASE
        + """\
eligible:
  - {caller: ann, service: billing, endpoints: [refund], approvers: [ann], max_duration: 5m}
""",
        [
            "permissions.yaml:14: eligible[0].approvers: 1 must approve and 0 can: nobody approves a request of their own"
        ],
    ),
    "too few approvers": (
        BASE
        + """\
eligible:
  - {caller: ann, service: billing, endpoints: [refund], approvers: [web, ann], approvals: 2, max_duration: 5m}
""",
        [
            "permissions.yaml:14: eligible[0].approvals: 2 must approve and 1 can: nobody approves a request of their own"
        ],
    ),
    "no approvals": (
        BASE
        + """\
eligible:
  - {caller: ann, service: billing, endpoints: [refund], approvers: [web], approvals: 0, max_duration: 5m}
""",
        ["permissions.yaml:14: eligible[0].approvals: 0 is less than 1"],
    ),
    "no max_duration": (
        BASE
        + """\
eligible:
  - {caller: ann, service: billing, endpoints: [refund], approvers: [web]}
""",
        ["permissions.yaml:14: eligible[0].max_duration: is missing"],
    ),
    "an absurd max_duration": (
        BASE
        + """\
eligible:
  - {caller: ann, service: billing, endpoints: [refund], approvers: [web], max_duration: 200h}
""",
        ["permissions.yaml:14: eligible[0].max_duration: '200h' is outside 1s to 168h"],
    ),
    "a max_duration of nothing": (
        BASE
        + """\
eligible:
  - {caller: ann, service: billing, endpoints: [refund], approvers: [web], max_duration: 0s}
""",
        ["permissions.yaml:14: eligible[0].max_duration: '0s' is outside 1s to 168h"],
    ),
    "no use": (
        BASE
        + """\
eligible:
  - {caller: ann, service: billing, endpoints: [refund], approvers: [web], max_duration: 5m, max_uses: 0}
""",
        ["permissions.yaml:14: eligible[0].max_uses: 0 is less than 1"],
    ),
    "the same eligibility twice": (
        BASE
        + """\
eligible:
  - {caller: ann, service: billing, endpoints: [refund], approvers: [web], max_duration: 5m}
  - {caller: ann, service: billing, endpoints: [refund], approvers: [web], max_duration: 300s}
""",
        ["permissions.yaml:15: eligible[1]: is the same as eligible[0], line 14"],
    ),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_a_mistake_is_refused(text: str, expected: list[str], tmp_path: Path) -> None:
    assert mistakes(load_permissions, tmp_path / "permissions.yaml", text) == expected


def test_the_map_that_the_cases_start_from_is_good(tmp_path: Path) -> None:
    path = tmp_path / "permissions.yaml"
    path.write_text(BASE, encoding="utf-8")
    assert load_permissions(path).permissions == []
