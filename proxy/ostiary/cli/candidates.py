"""A policy that is named on the command line, built: sources, a bundle, an archive, or sources in git."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ostiary import assets
from ostiary.cli.sources import needed_opa
from ostiary.errors import ConfigurationError
from ostiary.policy.bundle import MANIFEST, build_bundle
from ostiary.policy.revisions import is_revision, write_revision

POLICY: Final = "A policy's sources, a built bundle, an archive (.tar.gz), or sources in git: REV:path."
"""For the help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """`path` is a bundle directory or an archive. `built_here` says that it was built for this command only."""

    path: Path
    built_here: bool


@contextmanager
def candidate(name: str) -> Iterator[Candidate]:
    """The bundle, as long as the context is open. Raises `ConfigurationError`, of sources as they were named."""
    path = Path(name)
    if not is_revision(name):
        if not path.exists():
            raise ConfigurationError([f"{name}: there is no such file or directory"])
        if path.is_file() or (path / MANIFEST).exists():
            yield Candidate(path=path, built_here=False)
            return
    with tempfile.TemporaryDirectory(prefix="ostiary-candidate-") as directory:
        yield Candidate(path=_built(name, Path(directory)), built_here=True)


def _built(name: str, directory: Path) -> Path:
    source = directory / "source"
    try:
        if is_revision(name):
            write_revision(name, source)
        else:
            source = Path(name)
        built = build_bundle(source, directory / "bundle", opa=needed_opa(), sequence=0, rego_root=assets.rego())
    except ConfigurationError as error:
        raise ConfigurationError([line.replace(str(source), name) for line in error.mistakes]) from error
    return built.path
