"""The one canonicaliser: Host and raw path become a `Target`, or the request is refused.

Policy, cache key, audit and the forwarded request line use its output and nothing else. It refuses and does not
repair (SECURITY section 2, with the advisories); the one repair is that percent-encoded characters are decoded, once.

Choices where more than one would do:

* The canonical encoding leaves the unreserved characters (RFC 3986 section 2.3) literal and percent-encodes all
  others: sub-delimiters, `:` and `@` too. They are data here (only a `text` variable matches them), and encoded they
  are data to every upstream; literal, they are syntax to some (`:verb`, `,`, `=`, `+`).
* Printable ASCII that RFC 3986 keeps out of paths (`"<>[]^{|}` and the grave accent) is accepted encoded only.
* A segment of nothing but dots is refused whatever their number, and so is one that compatibility normalisation
  (NFKC) would turn into such a one, or into one that holds a slash or a backslash.
* A path has at most 128 segments and a query at most 256 parameters; with more, a target is refused.
* The query is forwarded as it came: printable ASCII without `#`. A control character in it, encoded or not, is
  refused. A `?` with nothing behind it is no query. It is decoded for the policy only where every server would decode
  it alike: `+` (a space or a plus), a raw `;` (a separator or data) and an empty parameter (`a&&b`) make it not
  decodable.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from ostiary.bounded import Memo
from ostiary.errors import HeaderMalformed, HostUnknown, MessageMalformed, TargetMalformed, TargetTooLong, TokenInQuery
from ostiary.exchange import Exchange
from ostiary.models import Target

TARGET_BYTES: Final = 8192
"""The longest path, and query with it, that is accepted (SECURITY section 3), in bytes."""

SEGMENTS: Final = 128
PARAMETERS: Final = 256
"""How many segments a path and how many parameters a query may have. Each costs this process and the policy a few
microseconds, before anybody is identified; without a bound, 8 KiB of `a&a&a` cost as much as a thousand decisions."""

OWN_SERVICE: Final = "ostiary"
"""The reserved name of the service that the proxy's own host is."""

CREDENTIAL_PARAMETERS: Final = frozenset(
    {
        *("accesstoken", "amzsecuritytoken", "apitoken", "authtoken", "bearertoken", "idtoken", "oauthtoken"),
        *("privatetoken", "refreshtoken", "sessiontoken", "apikey", "apisecret", "authorization", "bearer"),
        *("clientassertion", "clientsecret", "dpop", "jwt", "password"),
    }
)
"""Parameters that carry a credential (RFC 6750 section 2.3, RFC 7521 section 4.2, and their kind).

Names are compared decoded, in lower case, and as their letters and digits alone: frameworks read `access.token`,
`accessToken` and `access-token` as `access_token`. An `x` in front makes no other name. Those that nest read
`a[access_token]` and `a.access_token` as a member `access_token`, so each part of such a name is compared as well.

`token`, `auth`, `key`, `code`, `sig`, `assertion`, `id_token_hint` and `SAMLResponse` are not among them: they are as
often an invitation, a page, a link that is signed for one thing, or what a protocol sends by redirect to a service that
logs people in. The token that the request itself was proved with is refused in whatever parameter it is repeated.
"""

_REMEMBERED: Final = 1024  # targets; clients choose them, so there is a bound
_MEMORABLE: Final = 256  # bytes of Host, path and query together: longer ones come once, and would fill the memory

# The form almost every path has: nothing to decode, and no segment that begins with a dot.
_PLAIN: Final = re.compile(rb"/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?)?")
# pchar and "/" of RFC 3986 section 3.3, less ";", with every "%" the start of a whole escape.
_PATH: Final = re.compile(rb"/(?:[A-Za-z0-9._~!$&'()*+,=:@/-]|%[0-9A-Fa-f]{2})*")
_QUERY: Final = re.compile(rb"[!-\"$-~]*")
_ENCODED_CONTROL: Final = re.compile(rb"%(?:[01][0-9A-Fa-f]|7[Ff])")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_PARAMETER_SEPARATOR: Final = re.compile(rb"[&;]")
_NAME_FOLD: Final = re.compile(r"[^a-z0-9]+")
_NESTING: Final = re.compile(r"[\[\].]")
_SIGNS: Final = bytes(byte for byte in range(128) if not bytes([byte]).isalnum())
_SUSPECT: Final = re.compile("|".join(sorted(CREDENTIAL_PARAMETERS)).encode())
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_HOST_NAME: Final = re.compile(r"(?!.*\.\.)[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\]")

