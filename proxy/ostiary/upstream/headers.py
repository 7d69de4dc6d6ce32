"""Which headers are removed and which are added. `docs/headers.md` is this module as a table; a test compares them.

A header goes upstream unless a rule here removes it. Names are judged after folding (lower case, everything but letters
and digits taken for `-`), so that a spelling which some upstream takes for a listed name falls with it: CVE-2025-64484
and CVE-2026-54763 were `_`, CVE-2026-88011 was `.`. What is listed falls with `x-` in front of it as well.

Gateways and frameworks make up such names faster than a list of them grows, so most rules are families: how a name
begins, or how it ends. The sources: what the gateways named beside the rules document, and what scanners try in order
to get past them. Where a family catches a header that a service needs, the service's own configuration keeps that one.
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
        b"amz-security-token",
        b"api-token",
        b"authorization",
        b"bearer",
        b"bearer-token",
        b"cookie",  # a session is a standing privilege: it would outlive every decision
        b"cookie2",
        b"dpop",  # proves possession for the token that is removed (RFC 9449)
        b"functions-key",  # Azure Functions
        b"id-token",
        b"parse-master-key",
        b"private-token",  # GitLab
        b"refresh-token",
        b"session",
        b"session-token",
        b"subject-token",  # OpenStack Keystone
        b"token",
        b"vault-token",
        b"wsse",
    }
)
"""They carry the caller's own credential, which never reaches an upstream (SECURITY section 8)."""

IDENTITY: Final = frozenset(
    {
        b"act-as",
        b"admin",
        b"anonymous-consumer",  # Kong
        b"claims",
        b"client-cn",
        b"client-issuer",
        b"client-subject",
        b"client-verify",  # nginx's $ssl_client_verify
        b"cn",
        b"email",
        b"group",
        b"groups",
        b"is-admin",
        b"login",
        b"on-behalf-of",
        b"peer-cert",
        b"permissions",
        b"proxiedentitieschain",  # NiFi
        b"role",
        b"roles",
        b"service-account",
        b"sub",
        b"sudo",  # GitLab: another user, for a request
        b"trino-role",
        b"trusted",
    }
)
"""Somebody's word for who is calling. The upstream learns that from the credential alone."""

OVERRIDES: Final = frozenset(
    {
        b"base-url",
        b"front-end-https",
        b"hostname",
        b"http-destinationurl",
        b"http-url",
        b"http-verb",
        b"matched-path",  # Next.js
        b"method",
        b"path",
        b"path-info",  # with script-name, where a WSGI application believes to be mounted (gunicorn forwarder_headers)
        b"proto",
        b"proxy",  # becomes HTTP_PROXY in CGI (httpoxy, CVE-2016-5385)
        b"request-uri",
        b"rest-method",
        b"scheme",
        b"script-name",
        b"tunnel-method",
        b"uri",
        b"url",
        b"url-scheme",
        b"verb",
    }
)
"""They make an upstream see another method, path, host or scheme than the one that was decided."""

ADDRESSES: Final = frozenset(
    {
        b"coming-from",
        b"ip",
        b"via",  # ours replaces it: a Via that a client writes says nothing that can be checked
    }
)
"""Where a request came from is written by the proxy, from its own socket, and by nobody else."""

