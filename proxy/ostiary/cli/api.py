"""The API of a proxy's own host, for the commands that use it, and the options that they have in common."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import httpx
import jwt
import typer

from ostiary.addresses import is_localhost
from ostiary.cli.output import fail, visible

Url = Annotated[str, typer.Option("--url", envvar="OSTIARY_URL", help="The proxy's own host: https://ostiary.example.")]
Token = Annotated[
    str | None, typer.Option("--token", envvar="OSTIARY_TOKEN", help="Who you are. Best in the environment or a file.")
]
TokenFile = Annotated[Path | None, typer.Option("--token-file", help="The file that the token is in.")]
Why = Annotated[str, typer.Option("--reason", help="Why. It is in the audit.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]

_TIMEOUT: Final = 10.0
_ELSEWHERE: Final = frozenset({"host-unknown", "unknown-endpoint"})
"""Refusals of who answers at another of the proxy's hosts, or at none."""
_DURATION: Final = re.compile(r"([1-9][0-9]{0,6})(s|m|h)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}


class Api:
    """The proxy's own host. Names below `localhost` are this machine, wherever they would be looked up."""

    def __init__(self, url: str, token: str | None, token_file: Path | None) -> None:
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL:
            fail(f"{visible(url)!r} is not a URL")
        if address.scheme not in ("http", "https") or not address.host:
            fail(f"{visible(url)!r} is not an http or https URL")
        self._url = visible(url)
        self._origin = (address.scheme, address.netloc)
        local = is_localhost(address.host)
        if address.scheme == "http" and not local:
            fail("a token is sent over https, or to this machine alone")
        if token is None and token_file is not None:
            token = token_file.read_text(encoding="utf-8").strip()
        if not token:
            fail("no token: give --token-file, or set OSTIARY_TOKEN")
        self._token = token
        headers = {"authorization": f"Bearer {token}", "host": address.netloc.decode("ascii")}
        if local and address.host.endswith("localhost"):
            address = address.copy_with(host="127.0.0.1")
        self._client = httpx.Client(
            base_url=address, headers=headers, timeout=_TIMEOUT, trust_env=False, follow_redirects=False
        )

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def is_at(self, address: str) -> bool:
        """Whether an address is of this host. Nobody else is shown the token, whoever says so."""
        try:
            other = httpx.URL(address)
        except httpx.InvalidURL:
            return False
        return (other.scheme, other.netloc) == self._origin

    def get(self, path: str, given: dict[str, str] | None = None) -> Any:
        return self._answer("GET", path, params=given)

    def post(self, path: str, document: dict[str, Any], *, key: str | None = None, refusable: bool = False) -> Any:
        headers = {} if key is None else {"idempotency-key": key}
        return self._answer("POST", path, json=document, headers=headers, refusable=refusable)

    def _answer(self, method: str, path: str, *, refusable: bool = False, **sent: Any) -> Any:
        try:
            response = self._client.request(method, f"/access/{path}", **sent)
        except httpx.TimeoutException:
            fail(f"{self._url} does not answer within {_TIMEOUT:g} s", status=1)
        except httpx.HTTPError as error:
            fail(f"{self._url} (--url, OSTIARY_URL) cannot be reached: {visible(str(error))}", status=1)
        try:
            document = response.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            fail(f"{self._url} (--url, OSTIARY_URL): what answers there is no ostiary", status=1)
        if not response.is_success and not refusable:
            self._refused(response.status_code, document)
        return document

    def _refused(self, status: int, document: dict[str, Any]) -> NoReturn:
        reasons = document.get("reasons", [str(status)])
        told = document.get("detail") or document.get("title") or ""
        lines = [f"{', '.join(reasons)}: {visible(told)} (decision {document.get('decision_id')})"]
        if _ELSEWHERE.intersection(reasons):
            lines.append(f"{self._url} (--url, OSTIARY_URL) is not the proxy's own host, which own_host names")
        if status == 401 and (ended := _end_of(self._token)) is not None and ended <= time.time():
            lines.append(f"the token ended at {instant(ended)}")
        fail(*lines, status=1)


def _end_of(token: str) -> int | None:
    """When a token ends, as it says itself; None if it does not say so."""
    try:
        ends = jwt.decode(token, options={"verify_signature": False})["exp"]
    except (jwt.PyJWTError, KeyError):
        return None
    return ends if isinstance(ends, int) else None


def seconds(text: str) -> int:
    found = _DURATION.fullmatch(text)
    if found is None:
        fail(f"{visible(text)!r} is not a duration, which is written 30s, 10m or 1h")
    return int(found[1]) * _SECONDS[found[2]]


def instant(second: int | None) -> str:
    return "" if second is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
