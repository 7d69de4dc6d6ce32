"""Each mistake that a configuration can hold is refused, with the line it is on; no message holds a secret."""

# ruff: noqa: E501 - the complete lines, as people see them

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from ostiary.config import Config, load_config
from support.files import mistakes

ENVIRONMENT: Final = {"TOKEN": "t0ken", "EMPTY": ""}
SECRETS: Final = ("t0ken", "s3cret", "p4ss", "12345")


BASE: Final = """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
"""

CASES: Final[dict[str, tuple[str, list[str]]]] = {
    "an empty file": (
        "",
        ["ostiary.yaml:1: the file is empty"],
    ),
    "an unknown section": (
        BASE + "isuers: []\n",
        ["ostiary.yaml:7: isuers: unknown key (did you mean 'issuers'?)"],
    ),
    "nothing that is needed": (
        "own_host: ostiary.localhost\n",
        [
            "ostiary.yaml:1: issuers: is missing",
            "ostiary.yaml:1: listen: is missing",
            "ostiary.yaml:1: opa: is missing",
            "ostiary.yaml:1: services: is missing",
        ],
    ),
    "no data address": (
        """\
listen: {admin: 'unix:a.sock'}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:1: listen.data: is missing"],
    ),
    "a data address without a port": (
        """\
listen: {data: 127.0.0.1}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:1: listen.data: is not an address to listen on, which is written 127.0.0.1:8080"],
    ),
    "a data address that is a port": (
        """\
listen: {data: 8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:1: listen.data: is not an address to listen on, which is written 127.0.0.1:8080"],
    ),
    "a port that does not exist": (
        """\
listen: {data: '127.0.0.1:70000'}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:1: listen.data: is not an address to listen on, which is written 127.0.0.1:8080"],
    ),
    "an admin address that is not loopback": (
        """\
listen: {data: '127.0.0.1:1', admin: '0.0.0.0:8081'}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:1: listen.admin: what is administrative listens on a unix socket or a loopback address only"],
    ),
    "an admin address that is none": (
        """\
listen: {data: '127.0.0.1:1', admin: 'unix:'}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:1: listen.admin: is not an address, which is written unix:run/admin.sock or 127.0.0.1:8081"],
    ),
    "an admin socket with too long a path": (
        """\
listen: {data: '127.0.0.1:1', admin: 'unix:/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        [
            "ostiary.yaml:1: listen.admin: the path of the socket is longer than 103 bytes: /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        ],
    ),
    "a proof by certificate without TLS": (
        """\
listen: {data: '127.0.0.1:1', identity: [mtls, jwt]}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        [
            "ostiary.yaml:1: listen.identity: 'mtls' needs 'tls' with 'trust_domains' or 'client_ca': nothing could be proved without"
        ],
    ),
    "an unknown proof": (
        """\
listen: {data: '127.0.0.1:1', identity: [jwts]}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:1: listen.identity[0]: 'jwts' is not a way to prove an identity (did you mean 'jwt'?)"],
    ),
    "no proof": (
        """\
listen: {data: '127.0.0.1:1', identity: []}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:1: listen.identity: is empty, which never means 'any': name what is meant"],
    ),
    "a public port that does not exist": (
        """\
listen: {data: '127.0.0.1:1', public_ports: [0]}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:1: listen.public_ports[0]: 0 is less than 1"],
    ),
    "a proxy's header left out": (
        BASE.replace(
            "listen: {data: 127.0.0.1:8080}", "listen: {data: 127.0.0.1:8080, proxies: {addresses: [10.0.0.7]}}"
        ),
        ["ostiary.yaml:1: listen.proxies.header: is missing"],
    ),
    "proxies without an address": (
        BASE.replace(
            "listen: {data: 127.0.0.1:8080}",
            "listen: {data: 127.0.0.1:8080, proxies: {addresses: [], header: proxy-v2}}",
        ),
        ["ostiary.yaml:1: listen.proxies.addresses: is empty, which never means 'any': name what is meant"],
    ),
    "proxies that are everybody, and an unknown header": (
        BASE.replace(
            "listen: {data: 127.0.0.1:8080}",
            "listen: {data: 127.0.0.1:8080, proxies: {addresses: [0.0.0.0/0, '::/0', 10.0.0.1/8], header: proxy-v1}}",
        ),
        [
            "ostiary.yaml:1: listen.proxies.addresses[0]: '0.0.0.0/0' is every address there is: name those of the proxies",
            "ostiary.yaml:1: listen.proxies.addresses[1]: '::/0' is every address there is: name those of the proxies",
            "ostiary.yaml:1: listen.proxies.addresses[2]: '10.0.0.1/8' has bits set beyond its prefix (did you mean '10.0.0.0/8'?)",
            "ostiary.yaml:1: listen.proxies.header: 'proxy-v1' is not proxy-v2, x-forwarded-for or forwarded (did you mean 'proxy-v2'?)",
        ],
    ),
    "an own host with a port": (
        BASE + "own_host: ostiary.localhost:80\n",
        ["ostiary.yaml:7: own_host: is not a host's name, which has no scheme, no port and no wildcard"],
    ),
    "no worker": (
        BASE + "workers: 0\n",
        ["ostiary.yaml:7: workers: 0 is not a number of workers, 1 to 1024 or 'auto'"],
    ),
    "no issuer": (
        """\
listen: {data: 127.0.0.1:8080}
issuers: []
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:2: issuers: is empty, which never means 'any': name what is meant"],
    ),
    "an unknown key of an issuer": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_uri: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:3: issuers[0].jwks_uri: unknown key (did you mean 'jwks_url'?)"],
    ),
    "no source of keys": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:3: issuers[0]: needs exactly one of 'jwks_url', 'discovery' and 'key_file'"],
    ),
    "two sources of keys": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, discovery: true, key_file: k, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:3: issuers[0]: needs exactly one of 'jwks_url', 'discovery' and 'key_file'"],
    ),
    "discovery that is false": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, discovery: false, key_file: k, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:3: issuers[0].discovery: is true or left out"],
    ),
    "discovery without https": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: http://idp.test, audience: proxy, discovery: true, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:3: issuers[0]: discovery needs an issuer with https, except on a loopback host"],
    ),
    "keys over http": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: http://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:3: issuers[0].jwks_url: only https is accepted, except on a loopback host"],
    ),
    "keys at a URL with a password": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: 'https://u:p4ss@idp.test/jwks', algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:3: issuers[0].jwks_url: a URL carries no user and no password here"],
    ),
    "keys at something else": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: 'file:///jwks', algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:3: issuers[0].jwks_url: is not a URL with http or https"],
    ),
    "a CA for a key file": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, key_file: k, ca_file: ca, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:3: issuers[0].ca_file: is for keys that are fetched, and these come from a file"],
    ),
    "two audiences": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: [a, b], key_file: k, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:3: issuers[0].audience: a list is not a text"],
    ),
    "no algorithm": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, key_file: k, algorithms: []}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:3: issuers[0].algorithms: is empty, which never means 'any': name what is meant"],
    ),
    "an issuer that is the proxy itself": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: "https://ostiary.localhost", audience: proxy, key_file: k, algorithms: [EdDSA]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        [
            "ostiary.yaml:3: issuers[0].issuer: the proxy signs credentials in this name itself: none of them is a caller's token"
        ],
    ),
    "a symmetric algorithm": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, key_file: k, algorithms: [HS256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:3: issuers[0].algorithms[0]: 'HS256' is symmetric: whoever can verify a token could make one"],
    ),
    "no signature": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, key_file: k, algorithms: [none]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:3: issuers[0].algorithms[0]: 'none' is not an algorithm for signatures that is accepted"],
    ),
    "a misspelt algorithm": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, key_file: k, algorithms: [ES265]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        [
            "ostiary.yaml:3: issuers[0].algorithms[0]: 'ES265' is not an algorithm for signatures that is accepted (did you mean 'ES256'?)"
        ],
    ),
    "two families of algorithms": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, key_file: k, algorithms: [ES256, RS256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        [
            "ostiary.yaml:3: issuers[0].algorithms: the algorithms are of one family, and these are of ECDSA and RSASSA-PKCS1-v1_5"
        ],
    ),
    "too much leeway": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, key_file: k, algorithms: [ES256], leeway: 31s}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:3: issuers[0].leeway: '31s' is outside 0s to 30s"],
    ),
    "a claim that policy never sees": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, key_file: k, algorithms: [ES256], claims: [exp]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        [
            "ostiary.yaml:3: issuers[0].claims[0]: the claim 'exp' is never shown to the policy, so nothing can depend on it"
        ],
    ),
    "an issuer twice": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
  - {issuer: https://idp.test, audience: other, key_file: k, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:4: issuers[1].issuer: this issuer is the one of issuers[0] already"],
    ),
    "no service": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services: {}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:4: services: is empty, which never means 'any': name what is meant"],
    ),
    "the reserved service": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  ostiary: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:5: services.ostiary: the service name 'ostiary' is reserved for the proxy itself"],
    ),
    "no host": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [], upstream: 'http://127.0.0.1:9001'}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:5: services.orders.hosts: is empty, which never means 'any': name what is meant"],
    ),
    "a host with a port": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: ['orders.localhost:80'], upstream: 'http://127.0.0.1:9001'}
