"""What the parts of a permission map must say of one another: names that exist, permissions that can hold.

A permission or condition that could never hold is a mistake too: somebody believes that it does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pydantic import BaseModel
from pydantic_core import InitErrorDetails, PydanticCustomError

from ostiary.policy.document import Place
from ostiary.policy.mistakes import REFERENCE
from ostiary.policy.words import Nearest, quoted
from ostiary.routes import Endpoint, RouteTable

if TYPE_CHECKING:
    from ostiary.policy.model import Conditions, Eligibility, Permission, PermissionMap

Found: TypeAlias = Iterator[tuple[Place, str]]
Keys: TypeAlias = tuple[str, ...]

_READ: Final = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The names that a map defines, also by entries that are broken: using those is no second mistake."""

    endpoints: Mapping[str, Collection[str]]
    roles: Collection[str]
    callers: Collection[str]

    @classmethod
    def of(cls, permission_map: PermissionMap) -> Known:
        return cls(
            endpoints={name: tuple(service.endpoints) for name, service in permission_map.services.items()},
            roles=tuple(permission_map.roles),
            callers=tuple(permission_map.callers),
        )

    @classmethod
    def in_document(cls, value: Any) -> Known:
        """From a file's content, before it is known to be a map."""
        services = _mapping(value, "services")
        return cls(
            endpoints={name: dict.fromkeys(_mapping(service, "endpoints")) for name, service in services.items()},
            roles=dict.fromkeys(_mapping(value, "roles")),
            callers=dict.fromkeys(_mapping(value, "callers")),
        )


