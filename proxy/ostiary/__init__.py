"""ostiary: a zero-standing-privilege access proxy that delegates every decision to Open Policy Agent."""

from importlib.metadata import version

__version__ = version("ostiary")
