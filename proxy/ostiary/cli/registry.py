"""Who publishes to an OCI registry: from the environment, or from where `docker login` and `oras login` leave it.

Credential helpers are programs, and are not run.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from ostiary.distribution.oci import Login
from ostiary.errors import ConfigurationError

USER: Final = "OSTIARY_REGISTRY_USER"
PASSWORD: Final = "OSTIARY_REGISTRY_PASSWORD"  # noqa: S105 - a variable's name


def login(registry: str, environ: Mapping[str, str]) -> Login | None:
    """For the registry `host[:port]`; None for nobody in particular. Raises `ConfigurationError`."""
    user, password = environ.get(USER), environ.get(PASSWORD)
    if user and password:
        return Login(user=user, password=password)
    if user or password:
        raise ConfigurationError([f"${USER} and ${PASSWORD} belong together"])
    directory = environ.get("DOCKER_CONFIG")
    path = Path(directory) if directory else Path(environ.get("HOME", os.devnull)) / ".docker"
    return _kept(path / "config.json", registry)


def _kept(path: Path, registry: str) -> Login | None:
    try:
        document: Any = orjson.loads(path.read_bytes())
        auths = document.get("auths") or {}
        kept = auths.get(registry) or auths.get(f"https://{registry}") or {}
        text = kept.get("auth")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (orjson.JSONDecodeError, AttributeError):
        raise ConfigurationError([f"{path}: is no configuration of a registry's client"]) from None
    if not text:
        return None
    try:
        user, separator, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, TypeError):
        separator = ""
    if not separator:
        raise ConfigurationError([f"{path}: the login for {registry} cannot be read"])
    return Login(user=user, password=password)
