"""A policy as it was built: what its compiled map says, in the terms in which two are compared, and its other files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Final, TypeAlias

import orjson

from ostiary.errors import ConfigurationError
from ostiary.models import Json
from ostiary.policy.compiler import FORMAT
from ostiary.policy.organisation import TESTS
from ostiary.policy.review.callers import Definition, Directory, read_definitions
from ostiary.policy.review.variants import Variant, read_variants
from ostiary.routes import Endpoint

_DATA: Final = "data.json"
_MANIFEST: Final = ".manifest"
_SIGNATURES: Final = ".signatures.json"
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})

Key: TypeAlias = tuple[str, str, str]
"""Caller, service, endpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A bundle that was read. `label` is how it was named, `revision` its manifest's; None where it was built from
    sources for this comparison only.

    `rego` is each file's text, tests left out; `beside` everything else that OPA would load, as it is.
    """

    label: str
    revision: str | None
    map: Snapshot
    rego: Mapping[str, bytes]
    beside: Mapping[str, bytes]


def read_published(files: Mapping[str, bytes], *, label: str, built_here: bool = False) -> Published:
    """From a bundle's files, by name. Raises `ConfigurationError` if `ostiary bundle build` did not write them."""
    try:
        manifest = orjson.loads(files[_MANIFEST])
        data = orjson.loads(files[_DATA])
        content = data["ostiary"].pop("map")
        found = content["format"]
        if found == FORMAT:
            snapshot = Snapshot(content)
        revision = str(manifest.pop("revision"))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ConfigurationError([f"{label}: is not a bundle that 'ostiary bundle build' wrote"]) from error
    if found != FORMAT:
        again = "build it again with 'ostiary bundle build'"
        raise ConfigurationError([f"{label}: its map has the format {found}, and {FORMAT} is read here: {again}"])
    names = {name: PurePosixPath(name) for name in files if name not in (_DATA, _MANIFEST, _SIGNATURES)}
    others = {name: files[name] for name, path in names.items() if path.suffix != ".rego"}
    rest = {_MANIFEST: manifest, _DATA: data}
    return Published(
        label=label,
        revision=None if built_here else revision,
        map=snapshot,
        rego={name: files[name] for name, path in names.items() if path.suffix == ".rego" and not path.match(TESTS)},
        beside=others | {name: orjson.dumps(each, option=orjson.OPT_SORT_KEYS) for name, each in rest.items()},
    )


def reads(endpoint: Endpoint) -> bool:
    """Whether its method is one that `read_only` accepts."""
    return endpoint.method in _READING


class Snapshot:
    """What a compiled map says. Its shape is read when it is made, so that whoever holds one holds a good one."""

    def __init__(self, content: Mapping[str, Json]) -> None:
        self.content = content
        self.services: dict[str, dict[str, Endpoint]] = {
            service: {name: Endpoint.parse(name, text) for name, text in endpoints.items()}
            for service, endpoints in content["endpoints"].items()
        }
        self.definitions: dict[str, Definition] = read_definitions(content["callers"])
        self.directory = Directory(self.definitions)
        self.access: dict[str, dict[str, dict[str, str]]] = content["access"]
        self.hooks = frozenset(content["hooks"])
        self.reads_query: bool = content.get("reads_query", False)
        self.observed: dict[str, int] = {service: int(until) for service, until in content.get("observe", {}).items()}
        if not (self.observed.keys() <= self.services.keys()):
            raise ValueError("what is observed is no service")
        self.operators = frozenset(content.get("operators", {}))
        if not (self.operators <= self.definitions.keys()):
            raise ValueError("an operator is no caller")
        self._variants = {
            (number, reading): read_variants(terms, reading=reading)
            for number, terms in content["terms"].items()
            for reading in (True, False)
        }
        self._words: dict[tuple[str, bool], tuple[str, ...]] = {}
        for caller, by_service in self.access.items():
            self.definitions[caller]  # nobody has a permission who is nobody
            for service, endpoints in by_service.items():
                if not (endpoints.keys() <= self.services[service].keys()):
                    raise ValueError(f"{service}: an endpoint has no template")
                if not (set(endpoints.values()) <= content["terms"].keys()):
                    raise ValueError(f"{service}: there are no such terms")

    def variants(self, caller: str, service: str, endpoint: str) -> tuple[Variant, ...]:
        """What lets the caller through at the endpoint; nothing where there is none."""
        number = self.access.get(caller, {}).get(service, {}).get(endpoint)
        return () if number is None else self._variants[number, reads(self.services[service][endpoint])]

    def terms(self, number: str, *, reading: bool) -> tuple[Variant, ...]:
        """What terms let through at an endpoint whose method reads, or does not."""
        return self._variants[number, reading]

    def words(self, caller: str, service: str, endpoint: str | None) -> tuple[str, ...]:
        """The same, for a person."""
        number = None if endpoint is None else self.access.get(caller, {}).get(service, {}).get(endpoint)
        if number is None or endpoint is None:
            return ()
        key = number, reads(self.services[service][endpoint])
        found = self._words.get(key)
        if found is None:
            found = self._words[key] = tuple(each.in_words() for each in self._variants[key])
        return found

    def patterns(self, service: str) -> dict[str, tuple[str, str]]:
        """Each endpoint's method, and what its template matches, whatever its variables are called."""
        return {name: (each.method, each.template.pattern) for name, each in self.services.get(service, {}).items()}

    @cached_property
    def holders(self) -> Mapping[tuple[str, str], Sequence[str]]:
        """Service and endpoint to the callers that have a permission or an eligibility."""
        found: dict[tuple[str, str], list[str]] = {}
        for caller, service, endpoint in self.keys():
            found.setdefault((service, endpoint), []).append(caller)
        return found

    @cached_property
    def longest(self) -> int:
        """Seconds of the longest credential that anybody gets."""
        return max((each.lifetime for variants in self._variants.values() for each in variants), default=0)

    def keys(self) -> Iterator[Key]:
        for caller, by_service in self.access.items():
            for service, endpoints in by_service.items():
                yield from ((caller, service, endpoint) for endpoint in endpoints)
