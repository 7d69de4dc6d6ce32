"""The models of `telemetry`: what a proxy tells of itself beyond its metrics and its log."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ostiary.config.fields import SecureUrl
from ostiary.policy.mistakes import StandIn
from ostiary.policy.model import Strict


class Traces(Strict):
    """Spans of requests, sent over OTLP/HTTP to an OpenTelemetry collector. Needs `pip install 'ostiary[otlp]'`."""

    endpoint: Annotated[SecureUrl, StandIn("https://stand-in.invalid")]
    """The whole URL that takes them: `http://127.0.0.1:4318/v1/traces`."""
    sample: Annotated[float, Field(ge=0, le=1)] = 0.05
    """The share of requests of which spans are made, chosen by chance."""
    callers: Literal["named", "sampling"] = "named"
    """What is believed of a caller's `traceparent`. `named`: which trace a request belongs to. `sampling`: that, and
    whether it is sampled, so that who calls decides how much is sent."""


class Telemetry(Strict):
    """What the proxy tells of itself. Metrics are always there, on the administrative listener."""

    traces: Traces | None = None
    """None are made if null."""
