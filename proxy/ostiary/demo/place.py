"""Where a demo keeps its files: a private directory per run, and a name for the one that runs."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ostiary.listening import private_directory

_LATEST: Final = "demo"


def _state_home() -> Path:
    """XDG Base Directory Specification: `$XDG_STATE_HOME`, else `~/.local/state`."""
    given = os.environ.get("XDG_STATE_HOME", "")
    return (Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state") / "ostiary"


def new_demo(directory: Path | None = None) -> Path:
    """The directory of a demo that begins (0700), a new one unless it is given.

    Raises `ConfigurationError` if others can get into the one that is given.
    """
    if directory is not None:
        return private_directory(directory.resolve())
    home = _state_home().resolve()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="demo-", dir=home))


@contextlib.contextmanager
def latest(place: Path) -> Iterator[None]:
    """While this is entered, the demo in `place` is the latest, unless another one has begun since."""
    link = _state_home() / _LATEST
    link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = place / ".latest"
    made.symlink_to(place)
    made.replace(link)
    try:
        yield
    finally:
        if link.is_symlink() and link.readlink() == place:
            link.unlink(missing_ok=True)


def latest_demo() -> Path | None:
    """The directory of the demo that began last, if it runs."""
    link = _state_home() / _LATEST
    return link.resolve() if link.is_dir() else None