# What a decoded segment may not hold: separators, and those that an upstream could take for the end of the path.
_FORBIDDEN: Final = frozenset("/\\;%?# ")


def canonicalise(raw_path: bytes) -> tuple[str, ...]:
    """The decoded segments of a raw path: `/a/b` is `("a", "b")`, `/a/` is `("a", "")` and `/` is `("",)`.

    Raises `TargetTooLong` above `TARGET_BYTES` and `TargetMalformed` for all that has more than one reading.
    """
    if len(raw_path) > TARGET_BYTES:
        raise TargetTooLong(f"a path of {len(raw_path)} bytes")
    _check_segments(raw_path)
    if _PLAIN.fullmatch(raw_path):
        return tuple(raw_path[1:].decode("ascii").split("/"))
    return _canonicalise_any(raw_path)


def _check_segments(raw_path: bytes) -> None:
    if raw_path.count(b"/") > SEGMENTS:
        raise TargetMalformed(f"a path of more than {SEGMENTS} segments")


def _canonicalise_any(raw_path: bytes) -> tuple[str, ...]:
    if not _PATH.fullmatch(raw_path):
        raise TargetMalformed("the path has bytes that are not legal in one, or does not start with a slash")
    pieces = raw_path[1:].split(b"/")
    if b"" in pieces[:-1]:
        raise TargetMalformed("the path has an empty segment that is not the last")
    return tuple(map(_decode_segment, pieces))


def _decode_segment(piece: bytes) -> str:
    if piece == b"":
        return ""
    try:
        segment = unquote_to_bytes(piece).decode("utf-8")
    except UnicodeDecodeError:
        raise TargetMalformed("a segment is not UTF-8") from None
    if not _FORBIDDEN.isdisjoint(segment):
        raise TargetMalformed("a segment holds an encoded separator or space")
    if not segment.strip("."):
        raise TargetMalformed("a segment consists of dots")
    if not segment.isascii():
        _check_beyond_ascii(segment)
    elif not segment.isprintable():
        raise TargetMalformed("a segment holds a control character")
    return segment


def _check_beyond_ascii(segment: str) -> None:
    # isprintable() is false for controls, format characters (bidirectional marks are ones), spaces and unassigned ones.
    if not segment.isprintable():
        raise TargetMalformed("a segment holds a character that cannot be printed")
    if not unicodedata.is_normalized("NFC", segment):
        raise TargetMalformed("a segment is not in Unicode normalisation form C")
    compatible = unicodedata.normalize("NFKC", segment)
    if "/" in compatible or "\\" in compatible or not compatible.strip("."):
        raise TargetMalformed("a segment turns into path syntax under compatibility normalisation")


def encode(segments: Sequence[str]) -> str:
    """The one canonical path of decoded segments, starting with `/`: UTF-8, escapes in upper-case hexadecimal."""
    return "/" + "/".join([quote(segment, safe="") for segment in segments])


def decode_query(raw: bytes) -> tuple[tuple[str, str], ...] | None:
    """The parameters of a query, decoded, in order; None where servers could disagree about what it says."""
    if raw == b"":
        return ()
    if b"+" in raw or b";" in raw or _BAD_ESCAPE.search(raw):
        return None
    pairs: list[tuple[str, str]] = []
    for piece in raw.split(b"&"):
        if piece == b"":
            return None
        name, _, value = piece.partition(b"=")
        try:
            pair = (unquote_to_bytes(name).decode("utf-8"), unquote_to_bytes(value).decode("utf-8"))
        except UnicodeDecodeError:
            return None
        if not (pair[0].isprintable() and pair[1].isprintable()):
            return None
        pairs.append(pair)
    return tuple(pairs)


