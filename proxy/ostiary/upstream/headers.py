"""Which headers are removed and which are added. `docs/headers.md` is this module as a table; a test compares them.

A header goes upstream unless a rule here removes it. Names are judged after folding (lower case, everything but letters
and digits taken for `-`), so that a spelling which some upstream takes for a listed name falls with it: CVE-2025-64484
and CVE-2026-54763 were `_`, CVE-2026-88011 was `.`.
"""

from __future__ import annotations

import re
from typing import Final

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"expect",  # answered by the proxy, which asks for the body itself
        b"http2-settings",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""They describe the client's connection, which ends here (RFC 9110 section 7.6.1)."""

FRAMING: Final = frozenset({b"content-length", b"host"})
"""Written anew from what the proxy itself knows: the framing that it sends, and the configured host."""

CREDENTIALS: Final = frozenset(
    {
        b"access-token",
        b"api-key",
        b"apikey",
        b"auth-token",
        b"authentication",
        b"authorization",
        b"cf-access-jwt-assertion",
        b"cookie",  # a session is a standing privilege: it would outlive every decision
        b"cookie2",
        b"dpop",  # proves possession for the token that is removed (RFC 9449)
        b"id-token",
        b"private-token",
        b"proxy-authorization",
        b"refresh-token",
        b"token",
        b"x-access-key",
        b"x-access-token",
        b"x-amz-security-token",
        b"x-amzn-oidc-accesstoken",
        b"x-api-key",
        b"x-api-token",
        b"x-apikey",
        b"x-authorization",
        b"x-goog-iap-jwt-assertion",
        b"x-id-token",
        b"x-jwt",
        b"x-jwt-assertion",
        b"x-refresh-token",
        b"x-serverless-authorization",
        b"x-session-token",
        b"x-subject-token",  # OpenStack Keystone
        b"x-token",
        b"x-vault-token",
    }
)
"""They carry the caller's own credential, which never reaches an upstream (SECURITY section 8)."""

IDENTITY: Final = frozenset(
    {
        b"client-cert",  # RFC 9440
        b"client-cert-chain",
        b"iv-creds",
        b"iv-groups",
        b"iv-user",
        b"remote-addr",
        b"remote-email",
        b"remote-groups",
        b"remote-name",
        b"remote-user",
        b"sm-user",
        b"x-amzn-oidc-data",
        b"x-amzn-oidc-identity",
        b"x-anonymous-consumer",
        b"x-apigateway-api-userinfo",
        b"x-arr-clientcert",
        b"x-email",
        b"x-groups",
        b"x-role",
        b"x-roles",
        b"x-username",
    }
)
"""Somebody's word for who is calling. The upstream learns that from the credential alone."""

OVERRIDES: Final = frozenset(
    {
        b"front-end-https",
        b"path-info",  # with script-name, where a WSGI application believes to be mounted (gunicorn forwarder_headers)
        b"proxy",  # becomes HTTP_PROXY in CGI (httpoxy, CVE-2016-5385)
        b"request-uri",
        b"script-name",
        b"x-host",
        b"x-method-override",  # CVE-2023-30845
        b"x-override-url",
        b"x-scheme",
        b"x-script-name",
        b"x-url-scheme",
    }
)
"""They make an upstream see another method, path, host or scheme than the one that was decided."""

ADDRESSES: Final = frozenset(
    {
        b"ali-cdn-real-ip",
        b"cdn-src-ip",
        b"cf-connecting-ip",
        b"client-ip",  # PHP's HTTP_CLIENT_IP, which many applications ask first
        b"do-connecting-ip",
        b"fastly-client-ip",
        b"fly-client-ip",
        b"forwarded",
        b"incap-client-ip",
        b"proxy-client-ip",
        b"true-client-ip",
        b"via",  # ours replaces it: a Via that a client writes says nothing that can be checked
        b"wl-proxy-client-ip",  # WebLogic
        b"x-azure-clientip",
        b"x-azure-socketip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-custom-ip-authorization",
        b"x-nf-client-connection-ip",
        b"x-originating-ip",
        b"x-proxyuser-ip",
        b"x-real-ip",
        b"x-sucuri-clientip",
    }
)
"""Where a request came from is written by the proxy, from its own socket, and by nobody else."""

