"""Checkpoints: where a chain stood, signed, once a second, in another place than the audit.

A chain shows what was altered or taken out of it, except at its end: lines that are cut off there leave no gap. So
what its last record was is said elsewhere too:

    {"schema":1,"kind":"checkpoint","time":…,"worker":…,"chain":…,"seq":…,"mac":…,"number":…,"kid":…,"signature":…}

Since each MAC depends on all records before, one line vouches for all of them, also against somebody who has the
chain's key: no other records lead to the same MAC. So that key can be shown to an auditor. The signature is Ed25519
(RFC 8032) over the line up to `,"signature"`, with a key of its own, of which an auditor needs the public half only.
`number` counts the checkpoints of a chain.

Signing is done by a thread of its own, from what the writer says last, so no request waits for it; and a place that
takes no checkpoints refuses no request. It is logged, and verifying names the records that no checkpoint covers.
"""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Callable
from typing import Final, Protocol

from ostiary.audit.chain import Head
from ostiary.audit.lines import SCHEMA, Timestamps, render
from ostiary.audit.writer import Sink
from ostiary.clock import Clock

_log = logging.getLogger("ostiary.audit")

INTERVAL: Final = 1.0
"""Seconds between two checkpoints of a chain that grows."""

_END: Final = 1.0  # seconds that the last but one may take when the chain ends


class Signer(Protocol):
    """The key of the checkpoints: Ed25519."""

    @property
    def id(self) -> str: ...

    @property
    def sign(self) -> Callable[[bytes], bytes]: ...


class Checkpoints:
    """Signs the head of one worker's chain, whenever it has moved, into `sink`.

    `head` is asked from a thread of this object, as are `clock` and `sink`, which are that thread's own. `interval` is
    in seconds. `written` is told of each line that is in the sink.
    """

    def __init__(
        self,
        *,
        sink: Sink,
        signer: Signer,
        worker: str,
        clock: Clock,
        head: Callable[[], Head],
        interval: float = INTERVAL,
        written: Callable[[bytes], None] | None = None,
    ) -> None:
        self._sink = sink
        self._signer = signer
        self._worker = worker
        self._clock = clock
        self._stamps = Timestamps()
        self._head = head
        self._interval = interval
        self._written = written
        self._signed = 0  # the seq of the last checkpoint
        self._number = 0
        self._failing = False
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Make ready. Raises OSError."""
        self._sink.open()
        # A daemon: a place that never answers must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="ostiary-checkpoints", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Sign where the chain ended, if the place takes it."""
        self._stopped.set()
        if self._thread is None:
            return
        self._thread.join(_END)
        if not self._thread.is_alive():
            self.take()
            self._sink.close()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            self.take()

    def take(self) -> None:
        """Sign the head now, if it has moved. For the thread of this object, or where there is none."""
        head = self._head()
        if head.seq == self._signed:
            return
        line = self._line(head)
        try:
            self._sink.append([line])
        except Exception as error:  # noqa: BLE001 - a thread that died would sign nothing any more
            if not self._failing:
                _log.error("no checkpoint of the audit can be written: %s", error)
            self._failing = True
            return
        if self._failing:
            _log.warning("checkpoints of the audit are written again")
        self._failing = False
        self._number += 1
        self._signed = head.seq
        if self._written is not None:
            self._written(line)

    def _line(self, head: Head) -> bytes:
        text = render(
            {
                "schema": SCHEMA,
                "kind": "checkpoint",
                "time": self._stamps.format(self._clock.now()),
                "worker": self._worker,
                "chain": head.chain,
                "seq": head.seq,
                "mac": head.mac,
                "number": self._number + 1,
                "kid": self._signer.id,
            }
        )[:-2]
        signature = base64.urlsafe_b64encode(self._signer.sign(text)).rstrip(b"=")
        return b'%b,"signature":"%b"}\n' % (text, signature)