opa: {managed: {bundle: build/demo}}
""",
        [
            "ostiary.yaml:5: services.orders.hosts[0]: is not a host's name, which has no scheme, no port and no wildcard"
        ],
    ),
    "a host that is a wildcard": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: ['*.localhost'], upstream: 'http://127.0.0.1:9001'}
opa: {managed: {bundle: build/demo}}
""",
        [
            "ostiary.yaml:5: services.orders.hosts[0]: is not a host's name, which has no scheme, no port and no wildcard"
        ],
    ),
    "a host of two services": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
  billing: {hosts: [b.localhost, Orders.localhost], upstream: 'http://127.0.0.1:9002'}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:6: services.billing.hosts[1]: 'orders.localhost' is the host of service 'orders' already"],
    ),
    "the proxy's own host": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [ostiary.localhost], upstream: 'http://127.0.0.1:9001'}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:5: services.orders.hosts[0]: 'ostiary.localhost' is the host of the proxy itself already"],
    ),
    "an upstream with a path": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [a.localhost], upstream: 'http://127.0.0.1:9001/v1'}
opa: {managed: {bundle: build/demo}}
""",
        [
            "ostiary.yaml:5: services.orders.upstream: an origin has no path: write scheme, host and port only, http://127.0.0.1:9001"
        ],
    ),
    "an upstream without a scheme": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [a.localhost], upstream: '127.0.0.1:9001'}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:5: services.orders.upstream: is not a URL with http or https"],
    ),
    "an unknown strategy": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001", credential: {strategy: mint}}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:5: services.orders.credential.strategy: 'mint' is not minted (did you mean 'minted'?)"],
    ),
    "every origin with credentials": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001", cors: {origins: ['*'], credentials: true}}
opa: {managed: {bundle: build/demo}}
""",
        [
            "ostiary.yaml:5: services.orders.cors.origins[0]: a page of any origin is nobody in particular: name the origins"
        ],
    ),
    "every origin and one": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001", cors: {origins: ['*', 'https://app.test']}}
