"""The values of `ostiary.yaml`: addresses, origins, URLs, hosts, paths and secrets, each with its grammar.

No message shows a URL or a secret that was written: URLs are where passwords are put by mistake.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
)

from ostiary.addresses import SOCKET_PATH_BYTES, is_localhost
from ostiary.audit import SyslogAddress
from ostiary.opa.address import OpaAddress
from ostiary.policy.values import distinct, mistake
from ostiary.policy.words import quoted

_HOST: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}")
_PRINTABLE: Final = re.compile(r"[!-~]+")
VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""An environment variable, as the whole of a secret."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """Where to listen. Port 0 lets the system choose."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        return is_localhost(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix socket."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port (RFC 6454). A host that is an IPv6 address is without its brackets."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = self.port == _DEFAULT_PORTS[self.scheme]
        return f"{self.scheme}://{host}" if default else f"{self.scheme}://{host}:{self.port}"


def _read_host(text: str) -> str | None:
    """The host in lower case and without brackets, or None."""
    if text.startswith("[") and text.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            return None
    name = text.lower()
    return name if len(name) <= 253 and _HOST.fullmatch(name) else None


def _tcp(value: Any) -> TcpAddress | None:
    if not isinstance(value, str):
        return None
    host_text, _, port = value.rpartition(":")
    host = _read_host(host_text)
    if host is None or not _PORT.fullmatch(port) or int(port) > 65535:
        return None
    return TcpAddress(host, int(port))


def _unix(value: Any, info: ValidationInfo) -> UnixAddress | None:
    """`unix:run/admin.sock` is below the configuration's directory; `unix:/run/x` and `unix:///run/x` are absolute."""
    if not isinstance(value, str) or not value.startswith("unix:"):
        return None
    written = value.removeprefix("unix:")
    if written.startswith("//"):
        written = written.removeprefix("//")
        if not written.startswith("/"):
            return None
    if not written or "\0" in written:
        return None
    path = _beside(Path(written), info)
    if len(bytes(path)) > SOCKET_PATH_BYTES:
        raise mistake(f"the path of the socket is longer than {SOCKET_PATH_BYTES} bytes: {path}")
    return UnixAddress(path)


def _listening(value: Any) -> TcpAddress:
    address = _tcp(value)
    if address is None:
        raise mistake("is not an address to listen on, which is written 127.0.0.1:8080")
    return address


def _private(value: Any, info: ValidationInfo) -> TcpAddress | UnixAddress:
    address = _unix(value, info) or _tcp(value)
    if address is None:
        raise mistake("is not an address, which is written unix:run/admin.sock or 127.0.0.1:8081")
    if isinstance(address, TcpAddress) and not address.loopback:
        raise mistake("what is administrative listens on a unix socket or a loopback address only")
    return address


def _syslog(value: Any, info: ValidationInfo) -> SyslogAddress:
    """`unix:/dev/log`, `udp:127.0.0.1:514` or `tcp:127.0.0.1:601`."""
    unix = _unix(value, info)
    if unix is not None:
        return SyslogAddress(transport="unix", path=unix.path)
    transport, _, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
    address = _tcp(rest)
    if transport not in ("udp", "tcp") or address is None or address.port == 0:
        raise mistake("is not where syslog listens: unix:/dev/log, udp:127.0.0.1:514 or tcp:127.0.0.1:601")
    if not address.loopback:
        raise mistake("the audit leaves this machine unencrypted: name a relay on it, which brings it on by TLS")
    return SyslogAddress(transport="udp" if transport == "udp" else "tcp", host=address.host, port=address.port)


def _beside(path: Path, info: ValidationInfo) -> Path:
    """Relative paths are relative to the file that names them."""
    base = (info.context or {}).get("base")
    return Path(base) / path if isinstance(base, Path) else path


def _path(value: Any, info: ValidationInfo) -> Path:
    if isinstance(value, Path):
        return _beside(value, info)
    if not isinstance(value, str) or not value or "\0" in value:
        raise mistake(f"{quoted(value)} is not a path")
    return _beside(Path(value), info)


def split_url(value: Any) -> SplitResult:
    """The parts of an http or https URL without user, password or fragment."""
    sentence = "is not a URL with http or https"
    if not isinstance(value, str) or not _PRINTABLE.fullmatch(value):
        raise mistake(sentence)
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise mistake(sentence) from None
    host = parts.netloc.rpartition("@")[2]
    host = host if host.endswith("]") or ":" not in host else host.rpartition(":")[0]
    if parts.scheme not in _DEFAULT_PORTS or port == 0 or _read_host(host) is None:
        raise mistake(sentence)
    if "@" in parts.netloc:
        raise mistake("a URL carries no user and no password here")
    if parts.fragment or "#" in value:
        raise mistake("a URL has no fragment here")
    return parts


def read_origin(value: Any) -> Origin:
    parts = split_url(value)
    if parts.path or parts.query or "?" in value:
        raise mistake("an origin has no path: write scheme, host and port only, http://127.0.0.1:9001")
    return Origin(parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme])


