"""Where the files that are not Python are: in the wheel beside this module, or in the checkout above it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).resolve().parent


def _root() -> Path:
    carried = _PACKAGE / "_assets"
    return carried if carried.is_dir() else _PACKAGE.parent.parent


def rego() -> Path:
    """The Rego source root: its `ostiary/` is the Rego package `ostiary`."""
    return _root() / "rego"


def demo_bundle() -> Path:
    """The demo deployment's own policy: `permissions.yaml`, `policy.rego`, and what tests them."""
    return _root() / "bundles" / "demo"
