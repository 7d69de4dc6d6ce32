"""Publishing into a directory, which a bundle server, or any static file server, serves."""

from __future__ import annotations

from pathlib import Path

from ostiary.decision.rollback import statement_beside
from ostiary.distribution import files
from ostiary.distribution.archives import LARGEST, Archive, Examiner
from ostiary.distribution.publishing import Found, PublishFailed, TargetChanged


class DirectoryTarget:
    """`path` is the file. Implements `publishing.Target`."""

    def __init__(self, path: Path, *, examiner: Examiner) -> None:
        self._path = path
        self._examiner = examiner

    def find(self) -> Found | None:
        try:
            identity = files.identify(self._path)
            if identity is None:
                return None
            with self._path.open("rb") as file:
                content = file.read(LARGEST + 1)
        except OSError as error:
            raise PublishFailed(f"{self._path}: {error.strerror}") from error
        return Found.read(content, self._examiner, token=identity)

    def put(self, archive: Archive, *, instead_of: Found | None, force: bool) -> None:
        expected = None if instead_of is None else instead_of.token
        if expected is not None and not isinstance(expected, files.Identity):
            raise TypeError("what was found was not found here")
        try:
            files.replace(self._path, archive.content, expected=expected)
        except files.FileChanged:
            raise TargetChanged from None
        except OSError as error:
            raise PublishFailed(f"{self._path}: {error.strerror}") from error

    def put_statement(self, content: bytes) -> None:
        path = statement_beside(self._path)
        try:
            files.put(path, content)
        except OSError as error:
            raise PublishFailed(f"{path}: {error.strerror}") from error