PREFIXES: Final = (
    b"accel-",  # nginx: internal redirects
    b"amz-cognito-",
    b"amzn-mtls-",
    b"amzn-oidc-",
    b"apigateway-",
    b"appengine-",
    b"arr-",  # Azure App Service
    b"auth",  # authorization, authentication, Authelia, authentik, oauth2-proxy, Auth0, and whatever else begins so
    b"azure-",  # Front Door
    b"caller",
    b"cert",
    b"cf-access-",  # Cloudflare
    b"cf-connecting-",
    b"cf-ip",
    b"client-cert",  # RFC 9440
    b"cloudfront-",
    b"consumer-",  # Kong
    b"credential",
    b"endpoint-api-",  # Cloud Endpoints
    b"envoy-",  # CVE-2023-27487
    b"fastly-",
    b"forward",  # forwarded, x-forwarded-client-cert and their misspellings
    b"goog-authenticated-",
    b"goog-iap-",
    b"hasura-",
    b"http-method",
    b"identity",
    b"impersonat",  # Kubernetes: another user, group or extra
    b"internal",  # what is said to come from inside
    b"invoke-",  # Next.js
    b"istio-",
    b"iv-",  # IBM Security Verify
    b"jwt",  # Istio, Kong and others: claims of a token that nobody verified
    b"l5d-",  # Linkerd
    b"middleware-",  # CVE-2025-29927
    b"ms-client-principal",
    b"ms-token-",
    b"mtls-",
    b"oidc-",  # mod_auth_openidc
    b"okta-",
    b"openid-",
    b"original",  # GHSA-f6p5-76fp-m248
    b"originating-",
    b"ostiary",  # ours
    b"override-",
    b"pomerium-",
    b"principal",
    b"proxy-",
    b"remote-",
    b"rewrit",  # x-rewrite-url: GHSA-f6p5-76fp-m248
    b"shib-",  # Shibboleth
    b"sm-",  # SiteMinder
    b"spiffe-",
    b"ssl-",
    b"tailscale-",
    b"teleport-",
    b"tls-client-",
    b"user",
    b"vouch-",
    b"webauth-",  # Grafana, and whatever else trusts an authenticating proxy
)
"""Families of the names above: whatever begins so is removed."""

SUFFIXES: Final = (
    # Credentials.
    b"access-key",
    b"apikey",
    b"api-key",
    b"authorization",
    b"-bearer",
    b"-jwt",
    b"password",
    b"subscription-key",  # Azure API Management
    # Identity.
    b"-dn",  # nginx, HAProxy, Apache: the names in a client's certificate
    b"-identity",
    b"-principal",
    # Method, path, host.
    b"-host",
    b"override",  # CVE-2023-30845
    # Addresses.
    b"-addr",
    b"clientip",
    b"-forwarded-for",
    b"-ip",  # client-ip, which PHP applications ask first, real-ip, and what each CDN calls them
    b"-via",
)
"""Families of the names above: whatever ends so is removed."""

KEEPABLE_NAMES: Final = frozenset(
    {
        b"account",
        b"account-id",
        b"actor",
        b"client-id",
        b"org-id",
        b"scope",
        b"scope-orgid",  # Grafana Loki, Mimir and Tempo: the tenant, believed as it comes
        b"scopes",
        b"subject",
        b"tenant",
        b"tenant-id",
    }
)
"""For whom a request is: some services believe it as they would believe an identity, to others it is a parameter. They
are removed, unless the service keeps one."""

KEEPABLE_SUFFIXES: Final = (
    b"-email",
    b"secret",
    b"token",  # the CSRF tokens as well: they guard sessions in cookies, and no cookie goes upstream
    b"-user",
    b"-user-id",
    b"-username",
)
"""Credentials and identities nearly always, and now and then the token of a device or the address of a recipient. They
are removed, unless the service keeps one."""

NAMESAKES: Final = frozenset({b"sec-fetch-user", b"user-agent"})
"""They belong to a family by their names only, and go upstream."""

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


def never_kept(name: bytes) -> bool:
    """Whether a header of this name (lower case) is removed whatever is configured."""
    return _never_kept(name, folded(name))


def _never_kept(name: bytes, plain: bytes) -> bool:
    if b"_" in name or b"." in name:
        return True
    bare = plain.removeprefix(b"x-")
    return bare in REMOVED or plain.endswith(SUFFIXES) or (bare.startswith(PREFIXES) and plain not in NAMESAKES)


def _keepable(plain: bytes) -> bool:
    bare = plain.removeprefix(b"x-")
    return bare in KEEPABLE_NAMES or (plain.endswith(KEEPABLE_SUFFIXES) and plain not in NAMESAKES)


class HeaderRules:
    """Whether a request header goes upstream. `replaced` names (lower case) what the credential stands in for.

    `kept` names (lower case) go upstream although `KEEPABLE_NAMES` or `KEEPABLE_SUFFIXES` would have them removed;
    nothing else that is removed can be kept. `known` are the judgements made before, for those that cannot afford a
    call.
    """

    def __init__(self, replaced: frozenset[bytes] = frozenset(), kept: frozenset[bytes] = frozenset()) -> None:
        self._replaced = frozenset(map(folded, replaced))
        self._kept = kept
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
        plain = folded(name)
        if plain in self._replaced or _never_kept(name, plain):
            return False
        return name in self._kept or not _keepable(plain)
