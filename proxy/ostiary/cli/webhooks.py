"""Who is told of grants: what `ostiary check` finds out, and `ostiary access test-webhook`. No URL is shown: those of
chat tools are secrets."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from ostiary import notifying
from ostiary.cli.findings import Finding, ok, wrong
from ostiary.config import Config, load_config
from ostiary.errors import ConfigurationError
from ostiary.grants.webhooks.sender import Sender
from ostiary.policy.words import closest, quoted


def look_at_webhooks(config: Config) -> list[Finding]:
    """Whether there is a secret for each, and a message can be made of its template. Nobody is told anything."""
    findings: list[Finding] = []
    for name, settings in () if config.grants is None else config.grants.webhooks.items():
        part = f"webhook {name}"
        try:
            made = notifying.webhook(name, settings)
        except ConfigurationError as error:
            findings += wrong(part, error)
        else:
            size = len(made.template.body(notifying.example(config)))
            findings += ok(part, f"{settings.template}, {size} bytes, {'signed' if made.keys() else 'not signed'}")
    return findings


def tried(name: str, file: Path) -> str | None:
    """Why a test is not taken, None if it is. Raises `ConfigurationError`."""
    config = load_config(file, os.environ)
    webhooks = {} if config.grants is None else config.grants.webhooks
    if name not in webhooks:
        raise ConfigurationError([f"{file}: there is no webhook {quoted(name)}{closest(name, webhooks)}"])
    made = notifying.webhook(name, webhooks[name])
    return asyncio.run(Sender().send(made, notifying.example(config))).failure
