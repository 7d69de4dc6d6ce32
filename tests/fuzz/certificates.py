"""Certificates that a proxy in front forwards, against a reader that goes byte by byte as Envoy's does: who is taken
for the caller is the one workload that it reads there, too, and no reader finds another's name."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from fuzz.target import FindingError, demand
from ostiary.errors import IdentityInvalid
from ostiary.identity.xfcc import forwarded
from ostiary.spiffe import SpiffeId

WEB, ADMIN = b"spiffe://corp/sa/web", b"spiffe://corp/sa/admin"
HASH = b"ab" * 32
NAMES = (
    WEB, WEB, WEB, ADMIN, b'"' + WEB + b'"', WEB.upper(), b"spiffe://corp", b"spiffe://corp/", b"spiffe://corp/sa/../web",
    b"spiffe://corp/sa/%77eb", b"spiffe://corp:80/sa/web", b"https://corp/sa/web", b"", b'""', b"spiffe://corp/sa/web ",
)  # fmt: skip
SUBJECTS = (
    b'"CN=web"', b'"CN=a,O=b"', b'"CN=a\\"b"', b'"CN=a\\",URI=' + ADMIN + b'"', b'"CN=a;URI=' + ADMIN + b'"', b'""',
    b'"CN=\\5C"', b'"CN=a\\\\"', b'"CN=a\\\\";URI=' + ADMIN, b"CN", b'"CN=a\\2C\\20b"', b'"/CN=web"', b'"a\\', b'"',
    b"a b", b'"O=\\+\\<\\>\\#\\=\\;\\ "', b'"a"b', b'a"b"',
)  # fmt: skip
OTHERS = {
    b"By": (b"spiffe://corp/proxy", b"", b'"' + WEB + b'"'),
    b"Hash": (HASH, HASH.upper(), b'"' + HASH + b'"', b"ab", b""),
    b"DNS": (b"web.corp", b'"web.corp"', b""),
    b"Cert": (b'"-----BEGIN%20CERTIFICATE-----%0AMII%3D"', b"MII%3D", b'"a,b;c"'),
    b"Chain": (b'"-----BEGIN%20CERTIFICATE-----"',),
    b"Uri": NAMES,
    b"X": (b"a",),
    b"": (b"a",),
}

_ONCE = ("hash", "cert", "chain", "subject", "uri")
_KNOWN = (*_ONCE, "by", "dns")
_ESCAPED = re.compile(r'\\(?:["#+,;<=> ]|[0-9A-Fa-f]{2})')


class UnreadError(Exception):
    """The reader cannot make sense of it."""


@dataclass(frozen=True)
class Pair:
    key: str
    value: str
    quoted: bool


def elements(text: str, *, escapes: bool = True) -> list[list[Pair]]:
    """The elements of the header and the pairs of each. In quotes nothing ends but at a quote, and a backslash keeps
    the next byte from being one, unless the reader knows no `escapes`."""
    found: list[list[Pair]] = [[]]
    word, quotes, inside, escaped = "", 0, False, False
    for byte in text:
        if inside:
            word += byte
            inside = escaped or byte != '"'
            escaped = escapes and byte == "\\" and not escaped
        elif byte in ";,":
            found[-1].append(_pair(word, quotes))
            word, quotes = "", 0
            if byte == ",":
                found.append([])
        else:
            word += byte
            inside = byte == '"'
            quotes += inside
    if inside:
        raise UnreadError("a quote has no end")
    found[-1].append(_pair(word, quotes))
    return found


def _pair(word: str, quotes: int) -> Pair:
    key, equals, value = word.partition("=")
    if not equals:
        raise UnreadError("no pair")
    quoted = quotes == 1 and len(value) > 1 and value[0] == value[-1] == '"'
    if quotes and not quoted:
        raise UnreadError("a quote in the middle")
    return Pair(key.lower(), value[1:-1] if quoted else value, quoted)


def clean(text: str) -> str | None:
    """The one workload of a header that has nothing odd about it; None where anything is."""
    try:
        (pairs,) = elements(text)
    except (UnreadError, ValueError):
        return None
    keys = [pair.key for pair in pairs]
    if any(key not in _KNOWN for key in keys) or any(keys.count(key) > 1 for key in _ONCE):
        return None
    for pair in pairs:
        plain = _ESCAPED.sub("", pair.value) if pair.quoted else pair.value
        if not all(" " <= one <= "~" for one in plain) or "\\" in plain or '"' in plain:
            return None
        if not pair.quoted and any(one in " =" for one in plain):
            return None
        if pair.key != "uri" and "uri=" in pair.value.lower():
            return None
        if pair.key == "hash" and not re.fullmatch(r"[0-9a-f]{64}", pair.value):
            return None
    (name,) = [pair.value for pair in pairs if pair.key == "uri"] or [""]
    domain, slash, path = name.removeprefix("spiffe://").partition("/")
    parts = path.split("/")
    if not name.startswith("spiffe://") or not slash or len(name) > 2048 or len(text) > 16 * 1024:
        return None
    if not re.fullmatch(r"[a-z0-9._-]{1,255}", domain) or any(part in ("", ".", "..") for part in parts):
        return None
    return name if re.fullmatch(r"[A-Za-z0-9._/-]+", path) else None


class Certificates:
    """A case is the value of `X-Forwarded-Client-Cert`."""

    name = "certificates"
    share = 0.05
    words = (
        *NAMES,
        *SUBJECTS,
        HASH,
        *(key + b"=" for key in OTHERS),
        b"URI=",
        b"Subject=",
        b";",
        b",",
        b'"',
        b"\\",
        b'\\"',
    )

    def __init__(self, read: Callable[[bytes], tuple[SpiffeId, bytes | None]] = forwarded) -> None:
        self._read = read

    def make(self, rng: random.Random) -> bytes:
        pairs = [b"URI=" + rng.choice(NAMES)] if rng.random() < 0.9 else []
        if rng.random() < 0.5:
            pairs.append(b"Subject=" + rng.choice(SUBJECTS))
        keys = rng.choices(list(OTHERS), k=rng.choice((0, 1, 2, 3)))
        pairs += [key + b"=" + rng.choice(OTHERS[key]) for key in keys]
        rng.shuffle(pairs)
        return rng.choice((b";", b";", b";", b";", b",", b"; ")).join(pairs)

    def check(self, case: bytes) -> Hashable:
        text = case.decode("latin-1")
        expected = clean(text)
        try:
            name, thumbprint = self._read(case)
        except IdentityInvalid as refusal:
            demand(expected is None, "what is clean is refused", case, refusal.detail)
            return refusal.detail
        demand(name.text == expected, "another workload", name.text, expected)
        try:
            (pairs,) = elements(text)
        except (UnreadError, ValueError) as error:
            raise FindingError(f"taken, and there is no one element: {case!r}") from error
        hashes = [bytes.fromhex(pair.value) for pair in pairs if pair.key == "hash"]
        demand(hashes == ([] if thumbprint is None else [thumbprint]), "another certificate", hashes, thumbprint)
        try:
            others = elements(text, escapes=False)
        except UnreadError:
            others = []
        names = {pair.value for one in others for pair in one if pair.key == "uri"}
        demand(names <= {name.text}, "somebody else for a reader without escapes", case, names)
        return tuple(sorted({pair.key for pair in pairs})), any(pair.quoted for pair in pairs)

    def close(self) -> None: ...
