"""Becomes OPA, on a leash: when the process that started it ends, however it ends, OPA ends too.

Run as a script: `python -I -S leash.py PARENT FD NICENESS OPA [argument ...]`. PARENT is the process id of the
starter; FD is the number of the reading end of a pipe that the starter holds open, or `-`; NICENESS is added to this
process's own (nice(2)).

* Linux: with FD `-`, the kernel is told to kill this process when the thread that started it ends
  (prctl(2), PR_SET_PDEATHSIG; it survives the exec that follows).
* Elsewhere a child stays behind. It waits for the end of the pipe, which comes with the starter's end, and then kills
  OPA, unless that has ended by itself and the child has another parent by now.

Done between fork and exec by a program of its own, because Python code in a `preexec_fn` can deadlock where there are
threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import NoReturn

_PR_SET_PDEATHSIG = 1


def _die_with_the_starter(parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"the leash cannot be put on: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it ended before it could be told
        sys.exit("the process that started OPA has ended")


def _leave_a_watcher(pipe: int) -> None:
    opa = os.getpid()
    if os.fork() != 0:
        os.close(pipe)
        return
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # OPA's end of its log must be the only one
        os.dup2(null, standard)
    while os.read(pipe, 1):
        pass
    if os.getppid() == opa:
        os.kill(opa, signal.SIGKILL)
    os._exit(0)


def main(parent: str, pipe: str, niceness: str, *command: str) -> NoReturn:
    if pipe == "-":
        _die_with_the_starter(int(parent))
    else:
        _leave_a_watcher(int(pipe))
    os.nice(int(niceness))
    try:
        os.execv(command[0], command)  # noqa: S606  # the absolute path of a program, and no shell
    except OSError as error:
        sys.exit(f"{command[0]} cannot be started: {error.strerror}")


if __name__ == "__main__":
    main(*sys.argv[1:])
