"""Spans of requests, sent to an OpenTelemetry collector over OTLP/HTTP. Needs the extra `otlp`.

    GET orders/get-order            the request, from its head to its last byte
      decide                        the policy's answer, kept or asked for
      credential                    the one that the upstream gets, kept or made
      upstream                      the exchange with it, whose id goes along as `traceparent`

A caller's `traceparent` says which trace a request belongs to, and that is believed: it is a name. Whether it is
sampled is decided here and by chance, not by the trace id (which a caller chooses) nor by the caller's flag, unless
`follow` says that callers may decide. Spans hold what the audit holds less: no path, no query, no subject, no token.

Put on at composition: without traces none of this is in the request path, and OpenTelemetry is not imported.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from ostiary.errors import AccessError, ConfigurationError
from ostiary.exchange import TRACE_ID, Exchange
from ostiary.interfaces import Authorizer, CredentialSwapper, Renew, Upstream
from ostiary.models import AccessRequest, Credential, Decision, Identity, Target
from ostiary.telemetry.context import carrying, parent_of

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.sampling import Sampler
    from opentelemetry.trace import Span, SpanKind

_TIMEOUT: Final = 2.0
"""Seconds that the collector has to take some spans; at the end of a worker, too."""

NEEDED: Final = "telemetry.traces needs OpenTelemetry: pip install 'ostiary[otlp]'"


def demand_opentelemetry() -> None:
    """Raise `ConfigurationError` if the extra is not installed."""
    try:
        found = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ImportError:  # of what is above it
        found = False
    if not found:
        raise ConfigurationError([NEEDED])


@dataclass(slots=True, eq=False)
class _Trace:
    """The span of a request, the context that its children begin in, and whether what came with it was well formed."""

    span: Span
    context: Context
    known: bool


_current: ContextVar[_Trace | None] = ContextVar("ostiary_trace", default=None)


class Traces:
    """Makes the spans of one worker. `sample` is the share of requests that are sampled, 0 to 1; with `follow` a
    caller's own decision counts. Needs the extra (`demand_opentelemetry`)."""

    def __init__(self, *, endpoint: str, sample: float, follow: bool, worker: str) -> None:
        from opentelemetry import trace  # imported here, and not by a worker that makes no traces
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from ostiary import __version__

        self._api = trace
        resource = Resource.create(
            {"service.name": "ostiary", "service.version": __version__, "service.instance.id": worker}
        )
        self._provider = TracerProvider(
            sampler=_sampler(sample, follow=follow), resource=resource, shutdown_on_exit=False
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=_TIMEOUT), schedule_delay_millis=1000)
        )
        self._tracer = self._provider.get_tracer("ostiary", __version__)

    async def start(self) -> None:
        """From now on every line of this worker's log says to which trace it belongs."""
        logging.setLogRecordFactory(_with_trace(logging.getLogRecordFactory()))

    async def close(self) -> None:
        """Send what is left. Done in a thread: the collector may be slow."""
        await asyncio.to_thread(self._provider.shutdown)

    def begin(self, scope: Scope) -> _Trace:
        """The span of a request that arrived now."""
        api = self._api
        parent = parent_of(scope["headers"])
        context = api.set_span_in_context(api.INVALID_SPAN)
        if parent is not None:
            flags = api.TraceFlags(api.TraceFlags.SAMPLED if parent.sampled else api.TraceFlags.DEFAULT)
            remote = api.SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=flags)
            context = api.set_span_in_context(api.NonRecordingSpan(remote))
        span = self._tracer.start_span(scope["method"], context, api.SpanKind.SERVER)
        scope[TRACE_ID] = f"{span.get_span_context().trace_id:032x}"
        return _Trace(span=span, context=api.set_span_in_context(span), known=parent is not None)

    @contextmanager
    def child(self, name: str, kind: SpanKind | None = None) -> Iterator[Span]:
        """A span within that of the request at hand. An error that leaves it is its status. Where the request is not
        sampled, its own stands for all."""
        trace = _current.get()
        if trace is not None and not trace.span.is_recording():
            yield trace.span
            return
        span = self._tracer.start_span(
            name, None if trace is None else trace.context, self._api.SpanKind.INTERNAL if kind is None else kind
        )
        try:
            yield span
        except BaseException as error:
            self._failed(span, error)
            raise
        finally:
            span.end()

    def outward(self, exchange: Exchange, span: Span) -> None:
        """Let the request take the span along to its upstream."""
        trace, found = _current.get(), span.get_span_context()
        exchange.headers = carrying(
            exchange.headers,
            trace_id=found.trace_id,
            span_id=found.span_id,
            sampled=found.trace_flags.sampled,
            known=trace is not None and trace.known,
        )

    @property
    def client(self) -> SpanKind:
        return self._api.SpanKind.CLIENT

    def _failed(self, span: Span, error: BaseException) -> None:
        reason = error.reason if isinstance(error, AccessError) else type(error).__name__
        span.set_attribute("error.type", reason)
        span.set_status(self._api.Status(self._api.StatusCode.ERROR))

    def completed(
        self,
        exchange: Exchange,
        target: Target | None,
        decision: Decision | None,
        refusal: AccessError | None,
        outcome: str | None,
        deciding: float,
        seconds: float,
    ) -> None:
        """An exchange has ended: the same that metrics are told."""
        trace = _current.get()
        if trace is None or not trace.span.is_recording():
            return
        span = trace.span
        found = {
            "http.request.method": exchange.method,
            "http.response.status_code": exchange.status,
            "ostiary.decision_id": exchange.id,
            "ostiary.service": None if target is None else target.service,
            "ostiary.caller": None if decision is None else decision.caller,
            "ostiary.endpoint": None if decision is None else decision.endpoint,
            "ostiary.permission": None if decision is None else decision.permission,
            "ostiary.reason": outcome if refusal is None else refusal.reason,
        }
        span.set_attributes({name: value for name, value in found.items() if value is not None})
        if target is not None and decision is not None and decision.endpoint is not None:
            span.update_name(f"{exchange.method} {target.service}/{decision.endpoint}")
        if exchange.status is None or exchange.status >= 500:
            span.set_status(self._api.Status(self._api.StatusCode.ERROR))


