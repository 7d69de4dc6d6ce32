"""Spans of requests, as a collector receives them, and the trace context that comes in and goes out."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from ostiary.telemetry.context import carrying, parent_of
from ostiary.telemetry.traces import Traces
from support.forwarding import replies, reserved_port, response
from support.proxy import TRUSTING_NOBODY, RunningProxy, running_proxy
from support.upstream import RawUpstream

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-00"


@dataclass
class Collector:
    """An OTLP/HTTP receiver at `endpoint`."""

    endpoint: str
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)

    def spans(self, trace_id: str) -> dict[str, Span]:
        """Those of a trace, by name."""
        return {
            span.name: span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            if span.trace_id.hex() == trace_id
        }

    def wait_for(self, trace_id: str, name: str) -> dict[str, Span]:
        deadline = time.monotonic() + 60
        while name not in (found := self.spans(trace_id)):
            assert time.monotonic() < deadline, (name, found)
            time.sleep(0.02)
        return found


@dataclass
class Traced:
    proxy: RunningProxy
    upstream: RawUpstream
    collector: Collector


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with HTTPServer(host="127.0.0.1", port=0, threaded=True) as server:
        found = Collector(server.url_for("/v1/traces"))

        def take(request: Request) -> Response:
            found.requests.append(ExportTraceServiceRequest.FromString(request.get_data()))
            return Response(b"", content_type="application/x-protobuf")

        server.expect_request("/v1/traces", method="POST").respond_with_handler(take)
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traced(opa_binary: Path, collector: Collector) -> AsyncIterator[Traced]:
    traces = f'telemetry: {{traces: {{endpoint: "{collector.endpoint}", sample: 1}}}}\n'
    with reserved_port() as port:
        async with (
            running_proxy(upstreams={"orders": port}, config_extra=traces) as proxy,
            RawUpstream(replies(response()), port=port).running() as upstream,
        ):
            yield Traced(proxy, upstream, collector)


async def ask(traced: Traced, path: str = "/orders/42", method: str = "GET", **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.request(method, traced.proxy.url(path), headers={**traced.proxy.headers(), **headers})


def attributes(span: Span) -> dict[str, Any]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes}


@pytest.mark.asyncio(loop_scope="module")
async def test_a_request_is_a_span_of_its_caller_s_trace_with_a_child_for_each_stage(traced: Traced) -> None:
    """That the caller does not sample it says nothing: here all are sampled."""
    answer = await ask(traced, traceparent=GIVEN, tracestate="rojo=1")
    assert answer.status_code == 200
    spans = traced.collector.wait_for(TRACE, "GET orders/get-order")
    assert spans.keys() == {"GET orders/get-order", "decide", "credential", "upstream"}
    whole = spans["GET orders/get-order"]
    assert (whole.parent_span_id.hex(), whole.kind) == (PARENT, Span.SPAN_KIND_SERVER)
    assert attributes(whole) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "ostiary.decision_id": answer.headers["ostiary-decision-id"],
        "ostiary.service": "orders",
        "ostiary.caller": "web",
        "ostiary.endpoint": "get-order",
        "ostiary.permission": "web/orders/get-order/44136fa3",
    }
    for name in ("decide", "credential", "upstream"):
        assert spans[name].parent_span_id == whole.span_id
        assert whole.start_time_unix_nano <= spans[name].start_time_unix_nano
        assert spans[name].end_time_unix_nano <= whole.end_time_unix_nano
    assert attributes(spans["decide"]).keys() == {"ostiary.allow", "ostiary.cached", "ostiary.revision"}

    seen = traced.upstream.requests[-1]
    assert seen.values("traceparent") == [f"00-{TRACE}-{spans['upstream'].span_id.hex()}-01"]
    assert seen.values("tracestate") == ["rojo=1"]
    lines = await traced.proxy.recorded(answer.headers["ostiary-decision-id"], lines=2)
    assert [line["trace_id"] for line in lines] == [TRACE, TRACE]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_malformed_context_is_dropped_and_the_request_is_not_refused(traced: Traced) -> None:
    answer = await ask(traced, traceparent="00-" + "0" * 32 + "-" + PARENT + "-01", tracestate="rojo=1")
    assert answer.status_code == 200
    seen = traced.upstream.requests[-1]
    ((ours,), state) = seen.values("traceparent"), seen.values("tracestate")
    trace_id = ours.split("-")[1]
    assert trace_id not in ("0" * 32, TRACE)
    assert state == []
    whole = traced.collector.wait_for(trace_id, "GET orders/get-order")["GET orders/get-order"]
    assert whole.parent_span_id == b""


@pytest.mark.asyncio(loop_scope="module")
async def test_a_refusal_is_a_span_with_its_reason_and_has_no_upstream(traced: Traced) -> None:
    given = f"00-{'a' * 32}-{PARENT}-01"
    answer = await ask(traced, method="DELETE", traceparent=given)
    assert answer.status_code == 403
    spans = traced.collector.wait_for("a" * 32, "DELETE orders/delete-order")
    assert spans.keys() == {"DELETE orders/delete-order", "decide"}
    whole = spans["DELETE orders/delete-order"]
    assert attributes(whole)["ostiary.reason"] == "permission-missing"
    assert whole.status.code == Status.STATUS_CODE_UNSET  # the proxy did what it should
    (line,) = await traced.proxy.recorded(answer.headers["ostiary-decision-id"], lines=1)
    assert line["trace_id"] == "a" * 32


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        GIVEN.upper(),
        f" {GIVEN}",
        f"{GIVEN}-",
        f"{GIVEN}-00",
        GIVEN.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        f"01-{TRACE}-{PARENT}-01x",
        f"01-{TRACE}-{PARENT}-01-" + "x" * 512,
    ],
)
def test_what_is_no_traceparent_is_none(value: str) -> None:
    assert parent_of([(b"traceparent", value.encode())]) is None


def test_a_traceparent_counts_once_and_a_later_version_for_what_is_known_of_it() -> None:
    later = f"01-{TRACE}-{PARENT}-03-more".encode()
    found = parent_of([(b"host", b"x"), (b"traceparent", later)])
    assert found is not None
    assert (f"{found.trace_id:032x}", f"{found.span_id:016x}", found.sampled) == (TRACE, PARENT, True)
    assert parent_of([(b"traceparent", later)] * 2) is None
    assert parent_of([]) is None


def test_ours_takes_the_place_of_whatever_came() -> None:
    given = [(b"traceparent", b"x"), (b"a", b"1"), (b"tracestate", b"s"), (b"traceparent", b"y")]
    ours = (b"traceparent", b"00-" + b"0" * 31 + b"1-" + b"0" * 15 + b"2-00")
    assert carrying(given, trace_id=1, span_id=2, sampled=False, known=True) == (
        (b"a", b"1"),
        (b"tracestate", b"s"),
        ours,
    )
    assert carrying(given, trace_id=1, span_id=2, sampled=False, known=False) == ((b"a", b"1"), ours)


@pytest.mark.parametrize(
    ("sample", "follow", "flags", "sampled"),
    [
        (0, False, "01", False),  # who calls does not decide
        (1, False, "00", True),
        (0, True, "01", True),
        (1, True, "00", False),
        (0, True, None, False),
        (1, True, None, True),
    ],
)
async def test_who_decides_what_is_sampled(sample: float, follow: bool, flags: str | None, sampled: bool) -> None:
    traces = Traces(endpoint="http://127.0.0.1:9/v1/traces", sample=sample, follow=follow, worker="w0")
    given = [] if flags is None else [(b"traceparent", f"00-{TRACE}-{PARENT}-{flags}".encode())]
    trace = traces.begin({"type": "http", "method": "GET", "headers": given})
    assert trace.span.is_recording() is sampled
    assert (f"{trace.span.get_span_context().trace_id:032x}" == TRACE) is (flags is not None)
    await traces.close()


def test_without_the_extra_the_proxy_says_what_is_missing(opa_binary: Path, tmp_path: Path) -> None:
    (tmp_path / "opentelemetry.py").write_text("")  # found first, and not the package
    traces = "telemetry: {traces: {endpoint: 'http://127.0.0.1:4318/v1/traces'}}\n"
    with running_proxy(upstreams={"orders": 9}, config_extra=traces).prepared() as place:
        run = subprocess.run(
            [sys.executable, "-m", "ostiary", "run"],
            cwd=place,
            env={**os.environ, **TRUSTING_NOBODY, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (run.returncode, run.stderr.splitlines()[-1]) == (
        2,
        "telemetry.traces needs OpenTelemetry: pip install 'ostiary[otlp]'",
    )


def test_without_traces_opentelemetry_is_not_imported() -> None:
    program = "import sys, ostiary.worker, ostiary.supervisor; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
