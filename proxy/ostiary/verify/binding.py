"""Whether a credential is for the request that carries it: the endpoint's method and path, the per-call target."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from typing import Final

from ostiary.bounded import BoundedMap
from ostiary.errors import AccessError
from ostiary.routes import Endpoint, RouteTable, TemplateError
from ostiary.target import canonicalise
from ostiary.verify.refusals import CredentialInvalid
from ostiary.verify.token import Claims

_TABLES: Final = 1_000


class Binding:
    """Compares claims with requests. Keeps the endpoints it has seen, which the proxy has signed, parsed."""

    def __init__(self, *, capacity: int = _TABLES) -> None:
        self._tables: BoundedMap[tuple[str, str, tuple[str, ...]], RouteTable] = BoundedMap(capacity)

    def check(self, claims: Claims, method: str, raw_path: bytes, query: bytes) -> None:
        """Raise `CredentialInvalid` unless this is a request that the credential is for.

        `raw_path` are the bytes of the request line before the `?`, `query` those after it.
        """
        if claims.method != method:
            raise CredentialInvalid("for another method")
        try:
            segments = canonicalise(raw_path)
        except AccessError as error:
            raise CredentialInvalid("the path is not in the one form that the proxy forwards") from error
        if self._table(claims).endpoint(method, segments) is None:
            raise CredentialInvalid("for another path")
        if claims.target_sha256 is not None and claims.target_sha256 != _digest(raw_path, query):
            raise CredentialInvalid("for another target")

    def _table(self, claims: Claims) -> RouteTable:
        key = (claims.method, claims.path, claims.beside)
        table = self._tables.get(key)
        if table is None:
            table = _parse(claims)
            self._tables.put(key, table)
        return table


def _parse(claims: Claims) -> RouteTable:
    """The endpoint, and beside it the templates that win over it where they match.

    These get another method, whatever theirs is: a path that one of them matches has no endpoint with the method of
    the credential, and one that shares the credential's template is not in its way.
    """
    other = "GET" if claims.method != "GET" else "POST"
    try:
        endpoints = [Endpoint.parse("endpoint", f"{claims.method} {claims.path}")]
        endpoints += [Endpoint.parse(f"beside-{n}", f"{other} {path}") for n, path in enumerate(claims.beside)]
    except TemplateError as error:
        raise CredentialInvalid("a path template that this version does not know") from error
    table = RouteTable(endpoints)
    if table.conflicts:
        raise CredentialInvalid("path templates that contradict one another")
    return table


def _digest(raw_path: bytes, query: bytes) -> str:
    target = raw_path + b"?" + query if query else raw_path
    return urlsafe_b64encode(hashlib.sha256(target).digest()).rstrip(b"=").decode()
