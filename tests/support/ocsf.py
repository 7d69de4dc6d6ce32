"""Holding events against what OCSF requires of their class."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """Of a class of events, by the place of each object in it: what is required, and which members are used. `captions`
    are those of enumerations, and `siblings` the names of their texts, where that is not the name without `_id`."""

    required: Mapping[str, Set[str]]
    at_least_one: Mapping[str, Set[str]]
    members: Mapping[str, Set[str]]
    captions: Mapping[str, Mapping[int, str]]
    siblings: Mapping[str, str]

    def mistakes(self, event: Mapping[str, Any]) -> list[str]:
        """What the schema has against an event."""
        found = []

        def look(place: str, part: Any) -> None:
            if isinstance(part, list):
                for one in part:
                    look(place, one)
                return
            if not isinstance(part, dict) or place == "unmapped":
                return
            members = {name for name, value in part.items() if value is not None}
            found.extend(f"{place}: {name} is missing" for name in self.required.get(place, set()) - members)
            found.extend(f"{place}: {name} is unknown" for name in set(part) - self.members.get(place, set()))
            if place in self.at_least_one and not members & self.at_least_one[place]:
                found.append(f"{place}: none of {sorted(self.at_least_one[place])}")
            for name, value in part.items():
                look(name if place == "event" else f"{place}.{name}", value)

        look("event", dict(event))
        for name, captions in self.captions.items():
            sibling = self.siblings.get(name, name.removesuffix("_id"))
            if captions.get(event[name]) != event[sibling]:
                found.append(f"{name}: {event[name]} is not {event[sibling]}")
        if event["type_uid"] != event["class_uid"] * 100 + event["activity_id"]:
            found.append("type_uid does not fit")
        return found