opa: {managed: {bundle: build/demo}}
""",
        [
            "ostiary.yaml:5: services.orders.cors.origins[0]: a page of any origin is nobody in particular: name the origins"
        ],
    ),
    "an origin with a path": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001", cors: {origins: ['https://app.test/']}}
opa: {managed: {bundle: build/demo}}
""",
        [
            "ostiary.yaml:5: services.orders.cors.origins[0]: an origin has no path: write scheme, host and port only, http://127.0.0.1:9001"
        ],
    ),
    "an origin with its default port": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001", cors: {origins: ['https://App.test:443']}}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:5: services.orders.cors.origins[0]: a browser writes this origin 'https://app.test'"],
    ),
    "a method in lower case": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001", cors: {origins: ['https://app.test'], methods: [get]}}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:5: services.orders.cors.methods[0]: 'get' is not a method (did you mean 'GET'?)"],
    ),
    "a wildcard for headers": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001", cors: {origins: ['https://app.test'], headers: ['*']}}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:5: services.orders.cors.headers[0]: there is no wildcard: each header is named"],
    ),
    "a header's name": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001", cors: {origins: ['https://app.test'], headers: ['a b']}}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:5: services.orders.cors.headers[0]: 'a b' is not the name of a header"],
    ),
    "headers that no service gets": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders:
    hosts: [orders.localhost]
    upstream: "http://127.0.0.1:9001"
    keep_headers: [Cookie, X-Real-IP, x-tenant-id, Authorization, ostiary-decision-id, tenant_id, te, X-Auth-User, "*"]
opa: {managed: {bundle: build/demo}}
""",
        [
            "ostiary.yaml:8: services.orders.keep_headers[0]: 'Cookie' never goes to a service",
            "ostiary.yaml:8: services.orders.keep_headers[1]: 'X-Real-IP' never goes to a service",
            "ostiary.yaml:8: services.orders.keep_headers[3]: 'Authorization' never goes to a service",
            "ostiary.yaml:8: services.orders.keep_headers[4]: 'ostiary-decision-id' never goes to a service",
            "ostiary.yaml:8: services.orders.keep_headers[5]: 'tenant_id' never goes to a service",
            "ostiary.yaml:8: services.orders.keep_headers[6]: 'te' never goes to a service",
            "ostiary.yaml:8: services.orders.keep_headers[7]: 'X-Auth-User' never goes to a service",
            "ostiary.yaml:8: services.orders.keep_headers[8]: there is no wildcard: each header is named",
        ],
    ),
    "TLS settings without TLS": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001", tls: {ca_file: ca.pem}}
opa: {managed: {bundle: build/demo}}
""",
        ["ostiary.yaml:5: services.orders.tls: the upstream is not https, so no certificate would be checked"],
    ),
    "a signature that is not offered": (
        BASE + "signing: {algorithm: RS256}\n",
        ["ostiary.yaml:7: signing.algorithm: 'RS256' is not EdDSA or ES256 (did you mean 'ES256'?)"],
    ),
    "neither managed nor url": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {deadline: 1s}
