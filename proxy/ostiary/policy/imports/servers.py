"""The `servers` of an OpenAPI document: the origin of a service, and the path below which its endpoints are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

_VARIABLE: Final = re.compile(r"\{([^{}]+)\}")
_AUTHORITY: Final = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[1-9][0-9]{0,4})?")


@dataclass(frozen=True, slots=True)
class Server:
    """`origin` is `https://api.test`, None where the URL is relative or has none that can be used. `base` is a path
    without a slash at its end, empty for the root."""

    origin: str | None
    base: str

    def path(self, below: str) -> str:
        return self.base + below


ROOT: Final = Server(None, "")
"""Where nothing is said (OpenAPI: `servers` is then one with the URL `/`)."""


def read_servers(value: Any) -> list[Server]:
    """Each server, its variables replaced by their defaults. Empty where there are none."""
    listed = value if isinstance(value, list) else []
    return [_server(one) for one in listed if isinstance(one, dict) and isinstance(one.get("url"), str)]


def _server(value: dict[str, Any]) -> Server:
    variables = value.get("variables")
    known = variables if isinstance(variables, dict) else {}

    def default(found: re.Match[str]) -> str:
        variable = known.get(found[1])
        chosen = variable.get("default") if isinstance(variable, dict) else None
        return found[0] if chosen is None else str(chosen)

    url = _VARIABLE.sub(default, value["url"])
    try:
        parts = urlsplit(url)
        authority = parts.netloc.lower()
    except ValueError:
        return ROOT
    usable = parts.scheme in ("http", "https") and _AUTHORITY.fullmatch(authority)
    path = parts.path.rstrip("/")
    return Server(f"{parts.scheme}://{authority}" if usable else None, f"/{path.lstrip('/')}" if path else "")
