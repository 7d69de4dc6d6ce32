"""What `ostiary check` finds out about the store of grants. Nothing in it is changed, and nothing is made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ostiary.cli.findings import Finding, ok, warned, wrong
from ostiary.config.fields import SQLITE
from ostiary.config.model import Grants
from ostiary.errors import ConfigurationError, GrantsUnavailable
from ostiary.granting.stores import grant_store
from ostiary.grants.statements import VERSION

_PART: Final = "grants"


async def look_at_grants(settings: Grants, *, offline: bool) -> list[Finding]:
    """Whether the store can be had, with the tables of this version. `offline`: only if it is a file."""
    url = settings.url.get_secret_value()
    file = Path(url.removeprefix(SQLITE)) if url.startswith(SQLITE) else None
    if file is not None and (mistake := _unusable(file)):
        return wrong(_PART, mistake)
    try:
        if file is None and offline:
            await grant_store(settings).close()  # it is never opened: what it takes is here
            return []
        version = await _version(settings)
    except ConfigurationError as error:
        return wrong(_PART, error)
    except GrantsUnavailable as error:
        return wrong(_PART, str(error.detail))
    return _judged(str(file or "PostgreSQL"), version)


async def _version(settings: Grants) -> int:
    store = grant_store(settings)
    try:
        return await store.tables()
    finally:
        await store.close()


def _judged(where: str, version: int) -> list[Finding]:
    if version == 0:
        return ok(_PART, f"{where}: the first start makes its tables")
    if version > VERSION:
        return wrong(_PART, f"{where}: is of a later version of ostiary ({version})")
    if version < VERSION:
        return warned(_PART, [f"{where}: tables of version {version}, which the next start brings up to {VERSION}"])
    return ok(_PART, f"{where}: tables of version {version}")


def _unusable(file: Path) -> str | None:
    """SQLite writes the file, and others beside it."""
    if not file.parent.is_dir():
        return f"{file} cannot be made: {file.parent} is not a directory"
    for place in (file.parent, file):
        if place.exists() and not os.access(place, os.W_OK):
            return f"{place} cannot be written"
    return None
