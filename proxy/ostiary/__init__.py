"""ostiary: a zero-standing-privilege access proxy that delegates every decision to Open Policy Agent."""

from __future__ import annotations

__version__: str


def __getattr__(name: str) -> str:
    """`__version__`: what is installed, looked up where it is shown and not by whatever imports a part of this."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("ostiary")
