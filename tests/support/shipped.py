"""What a stage is told where the configuration says nothing, for tests that change one thing of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from ostiary import stage_settings
from ostiary.clock import Clock
from ostiary.concierge import CorsSettings
from ostiary.config import Config
from ostiary.config.services import Cors
from ostiary.decision.limits import LimitedAuthorizer
from ostiary.interfaces import Authorizer
from ostiary.server import ListenerLimits
from ostiary.upstream import UpstreamSettings

ORIGIN = "https://shop.example"


@cache
def config() -> Config:
    """The least that can be written, with the service `orders`."""
    return Config.model_validate(
        {
            "listen": {"data": "127.0.0.1:0"},
            "issuers": [{"issuer": "https://idp.test", "audience": "proxy", "key_file": "k", "algorithms": ["ES256"]}],
            "services": {"orders": {"hosts": ["orders.test"], "upstream": "http://127.0.0.1:9001"}},
            "opa": {"managed": {"bundle": "b"}},
        }
    )


def listener_limits(**changes: Any) -> ListenerLimits:
    return replace(stage_settings.listener_limits(config()), **changes)


def upstream_settings(**changes: Any) -> UpstreamSettings:
    """Those of `http://127.0.0.1:9001`."""
    return replace(stage_settings.upstream_settings(config().services["orders"], config()), **changes)


def cors_settings(**changes: Any) -> CorsSettings:
    """Those for pages of `ORIGIN`."""
    service = config().services["orders"].model_copy(update={"cors": Cors(origins=(ORIGIN,))})
    shipped = stage_settings.cors_settings(service)
    assert shipped is not None
    return replace(shipped, **changes)


def limited_authorizer(*, authorizer: Authorizer, clock: Clock, **changes: Any) -> LimitedAuthorizer:
    limits = config().limits
    shipped = {
        "in_flight": limits.decisions_in_flight,
        "rate": limits.decisions_per_second,
        "burst": 2 * limits.decisions_per_second,
    }
    return LimitedAuthorizer(authorizer=authorizer, clock=clock, **{**shipped, **changes})
