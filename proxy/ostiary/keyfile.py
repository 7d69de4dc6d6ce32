"""Files that hold a private key: read only where nobody else can have read or written it.

The file is opened once and judged by what was opened, so that nothing can be put in its place between the look and the
reading. It may be a symbolic link, as Kubernetes mounts secrets.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

from ostiary.errors import ConfigurationError


def read_key_file(path: Path, *, what: str, limit: int, group_readable: bool = False) -> bytes:
    """The first `limit` bytes of the file. `what` it holds is for messages, as in `examine`.

    Raises `OSError`, and `ConfigurationError` as `examine` does.
    """
    # O_NONBLOCK: a FIFO put in its place would be waited for, for ever, before it could be refused.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        groups = {os.getegid(), *os.getgroups()}
        examine(path, os.fstat(descriptor), what=what, user=os.geteuid(), groups=groups, group_readable=group_readable)
        return os.read(descriptor, limit)
    finally:
        os.close(descriptor)


def examine(
    path: Path, status: os.stat_result, *, what: str, user: int, groups: Collection[int], group_readable: bool
) -> None:
    """Raise `ConfigurationError` unless the opened file is one that `user` (or root) alone controls and can read.

    `group_readable` admits one that a group of `groups`, this process's, may read too: that is how Kubernetes mounts a
    secret for a process that is not root (`fsGroup`). Nobody else may ever read it, nor the group write it.
    """
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError([f"{path}: {what} is not a regular file"])
    if status.st_uid not in (0, user):
        raise ConfigurationError([f"{path}: {what} belongs to another user"])
    permissions = stat.S_IMODE(status.st_mode)
    open_to = permissions & 0o077
    if not open_to or (group_readable and open_to == stat.S_IRGRP and status.st_gid in groups):
        return
    remedy = "chmod 600, or mount it so"
    if open_to == stat.S_IRGRP and status.st_gid in groups:
        remedy = "chmod 600, or set secrets.group_readable"
    raise ConfigurationError([f"{path}: {what} is open to others (mode {permissions:04o}): {remedy}"])
