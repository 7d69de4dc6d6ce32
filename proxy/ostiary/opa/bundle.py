"""The bundle that is published for a managed OPA: a directory as the builder leaves it, or an archive.

OPA loads a copy of it, so that what was looked at is what is loaded, and is still there when it is to be loaded again.
An archive is read through with bounds and, where a signature is wanted, verified.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ostiary.decision.revision import Revision
from ostiary.opa.archive import LARGEST, MANIFEST, ArchiveError, Verification, read_archive, read_manifest, verify
from ostiary.strictjson import NotStrict, read_object

_MANIFEST_LIMIT = 1024 * 1024  # bytes


class BundleError(Exception):
    """There is no bundle that may be loaded. The message is one sentence."""


class PublishedBundle:
    """Read anew when another is put in its place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: tuple[tuple[int, ...], Revision] | None = None

    @property
    def is_archive(self) -> bool:
        """Whether it is a file. What is not there is taken for a directory."""
        return self.path.is_file()

    def revision(self) -> Revision:
        """The revision in the `.manifest`, whoever wrote it; raises `BundleError`. Cheap."""
        try:
            return self._archived() if self.is_archive else self._stated(self._manifest())
        except OSError as error:
            raise BundleError(f"the bundle {self.path} has no manifest that can be read: {error.strerror}") from error
        except (NotStrict, ArchiveError) as error:
            raise BundleError(f"the manifest of the bundle {self.path} cannot be read: {error}") from error

    def stamp(self) -> tuple[int, ...] | None:
        """Another one where another bundle was put in this place, None where there is none. Cheap."""
        try:
            return _stamp(self.path) if self.is_archive else _stamp(self.path) + _stamp(self.path / MANIFEST)
        except OSError:
            return None

    def stage(self, copy: Path, verification: Verification | None) -> PublishedBundle:
        """What OPA may load: a copy of this at `copy`, with `.tar.gz` if an archive. Blocks; raises `BundleError`.

        Where a signature is wanted a directory is refused: what is in one can change after it was looked at.
        """
        if not self.is_archive:
            if verification is not None and self.path.exists():
                raise BundleError(f"the bundle {self.path} is a directory, and has to be an archive that is signed")
            return self._copied(copy)
        copy = copy.with_name(f"{copy.name}.tar.gz")
        try:
            copy.unlink(missing_ok=True)
            _copy(self.path, copy)
            with copy.open("rb") as file:
                contents = read_archive(file)
            if verification is not None:
                verify(contents, verification)
        except OSError as error:
            raise BundleError(f"the bundle {self.path} cannot be read: {error.strerror}") from error
        except ArchiveError as error:
            copy.unlink(missing_ok=True)
            raise BundleError(f"the bundle {self.path} is refused: {error}") from error
        return PublishedBundle(copy)

    def keep(self, place: Path) -> None:
        """Move this to `place`, over what is there. Raises `OSError`."""
        if not self.is_archive:
            remove(place)
        self.path.replace(place)
        self.path = place

    def _copied(self, copy: Path) -> PublishedBundle:
        try:
            which = _identity(self.path)
            remove(copy)
            shutil.copytree(self.path, copy, copy_function=shutil.copyfile)
            copy.chmod(0o700)
            if _identity(self.path) != which:
                raise BundleError(f"the bundle {self.path} was replaced while it was read")
        except shutil.Error as error:
            raise BundleError(f"the bundle {self.path} cannot be read: {error}") from error
        except OSError as error:
            raise BundleError(f"the bundle {self.path} cannot be read: {error.strerror}") from error
        return PublishedBundle(copy)

    def _manifest(self) -> object:
        with (self.path / MANIFEST).open("rb") as file:
            return read_object(file.read(_MANIFEST_LIMIT)).get("revision")

    def _archived(self) -> Revision:
        which = _stamp(self.path)
        if self._known is None or self._known[0] != which:
            with self.path.open("rb") as file:
                self._known = which, self._stated(read_manifest(file).get("revision"))
        return self._known[1]

    def _stated(self, text: object) -> Revision:
        revision = Revision.parse(text)
        if revision is None:
            raise BundleError(f"the bundle {self.path} has no revision of the form <sequence>-<digest>")
        return revision


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _identity(directory: Path) -> tuple[int, int]:
    found = directory.stat()
    return found.st_dev, found.st_ino


def remove(path: Path) -> None:
    """A bundle, whatever it is, if it is there. Raises `OSError`."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _copy(path: Path, copy: Path) -> None:
    with path.open("rb") as source, open(copy, "xb", opener=_private) as target:
        if os.fstat(source.fileno()).st_size > LARGEST:
            raise ArchiveError("it is larger than what it may unpack to")
        shutil.copyfileobj(source, target)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
