"""OpenAPI 3.0 and 3.1: the endpoints of the service that a document describes.

An operation is an endpoint: its id is the name, its path, below the base path of its server, the template, and the
schema of each path parameter says the type of the variable. An operation that no template can say is left out and
told, with its line and the reason: what is left out is denied, never let through by something wider.

Nothing beyond the file is read: a reference to another document leaves out what needs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ostiary.errors import ConfigurationError
from ostiary.policy.document import Document, Place, read_document
from ostiary.policy.imports.names import endpoint_name, free, variable_name
from ostiary.policy.imports.references import Pointers, Unresolved
from ostiary.policy.imports.servers import ROOT, Server, read_servers
from ostiary.policy.imports.variables import NoType, variable_type
from ostiary.routes import METHODS, Endpoint, RouteTable, TemplateError

_VERSION: Final = re.compile(r"3\.[01]\.[0-9]+.*")
_OPERATIONS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_SEGMENT_VARIABLE: Final = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a document says and no endpoint does."""

    file: str
    line: int
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what} is left out: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedService:
    """One document. `origin` is where its first server is, None where it does not say; `title` is `info.title`."""

    source: Path
    title: str
    origin: str | None
    endpoints: tuple[Endpoint, ...]
    left_out: tuple[LeftOut, ...]


def read_openapi(path: Path) -> ImportedService:
    """Raises `ConfigurationError` where the file is no OpenAPI 3.0 or 3.1 document, or nothing of it can be used."""
    document = read_document(path, any_key=True)
    if document.mistakes:
        raise ConfigurationError([f"{document.name}:{line}: {sentence}" for line, sentence in document.mistakes])
    value = document.value
    if not isinstance(value, dict):
        raise ConfigurationError([f"{document.name}:1: is not an OpenAPI document"])
    _check_version(document)
    reader = _Reader(document)
    endpoints = reader.endpoints()
    left_out = sorted(reader.left_out, key=lambda one: one.line)
    if not endpoints:
        nothing = f"{document.name}:{document.line(('paths',))}: no operation of it can be an endpoint"
        raise ConfigurationError([nothing, *map(str, left_out)])
    info = value.get("info")
    title = info.get("title") if isinstance(info, dict) else None
    return ImportedService(
        source=path,
        title=title if isinstance(title, str) else "",
        origin=reader.server.origin,
        endpoints=endpoints,
        left_out=tuple(left_out),
    )


def _check_version(document: Document) -> None:
    version = document.value.get("openapi")
    if isinstance(version, str) and _VERSION.fullmatch(version):
        return
    older = document.value.get("swagger")
    if older is not None:
        line, told = document.line(("swagger",)), f"Swagger {older} is not read: convert it to OpenAPI 3"
    elif version is None:
        line, told = 1, "is not an OpenAPI document: it has no key 'openapi'"
    else:
        line, told = document.line(("openapi",)), f"OpenAPI {version} is not read: 3.0 and 3.1 are, in quotes"
    raise ConfigurationError([f"{document.name}:{line}: {told}"])


class _Reader:
    """The operations of a document, in its order."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._pointers = Pointers(document.value)
        self._names: set[str] = set()
        self.left_out: list[LeftOut] = []
        self.server = self._server(document.value, (), ROOT)

    def endpoints(self) -> tuple[Endpoint, ...]:
        found: list[Endpoint] = []
        lines: dict[str, int] = {}
        for line, endpoint in self._found():
            found.append(endpoint)
            lines[endpoint.name] = line
        conflicts = {conflict.second: conflict for conflict in RouteTable(found).conflicts}
        for endpoint in found:
            if endpoint.name in conflicts:
                what = f"{endpoint.method} {endpoint.path}"
                self._leave_out(lines[endpoint.name], what, conflicts[endpoint.name].message)
        return tuple(endpoint for endpoint in found if endpoint.name not in conflicts)

    def _found(self) -> Iterator[tuple[int, Endpoint]]:
        paths = self._document.value.get("paths")
        for path, item in paths.items() if isinstance(paths, dict) else ():
            place: Place = ("paths", path)
            if path.startswith("x-"):
                continue
            try:
                resolved = self._pointers.resolved(item)
            except Unresolved as error:
                self._leave_out(self._document.line(place), path, str(error))
                continue
            if isinstance(resolved, dict):
                yield from self._item(path, resolved, place)

    def _item(self, path: str, item: dict[str, Any], place: Place) -> Iterator[tuple[int, Endpoint]]:
        server = self._server(item, place, self.server)
        for key in _OPERATIONS:
            operation = item.get(key)
            if not isinstance(operation, dict):
                continue
            method, line = key.upper(), self._document.line((*place, key))
            below = self._server(operation, (*place, key), server).path(path)
            if method not in METHODS:
                self._leave_out(line, f"{method} {below}", "the proxy does not accept this method")
                continue
            try:
                template = self._template(below, [item.get("parameters"), operation.get("parameters")])
                name = free(endpoint_name(operation.get("operationId"), method, path), self._names)
                endpoint = Endpoint.parse(name, f"{method} {template}")
            except (TemplateError, NoType, Unresolved) as error:
                self._leave_out(line, f"{method} {below}", str(error))
                continue
            self._names.add(name)
            yield line, endpoint

    def _server(self, holder: dict[str, Any], place: Place, above: Server) -> Server:
        """The first of the holder's servers. Others with another base path are told: one service has one."""
        servers = read_servers(holder.get("servers"))
        for index, server in enumerate(servers):
            if server.base != servers[0].base:
                line = self._document.line((*place, "servers", index))
                self._leave_out(line, f"the base path {server.base or '/'}", f"the first is {servers[0].base or '/'}")
        return servers[0] if servers else above

    def _template(self, path: str, parameters: list[Any]) -> str:
        """The path as a template. Raises `TemplateError`, `NoType` or `Unresolved`."""
        known: dict[str, Any] = {}
        for listed in parameters:  # those of the operation replace those of its path
            for one in listed if isinstance(listed, list) else ():
                parameter = self._pointers.resolved(one)
                if isinstance(parameter, dict) and parameter.get("in") == "path":
                    known[str(parameter.get("name"))] = parameter
        return "/".join(self._segment(segment, known) for segment in path.split("/"))

    def _segment(self, segment: str, parameters: dict[str, Any]) -> str:
        found = _SEGMENT_VARIABLE.fullmatch(segment)
        if found is None:
            if segment == "**":
                raise TemplateError("'**' would stand for more than this one segment")
            return segment
        kind = variable_type(parameters.get(found[1]), self._pointers)
        name = variable_name(found[1])
        return f"{{{name}}}" if kind == "name" else f"{{{name}:{kind}}}"

    def _leave_out(self, line: int, what: str, why: str) -> None:
        self.left_out.append(LeftOut(self._document.name, line, what, why))
