"""A picture of the ladder at 32 connections: `build/bench.svg`, from the rows of a full run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final, TypeAlias

from benchmarks.contestants import DIRECT, TWO_WORKERS
from benchmarks.processes import BUILD

PICTURE: Final = BUILD / "bench.svg"
LADDER: Final = "ladder, 32 connections"

Row: TypeAlias = Mapping[str, Any]

_LEFT, _TOP, _STEP, _BAR = 190, 96, 30, 16  # pixels, as all lengths
_PANEL, _GAP, _LABEL = 310, 34, 104
_FONT = "system-ui, Helvetica, Arial, sans-serif"
_INK, _QUIET, _LINE = "#1c2733", "#5d6b7a", "#d9dfe5"
_ENVOY, _PROXY, _OPA, _TAIL = "#8a97a5", "#1f6feb", "#f0883e", "#9ec5fe"


def draw(result: Mapping[str, Any]) -> Path | None:
    """Where it is; None where no ladder has been measured."""
    rows = [row for row in result.get("ladder", ()) if row["contest"] == LADDER and row["name"] != TWO_WORKERS]
    if not rows:
        return None
    PICTURE.write_text(picture(rows, processor=result["machine"]["processor"]), encoding="utf-8")
    return PICTURE


def picture(rows: Sequence[Row], *, processor: str) -> str:
    """The SVG document."""
    width = _LEFT + 3 * (_PANEL + _GAP)
    height = _TOP + len(rows) * _STEP + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="{_FONT}" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(20, 32, "What each stage costs, on one core at 32 connections", size=18, weight=600),
        _text(20, 52, f"Medians of {rows[0]['rounds']} interleaved rounds; {processor}", fill=_QUIET),
    ]
    for index, row in enumerate(rows):
        y = _TOP + index * _STEP
        parts.append(_text(_LEFT - 12, y + _BAR / 2 + 4, row["name"], anchor="end"))
        if index % 2:
            parts.insert(2, _box(0, y - 7, width, _STEP, "#f6f8fa"))
    for number, panel in enumerate((_throughput, _cpu, _latency)):
        parts += panel(rows, _LEFT + number * (_PANEL + _GAP), height - 40)
    return "\n".join([*parts, "</svg>", ""])


# panels: `left` is where one begins, `bottom` where its axis is


def _throughput(rows: Sequence[Row], left: float, bottom: float) -> list[str]:
    shown = [row for row in rows if row["cpu_us"] is not None]  # what has nothing between would dwarf the others
    most = max(row["of_baseline"]["throughput"]["greatest"] for row in shown)
    place = _linear(left, most)
    parts = [_title(left, "Requests per second, × plain Envoy"), *_axis(place, bottom, most)]
    for row, y in _placed(rows):
        ratio = row["of_baseline"]["throughput"]
        label = f"{ratio['median']:.2f}  ·  {row['per_second']['median']:,.0f}/s"
        if row not in shown:
            parts.append(_text(left + 4, y + 12, label, fill=_QUIET))
            continue
        end, greatest = place(ratio["median"]), place(ratio["greatest"])
        parts += [
            _box(left, y, end - left, _BAR, _colour(row)),
            _whisker(place(ratio["least"]), greatest, y),
            _text(max(end, greatest) + 6, y + 12, label),
        ]
    return parts


def _cpu(rows: Sequence[Row], left: float, bottom: float) -> list[str]:
    shown = [row for row in rows if row["cpu_us"] is not None]
    most = max(row["cpu_us"]["median"] + row["opa_cpu_us"]["median"] for row in shown)
    place = _linear(left, most)
    parts = [
        _title(left, "CPU time of a request, µs"),
        *_key(left + 190, [(_PROXY, "proxy"), (_OPA, "OPA")]),
        *_axis(place, bottom, most),
    ]
    for row, y in _placed(rows):
        if row not in shown:
            continue
        own, opa = row["cpu_us"]["median"], row["opa_cpu_us"]["median"]
        middle, end = place(own), place(own + opa)
        parts += [_box(left, y, middle - left, _BAR, _colour(row)), _box(middle, y, end - middle, _BAR, _OPA)]
        parts.append(_text(end + 6, y + 12, f"{own:.0f} + {opa:.0f}" if opa >= 1 else f"{own:.0f}"))
    return parts


def _latency(rows: Sequence[Row], left: float, bottom: float) -> list[str]:
    least = min(row["p50_us"]["median"] for row in rows)
    most = max(row["p999_us"] for row in rows)
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))

    def place(value: float) -> float:
        return left + (math.log10(value) - low) / (high - low) * _PANEL

    parts = [_title(left, "Latency, ms"), *_key(left + 110, [(_PROXY, "p50"), (_TAIL, "to p99, p99.9")])]
    for power in range(low, high + 1):
        parts += _tick(place(10**power), bottom, f"{10**power / 1000:g}")
    for row, y in _placed(rows):
        p50, p99, p999 = (place(value) for value in (row["p50_us"]["median"], row["p99_us"]["median"], row["p999_us"]))
        middle = y + _BAR / 2
        parts += [
            _box(p50, middle - 3, p99 - p50, 6, _TAIL),
            f'<line x1="{p99:.1f}" x2="{p999:.1f}" y1="{middle}" y2="{middle}" stroke="{_TAIL}" stroke-width="2"/>',
            f'<circle cx="{p50:.1f}" cy="{middle}" r="5" fill="{_colour(row)}"/>',
        ]
    return parts


# their parts


def _placed(rows: Sequence[Row]) -> list[tuple[Row, float]]:
    return [(row, _TOP + index * _STEP) for index, row in enumerate(rows)]


def _colour(row: Row) -> str:
    """Ostiary stands out from what it is compared with."""
    return _ENVOY if row["name"] in (row["of_baseline"]["name"], DIRECT) else _PROXY


def _linear(left: float, most: float) -> Callable[[float], float]:
    """Of a panel with bars: to their right there is room for what they say."""
    return lambda value: left + value / most * (_PANEL - _LABEL)


def _axis(place: Callable[[float], float], bottom: float, most: float) -> list[str]:
    step = _round_step(most / 4)
    ticks = [number * step for number in range(math.floor(most / step) + 1)]
    return [part for tick in ticks for part in _tick(place(tick), bottom, f"{tick:g}")]


def _round_step(value: float) -> float:
    """The least of 1, 2, 5 × a power of ten that is not below it."""
    unit = 10.0 ** math.floor(math.log10(value))
    return next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= value * 0.999)


def _tick(x: float, bottom: float, label: str) -> list[str]:
    line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 10}" y2="{bottom}" stroke="{_LINE}"/>'
    return [line, _text(x, bottom + 16, label, anchor="middle", fill=_QUIET)]


def _title(left: float, text: str) -> str:
    return _text(left, _TOP - 20, text, weight=600)


def _key(left: float, entries: Sequence[tuple[str, str]]) -> list[str]:
    parts = []
    for colour, text in entries:
        parts += [_box(left, _TOP - 29, 10, 10, colour), _text(left + 14, _TOP - 20, text, fill=_QUIET)]
        left += 24 + 7 * len(text)
    return parts


def _whisker(least: float, greatest: float, y: float) -> str:
    middle = y + _BAR / 2
    return (
        f'<path d="M{least:.1f} {middle}H{greatest:.1f}M{least:.1f} {middle - 4}v8M{greatest:.1f} {middle - 4}v8"'
        f' stroke="{_INK}" fill="none"/>'
    )


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y}" width="{max(width, 0):.1f}" height="{height}" fill="{colour}"/>'


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", fill: str = _INK, size: int = 12, weight: int = 400
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" fill="{fill}" font-size="{size}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )
