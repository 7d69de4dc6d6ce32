"""Where the process of a worker begins. What a worker is made of is imported here, and not by what starts it.

Nothing of it is needed to import this: what comes first sets up how the rest is imported.
"""

from __future__ import annotations

import gc
import pickle
import signal
import socket
from multiprocessing.connection import Connection
from typing import Final

NOT_FOR_WORKERS: Final = frozenset({signal.SIGINT, signal.SIGHUP, signal.SIGUSR2})
"""Signals that go to all processes of a terminal or a group, and that the supervisor decides about."""


def main(settings: bytes, listener: socket.socket, supervisor: Connection) -> None:
    """The entry point of the process. `settings` are pickled `WorkerSettings`."""
    for number in NOT_FOR_WORKERS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NOT_FOR_WORKERS)
    # What is imported stays, and to look for garbage among it again and again is a tenth of the time. The collector
    # begins its work once all is there (`worker.settle_collector`).
    gc.disable()
    from ostiary import worker

    worker.main(pickle.loads(settings), listener, supervisor)  # noqa: S301 - from the supervisor
