"""What is posted to the API: read strictly, member by member. Whatever is not as it should be raises `BodyRefused`."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Final, TypeAlias

from ostiary.exchange import Exchange
from ostiary.grants.refusals import BodyRefused
from ostiary.models import Json
from ostiary.strictjson import NotStrict, read_object

MAX_BODY: Final = 64 * 1024
_KEY_LENGTH: Final = 128

Members: TypeAlias = Mapping[str, Json]


async def body_of(exchange: Exchange, known: Set[str], *, max_depth: int = 4) -> Members:
    """The object that was posted; `known` are the members that it may have."""
    # A page of somebody else's makes a browser, which has a client's certificate, send any other type unasked.
    media_type = (exchange.header(b"content-type") or b"").partition(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise BodyRefused("the content type is application/json")
    content = b""
    while not exchange.body_complete:
        content += await exchange.receive_body()
        if len(content) > MAX_BODY:
            raise BodyRefused(f"at most {MAX_BODY} bytes")
    try:
        document = read_object(content or b"{}", max_depth=max_depth)
    except NotStrict as error:
        raise BodyRefused(str(error)) from None
    if unknown := sorted(document.keys() - known):
        raise BodyRefused(f"unknown: {', '.join(unknown)[:200]}; known: {', '.join(sorted(known))}")
    return document


def text(body: Members, name: str, *, default: str | None = None) -> str:
    value = body.get(name, default)
    if not isinstance(value, str):
        raise BodyRefused(f"{name} is a text")
    return value


def texts(body: Members, name: str) -> tuple[str, ...]:
    value = body.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise BodyRefused(f"{name} is a list of texts")
    return tuple(value)


def number(body: Members, name: str) -> int:
    value = body.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BodyRefused(f"{name} is a whole number")
    return value


def truth(body: Members, name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise BodyRefused(f"{name} is true or false")
    return value


def members(body: Members, name: str) -> Members:
    """An object; an empty one where it is left out."""
    value = body.get(name, {})
    if not isinstance(value, dict):
        raise BodyRefused(f"{name} is an object")
    return value


def idempotency_key(exchange: Exchange) -> str | None:
    value = exchange.header(b"idempotency-key")
    if value is None:
        return None
    key = value.decode("latin-1")
    if not 1 <= len(key) <= _KEY_LENGTH or not (key.isascii() and key.isprintable()):
        raise BodyRefused(f"an Idempotency-Key has 1 to {_KEY_LENGTH} printable characters")
    return key