def check_query(raw: bytes) -> None:
    """Refuse a query that is not printable ASCII, smuggles controls, carries a credential or has no end of parameters.

    More than `PARAMETERS` are refused and not merely undecodable: a rule that denies for a parameter could not see it.
    """
    if raw.count(b"&") + raw.count(b";") >= PARAMETERS:
        raise TargetMalformed(f"a query of more than {PARAMETERS} parameters")
    if not _QUERY.fullmatch(raw):
        raise TargetMalformed("the query has bytes that are not legal in one")
    if b"%" in raw and _ENCODED_CONTROL.search(raw):
        raise TargetMalformed("the query holds an encoded control character")
    plain = unquote_to_bytes(raw) if b"%" in raw else raw
    if plain.isascii() and not _SUSPECT.search(plain.lower().translate(None, _SIGNS)):
        return  # so that a name which nests a thousand times costs little: nobody is identified yet
    for piece in _PARAMETER_SEPARATOR.split(raw):
        name = unquote_to_bytes(piece.partition(b"=")[0]).decode("utf-8", "replace").lower()
        if _names_a_credential(name) or (_NESTING.search(name) and any(map(_names_a_credential, _NESTING.split(name)))):
            raise TokenInQuery


def _names_a_credential(name: str) -> bool:
    plain = _NAME_FOLD.sub("", name)
    return plain in CREDENTIAL_PARAMETERS or plain.removeprefix("x") in CREDENTIAL_PARAMETERS


class Targets:
    """A `TargetResolver` over an exact list of host names.

    `hosts` maps names to services; `own_host` is the reserved service `ostiary`. Names are compared in lower case. A
    port in Host must be one of `ports`: the listener's, and those under which it is published. All else is 421.

    What a target comes out as depends on Host, path and query alone, so those of late are remembered by the bytes that
    they came as. That spares later stages work as well: they know a target again by its being the same object.
    """

    def __init__(
        self,
        *,
        hosts: Mapping[str, str],
        own_host: str,
        ports: frozenset[int],
        target_bytes: int = TARGET_BYTES,
    ) -> None:
        self._target_bytes = target_bytes
        self._known: Memo[tuple[bytes | None, bytes, bytes], Target] = Memo(_REMEMBERED)
        self._services: dict[bytes, str] = {}  # every spelling of Host that is accepted, in lower case
        if OWN_SERVICE in hosts.values():
            raise ValueError(f"the service name {OWN_SERVICE!r} is reserved for the proxy's own host")
        for host, service in (*hosts.items(), (own_host, OWN_SERVICE)):
            name = host.lower()
            if not _HOST_NAME.fullmatch(name):
                raise ValueError(f"{host!r} is not a host name")
            if name.encode() in self._services:
                raise ValueError(f"the host {host!r} is listed twice")
            for suffix in ("", *(f":{port}" for port in ports)):
                self._services[(name + suffix).encode()] = service

    def resolve(self, exchange: Exchange) -> Target:
        """Raises `MessageMalformed`, `HeaderDuplicated`, `HeaderMalformed`, `HostUnknown`, `TargetMalformed`,
        `TargetTooLong` or `TokenInQuery`.
        """
        host = exchange.header(b"host")
        raw_path, raw_query = exchange.raw_path, exchange.raw_query
        key = (host, raw_path, raw_query)
        target = self._known.get(key)
        if target is None:
            target = self._resolve(host, raw_path, raw_query)
            if len(raw_path) + len(raw_query) + len(host or b"") <= _MEMORABLE:
                self._known.put(key, target)
        return target

    def _resolve(self, host: bytes | None, raw_path: bytes, raw_query: bytes) -> Target:
        service = None if host is None else self._services.get(host)
        if service is None:
            service = self._service(host)
        if len(raw_path) + len(raw_query) > self._target_bytes:
            raise TargetTooLong(f"a target of {len(raw_path) + len(raw_query)} bytes")
        _check_segments(raw_path)
        if _PLAIN.fullmatch(raw_path):
            path = raw_path.decode("ascii")
            segments = tuple(path[1:].split("/"))
        else:
            segments = _canonicalise_any(raw_path)
            path = encode(segments)
        if not raw_query:
            return Target(service=service, segments=segments, path=path, query=None, pairs=())
        check_query(raw_query)
        return Target(
            service=service,
            segments=segments,
            path=path,
            query=raw_query.decode("ascii"),
            pairs=decode_query(raw_query),
        )

    def _service(self, host: bytes | None) -> str:
        if host is None:
            raise MessageMalformed("a request without Host")
        if not _HOST.fullmatch(host):
            raise HeaderMalformed("Host is not a name or address with at most a port")  # RFC 9112 section 3.2: 400
        service = self._services.get(host.lower())
        if service is None:
            raise HostUnknown(host.decode("ascii"))  # whole: cut, a token in it would not be known for one
        return service
