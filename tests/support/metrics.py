"""What a running proxy exports, read by Prometheus's own parser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from support.proxy import RunningProxy

OPENMETRICS: Final = "application/openmetrics-text;version=1.0.0"


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


def scrape(proxy: RunningProxy, accept: str = "*/*") -> httpx.Response:
    transport = httpx.HTTPTransport(uds=None if proxy.admin_port else str(proxy.admin), verify=False)
    with httpx.Client(transport=transport, trust_env=False, timeout=30) as client:
        return client.get(f"http://127.0.0.1:{proxy.admin_port or 80}/metrics", headers={"accept": accept})


def samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield Sample(sample.name, sample.labels, sample.value)


def total(text: str, name: str, **labels: str) -> float:
    """The sum of all samples of that name that have these labels."""
    return sum(one.value for one in samples(text) if one.name == name and labels.items() <= one.labels.items())
