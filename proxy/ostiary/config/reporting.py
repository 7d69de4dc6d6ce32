"""The model of `opa.report_to`: who is told what OPA says of its bundle."""

from __future__ import annotations

from ostiary.config.fields import FilePath, SecureUrl
from ostiary.policy.model import Strict


class ReportTo(Strict):
    """A bundle server, `ostiary bundle serve`, that gets the reports of OPA's status plugin from this proxy, where OPA
    sends them to `listen.admin`."""

    url: SecureUrl
    """Its address, `https://policy.internal:9400`, without `/status`."""
    token_file: FilePath | None = None
    """A file with the bearer token of a reader, read each time."""
    ca_file: FilePath | None = None
    """PEM file of the authorities that are trusted for it; the system's if left out."""
