"""Questions to the audit, answered by DuckDB from the files as they are. DuckDB comes with `ostiary[query]`.

Decisions, refusals and answers are put together with their completions, one row for each request. The selection is
bound, never written into the statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ostiary.audit.chain import LONGEST
from ostiary.audit.reading import Selection, audit_files

COLUMNS: Final = (
    "time",
    "decision_id",
    "kind",
    "caller",
    "subject",
    "service",
    "endpoint",
    "method",
    "path",
    "status",
    "outcome",
    "reasons",
    "observed",
    "shadow",
    "source_ip",
    "duration_ms",
)
"""Of a row, in their order."""

_READ: Final = {
    "kind": "VARCHAR",
    "time": "VARCHAR",
    "decision_id": "VARCHAR",
    "caller": "VARCHAR",
    "service": "VARCHAR",
    "endpoint": "VARCHAR",
    "method": "VARCHAR",
    "path": "VARCHAR",
    "reasons": "VARCHAR[]",
    "outcome": "VARCHAR",
    "status": "INTEGER",
    "identity": "STRUCT(issuer VARCHAR, subject VARCHAR)",
    "result": "STRUCT(observed BOOLEAN, shadow VARCHAR)",
    "source_ip": "VARCHAR",
    "duration_ms": "DOUBLE",
}

_STATEMENT: Final = """\
WITH lines AS (
  SELECT * FROM read_json($files, format = 'newline_delimited', columns = {columns}, ignore_errors = true,
                          maximum_object_size = {longest})
), requests AS (
  SELECT a.time, a.decision_id, a.kind, a.caller, a.identity.subject AS subject, a.service, a.endpoint, a.method,
         a.path, coalesce(c.status, a.status) AS status, coalesce(c.outcome, a.outcome) AS outcome,
         list_concat(coalesce(a.reasons, []), coalesce(c.reasons, [])) AS reasons,
         a.kind = 'decision' AND coalesce(a.result.observed, false) AS observed, a.result.shadow AS shadow, a.source_ip,
         coalesce(c.duration_ms, a.duration_ms) AS duration_ms
  FROM (SELECT * FROM lines WHERE kind IN ('decision', 'refusal', 'answer')) a
  LEFT JOIN (SELECT * FROM lines WHERE kind = 'completion') c USING (decision_id)
)
SELECT {names} FROM (
  SELECT * FROM requests
  WHERE ($caller IS NULL OR caller = $caller)
    AND ($service IS NULL OR service = $service)
    AND ($endpoint IS NULL OR endpoint = $endpoint)
    AND ($decision_id IS NULL OR decision_id = $decision_id)
    AND ($reason IS NULL OR list_contains(reasons, $reason))
    AND ($since IS NULL OR time >= $since)
    AND ($until IS NULL OR time < $until)
  ORDER BY time DESC LIMIT $limit
) ORDER BY time, decision_id
"""


class QueryUnavailable(Exception):
    """DuckDB is not installed."""


def query(directories: Sequence[Path], selection: Selection, *, limit: int) -> list[dict[str, Any]]:
    """The last `limit` requests of a selection, oldest first. Raises `QueryUnavailable`, and OSError."""
    try:
        import duckdb
    except ImportError as error:
        raise QueryUnavailable("queries take DuckDB: pip install 'ostiary[query]'") from error
    files = [str(path) for found in audit_files(directories).values() for _, path in found if path.stat().st_size]
    if not files:
        return []
    columns = "{" + ", ".join(f"{name}: '{kind}'" for name, kind in _READ.items()) + "}"
    statement = _STATEMENT.format(columns=columns, longest=LONGEST, names=", ".join(COLUMNS))
    with duckdb.connect(":memory:", config={"autoinstall_known_extensions": False}) as connection:
        rows = connection.execute(
            statement,
            {
                "files": files,
                "caller": selection.caller,
                "service": selection.service,
                "endpoint": selection.endpoint,
                "decision_id": selection.decision_id,
                "reason": selection.reason,
                "since": selection.since,
                "until": selection.until,
                "limit": limit,
            },
        ).fetchall()
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]
