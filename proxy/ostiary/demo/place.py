"""Where a demo keeps its files: a private directory per run, and a name for the latest one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from ostiary.listening import private_directory

_LATEST: Final = "demo"


def _state_home() -> Path:
    """XDG Base Directory Specification: `$XDG_STATE_HOME`, else `~/.local/state`."""
    given = os.environ.get("XDG_STATE_HOME", "")
    return (Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state") / "ostiary"


def new_demo(directory: Path | None = None) -> Path:
    """The directory of a demo that begins (0700), a new one unless it is given. It becomes the latest demo's.

    Raises `ConfigurationError` if others can get into the one that is given.
    """
    home = _state_home()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory is None:
        place = Path(tempfile.mkdtemp(prefix="demo-", dir=home))
    else:
        place = private_directory(directory.absolute())
    link = place / ".latest"
    link.symlink_to(place)
    link.replace(home / _LATEST)
    return place


def latest_demo() -> Path | None:
    latest = _state_home() / _LATEST
    return latest.resolve() if latest.is_dir() else None
