"""What one request leaves in the audit.

    forwarded             a `decision` line, on disk before the upstream is called, and a `completion` line
    refused               one `refusal` line, with input and result if it came as far as a decision
    answered by the proxy one `answer` line (a CORS preflight, a document of `/.well-known/`)

The last two are counted instead where there are too many of them from one identity, or from strangers (`losses`). What
is forwarded always has its lines.

All lines of a request have its `decision_id`. A credential that is renewed for a retry (a second `commit`) adds a
`credential` line: the decision stands, so it is not repeated, and each credential's `jti` is on disk before it is
used. A commit that fails leaves a `refusal`; whether its `decision` line reached the disk is then not known.

The path is written without its query: the query that policy saw is in `input`, where replay needs it, and a query that
was refused may hold the very secret it was refused for. `input` and `result` are never cut.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Protocol, TypeAlias

from ostiary.audit.forwarded import Parts, completion_line, decision_line, identity_document
from ostiary.audit.lines import SCHEMA, capped, render
from ostiary.errors import AccessError, AuditUnavailable, ClientDisconnected
from ostiary.exchange import Exchange
from ostiary.models import AccessRequest, Credential, Decision, Identity, Owner, Target

MAX_PATH: Final = 2048
MAX_HOST: Final = 255
MAX_METHOD: Final = 32
MAX_TEXT: Final = 512  # a detail, or one reason
MAX_REASONS: Final = 64


Completed: TypeAlias = Callable[
    [Exchange, Target | None, Decision | None, AccessError | None, str | None, float, float], None
]
"""Told of every exchange when it has ended, with what is known of it: the outcome where it was broken off, and the
seconds that the decision and all of it took. Does not raise."""


class Ledger(Protocol):
    """Where lines go. `entry` is what is counted in place of a line that had to be left out."""

    def now(self) -> str:
        """The time as RFC 3339."""

    def monotonic(self) -> float:
        """Seconds."""

    def admits(self, entry: str, owner: Owner | None) -> bool:
        """Whether a line about what was not let through fits the quota of who asked, None for somebody unidentified.
        If not, it has been counted."""

    def commit(self, line: bytes) -> Awaitable[None]:
        """Done once the line is on disk. Raises `AuditUnavailable`."""

    def post(self, line: bytes, entry: str, *, stranger: bool = False) -> None:
        """Write the line soon, without waiting; never raises."""


class ExchangeRecord:
    """The `Record` of one exchange, and the context that completes it on every exit, cancellation included."""

    __slots__ = (
        "_committed",
        "_completed",
        "_decided_at",
        "_decision",
        "_exchange",
        "_identified_at",
        "_identity",
        "_ledger",
        "_outcome",
        "_parts",
        "_refusal",
        "_request",
        "_started_at",
        "_target",
    )

    def __init__(self, exchange: Exchange, ledger: Ledger, parts: Parts, completed: Completed | None = None) -> None:
        self._exchange = exchange
        self._ledger = ledger
        self._completed = completed
        self._parts = parts
        self._started_at = ledger.monotonic()
        self._identified_at = self._decided_at = 0.0
        self._target: Target | None = None
        self._identity: Identity | None = None
        self._request: AccessRequest | None = None
        self._decision: Decision | None = None
        self._refusal: AccessError | None = None
        self._outcome: str | None = None
        self._committed = False

    def resolved(self, target: Target) -> None:
        self._target = target

    def identified(self, identity: Identity) -> None:
        self._identity = identity
        self._identified_at = self._ledger.monotonic()

    def decided(self, request: AccessRequest, decision: Decision) -> None:
        self._request = request
        self._decision = decision
        self._decided_at = self._ledger.monotonic()

    def refused(self, refusal: AccessError) -> None:
        self._refusal = refusal
        if isinstance(refusal, ClientDisconnected):
            self._outcome = "disconnected"
        elif self._exchange.response_started:
            self._outcome = "aborted"
        else:
            self._outcome = "refused"

    async def commit(self, credential: Credential) -> None:
        request, decision = self._request, self._decision
        if request is None or decision is None or decision.allow is not True:
            raise AuditUnavailable("there is no allow to record")
        try:
            if self._committed:
                line = render(self._credential_document(credential))
            else:
                line = self._decision_line(request, decision, credential)
        except ValueError as error:
            raise AuditUnavailable(str(error)) from error
        await self._ledger.commit(line)
        self._committed = True

    def __enter__(self) -> ExchangeRecord:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._outcome = "failed" if isinstance(error, Exception) else "cancelled"
        if self._committed:
            self._ledger.post(self._completion_line(), "completion")
        elif self._refusal is None and error is None:
            self._post_uncommitted(self._answer_document, "answer")
        else:
            entry = self._outcome if self._refusal is None else self._refusal.reason
            self._post_uncommitted(self._refusal_document, entry or "refused")
        if self._completed is not None:
            self._completed(
                self._exchange,
                self._target,
                self._decision,
                self._refusal,
                self._outcome,
                self._decided_at - self._identified_at,
                self._ledger.monotonic() - self._started_at,
            )

    def _post_uncommitted(self, document: Callable[[], dict[str, Any]], entry: str) -> None:
        owner = None if self._identity is None else self._identity.owner
        if not self._ledger.admits(entry, owner):
            return
        try:
            line = render(document())
        except ValueError:
            self._request = self._decision = None  # what cannot be rendered is in these; the refusal itself can
            line = render(document())
        self._ledger.post(line, entry, stranger=owner is None)

    def _decision_line(self, request: AccessRequest, decision: Decision, credential: Credential) -> bytes:
        line = decision_line(
            self._parts,
            request,
            decision,
            credential,
            decision_id=self._exchange.id,
            trace_id=self._exchange.trace_id,
            now=self._ledger.now(),
            seconds=self._decided_at - self._identified_at,
        )
        return render(self._decision_document(request, decision, credential)) if line is None else line

    def _completion_line(self) -> bytes:
        exchange = self._exchange
        if self._refusal is not None:
            return render(self._completion_document())
        return completion_line(
            exchange,
            outcome=self._outcome or ("complete" if exchange.response_complete else "aborted"),
            now=self._ledger.now(),
            seconds=self._ledger.monotonic() - self._started_at,
        )

    # The documents. The order of the members is the order in the line.

    def _decision_document(self, request: AccessRequest, decision: Decision, credential: Credential) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "kind": "decision",
            "time": self._ledger.now(),
            "decision_id": self._exchange.id,
            **self._trace(),
            "caller": decision.caller,
            "service": request.target.service,
            "endpoint": decision.endpoint,
            "method": request.method,
            "path": request.target.path,
            "reasons": decision.reasons,
            "revision": decision.revision,
            "permission": decision.permission,
            "grant": decision.grant,
            "credential": _credential(credential),
            "cached": decision.cached,
            "identity": identity_document(request.identity),
            "source_ip": request.source_ip,
            "decision_ms": self._milliseconds(self._identified_at, self._decided_at),
            "input": request.document(),
            "result": decision.document,
        }

    def _credential_document(self, credential: Credential) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "kind": "credential",
            "time": self._ledger.now(),
            "decision_id": self._exchange.id,
            "credential": _credential(credential),
        }

    def _completion_document(self) -> dict[str, Any]:
        exchange = self._exchange
        return {
            "schema": SCHEMA,
            "kind": "completion",
            "time": self._ledger.now(),
            "decision_id": exchange.id,
            **self._trace(),
            "outcome": self._outcome or ("complete" if exchange.response_complete else "aborted"),
            "status": exchange.status,
            "reasons": _reasons(self._refusal),
            "detail": _detail(self._refusal),
            "bytes_received": exchange.bytes_received,
            "bytes_sent": exchange.bytes_sent,
            "duration_ms": self._milliseconds(self._started_at, self._ledger.monotonic()),
        }

    def _answer_document(self) -> dict[str, Any]:
        exchange, target = self._exchange, self._target
        return {
            "schema": SCHEMA,
            "kind": "answer",
            "time": self._ledger.now(),
            "decision_id": exchange.id,
            **self._trace(),
            "outcome": "complete" if exchange.response_complete else "aborted",
            "status": exchange.status,
            "service": None if target is None else target.service,
            "method": capped(exchange.method, MAX_METHOD),
            "host": _host(exchange),
            "path": self._path(),
            "source_ip": exchange.source_ip,
            "bytes_received": exchange.bytes_received,
            "bytes_sent": exchange.bytes_sent,
            "duration_ms": self._milliseconds(self._started_at, self._ledger.monotonic()),
        }

    def _refusal_document(self) -> dict[str, Any]:
        exchange, target, identity, decision = self._exchange, self._target, self._identity, self._decision
        return {
            "schema": SCHEMA,
            "kind": "refusal",
            "time": self._ledger.now(),
            "decision_id": exchange.id,
            **self._trace(),
            "outcome": self._outcome or "refused",
            "status": exchange.status if self._refusal is None else self._refusal.status,
            "reasons": _reasons(self._refusal),
            "detail": _detail(self._refusal),
            "caller": None if decision is None else decision.caller,
            "service": None if target is None else target.service,
            "endpoint": None if decision is None else decision.endpoint,
            "method": capped(exchange.method, MAX_METHOD),
            "host": _host(exchange),
            "path": self._path(),
            "revision": None if decision is None else decision.revision,
            "permission": None if decision is None else decision.permission,
            "grant": None if decision is None else decision.grant,
            "cached": None if decision is None else decision.cached,
            "identity": None if identity is None else identity_document(identity),
            "source_ip": exchange.source_ip,
            "bytes_received": exchange.bytes_received,
            "bytes_sent": exchange.bytes_sent,
            "duration_ms": self._milliseconds(self._started_at, self._ledger.monotonic()),
            "input": None if self._request is None else self._request.document(),
            "result": None if decision is None else decision.document,
        }

    def _trace(self) -> dict[str, str]:
        """To which trace it belongs, where traces are made."""
        return {} if self._exchange.trace_id is None else {"trace_id": self._exchange.trace_id}

    def _path(self) -> str:
        if self._target is not None:
            return self._target.path
        return raw_path(self._exchange.raw_path)

    def _milliseconds(self, since: float, until: float) -> float:
        return round((until - since) * 1000, 3)


def parser_refusal(
    refusal: AccessError,
    *,
    decision_id: str,
    now: str,
    peer: str | None,
    method: str | None,
    target: bytes | None,
    host: bytes | None,
) -> dict[str, Any]:
    """The `refusal` of a message that never became an exchange: what the listener understood of it."""
    return {
        "schema": SCHEMA,
        "kind": "refusal",
        "time": now,
        "decision_id": decision_id,
        "outcome": "refused",
        "status": refusal.status,
        "reasons": _reasons(refusal),
        "detail": _detail(refusal),
        "caller": None,
        "service": None,
        "endpoint": None,
        "method": None if method is None else capped(method, MAX_METHOD),
        "host": None if host is None else capped(host.decode("latin-1"), MAX_HOST),
        "path": None if target is None else raw_path(target),
        "revision": None,
        "permission": None,
        "grant": None,
        "cached": None,
        "identity": None,
        "source_ip": peer,
        "bytes_received": 0,
        "bytes_sent": 0,
        "duration_ms": 0.0,
        "input": None,
        "result": None,
    }


def raw_path(target: bytes) -> str:
    """A path as it was sent, still encoded, without query or fragment."""
    return capped(target.partition(b"?")[0].partition(b"#")[0].decode("latin-1"), MAX_PATH)


def _credential(credential: Credential) -> dict[str, Any]:
    return {"jti": credential.id, "per_call": credential.per_call, "expires_at": credential.expires_at}


def _reasons(refusal: AccessError | None) -> list[str]:
    if refusal is None:
        return []
    return [capped(reason, MAX_TEXT) for reason in refusal.reasons[:MAX_REASONS]]


def _detail(refusal: AccessError | None) -> str | None:
    return capped(refusal.detail, MAX_TEXT) if refusal is not None and refusal.detail else None


def _host(exchange: Exchange) -> str | None:
    for name, value in exchange.headers:
        if name == b"host":
            return capped(value.decode("latin-1"), MAX_HOST)
    return None
