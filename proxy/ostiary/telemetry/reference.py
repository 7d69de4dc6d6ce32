"""The table of metrics in docs/telemetry.md: `python -m ostiary.telemetry.reference` prints it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from ostiary.telemetry.catalogue import METRICS


def reference() -> str:
    """The table, in Markdown."""
    return "".join(_lines())


def _lines() -> Iterator[str]:
    yield "| metric | kind | labels | |\n|---|---|---|---|\n"
    for family in METRICS.values():
        labels = ", ".join(f"`{label}`" for label in family.labels)
        bounds = ", ".join(f"{bound:g}" for bound in family.buckets)
        buckets = f" Buckets: {bounds} s." if bounds else ""
        yield f"| `{family.name}` | {family.kind} | {labels} | {family.help}{buckets} |\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
