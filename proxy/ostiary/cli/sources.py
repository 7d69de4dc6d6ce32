"""What several commands need before they can begin: the sources of a policy, and OPA."""

from __future__ import annotations

from pathlib import Path

from ostiary.cli.output import fail, note
from ostiary.errors import ConfigurationError
from ostiary.opa.install import OpaNotFound, ensure_opa
from ostiary.policy.bundle import PERMISSIONS


def permissions_file(source: Path) -> Path:
    """The permission map in the directory `source`, or `source` itself if that is a file."""
    if source.is_dir():
        return source / PERMISSIONS
    if not source.exists():
        raise ConfigurationError([f"{source}: there is no such file or directory"])
    return source


def policy_directory(source: Path) -> Path:
    """`source`, if it is a directory. Raises `ConfigurationError` if not."""
    if not source.exists():
        raise ConfigurationError([f"{source}: there is no such directory"])
    if not source.is_dir():
        raise ConfigurationError([f"{source}: is a file; name the directory that holds {PERMISSIONS} and *.rego"])
    return source


def needed_opa() -> Path:
    """OPA, found or got; what takes long is told. Without it the command ends: there is no answer, not even a no."""
    try:
        return ensure_opa(progress=note)
    except OpaNotFound as error:
        fail(str(error))
