"""Conditions in the words of a person: what a permission demands, and what a request has of it.

Both are read from the compiled form (`ostiary.policy.terms`), so that the access map, which reads sources, and
explanations, which read bundles, say the same thing in the same words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from ostiary.models import Json
from ostiary.policy.terms import WEEK
from ostiary.policy.values import written_duration
from ostiary.policy.words import either

_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:/@*+~-]+")


def text(value: Json) -> str:
    """A value as it is where that is unmistakable, else as JSON."""
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def conditions(compiled: Mapping[str, Json]) -> tuple[str, ...]:
    """What `compile_conditions` gave, a phrase for each condition."""
    found = compiled.get("conditions", {})
    return (
        *(demanded(name, argument) for name, argument in found.get("when", {}).items()),
        *(demanded(f"custom {name}", argument) for name, argument in found.get("custom", {}).items()),
    )


def demanded(name: str, argument: Json) -> str:
    """A condition as people would say it: `hours 08:00–18:00 mon–fri Europe/Paris`."""
    if name == "source":
        return f"source {either(argument)}"
    if name == "hours":
        return f"hours {_hours(argument)}"
    if name == "claims":
        return f"claims {_pairs(argument)}"
    if name == "read-only":
        return "read-only"
    if name == "query":
        return f"query only {_pairs(argument)}"
    if name == "path":
        return f"path {', '.join(map(_variable, argument))}"
    return f"{name} {json.dumps(argument, ensure_ascii=False)}"


def found(name: str, value: Json) -> str:
    """What a request has where the condition looks; nothing where that cannot be told."""
    if name == "hours" and value is not None:
        return f"{str(value['day']).lower()} {value['time']}"
    if name == "claims":
        return ", ".join(f"{text(claim)} = {_all_of(values)}" for claim, values in value.items()) or "no such claim"
    if name == "query":
        return "a query with more than one reading" if value is None else _query(value)
    if name == "path":
        return ", ".join(
            f"{variable} = {text(each['segment'])} and the claim {text(each['claim'])}"
            for variable, each in (value or {}).items()
        )
    return "" if value is None else text(value)


def approval(limits: Mapping[str, Json]) -> str:
    """Who has to approve a grant, and how long it may last: `approved by 2 of ann, bob or eve, for at most 30m`."""
    approvals = "" if limits["approvals"] == 1 else f"{limits['approvals']} of "
    duration = written_duration(limits["max_duration"] * 1000)
    return f"approved by {approvals}{either(limits['approvers'])}, for at most {duration}"


def _hours(hours: Mapping[str, Json]) -> str:
    first, *rest = hours["windows"]
    # Past midnight there are two windows; the day is the one it began on.
    end = rest[0]["to"] if rest else first["to"]
    parts = (f"{_clock(first['from'])}–{_clock(end)}", _days(first["days"]), hours["timezone"])
    return " ".join(part for part in parts if part)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def _days(days: Iterable[str]) -> str:
    """`mon–fri`, `sat,sun`, `mon–wed,fri`; nothing for every day."""
    places = sorted(map(WEEK.index, days))
    if len(places) == len(WEEK):
        return ""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return ",".join(_run([WEEK[place][:3].lower() for place in run]) for run in runs)


def _run(days: list[str]) -> str:
    return f"{days[0]}–{days[-1]}" if len(days) > 2 else ",".join(days)


def _pairs(demands: Mapping[str, Json]) -> str:
    return ", ".join(f"{text(name)} = {_one_of(values)}" for name, values in demands.items())


def _one_of(values: Json) -> str:
    if values == "*":
        return "anything"
    return either(map(text, values)) if isinstance(values, list) and values else text(values)


def _all_of(values: Json) -> str:
    return " and ".join(map(text, values)) if isinstance(values, list) and values else text(values)


def _query(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{text(name)} = {text(value)}" for name, value in pairs) or "no parameters"


def _variable(entry: Mapping[str, Json]) -> str:
    phrase = f"{entry['variable']} = the claim {text(entry['claim'])}"
    # A permission of several endpoints may name a variable that one of them lacks.
    return phrase if "place" in entry else f"{phrase}, which never holds here"
