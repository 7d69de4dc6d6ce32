"""Where a demo keeps its files: a private directory per run, and a name for the one that runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ostiary.listening import private_directory

_LATEST: Final = "demo"
_RUNNING: Final = "running"
"""A file in the directory of a demo, locked while that runs."""


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
    """While this is entered, the demo in `place` is the latest, unless another one has begun since.

    After it, the one that began before is the latest again, if it still runs.
    """
    link = _state_home() / _LATEST
    link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (place / _RUNNING).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _point(link, place)
        try:
            yield
        finally:
            if link.is_symlink() and link.readlink() == place:
                before = _another(place)
                if before is None:
                    link.unlink(missing_ok=True)
                else:
                    _point(link, before)


def latest_demo() -> Path | None:
    """The directory of the demo that began last, if it runs."""
    place = (_state_home() / _LATEST).resolve()
    return place if _runs(place) else None


def _point(link: Path, place: Path) -> None:
    made = place / ".latest"
    made.symlink_to(place)
    made.replace(link)


def _another(ended: Path) -> Path | None:
    """The demo that began last of those in new directories that run, without the one that ends."""
    running = [place for place in _state_home().resolve().glob("demo-*") if place != ended and _runs(place)]
    return max(running, key=lambda place: (place / _RUNNING).stat().st_mtime_ns, default=None)


def _runs(place: Path) -> bool:
    try:
        with (place / _RUNNING).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