def _secure(value: Any) -> str:
    parts = split_url(value)
    if parts.scheme != "https" and not is_localhost(parts.hostname or ""):
        raise mistake("only https is accepted, except on a loopback host")
    return str(value)


def _opa(value: Any, info: ValidationInfo) -> OpaAddress:
    address = _unix(value, info)
    if address is not None:
        return OpaAddress(socket=address.path)
    if isinstance(value, str) and value.startswith("unix:"):
        raise mistake("is not a unix socket, which is written unix:///run/opa/opa.sock")
    read_origin(value)  # says what is wrong without showing what was written
    try:
        return OpaAddress.parse(str(value))
    except ValueError:
        raise mistake("whoever answers there decides: only https is accepted, except on a loopback host") from None


def _host(value: Any) -> str:
    host = _read_host(value) if isinstance(value, str) and not value.startswith("[") else None
    if host is None:
        raise mistake("is not a host's name, which has no scheme, no port and no wildcard")
    return host


def _cors_origin(value: Any) -> str:
    if value == "*":
        raise mistake("a page of any origin is nobody in particular: name the origins")
    origin = str(read_origin(value))
    if origin != value:
        raise mistake(f"a browser writes this origin {quoted(origin)}")
    return origin


def _secret(value: Any, info: ValidationInfo) -> SecretStr:
    if isinstance(value, SecretStr):
        return value
    if not isinstance(value, str) or not value:
        raise mistake("is not a text; it may also be the name of an environment variable, ${NAME}")
    found = VARIABLE.fullmatch(value)
    if found is None:
        if "${" in value:
            raise mistake("an environment variable is the whole of a secret, ${NAME}, never a part of it")
        return SecretStr(value)
    environ = (info.context or {}).get("environ")
    filled = environ.get(found[1]) if isinstance(environ, Mapping) else None
    if not filled:
        raise mistake(f"the environment variable {found[1]} is not set, or is empty")
    return SecretStr(filled)


def _grant_store(secret: SecretStr, info: ValidationInfo) -> SecretStr:
    url = secret.get_secret_value()
    if url.startswith("postgresql://"):
        return secret
    file = url.removeprefix(SQLITE)
    if file == url or not file or "\0" in file:
        raise mistake("is neither a sqlite:/// nor a postgresql:// URL")
    return SecretStr(f"{SQLITE}{_beside(Path(file), info)}")


SQLITE: Final = "sqlite:///"
"""What the address of a grant store in a file begins with; the path follows."""


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_AS_TEXT: Final = PlainSerializer(str, return_type=str)
_TEXT_SCHEMA: Final = {"type": "string", "minLength": 1}

ListenAddress: TypeAlias = Annotated[
    TcpAddress, PlainValidator(_listening), _AS_TEXT, WithJsonSchema({"type": "string", "pattern": "^.+:[0-9]{1,5}$"})
]
PrivateAddress: TypeAlias = Annotated[
    TcpAddress | UnixAddress,
    PlainValidator(_private),
    _AS_TEXT,
    WithJsonSchema({"type": "string", "pattern": "^unix:.+$|:[0-9]{1,5}$"}),
]
SyslogRelay: TypeAlias = Annotated[
    SyslogAddress,
    PlainValidator(_syslog),
    _AS_TEXT,
    WithJsonSchema({"type": "string", "pattern": "^(unix:.+|(udp|tcp):.+:[0-9]{1,5})$"}),
]
FilePath: TypeAlias = Annotated[Path, PlainValidator(_path), WithJsonSchema(_TEXT_SCHEMA)]
SecureUrl: TypeAlias = Annotated[
    str, AfterValidator(_secure), WithJsonSchema({"type": "string", "pattern": "^https?://", "format": "uri"})
]
UpstreamOrigin: TypeAlias = Annotated[
    Origin, PlainValidator(read_origin), _AS_TEXT, WithJsonSchema({"type": "string", "pattern": "^https?://[^/?#@]+$"})
]
PolicyAddress: TypeAlias = Annotated[
    OpaAddress,
    PlainValidator(_opa),
    _AS_TEXT,
    WithJsonSchema({"type": "string", "pattern": "^(unix:.+|https?://[^/?#@]+)$"}),
]
HostName: TypeAlias = Annotated[
    str, PlainValidator(_host), WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9._-]{1,253}$"})
]
CorsOrigin: TypeAlias = Annotated[
    str, PlainValidator(_cors_origin), WithJsonSchema({"type": "string", "pattern": "^https?://[^/?#@]+$"})
]
Secret: TypeAlias = Annotated[SecretStr, PlainValidator(_secret), _AS_TEXT, WithJsonSchema(_TEXT_SCHEMA)]
GrantStoreUrl: TypeAlias = Annotated[Secret, AfterValidator(_grant_store)]

OneText: Final = BeforeValidator(_one)
"""Takes a list of one for its item."""

Frozen: Final = BeforeValidator(_frozen)
"""A list in the file is a tuple here."""

DistinctOrEmpty: Final = AfterValidator(lambda values: distinct(values) if values else values)
UNIQUE: Final[Any] = Field(json_schema_extra={"uniqueItems": True})