""",
        ["ostiary.yaml:6: opa: needs exactly one of 'managed' and 'url'"],
    ),
    "both managed and url": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: b}, url: 'http://127.0.0.1:8181'}
""",
        ["ostiary.yaml:6: opa: needs exactly one of 'managed' and 'url'"],
    ),
    "a token for a managed OPA": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: b}, token: s3cret}
""",
        ["ostiary.yaml:6: opa.token: a managed OPA is reached over its own socket and takes no token"],
    ),
    "a rollback's statement for a managed OPA": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: b}, rollback: {statement: s, verification: {key_file: k, key_id: release}}}
""",
        ["ostiary.yaml:6: opa.rollback: a managed OPA finds the statement beside its bundle"],
    ),
    "a rollback without a statement": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {url: 'http://127.0.0.1:8181', rollback: {verification: {key_file: k, key_id: release}}}
""",
        [
            "ostiary.yaml:6: opa.rollback: needs exactly one of 'statement' and 'url'",
        ],
    ),
    "a rollback with two statements": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {url: 'http://127.0.0.1:8181', rollback: {statement: s, url: 'https://policy.test/b.tar.gz.rollback', verification: {key_file: k, key_id: release}}}
""",
        [
            "ostiary.yaml:6: opa.rollback: needs exactly one of 'statement' and 'url'",
        ],
    ),
    "a token for a statement in a file": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {url: 'http://127.0.0.1:8181', rollback: {statement: s, token_file: t, ca_file: c, verification: {key_file: k, key_id: release}}}
""",
        [
            "ostiary.yaml:6: opa.rollback.ca_file: is for 'url': a file is read as it is",
            "ostiary.yaml:6: opa.rollback.token_file: is for 'url': a file is read as it is",
        ],
    ),
    "authorities for a statement without https": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {url: 'http://127.0.0.1:8181', rollback: {url: 'http://127.0.0.1:9400/b.tar.gz.rollback', ca_file: c, verification: {key_file: k, key_id: release}}}
""",
        [
            "ostiary.yaml:6: opa.rollback.ca_file: it is not had over https, so no certificate would be checked",
        ],
    ),
    "a statement over http elsewhere": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {url: 'http://127.0.0.1:8181', rollback: {url: 'http://policy.test/b.tar.gz.rollback', verification: {key_file: k, key_id: release}}}
""",
        [
            "ostiary.yaml:6: opa.rollback.url: only https is accepted, except on a loopback host",
        ],
    ),
    "authorities for an OPA without https": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {url: 'unix:///run/opa/opa.sock', ca_file: ca.pem}
""",
        ["ostiary.yaml:6: opa.ca_file: the OPA is not reached over https, so no certificate would be checked"],
    ),
    "OPA over http elsewhere": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {url: 'http://opa:8181'}
""",
        ["ostiary.yaml:6: opa.url: whoever answers there decides: only https is accepted, except on a loopback host"],
    ),
    "OPA with a path": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {url: 'http://127.0.0.1:8181/v1/data'}
""",
        ["ostiary.yaml:6: opa.url: an origin has no path: write scheme, host and port only, http://127.0.0.1:9001"],
    ),
    "OPA at a socket without a path": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {url: 'unix://opa.sock'}
