"""What a target means, written a second time, from the requirements and not from the code: slowly, byte by byte."""

from __future__ import annotations

import unicodedata

UNRESERVED = set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
LITERAL = UNRESERVED | set(b"!$&'()*+,=:@")
HEX = b"0123456789abcdefABCDEF"
CREDENTIALS = {
    *("access token", "amz security token", "api token", "auth token", "bearer token", "id token", "oauth token"),
    *("private token", "refresh token", "session token", "api key", "api secret", "client assertion", "client secret"),
    *("authorization", "bearer", "dpop", "jwt", "password"),
}


class RefusedError(Exception):
    """More than one reading."""


def decoded(text: bytes, *, query: bool = False) -> bytes:
    """Percent-decoding in which a `%` that begins no escape is a refusal, or stands for itself in a query."""
    out = bytearray()
    at = 0
    while at < len(text):
        byte = text[at]
        if byte == 0x25:
            pair = text[at + 1 : at + 3]
            if len(pair) == 2 and pair[0] in HEX and pair[1] in HEX:
                out.append(int(pair, 16))
                at += 3
                continue
            if not query:
                raise RefusedError("a malformed escape")
        out.append(byte)
        at += 1
    return bytes(out)


def segment(raw: bytes) -> str:
    for byte in raw:
        if byte not in LITERAL and byte != 0x25:
            raise RefusedError("an illegal byte")
    try:
        text = decoded(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise RefusedError("not UTF-8") from None
    for character in text:
        if character in "/\\;%?# \x7f" or ord(character) < 0x20:
            raise RefusedError("a separator, a space or a control")
        if ord(character) >= 0x80 and unicodedata.category(character)[0] in "CZ":
            raise RefusedError("not printable")
    if text and set(text) == {"."}:
        raise RefusedError("dots")
    if unicodedata.normalize("NFC", text) != text:
        raise RefusedError("not NFC")
    compatible = unicodedata.normalize("NFKC", text)
    if not text.isascii() and ("/" in compatible or "\\" in compatible or set(compatible) <= {"."}):
        raise RefusedError("becomes path syntax")
    return text


def segments(path: bytes) -> tuple[str, ...]:
    if not path.startswith(b"/"):
        raise RefusedError("not origin-form")
    pieces = path[1:].split(b"/")
    if len(pieces) > 128:
        raise RefusedError("too many segments")
    for piece in pieces[:-1]:
        if not piece:
            raise RefusedError("an empty segment")
    return tuple(segment(piece) if piece else "" for piece in pieces)


def written(parts: tuple[str, ...]) -> str:
    out = ""
    for part in parts:
        out += "/"
        for byte in part.encode():
            out += chr(byte) if byte in UNRESERVED else f"%{byte:02X}"
    return out


def query(raw: bytes) -> str | None:
    """The query as it is forwarded; None for none."""
    for byte in raw:
        if not 0x21 <= byte <= 0x7E or byte == 0x23:
            raise RefusedError("an illegal byte in the query")
    if sum(byte in b"&;" for byte in raw) >= 256:
        raise RefusedError("too many parameters")
    at = 0
    while (at := raw.find(b"%", at)) >= 0:
        pair = raw[at + 1 : at + 3]
        if len(pair) == 2 and pair[0] in HEX and pair[1] in HEX and (int(pair, 16) < 0x20 or int(pair, 16) == 0x7F):
            raise RefusedError("an encoded control")
        at += 1
    for parameter in raw.replace(b";", b"&").split(b"&"):
        name = decoded(parameter.split(b"=")[0], query=True).decode("utf-8", "replace").lower()
        for part in (name, *name.replace("[", ".").replace("]", ".").split(".")):
            letters = "".join(one for one in part if one in "abcdefghijklmnopqrstuvwxyz0123456789")
            if any(letters in (words.replace(" ", ""), "x" + words.replace(" ", "")) for words in CREDENTIALS):
                raise RefusedError("a credential")
    return raw.decode("ascii") or None


def pairs(raw: bytes) -> tuple[tuple[str, str], ...] | None:
    """The query as policy sees it; None where servers could disagree."""
    if not raw:
        return ()
    found = []
    for parameter in raw.split(b"&"):
        if not parameter or b"+" in parameter or b";" in parameter:
            return None
        name, _, value = parameter.partition(b"=")
        try:
            pair = (decoded(name).decode(), decoded(value).decode())
        except (RefusedError, UnicodeDecodeError):
            return None
        for text in pair:
            for character in text:
                if character != " " and (unicodedata.category(character)[0] in "CZ"):
                    return None
        found.append(pair)
    return tuple(found)
