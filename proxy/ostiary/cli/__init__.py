"""The command `ostiary`: its entry point, which is run; `commands` has what it does.

Each worker imports this package to find its way, because that is how processes are started (`multiprocessing`), and has
no use for a command line: that is imported by who runs it.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
from collections.abc import Iterator


def main() -> None:
    """Exit status 0: done. 1: the answer is no. 2: something that people wrote, or the command itself, is wrong."""
    # By default it ends a process. A service manager may send it to a proxy that is starting, which takes a second, or
    # minutes if it gets an OPA first, and has nothing to restart yet. (As a handler, so that no child inherits it.)
    signal.signal(signal.SIGUSR2, lambda *_: None)
    with uncollected():
        from ostiary.cli.commands import app
        from ostiary.cli.output import reporting_mistakes

    with reporting_mistakes():
        app()


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """While something is imported, which stays: to look for garbage in it, again and again and at the end, takes as
    long as a third of the imports themselves."""
    wanted, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:
            gc.freeze()
        if wanted:
            gc.enable()
