"""What a proxy tells of itself to whoever watches it: metrics for Prometheus. `docs/telemetry.md` has all of them."""

from ostiary.telemetry.catalogue import LABEL_SETS, METRICS, OTHER, Family
from ostiary.telemetry.exposition import CONTENT_TYPES, prefers_openmetrics, render
from ostiary.telemetry.tally import Counted, Tally
from ostiary.telemetry.totals import Totals
from ostiary.telemetry.use import PermissionUse, standing_permissions

__all__ = [
    "CONTENT_TYPES",
    "LABEL_SETS",
    "METRICS",
    "OTHER",
    "Counted",
    "Family",
    "PermissionUse",
    "Tally",
    "Totals",
    "prefers_openmetrics",
    "render",
    "standing_permissions",
]