class TracedPipeline:
    """The pipeline, within the span of each request."""

    def __init__(self, pipeline: ASGIApp, traces: Traces) -> None:
        self._pipeline = pipeline
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace = self._traces.begin(scope)
        before = _current.set(trace)
        try:
            await self._pipeline(scope, receive, send)
        finally:
            _current.reset(before)
            trace.span.end()


class TracedAuthorizer:
    """An `Authorizer` whose decisions are spans."""

    def __init__(self, authorizer: Authorizer, traces: Traces) -> None:
        self._authorizer = authorizer
        self._traces = traces

    async def decide(self, request: AccessRequest) -> Decision:
        with self._traces.child("decide") as span:
            decision = await self._authorizer.decide(request)
            span.set_attributes(
                {
                    "ostiary.allow": decision.allow is True,
                    "ostiary.cached": decision.cached,
                    "ostiary.revision": decision.revision,
                }
            )
            return decision


class TracedSwapper:
    """A `CredentialSwapper` whose credentials are spans."""

    def __init__(self, swapper: CredentialSwapper, traces: Traces) -> None:
        self._swapper = swapper
        self._traces = traces

    async def swap(self, request: AccessRequest, decision: Decision) -> Credential:
        with self._traces.child("credential") as span:
            credential = await self._swapper.swap(request, decision)
            span.set_attribute("ostiary.per_call", credential.per_call)
            return credential


class TracedUpstream:
    """An `Upstream` whose exchanges are spans, and are told to the service as such."""

    def __init__(self, upstream: Upstream, traces: Traces) -> None:
        self._upstream = upstream
        self._traces = traces

    async def forward(
        self, exchange: Exchange, target: Target, identity: Identity, credential: Credential, renew: Renew
    ) -> None:
        with self._traces.child("upstream", self._traces.client) as span:
            self._traces.outward(exchange, span)
            await self._upstream.forward(exchange, target, identity, credential, renew)
            if exchange.status is not None:
                span.set_attribute("http.response.status_code", exchange.status)


def _sampler(share: float, *, follow: bool) -> Sampler:
    from opentelemetry.sdk.trace.sampling import Decision as Sampled
    from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
    from opentelemetry.trace import Link, TraceState, get_current_span
    from opentelemetry.util.types import Attributes

    class ByChance(Sampler):
        """What belongs to a span of ours is sampled as that is; what arrives, by chance, or as the caller says."""

        def should_sample(
            self,
            parent_context: Context | None,
            trace_id: int,
            name: str,
            kind: SpanKind | None = None,
            attributes: Attributes = None,
            links: Sequence[Link] | None = None,
            trace_state: TraceState | None = None,
        ) -> SamplingResult:
            parent = get_current_span(parent_context).get_span_context()
            if parent.is_valid and (follow or not parent.is_remote):
                sampled = parent.trace_flags.sampled
            else:
                sampled = random.random() < share  # noqa: S311 - which request is sampled is no secret
            return SamplingResult(Sampled.RECORD_AND_SAMPLE if sampled else Sampled.DROP)

        def get_description(self) -> str:
            return "ByChance"

    return ByChance()


def _with_trace(make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    def record(*arguments: Any, **named: Any) -> logging.LogRecord:
        made = make(*arguments, **named)
        trace = _current.get()
        if trace is not None:
            made.trace_id = f"{trace.span.get_span_context().trace_id:032x}"
        return made

    return record