def _mapping(value: Any, key: str) -> dict[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def find_mistakes(permission_map: PermissionMap, known: Known) -> list[InitErrorDetails]:
    """Every mistake between the map's parts, with its place."""
    check = _Check(permission_map, known)
    return [
        *(_details(place, message) for place, message in (*check.services(), *check.roles(), *check.entries())),
        *(_details(place, message, lacking=lacking) for place, message, lacking in check.coverage()),
        *(
            _details(place, f"is the same as {place[0]}[{other}]", other=(place[0], other))
            for place, other in check.repetitions()
        ),
    ]


def _details(
    place: Place, message: str, *, lacking: Keys | None = None, other: Place | None = None
) -> InitErrorDetails:
    context = {"message": message, "lacking": lacking, "other": other}
    return InitErrorDetails(type=PydanticCustomError(REFERENCE, "{message}", context), loc=place, input=None)


class _Check:
    def __init__(self, permission_map: PermissionMap, known: Known) -> None:
        self._map = permission_map
        self._known = known
        self._nearest = Nearest()

    def services(self) -> Found:
        for name, service in self._map.services.items():
            for conflict in RouteTable(service.endpoints.values()).conflicts:
                yield ("services", name, "endpoints", conflict.second), conflict.message

    def roles(self) -> Found:
        for role, services in self._map.roles.items():
            for service, endpoints in services.items():
                if service not in self._known.endpoints:
                    yield from self._unknown_service(("roles", role, service), service)
                else:
                    yield from self._endpoints(("roles", role, service), service, endpoints)

    def entries(self) -> Found:
        for index, permission in enumerate(self._map.permissions):
            for position, role in enumerate(permission.roles or ()):
                if role not in self._known.roles:
                    yield ("permissions", index, "roles", position), self._unknown("role", role, self._known.roles)
            yield from self._entry(("permissions", index), permission)
        for index, eligibility in enumerate(self._map.eligible):
            yield from self._entry(("eligible", index), eligibility)
            yield from self._approvers(("eligible", index), eligibility)
        for service in self._map.observe:
            if service not in self._known.endpoints:
                yield from self._unknown_service(("observe", service), service)
        for position, name in enumerate(self._map.operators or ()):
            if name not in self._known.callers:
                yield ("operators", position), self._unknown("caller", name, self._known.callers)

    def coverage(self) -> Iterator[tuple[Place, str, Keys]]:
        """Each permission that covers nothing, or covers it in two ways.

        A permission alone could say so. It is said here so that what else it names is checked all the same.
        """
        for index, permission in enumerate(self._map.permissions):
            roles, service, endpoints = permission.roles, permission.service, permission.endpoints
            place = ("permissions", index)
            if roles is not None and (service is not None or endpoints is not None):
                yield place, "names both roles and a service's endpoints: write two permissions", ()
            elif roles is None and service is None:
                yield place, "names neither roles nor a service with endpoints", ("roles", "service")
            elif roles is None and endpoints is None:
                yield place, "'endpoints' is missing: endpoints are named one by one", ("endpoints",)

    def repetitions(self) -> Iterator[tuple[Place, int]]:
        """Each entry that says what one before it says, with the index of the nearest such."""
        sections: dict[str, Iterable[Permission | Eligibility]] = {
            "permissions": self._map.permissions,
            "eligible": self._map.eligible,
        }
        for section, entries in sections.items():
            seen: dict[object, int] = {}
            for index, entry in enumerate(entries):
                essence = _essence(entry)
                if essence in seen:
                    yield (section, index), seen[essence]
                seen[essence] = index

    def _entry(self, place: Place, entry: Permission | Eligibility) -> Found:
        if entry.caller not in self._known.callers:
            yield (*place, "caller"), self._unknown("caller", entry.caller, self._known.callers)
        if entry.service is not None and entry.service not in self._known.endpoints:
            yield from self._unknown_service((*place, "service"), entry.service)
        elif entry.service is not None:
            yield from self._endpoints((*place, "endpoints"), entry.service, entry.endpoints or ())
        if entry.when is not None:
            yield from self._possible((*place, "when"), entry, entry.when)

    def _unknown_service(self, place: Place, service: str) -> Found:
        if self._known.endpoints:  # where a file has no services, that is the mistake
            yield place, self._unknown("service", service, self._known.endpoints)

    def _unknown(self, kind: str, name: str, known: Collection[str]) -> str:
        return f"unknown {kind} {quoted(name)}{self._nearest(name, known)}"

    def _endpoints(self, place: Place, service: str, endpoints: Iterable[str]) -> Found:
        known = self._known.endpoints[service]
        for position, name in enumerate(endpoints):
            if name in known:
                continue
            if "*" in name:
                yield (*place, position), f"{quoted(name)} is no endpoint: there is no wildcard, each is named"
            else:
                yield (*place, position), self._unknown(f"endpoint of {quoted(service)}:", name, known)

    def _possible(self, place: Place, entry: Permission | Eligibility, when: Conditions) -> Found:
        """Named endpoints must each be able to meet the conditions; of a role's, one is enough."""
        if not when.read_only and not when.path:
            return
        if entry.service is not None and getattr(entry, "roles", None) is not None:
            return  # to be written as two, each of which has its own conditions
        named = entry.service is not None
        endpoints = list(self._covered(entry))
        if when.read_only:
            changing = [endpoint for endpoint in endpoints if endpoint.method not in _READ]
            if changing and (named or len(changing) == len(endpoints)):
                yield (*place, "read_only"), f"never holds for {_names(changing)}"
        for variable in when.path or ():
            lacking = [endpoint for endpoint in endpoints if variable not in dict(endpoint.template.variables)]
            if lacking and (named or len(lacking) == len(endpoints)):
                own = {name for endpoint in lacking for name, _ in endpoint.template.variables}
                hint = self._nearest(variable, tuple(own))
                yield (*place, "path", variable), f"no variable {quoted(variable)} in {_names(lacking)}{hint}"

    def _covered(self, entry: Permission | Eligibility) -> Iterator[Endpoint]:
        """The endpoints that exist and are well-formed, of those that the entry names."""
        roles = getattr(entry, "roles", None) or ()
        named = [(entry.service, entry.endpoints or ())] if entry.service is not None else []
        for role in roles:
            named.extend(self._map.roles.get(role, {}).items())
        for service, names in named:
            endpoints = self._map.services[service].endpoints if service in self._map.services else {}
            yield from (endpoints[name] for name in names if name in endpoints)

    def _approvers(self, place: Place, eligibility: Eligibility) -> Found:
        individuals = set()
        for position, name in enumerate(eligibility.approvers):
            if name not in self._known.callers:
                yield (*place, "approvers", position), self._unknown("caller", name, self._known.callers)
            caller = self._map.callers.get(name)
            individuals.add(None if caller is None else caller.individual)
        if None in individuals:
            return  # somebody in a group, or somebody unknown: more than can be counted
        requester = self._map.callers.get(eligibility.caller)
        individuals.discard(None if requester is None else requester.individual)
        if len(individuals) < eligibility.approvals:
            at = "approvals" if individuals and "approvals" in eligibility.model_fields_set else "approvers"
            needed, able = eligibility.approvals, len(individuals)
            yield (*place, at), f"{needed} must approve and {able} can: nobody approves a request of their own"


def _names(endpoints: Iterable[Endpoint]) -> str:
    return ", ".join(f"{endpoint.name} ({endpoint.method} {endpoint.path})" for endpoint in endpoints)


def _essence(entry: Permission | Eligibility) -> object:
    """Equal for entries that say the same, in whatever order their lists are. A shadow of a permission says nothing."""
    said = entry.__dict__
    return tuple([(name, _unordered(said[name])) for name in said if said[name] is not None and name != "shadow"])


def _unordered(value: Any) -> object:
    if isinstance(value, list):
        return value[0] if len(value) == 1 else frozenset(value)
    return value.model_dump_json() if isinstance(value, BaseModel) else value
