"""The text is what Prometheus's own parsers read, in both formats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from ostiary.telemetry import METRICS, prefers_openmetrics, render

Parser = Callable[[str], Iterable[Any]]

HOSTILE = 'a\\b"c\nd{e="f"} 1'
SAMPLES: Mapping[str, Any] = {
    "ostiary_requests_total": {("web", "orders", "get-order", "2xx"): 3, (HOSTILE, "", "", "none"): 1},
    "ostiary_decision_duration_seconds": {("opa",): [2, 1, *[0] * 11, 4, 5.25]},
    "ostiary_policy_age_seconds": {(): 1.5},
    "ostiary_audit_lost_total": {(): 0},
}


@pytest.mark.parametrize(("parse", "is_openmetrics"), [(plain, False), (openmetrics, True)])
def test_what_is_rendered_is_read_back_whole(parse: Parser, is_openmetrics: bool) -> None:
    found = {family.name: family for family in parse(render(SAMPLES, openmetrics=is_openmetrics).decode())}

    assert {(one.name, one.type) for one in found.values()} == {(one.stem, one.kind) for one in METRICS.values()}
    assert [(sample.labels, sample.value) for sample in found["ostiary_requests"].samples] == [
        ({"caller": "web", "service": "orders", "endpoint": "get-order", "status": "2xx"}, 3),
        ({"caller": HOSTILE, "service": "", "endpoint": "", "status": "none"}, 1),
    ]
    assert [(sample.name, sample.value) for sample in found["ostiary_policy_age_seconds"].samples] == [
        ("ostiary_policy_age_seconds", 1.5)
    ]
    buckets = {
        sample.labels.get("le", sample.name): sample.value
        for sample in found["ostiary_decision_duration_seconds"].samples
    }
    assert (buckets["0.0001"], buckets["0.00025"], buckets["1.0"], buckets["+Inf"]) == (2, 3, 3, 7)
    assert buckets["ostiary_decision_duration_seconds_sum"] == 5.25
    assert buckets["ostiary_decision_duration_seconds_count"] == 7


@pytest.mark.parametrize(
    ("accept", "is_openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2", True),
        ("text/plain;version=0.0.4;q=0.6, application/openmetrics-text; version=1.0.0; q=0.5", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=best", False),
    ],
)
def test_openmetrics_is_for_who_asks_for_it(accept: str, is_openmetrics: bool) -> None:
    assert prefers_openmetrics(accept) is is_openmetrics
