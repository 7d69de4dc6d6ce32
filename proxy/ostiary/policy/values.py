"""The values that people write in our files, each with its grammar: durations, sizes, names, networks, hours.

Every type refuses with one sentence, says its bounds in the JSON Schema, and yields what the program works with
(seconds, bytes), so that nothing downstream parses text again.
"""

from __future__ import annotations

import ipaddress
import math
import re
import zoneinfo
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from typing import Annotated, Any, Final, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, ValidationError, core_schema

from ostiary.addresses import unmapped
from ostiary.models import Json
from ostiary.policy.document import plain
from ostiary.policy.words import closest, quoted
from ostiary.spiffe import SpiffeId

T = TypeVar("T")

NAME_PATTERN: Final = "[a-z0-9][a-z0-9_-]{0,62}"
"""Services, endpoints, roles and callers. No dot, slash or colon: ids and reasons join names with those."""
NO_NAME: Final = "is not a name: at most 63 lower-case letters, digits, '-' and '_', a letter or digit first"

HIDDEN_CLAIMS: Final = frozenset({"jti", "iat", "nbf", "exp"})
"""Claims that no policy sees (DESIGN section 6): they differ with every token, and no answer could be used again."""

_NAME: Final = re.compile(NAME_PATTERN)
_CUSTOM: Final = re.compile("[A-Za-z][A-Za-z0-9_.-]{0,62}")
_DURATION: Final = re.compile(r"(0|[1-9][0-9]{0,8})(ms|s|m|h)")
_SIZE: Final = re.compile(r"(0|[1-9][0-9]{0,14})(B|KiB|MiB|GiB)")
_HOUR: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")
_LAST_INSTANT: Final = 2**63 // 10**9
"""The policy counts in nanoseconds of 64 bits: past the year 2262 it could judge no time."""
_DIGITS: Final = re.compile(r"[0-9]{1,3}")

_MILLISECONDS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_BYTES: Final = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def mistake(
    message: str, *, lacking: Collection[str] | None = None, because: tuple[int | str, ...] | None = None
) -> PydanticCustomError:
    """A validator's refusal: the whole sentence that the person reads.

    `lacking` says which keys of the mapping it would take to put it right: the sentence is not said where one of them
    was written and is broken, which was said already. Where it is empty, what is there contradicts itself, whatever
    else is broken. Where it is None, whatever is broken below may be the reason. `because` is another place in the
    document: the sentence is not said either where what stands there is broken.
    """
    return PydanticCustomError("mistake", "{message}", {"message": message, "lacking": lacking, "because": because})


def mistakes_at(
    found: Iterable[tuple[tuple[int | str, ...], str | PydanticCustomError]], *, lacking: Collection[str] | None = None
) -> ValidationError:
    """Several refusals of one validator, each at its own place below the value; `lacking` as for `mistake`, of which
    each may be one itself."""
    return ValidationError.from_exception_data(
        "mistakes",
        [
            InitErrorDetails(
                type=mistake(told, lacking=lacking) if isinstance(told, str) else told, loc=place, input=None
            )
            for place, told in found
        ],
    )


def written_duration(milliseconds: float) -> str:
    """The shortest way to write a duration: `1h`, `250ms`."""
    for unit in ("h", "m", "s"):
        if milliseconds % _MILLISECONDS[unit] == 0 and milliseconds > 0:
            return f"{milliseconds / _MILLISECONDS[unit]:.0f}{unit}"
    return f"{milliseconds:g}ms" if milliseconds else "0s"


