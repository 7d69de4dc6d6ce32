"""The store of grants that is configured."""

from __future__ import annotations

from pathlib import Path

from ostiary.config.fields import SQLITE
from ostiary.config.model import Grants
from ostiary.errors import ConfigurationError
from ostiary.grants.base import DatabaseStore
from ostiary.grants.sqlite import SqliteStore
from ostiary.grants.store import Bounds


def grant_store(settings: Grants) -> DatabaseStore:
    """Not opened yet. Raises `ConfigurationError` if the extra that it takes is not installed."""
    url = settings.url.get_secret_value()
    bounds = Bounds(
        time_per_day=settings.time_per_day,
        requests_per_day=settings.requests_per_day,
        keep_ended=settings.keep_ended,
    )
    if url.startswith(SQLITE):
        return SqliteStore(Path(url.removeprefix(SQLITE)), bounds=bounds, deadline=settings.deadline)
    try:
        from ostiary.grants.postgresql import PostgresStore
    except ModuleNotFoundError as error:
        raise ConfigurationError(["grants.url: PostgreSQL takes pip install 'ostiary[postgresql]'"]) from error
    return PostgresStore(url, bounds=bounds, deadline=settings.deadline)
