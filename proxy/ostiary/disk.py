"""Files that are replaced as a whole, and what survives a loss of power, beyond the death of the process."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o600, surely: bool = True) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of the one at `path` when this is left, and is gone if it is left by an
    error. Whoever opens `path` has one or the other, whole. With `surely` the new one survives, too. Raises OSError.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    draft = Path(name)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            yield file
            file.flush()
            os.fchmod(descriptor, mode)
            if surely:
                os.fsync(descriptor)
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    if surely:
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in it survive. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
