"""Writing a project's files: all of them, or none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ostiary.config import CONFIGURATION, check_agreement, load_config
from ostiary.errors import ConfigurationError
from ostiary.policy.bundle import PERMISSIONS
from ostiary.policy.cases import case_files, load_cases
from ostiary.policy.model import load_permissions


def write_project(directory: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write each text to its path below `directory`, and return the paths.

    Raises `ConfigurationError` that names every file that is there already, and `OSError`; nothing has been written
    then. What is written has been read as the proxy reads it before.
    """
    paths = {directory / name: text for name, text in texts.items()}
    there = [f"{path}: is there already, and nothing is overwritten" for path in paths if os.path.lexists(path)]
    if there:
        raise ConfigurationError(there)
    _check(texts)
    made: list[Path] = []
    try:
        for path, text in paths.items():
            made += _directories(path.parent)
            with path.open("x", encoding="utf-8") as file:
                made.append(path)
                file.write(text)
    except OSError:
        _take_back(made)
        raise
    return list(paths)


def _directories(wanted: Path) -> list[Path]:
    """Make a directory and those above it that are missing; return those that were."""
    missing = [each for each in (wanted, *wanted.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir()
    return missing[::-1]


def _take_back(made: list[Path]) -> None:
    for path in reversed(made):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()


def _check(texts: Mapping[str, str]) -> None:
    """Read it all where nobody sees it. A mistake in it is one of ours, or of a document that nobody foresaw."""
    with tempfile.TemporaryDirectory(prefix="ostiary-init-") as directory:
        place = Path(directory)
        for name, text in texts.items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        mistakes: Sequence[str]
        try:
            mistakes = _mistakes(place)
        except ConfigurationError as error:
            mistakes = error.mistakes
        if mistakes:
            raise ConfigurationError([line.replace(f"{place}{os.sep}", "") for line in mistakes])


def _mistakes(place: Path) -> list[str]:
    """What does not fit together. Raises `ConfigurationError` for what cannot be read."""
    config = load_config(place / CONFIGURATION, {})
    policy = place / "policy"
    known = load_permissions(policy / PERMISSIONS)
    for table in case_files(policy):
        load_cases(table, known)
    return check_agreement(config, known)