def written_size(size: int) -> str:
    """The shortest way to write a size in bytes: `64KiB`."""
    for unit in ("GiB", "MiB", "KiB"):
        if size % _BYTES[unit] == 0 and size > 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """Annotates a float (seconds) or, where `whole`, an int (whole seconds). Bounds are inclusive and in seconds.

    Written `250ms`, `5s`, `30m`, `24h`, or as a number of seconds.
    """

    least: float
    most: float
    whole: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        number = {"type": "integer" if self.whole else "number", "minimum": self.least, "maximum": self.most}
        units = "s|m|h" if self.whole else "ms|s|m|h"
        return {"anyOf": [{"type": "string", "pattern": f"^(0|[1-9][0-9]{{0,8}})({units})$"}, number]}

    def _read(self, value: Any) -> float:
        milliseconds = self._milliseconds(value)
        if not self.least * 1000 <= milliseconds <= self.most * 1000:
            bounds = f"{written_duration(self.least * 1000)} to {written_duration(self.most * 1000)}"
            raise mistake(f"{quoted(value)} is outside {bounds}")
        if not self.whole:
            return milliseconds / 1000
        if milliseconds % 1000:
            raise mistake(f"{quoted(value)} is not a whole number of seconds")
        return int(milliseconds) // 1000

    def _milliseconds(self, value: Any) -> float:
        if isinstance(value, str) and (found := _DURATION.fullmatch(value)):
            return int(found[1]) * _MILLISECONDS[found[2]]
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return value * 1000
        raise mistake(f"{quoted(value)} is not a duration, which is written 250ms, 5s, 30m or 24h")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Annotates an int: bytes. Written `32KiB`, `100MiB`, `4GiB`, or as a number of bytes. Bounds are inclusive."""

    least: int
    most: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {
            "anyOf": [
                {"type": "string", "pattern": "^(0|[1-9][0-9]{0,14})(B|KiB|MiB|GiB)$"},
                {"type": "integer", "minimum": self.least, "maximum": self.most},
            ]
        }

    def _read(self, value: Any) -> int:
        if isinstance(value, str) and (found := _SIZE.fullmatch(value)):
            size = int(found[1]) * _BYTES[found[2]]
        elif isinstance(value, int) and not isinstance(value, bool):
            size = value
        else:
            raise mistake(f"{quoted(value)} is not a size, which is written 512B, 32KiB, 100MiB or 4GiB")
        if not self.least <= size <= self.most:
            bounds = f"{written_size(self.least)} to {written_size(self.most)}"
            raise mistake(f"{quoted(value)} is outside {bounds}")
        return size


def read_name(value: Any) -> str:
    """A name, or the mistake that says what one is."""
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    raise mistake(f"{quoted(value)} {NO_NAME}")


def _custom_name(value: str) -> str:
    if _CUSTOM.fullmatch(value):
        return value
    raise mistake(f"{quoted(value)} is not a condition's name: letters, digits and . _ -, at most 63, a letter first")


def _present(value: Any) -> Any:
    if value is None:
        raise mistake("has no value: give one or leave the key out")
    return value


def distinct(values: T) -> T:
    """Refuse a list that is empty or names something twice. An empty list never means "any" here."""
    if not isinstance(values, list | tuple | dict):
        return values
    if not values:
        raise mistake("is empty, which never means 'any': name what is meant")
    if isinstance(values, dict) or len(values) == 1 or len(set(values)) == len(values):
        return values
    raise mistakes_at(
        ((place,), f"{quoted(value)} is listed twice") for place, value in enumerate(values) if value in values[:place]
    )


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | int | float) else value


def _text(value: str) -> str:
    if value and value.isprintable() and value == value.strip():
        return value
    raise mistake("is not a text of printable characters without spaces around it")


def _claim_name(value: str) -> str:
    if value in HIDDEN_CLAIMS:
        raise mistake(f"the claim {quoted(value)} is never shown to the policy, so nothing can depend on it")
    return value


def _no_wildcard(value: str) -> str:
    if value == "*":
        raise mistake("'*' is not a wildcard here: a caller is never everyone")
    return value


@lru_cache(maxsize=4096)  # maps repeat the same few networks in thousands of permissions
def _network(value: str) -> str:
    address, slash, bits = value.partition("/")
    example = "a network is written 10.0.0.0/8 or 2001:db8::/32"
    if "%" in address or (slash and not _DIGITS.fullmatch(bits)):
        raise mistake(f"{quoted(value)} is not a network: {example}")
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise mistake(f"{quoted(value)} is not a network: {example}") from None
    if network.network_address != ipaddress.ip_address(address):
        raise mistake(f"{quoted(value)} has bits set beyond its prefix (did you mean {quoted(str(network))}?)")
    if isinstance(network, ipaddress.IPv6Network) and (mapped := network.network_address.ipv4_mapped) is not None:
        # The peer's address is compared as IPv4 (DESIGN section 5), so this would never match.
        meant = f"{mapped}/{max(network.prefixlen - 96, 0)}"
        raise mistake(f"{quoted(value)} is an IPv4-mapped network, which never matches (did you mean {quoted(meant)}?)")
    return str(network)


def _hour(value: str) -> str:
    if _HOUR.fullmatch(value):
        return value
    raise mistake(f"{quoted(value)} is not an hour, which is written 08:00, up to 24:00")


@cache
def time_zones() -> frozenset[str]:
    """The IANA time zones of this machine, or of the `tzdata` package, but for names that mean "this machine's"."""
    return frozenset(zoneinfo.available_timezones() - {"localtime", "Factory"})


def _plain_json(value: Any) -> Json:
    """The value, if JSON has it."""
    try:
        return plain(value)
    except ValueError as error:
        raise mistake(str(error)) from None


def _spiffe(value: str) -> str:
    try:
        return str(SpiffeId.parse(value))
    except ValueError:
        raise mistake(f"{quoted(value)} is not a SPIFFE ID, which is written spiffe://shop.test/reporting") from None


def read_instant(value: Any) -> int:
    """Whole Unix seconds of `2026-09-21T10:00:00Z`, or the mistake that says what is wrong with it."""
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise mistake(f"{quoted(value)} is not a time, which is written 2026-09-21T10:00:00Z") from None
    if found.tzinfo is None:
        raise mistake(f"{quoted(value)} says no time zone: end it with Z, or with an offset")
    seconds = int(found.timestamp())
    if not 0 <= seconds < _LAST_INSTANT:
        raise mistake(f"{quoted(value)} is not between 1970 and 2262")
    return seconds


def read_address(value: str) -> str:
    """An IP address as the listener gives it, an IPv4-mapped one as IPv4; or the mistake."""
    try:
        found = ipaddress.ip_address(value)
    except ValueError:
        raise mistake(f"{quoted(value)} is not an IP address") from None
    return unmapped(str(found))


def _time_zone(value: str) -> str:
    if value in time_zones():
        return value
    raise mistake(f"unknown time zone {quoted(value)}{closest(value, time_zones())}")


Present: Final = BeforeValidator(_present)
"""Refuses `key:` with nothing after it, where nothing would quietly widen."""

Listed: Final = BeforeValidator(_listed)
"""Takes one text for a list of one."""

ONE_OR_MANY: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "uniqueItems": True},
    ]
}

Name: TypeAlias = Annotated[
    str, AfterValidator(read_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME_PATTERN}$"})
]
CustomName: TypeAlias = Annotated[
    str, AfterValidator(_custom_name), WithJsonSchema({"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_.-]{0,62}$"})
]
Text: TypeAlias = Annotated[str, AfterValidator(_text), Field(json_schema_extra={"minLength": 1})]
Distinct: Final = AfterValidator(distinct)
FILLED: Final[Any] = Field(json_schema_extra={"minItems": 1, "uniqueItems": True})
Listing: TypeAlias = Annotated[list[Text], Distinct, FILLED]
"""A list of texts: not empty, nothing twice."""

ClaimName: TypeAlias = Annotated[Text, AfterValidator(_claim_name)]
CallerText: TypeAlias = Annotated[str, AfterValidator(_text), AfterValidator(_no_wildcard)]
CallerTexts: TypeAlias = Annotated[list[CallerText], Listed, Distinct, WithJsonSchema(ONE_OR_MANY)]
Network: TypeAlias = Annotated[str, AfterValidator(_network), WithJsonSchema({"type": "string", "minLength": 1})]
Hour: TypeAlias = Annotated[
    str,
    AfterValidator(_hour),
    WithJsonSchema({"type": "string", "pattern": "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"}),
]
JsonValue: TypeAlias = Annotated[Json, AfterValidator(_plain_json)]
SpiffeText: TypeAlias = Annotated[str, AfterValidator(_spiffe)]
Instant: TypeAlias = Annotated[
    int, PlainValidator(read_instant), WithJsonSchema({"type": "string", "format": "date-time"})
]
Address: TypeAlias = Annotated[str, AfterValidator(read_address), Field(json_schema_extra={"minLength": 1})]
TimeZone: TypeAlias = Annotated[str, AfterValidator(_time_zone), WithJsonSchema({"type": "string", "minLength": 1})]