PREFIXES: Final = (
    b"cf-access-",  # Cloudflare
    b"impersonate-",  # Kubernetes: another user, group or extra
    b"l5d-",  # Linkerd
    b"oidc-claim-",  # mod_auth_openidc
    b"ostiary-",  # ours
    b"remote-user-",
    b"shib-",  # Shibboleth
    b"ssl-client-",
    b"tailscale-",
    b"teleport-",
    b"x-accel-",  # internal redirects
    b"x-amzn-mtls-",
    b"x-appengine-user-",
    b"x-auth-",
    b"x-authenticated-",
    b"x-authentik-",
    b"x-caller",
    b"x-client-cert",
    b"x-consumer-",  # Kong
    b"x-credential-",
    b"x-endpoint-api-",  # Cloud Endpoints
    b"x-envoy-",  # CVE-2023-27487
    b"x-forwarded",  # x-forwarded-client-cert among them
    b"x-goog-authenticated-user-",
    b"x-http-method",
    b"x-identity",
    b"x-middleware-",  # CVE-2025-29927
    b"x-ms-client-principal",
    b"x-ms-token-",
    b"x-original-",  # GHSA-f6p5-76fp-m248
    b"x-pomerium-",
    b"x-principal",
    b"x-remote-",
    b"x-rewrite-",
    b"x-spiffe-",
    b"x-ssl-",
    b"x-user",
    b"x-vouch-",
    b"x-webauth-",  # Grafana, and whatever else trusts an authenticating proxy
)
"""Families of the names above: whatever begins so is removed."""

ADDED: Final = (
    b"host",
    b"via",
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"ostiary-decision-id",
)
"""What every forwarded request carries, once, besides the credential and the framing of its body."""

REMOVED: Final = HOP_BY_HOP | FRAMING | CREDENTIALS | IDENTITY | OVERRIDES | ADDRESSES

RESPONSE_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""They describe the proxy's connection to the upstream (RFC 9110 section 7.6.1)."""

RESPONSE_CHALLENGES: Final = frozenset(
    {
        b"authentication-info",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"www-authenticate",
    }
)
"""They speak about the swapped credential, which is no business of the client's."""

RESPONSE_ROUTING: Final = frozenset({b"alt-svc"})
"""They would send the client past the proxy (RFC 7838)."""

RESPONSE_OURS: Final = frozenset({b"ostiary-decision-id", b"ostiary-grant-expires"})
"""The proxy adds its own: to every response, and to those that a grant let through which ends soon."""

RESPONSE_REMOVED: Final = RESPONSE_HOP_BY_HOP | RESPONSE_CHALLENGES | RESPONSE_ROUTING | RESPONSE_OURS

_REMEMBERED: Final = 4096  # names; clients choose them, so there is a bound
_REMARKABLE: Final = 8  # bytes
_ALIAS: Final = re.compile(rb"[^a-z0-9]")


def folded(name: bytes) -> bytes:
    """The name as the most forgiving upstream might read it."""
    return _ALIAS.sub(b"-", name.lower())


def remarkable(value: bytes) -> bytes | None:
    """The part of a credential's value that is searched for where it must not be; None if none could be told apart.

    The token by itself, without its scheme, since it may be repeated without. What is shorter than eight bytes is no
    secret, and searching for it would drop unrelated headers.
    """
    token = value.rpartition(b" ")[2]
    if len(token) >= _REMARKABLE:
        return token
    return value if len(value) >= _REMARKABLE else None


class HeaderRules:
    """Whether a request header goes upstream. `replaced` names (lower case) what the credential stands in for.

    `known` are the judgements made before, for those that cannot afford a call.
    """

    def __init__(self, replaced: frozenset[bytes] = frozenset()) -> None:
        self._removed = REMOVED | {folded(name) for name in replaced}
        self.known: dict[bytes, bool] = {}

    def keeps(self, name: bytes) -> bool:
        """`name` is lower case, as the listener gives it."""
        kept = self.known.get(name)
        if kept is None:
            kept = self._judge(name)
            if len(self.known) < _REMEMBERED and len(name) <= 64:
                self.known[name] = kept
        return kept

    def _judge(self, name: bytes) -> bool:
        if b"_" in name or b"." in name:
            return False
        plain = folded(name)
        return plain not in self._removed and not plain.startswith(PREFIXES)
