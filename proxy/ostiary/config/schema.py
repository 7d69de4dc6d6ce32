"""The JSON Schema of `ostiary.yaml`."""

from __future__ import annotations

from typing import Any

from ostiary.config.model import Config
from ostiary.policy.schema import schema_of


def config_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) for editors. It knows shapes; `load_config` knows more."""
    return schema_of(Config, title="ostiary.yaml")
