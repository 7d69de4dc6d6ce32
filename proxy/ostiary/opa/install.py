"""Finding or getting OPA: on PATH, in the user's cache, from its release page, or built with Go.

What is used has been run: `opa version` says what it is. A release is checked against the SHA-256 that is published
beside it, and with a pin (`checksum`) nothing but the program with that digest is accepted, wherever it is from.
The calls here block; they are for a command line or for before the event loop starts.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from ostiary.opa.release import Release, ReleaseError

PINNED: Final = "1.22.2"
"""The version that is fetched, and that the tests ran with."""
FLOOR: Final = "1.21.3"
"""The least version: before it the signature of a bundle could be stripped (GHSA-g2pf-6v5v-qcc8)."""
OVERRIDE: Final = "OSTIARY_OPA"
"""The environment variable that names the program to use, and makes everything else be left alone."""

_VERSION: Final = re.compile(r"^Version:[ \t]*(\d+)\.(\d+)\.(\d+)(-\S+)?[ \t]*$", re.MULTILINE)
_VERSION_TIMEOUT: Final = 20  # seconds
_MODULE: Final = "github.com/open-policy-agent/opa"
_BUILD_TIMEOUT: Final = 1800  # seconds; 150 are usual

Progress = Callable[[str], None]

_Version: TypeAlias = tuple[int, int, int, int]
"""In an order: the last number has a pre-release (`-rc1`, `-dev`) come before what it precedes."""


class OpaNotFound(Exception):
    """No usable OPA and no way to get one. The message is one sentence that says what was tried and what came of it."""


class _Unusable(Exception):
    """One of the ways did not lead to an OPA. The message is a clause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where OPA can come from. `search` is a PATH (None: the environment's), on which Go is looked for, too."""

    search: str | None = None
    release: Release = field(default_factory=Release)


def ensure_opa(
    *,
    pinned: str = PINNED,
    checksum: str | None = None,
    cache_dir: Path | None = None,
    sources: Sources | None = None,
    override: str | None = None,
    progress: Progress = lambda _: None,
    offline: bool = False,
) -> Path:
    """The path of an OPA of at least version `FLOOR`; gets version `pinned` if there is none, unless `offline`.

    `checksum` is the SHA-256 (hex) that the program has to have. `override` is what the environment variable
    `OSTIARY_OPA` is when it is not given: the one program to use. `progress` is told, in sentences, what takes long.
    The cache is `$XDG_CACHE_HOME/ostiary/opa/<version>/opa`. Raises `OpaNotFound`.
    """
    finder = _Finder(checksum)
    chosen = override if override is not None else os.environ.get(OVERRIDE)
    if chosen:
        try:
            return finder.accept(Path(chosen).absolute())
        except _Unusable as why:
            raise OpaNotFound(f"The OPA that {OVERRIDE} names cannot be used: {why}.") from why
    places = sources or Sources()
    cache = (cache_dir or _user_cache()) / pinned
    try:
        return finder.on_path(places.search)
    except _Unusable as why:
        on_path = why
    with contextlib.suppress(_Unusable):
        return finder.cached(cache / "opa")
    if offline:
        raise OpaNotFound(f"No usable OPA: on PATH, {on_path}; none was got before (ostiary opa install gets one).")
    with _locked(cache, progress):
        with contextlib.suppress(_Unusable):
            return finder.cached(cache / "opa")  # another process has just put it there
        try:
            return _download(finder, places.release, pinned, cache, progress)
        except _Unusable as why:
            downloaded = why
            progress(f"The release was not got: {why}.")
        try:
            return _build(finder, places, pinned, cache, progress)
        except _Unusable as why:
            raise OpaNotFound(
                f"No usable OPA: on PATH, {on_path}; the release {pinned} was not got, because {downloaded}; "
                f"and `go install` did not build it, because {why}; "
                f"put one of at least version {FLOOR} on PATH, or name it by {OVERRIDE}."
            ) from why


def accept_opa(program: Path, *, checksum: str | None = None) -> Path:
    """`program`, the one that somebody chose, if it is an OPA of at least version `FLOOR`. Raises `OpaNotFound`.

    With `checksum`, it has to have that SHA-256 (hex) too.
    """
    try:
        return _Finder(checksum).accept(program)
    except _Unusable as why:
        raise OpaNotFound(f"The OPA that is configured cannot be used: {why}.") from why


class _Finder:
    """Looks at programs, and accepts those that are a good OPA."""

    def __init__(self, checksum: str | None) -> None:
        self.checksum = None if checksum is None else checksum.lower()

    def accept(self, program: Path) -> Path:
        """`program`, once it has said that it is an OPA that may be used."""
        version = _ask_version(program)
        if version is None:
            raise _Unusable(f"{program} is not an OPA that runs")
        if version < _numbers(FLOOR):
            text = ".".join(map(str, version[:3]))
            raise _Unusable(f"{program} is version {text} and {FLOOR} is the least")
        if self.checksum is not None and digest_of(program) != self.checksum:
            raise _Unusable(f"{program} does not have the checksum that is asked for")
        return program

    def on_path(self, search: str | None) -> Path:
        """The first good one on the PATH."""
        why = _Unusable("there is none")
        for folder in (search if search is not None else os.environ.get("PATH", "")).split(os.pathsep):
            program = Path(folder) / "opa"
            if not folder or not program.is_absolute() or not os.access(program, os.X_OK) or program.is_dir():
                continue  # an empty or relative entry means whatever directory we happen to be in
            try:
                return self.accept(program)
            except _Unusable as found:
                why = found
        raise why

    def cached(self, program: Path) -> Path:
        """The one in the cache, unless somebody else could have put it there."""
        try:
            found = program.stat()
        except OSError as error:
            raise _Unusable("there is none in the cache") from error
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise _Unusable(f"{program} can be written by others")
        return self.accept(program)


def _download(finder: _Finder, release: Release, version: str, cache: Path, progress: Progress) -> Path:
    name = release.asset()
    if name is None:
        raise _Unusable("there is none for this kind of machine")
    progress(f"Fetching OPA {version} from {release.url(version, name)}.")
    with _scratch(cache) as scratch:
        program = scratch / "opa"
        try:
            digest = release.fetch(version, name, program)
        except (ReleaseError, OSError) as error:
            raise _Unusable(f"{release.url(version, name)} failed ({error})") from error
        if finder.checksum is not None and digest != finder.checksum:
            raise _Unusable(f"{name} does not have the checksum that is asked for")
        return _keep(finder, program, cache)


def _build(finder: _Finder, sources: Sources, version: str, cache: Path, progress: Progress) -> Path:
    if finder.checksum is not None:
        raise _Unusable("a program built here cannot have the checksum that is asked for")
    go = shutil.which("go", path=sources.search)
    if go is None:
        raise _Unusable("there is no Go on PATH")
    progress(f"Building OPA {version} with `go install`, which takes some minutes the first time.")
    # A program for another system could not run here, and go refuses GOBIN for one.
    environment = {name: value for name, value in os.environ.items() if name not in ("GOOS", "GOARCH", "GOFLAGS")}
    with _scratch(cache) as scratch:
        command = [go, "install", f"{_MODULE}@v{version}"]
        environment |= {"CGO_ENABLED": "0", "GOBIN": str(scratch)}
        _run(command, environment, progress)
        return _keep(finder, scratch / "opa", cache)


def _run(command: list[str], environment: dict[str, str], progress: Progress) -> None:
    """Run it, pass its lines on, and fail with the last of them."""
    last = "it said nothing"
    try:
        with subprocess.Popen(  # noqa: S603  # the arguments are ours
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            deadline = threading.Timer(_BUILD_TIMEOUT, process.kill)
            deadline.start()
            try:
                for line in process.stdout or ():
                    if line.strip():
                        last = line.strip()
                        progress(last)
                code = process.wait()
            except BaseException:
                process.kill()
                raise
            finally:
                deadline.cancel()
    except OSError as error:
        raise _Unusable(f"it could not be run ({error})") from error
    if code != 0:
        raise _Unusable(f"it ended with status {code} ({last})")


def _keep(finder: _Finder, program: Path, cache: Path) -> Path:
    """Move an accepted program to its place in the cache: there is all of it, or nothing."""
    try:
        program.chmod(0o755)
    except OSError as error:
        raise _Unusable("it left no program") from error
    finder.accept(program)
    return program.replace(cache / "opa")


@contextlib.contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache) as folder:
        yield Path(folder)


@contextlib.contextmanager
def _locked(cache: Path, progress: Progress) -> Iterator[None]:
    """One installer at a time; the others wait for what it leaves."""
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(cache / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OpaNotFound(f"No usable OPA, and the cache {cache} cannot be written: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("Another process is getting OPA: waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _user_cache() -> Path:
    """`$XDG_CACHE_HOME/ostiary/opa` (XDG Base Directory Specification: a relative value is ignored)."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "ostiary" / "opa"


def _ask_version(program: Path) -> _Version | None:
    try:
        ran = subprocess.run(  # noqa: S603  # the arguments are ours
            [program, "version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return _version_in(ran.stdout) if ran.returncode == 0 else None


def _numbers(version: str) -> _Version:
    found = _version_in(f"Version: {version}")
    if found is None:
        raise ValueError(f"{version!r} is not a version")
    return found


def _version_in(text: str) -> _Version | None:
    found = _VERSION.search(text)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]), 0 if found[4] else 1)


def digest_of(program: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with program.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
