"""A policy's sources as a git repository has them at a revision: `main:policy`.

Blobs are read as they were committed: no attribute, filter or ignore rule has a part in it. git is asked only here and
where a build counts commits.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path, PurePosixPath
from typing import Final

from ostiary.errors import ConfigurationError
from ostiary.policy.bundle import PERMISSIONS

_DEADLINE: Final = 30
"""Seconds for one command of git."""
_REGULAR: Final = frozenset({"100644", "100755"})


def is_revision(text: str) -> bool:
    """Whether it is written `REV:path`, and names nothing that is here."""
    revision, colon, _ = text.partition(":")
    return bool(colon and revision) and not text.startswith("-") and not Path(text).exists()


def write_revision(text: str, place: Path) -> None:
    """Write the map and the Rego of `REV:path` into the directory `place`, which is made.

    The path begins at the repository's root, or, with `./`, here. Raises `ConfigurationError`.
    """
    tree = _git("rev-parse", "--verify", "--quiet", text, said=f"{text}: there is no such file, and none in git")
    listed = _git("ls-tree", "-r", "-z", "--full-tree", tree.decode().strip(), said=f"{text}: is no directory in git")
    place.mkdir()
    for entry in listed.decode("utf-8", "surrogateescape").split("\0"):
        about, _, name = entry.partition("\t")
        path = PurePosixPath(name)
        if name != PERMISSIONS and path.suffix != ".rego":
            continue
        mode, _, digest = about.split()
        if mode not in _REGULAR:
            raise ConfigurationError([f"{text}: {name} is not a file"])
        to = place / path
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(_git("cat-file", "blob", digest, said=f"{text}: git cannot read {name}"))


def _git(*arguments: str, said: str) -> bytes:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        run = subprocess.run(  # noqa: S603 - no shell; what was given is one argument, behind others
            ["git", *arguments],  # noqa: S607 - git is wherever PATH has it
            capture_output=True,
            check=False,
            env=environment,
            timeout=_DEADLINE,
        )
    except OSError as error:
        raise ConfigurationError([f"git: cannot be run: {error.strerror}; name a directory or an archive"]) from error
    except subprocess.TimeoutExpired as error:
        raise ConfigurationError([f"git: did not answer within {_DEADLINE} s"]) from error
    if run.returncode != 0:
        told = " ".join(run.stderr.decode(errors="replace").split())
        raise ConfigurationError([f"{said}{f' ({told})' if told else ''}"])
    return run.stdout