""",
        ["ostiary.yaml:6: opa.url: is not a unix socket, which is written unix:///run/opa/opa.sock"],
    ),
    "a deadline of nothing": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {managed: {bundle: b}, deadline: 0s}
""",
        ["ostiary.yaml:6: opa.deadline: '0s' is outside 1ms to 30s"],
    ),
    "a size that is none": (
        BASE + "audit: {max_bytes: 10MB}\n",
        ["ostiary.yaml:7: audit.max_bytes: '10MB' is not a size, which is written 512B, 32KiB, 100MiB or 4GiB"],
    ),
    "an audit around the keys that it is proved by": (
        BASE + "audit: {path: /var/lib/ostiary}\nstate: /var/lib/ostiary/state\n",
        [
            "ostiary.yaml:7: audit.path: is around the state, /var/lib/ostiary/state: whoever can change the audit could change its keys too",
        ],
    ),
    "keys and checkpoints among what they prove": (
        BASE + "audit: {path: /trail, keys: /trail/keys, checkpoints: /trail, checkpoint_key: elsewhere/key.pem}\n",
        [
            "ostiary.yaml:7: audit.checkpoints: is in the directory of the audit, /trail: whoever can change that could change both",
            "ostiary.yaml:7: audit.keys: is in the directory of the audit, /trail: whoever can change that could change both",
        ],
    ),
    "a syslog that is none": (
        BASE + "audit: {syslog: /dev/log}\n",
        [
            "ostiary.yaml:7: audit.syslog: is not where syslog listens: unix:/dev/log, udp:127.0.0.1:514 or tcp:127.0.0.1:601"
        ],
    ),
    "a syslog on another machine": (
        BASE + "audit: {syslog: 'udp:logs.test:514'}\n",
        [
            "ostiary.yaml:7: audit.syslog: the audit leaves this machine unencrypted: name a relay on it, which brings it on by TLS"
        ],
    ),
    "a size out of bounds": (
        BASE + "limits: {header_bytes: 1B}\n",
        ["ostiary.yaml:7: limits.header_bytes: '1B' is outside 1KiB to 256KiB"],
    ),
    "an unknown limit": (
        BASE + "limits: {header_byte: 1KiB}\n",
        ["ostiary.yaml:7: limits.header_byte: unknown key (did you mean 'header_bytes'?)"],
    ),
    "an unknown grant store": (
        BASE + "grants: {url: 'mysql://u:p4ss@h/d'}\n",
        ["ostiary.yaml:7: grants.url: is neither a sqlite:/// nor a postgresql:// URL"],
    ),
    "grants that are no mapping": (
        BASE + "grants: 'postgresql://u:p4ss@h/d'\n",
        ["ostiary.yaml:7: grants: is not a mapping"],
    ),
    "an unknown detail": (
        BASE + "errors: {detail: ful}\n",
        ["ostiary.yaml:7: errors.detail: 'ful' is not full or minimal (did you mean 'full'?)"],
    ),
    "an unknown level": (
        BASE + "logging: {level: warn}\n",
        ["ostiary.yaml:7: logging.level: 'warn' is not debug, info, warning or error (did you mean 'warning'?)"],
    ),
    "a variable that is not set": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {url: 'http://127.0.0.1:8181', token: '${NOT_SET}'}
""",
        ["ostiary.yaml:6: opa.token: the environment variable NOT_SET is not set, or is empty"],
    ),
    "a variable that is empty": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {url: 'http://127.0.0.1:8181', token: '${EMPTY}'}
""",
        ["ostiary.yaml:6: opa.token: the environment variable EMPTY is not set, or is empty"],
    ),
    "a variable within a secret": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {url: 'http://127.0.0.1:8181', token: 'x${TOKEN}'}
""",
        ["ostiary.yaml:6: opa.token: an environment variable is the whole of a secret, ${NAME}, never a part of it"],
    ),
    "a variable outside a secret": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [a.localhost], upstream: '${UPSTREAM}'}
opa: {managed: {bundle: build/demo}}
""",
        [
            "ostiary.yaml:5: services.orders.upstream: an environment variable fills a secret only (grants.url, grants.webhooks.<name>.secret, grants.webhooks.<name>.url and opa.token): write the value"
        ],
    ),
    "a secret that is a number": (
        """\
listen: {data: 127.0.0.1:8080}
issuers:
  - {issuer: https://idp.test, audience: proxy, jwks_url: https://idp.test/jwks, algorithms: [ES256]}
services:
  orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}
opa: {url: 'http://127.0.0.1:8181', token: 12345}
""",
        ["ostiary.yaml:6: opa.token: is not a text; it may also be the name of an environment variable, ${NAME}"],
    ),
}


def load(path: Path) -> Config:
    return load_config(path, ENVIRONMENT)


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_a_mistake_is_refused(text: str, expected: list[str], tmp_path: Path) -> None:
    assert mistakes(load, tmp_path / "ostiary.yaml", text) == expected


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_no_message_holds_a_secret(text: str, expected: list[str], tmp_path: Path) -> None:
    said = "\n".join(mistakes(load, tmp_path / "ostiary.yaml", text))
    assert not [secret for secret in SECRETS if secret in said]


def test_the_configuration_that_the_cases_start_from_is_good(tmp_path: Path) -> None:
    path = tmp_path / "ostiary.yaml"
    path.write_text(BASE, encoding="utf-8")
    assert list(load(path).services) == ["orders"]
