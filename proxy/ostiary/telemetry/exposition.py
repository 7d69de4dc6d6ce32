"""Metrics as Prometheus reads them: its text format 0.0.4, or OpenMetrics 1.0.0 for who asks for that.

Written here and not by prometheus-client, which would be a dependency of every deployment for what is a page of code:
what it has besides are counters that take a lock, and one file per process and metric to share them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ostiary.telemetry.catalogue import METRICS, Family
from ostiary.telemetry.tally import Labels
from ostiary.telemetry.totals import Value

CONTENT_TYPES: Final = {
    False: "text/plain; version=0.0.4; charset=utf-8",
    True: "application/openmetrics-text; version=1.0.0; charset=utf-8",
}
"""By whether it is OpenMetrics."""

_ESCAPED: Final = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})
_HELP_ESCAPED: Final = str.maketrans({"\\": "\\\\", "\n": "\\n"})


def prefers_openmetrics(accept: str) -> bool:
    """Whether a client asks for OpenMetrics no less than for plain text (RFC 9110 section 12.5.1)."""
    wanted = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for choice in accept.lower().split(","):
        media, *parameters = (part.strip() for part in choice.split(";"))
        if media in wanted:
            quality = [parameter.removeprefix("q=") for parameter in parameters if parameter.startswith("q=")]
            try:
                found = float(quality[0]) if quality else 1.0
            except ValueError:
                continue
            wanted[media] = max(wanted[media], found)
    return wanted["application/openmetrics-text"] > 0 and (
        wanted["application/openmetrics-text"] >= wanted["text/plain"]
    )


def render(samples: Mapping[str, Mapping[Labels, Value]], *, openmetrics: bool = False) -> bytes:
    """Every metric of the catalogue, those without a sample too: whoever looks can see that it exists."""
    lines: list[str] = []
    for family in METRICS.values():
        name = family.stem if openmetrics else family.name
        lines.append(f"# HELP {name} {family.help.translate(_ESCAPED if openmetrics else _HELP_ESCAPED)}\n")
        lines.append(f"# TYPE {name} {family.kind}\n")
        for labels, value in samples.get(family.name, {}).items():
            pairs = [f'{label}="{text.translate(_ESCAPED)}"' for label, text in zip(family.labels, labels, strict=True)]
            if isinstance(value, list):
                lines.extend(_histogram(family, pairs, value))
            else:
                lines.append(f"{family.name}{_braced(pairs)} {_number(value)}\n")
    if openmetrics:
        lines.append("# EOF\n")
    return "".join(lines).encode()


def _histogram(family: Family, pairs: Sequence[str], value: Sequence[float]) -> Iterator[str]:
    *counts, total = value
    seen = 0.0
    for bound, count in zip((*(repr(bound) for bound in family.buckets), "+Inf"), counts, strict=True):
        seen += count
        at_most = f'le="{bound}"'
        yield f"{family.name}_bucket{_braced([*pairs, at_most])} {_number(seen)}\n"
    yield f"{family.name}_sum{_braced(pairs)} {_number(total)}\n"
    yield f"{family.name}_count{_braced(pairs)} {_number(seen)}\n"


def _braced(pairs: Sequence[str]) -> str:
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
