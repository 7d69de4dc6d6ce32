"""The organisation's own Rego: `package policy` and below. It narrows what the map allows and cannot widen it.

What is refused, because it could widen or would silently not count:

* a file in any other package: a second file of one of ours could add an allow;
* `condition` without a literal name in its head: `condition(_, _, _) if true` would answer for every name;
* `deny` that is not a set (`deny contains text`), `allow` that is a function or a set, `caching` or `approve` that is
  a function;
* data: a file of it, since a bundle holds the map and Rego alone, and a rule that reads some, which would be undefined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ostiary.models import Json
from ostiary.policy.rego import Opa, RegoMistake

PACKAGE: Final = "policy"
TESTS: Final = "*_test.rego"
"""Files that `opa test` runs. No bundle holds them, and what they define is no hook."""

_HOOKS: Final = frozenset({"deny", "allow"})
_QUERY: Final = ("resource", "properties", "query")
_ASKED: Final = _HOOKS | {"approve", "condition", "caching"}
_CONDITION_ARGUMENTS: Final = 3
_DATA: Final = frozenset({"data.json", "data.yaml", "data.yml"})
"""What OPA would load of a directory beside Rego."""
_DEFINED: Final = (PACKAGE, "ostiary")
"""What there is below `data`."""


@dataclass(slots=True, kw_only=True)
class Organisation:
    """What was found in the sources. `mistakes` and `warnings` are complete lines, `file:line: text`; of a whole file
    without the line."""

    files: tuple[Path, ...]
    hooks: set[str] = field(default_factory=set)
    conditions: set[str] = field(default_factory=set)
    reads_query: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Where rules read a package of ostiary's, `file:line`, and which: `data.ostiary.authz`. The map is none."""
    mistakes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def tests(self) -> tuple[Path, ...]:
        return tuple(path for path in self.files if path.match(TESTS))

    @property
    def rules(self) -> tuple[Path, ...]:
        """What is enforced: every file that is none of tests."""
        return tuple(path for path in self.files if not path.match(TESTS))

    @property
    def denies_by_query(self) -> bool:
        """Whether `deny` exists and could depend on the query."""
        return self.reads_query and "deny" in self.hooks


def read_organisation(source: Path, opa: Opa, *, beside: Path) -> Organisation:
    """Read every `.rego` file under `source`, except under `beside`, which is where the bundle is written."""
    inside = beside.resolve()
    files = tuple(path for path in rego_files(source) if not path.resolve().is_relative_to(inside))
    found = Organisation(files=files)
    for path in sorted(source.rglob("data.*")):
        if path.name in _DATA and not path.resolve().is_relative_to(inside):
            found.mistakes.append(
                f"{path}: is in no bundle: what it says is a constant in Rego, or a condition in permissions.yaml"
            )
    for path in files:
        tree = opa.parse(path)
        if isinstance(tree, RegoMistake):
            found.mistakes.append(f"{path}:{tree.row}: {tree.message}")
        else:
            _read_module(found, path, tree)
    return found


def rego_files(source: Path) -> list[Path]:
    """Every `.rego` file under `source`, tests among them."""
    return sorted(source.rglob("*.rego"))


def _read_module(found: Organisation, path: Path, tree: Mapping[str, Json]) -> None:
    package = [part["value"] for part in tree["package"]["path"][1:]]
    rules = tree.get("rules") or ()
    if package[:1] != [PACKAGE]:
        row = tree["package"]["location"]["row"]
        found.mistakes.append(
            f"{path}:{row}: the package is {'.'.join(package)!r}; the organisation's own is 'policy', or below it"
        )
    elif package[1:2] and package[1] in _ASKED:
        row = tree["package"]["location"]["row"]
        found.mistakes.append(f"{path}:{row}: a package of the name {'.'.join(package)!r} would stand for the rule")
    elif package == [PACKAGE]:
        read = _read_test_rule if path.match(TESTS) else _read_rule
        for rule in rules:
            read(found, path, rule)
    if not path.match(TESTS):
        found.reads_query |= any(_reads_query(rule) for rule in rules)
        _read_references(found, path, [tree.get("imports"), rules])
    for row in sorted(set(_hoisted_negations(rules))):
        found.warnings.append(
            f"{path}:{row}: 'not' over a call on 'input' is undefined, not true, where the field is missing, so the "
            "rule does not fire; put the call into a rule of its own and negate that"
        )


def _read_references(found: Organisation, path: Path, nodes: Json) -> None:
    """What is read below `data`, each once a line."""
    references = list(_read_data(nodes))
    mistakes = {(row, mistake) for row, below in references if (mistake := _foreign(below))}
    found.mistakes.extend(f"{path}:{row}: {mistake}" for row, mistake in sorted(mistakes))
    asked = {(row, package) for row, below in references if (package := _of_ours(below))}
    found.asked.extend((f"{path}:{row}", package) for row, package in sorted(asked))


def _read_rule(found: Organisation, path: Path, rule: Mapping[str, Json]) -> None:
    head = rule["head"]
    reference = [part["value"] for part in head["ref"]]
    name = reference[0]
    if name == "condition":
        mistake = _condition(found, rule, reference)
    elif name in _HOOKS:
        mistake = _misshapen(name, head, reference)
        found.hooks.add(name)
    elif name in ("approve", "caching") and "args" in head:
        mistake = f"{name!r} is an object, not a function"
    else:
        return
    if mistake:
        found.mistakes.append(f"{path}:{rule['location']['row']}: {mistake}")


def _read_test_rule(found: Organisation, path: Path, rule: Mapping[str, Json]) -> None:
    """A test file defines none of what is asked: the tests would then pass for a rule that is not enforced."""
    name = rule["head"]["ref"][0]["value"]
    if name in _ASKED:
        found.mistakes.append(
            f"{path}:{rule['location']['row']}: a file of tests defines no {name!r}; a test replaces rules by 'with'"
        )


def _condition(found: Organisation, rule: Mapping[str, Json], reference: list[str]) -> str:
    arguments: list[Json] = rule["head"].get("args") or []
    if len(reference) != 1 or len(arguments) != _CONDITION_ARGUMENTS:
        return "'condition' is a function of three arguments: condition(\"name\", argument, request)"
    if rule.get("default") or arguments[0]["type"] != "string":
        return 'the name of a condition is a literal text in the head: condition("name", argument, request)'
    name = arguments[0]["value"]
    if name in _HOOKS:
        return f"a condition cannot be named {name!r}: 'caching' states that rule's dependencies under it"
    found.conditions.add(name)
    return ""


def _misshapen(name: str, head: Mapping[str, Json], reference: list[str]) -> str:
    single = len(reference) == 1 and "args" not in head
    if name == "deny" and not (single and "key" in head and "value" not in head):
        return "'deny' is a set of texts: deny contains \"why\" if { ... }"
    if name == "allow" and not (single and "key" not in head):
        return "'allow' is true or it is not: allow if { ... }"
    return ""


def _hoisted_negations(node: Json) -> Iterator[int]:
    """The rows of `not f(input.x)`. OPA evaluates `input.x` before the `not`; only `==` is spared."""
    if isinstance(node, dict):
        terms = node.get("terms")
        operands: list[Json] = terms[1:] if isinstance(terms, list) and not _is_equality(terms[0]) else []
        if node.get("negated") and any(_reads_input(operand) for operand in operands):
            yield node["location"]["row"]
        for child in node.values():
            yield from _hoisted_negations(child)
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _hoisted_negations(child)


def _is_equality(operator: Mapping[str, Json]) -> bool:
    return [part["value"] for part in operator["value"]] in (["equal"], ["eq"])


def _reads_input(node: Json) -> bool:
    if isinstance(node, dict):
        if node.get("type") == "ref" and node["value"][0].get("value") == "input" and len(node["value"]) > 1:
            return True
        return any(_reads_input(child) for child in node.values())
    return isinstance(node, list) and any(_reads_input(child) for child in node)


def _read_data(node: Json) -> Iterator[tuple[int, list[Json]]]:
    """The row of each reference to `data`, and what it says below that."""
    if isinstance(node, dict):
        if node.get("type") == "ref" and node["value"][0].get("value") == "data":
            yield node["location"]["row"], node["value"][1:]
        for child in node.values():
            yield from _read_data(child)
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _read_data(child)


def _of_ours(path: list[Json]) -> str:
    """The package of ostiary's that a reference reads, or all of them. Empty for the map, which is data."""
    if not path or path[0]["value"] != "ostiary":
        return ""
    if len(path) == 1 or path[1]["type"] != "string":
        return "data.ostiary"
    return "" if path[1]["value"] == "map" else f"data.ostiary.{path[1]['value']}"


def _foreign(path: list[Json]) -> str:
    if not path or path[0]["type"] != "string":
        return "'data' is read without a name that is written out, data.policy or data.ostiary"
    name = path[0]["value"]
    if name in _DEFINED:
        return ""
    return f"data.{name} is undefined: a bundle holds no data but the map; write it as a constant in Rego"


def _reads_query(node: Json) -> bool:
    """Whether the query can be among what this reads: it is named, or a part of the input that holds it is used."""
    if isinstance(node, dict):
        if node.get("type") == "string" and node.get("value") == _QUERY[-1]:
            return True
        if node.get("type") == "ref" and node["value"][0].get("value") == "input" and _holds_query(node["value"][1:]):
            return True
        return any(_reads_query(child) for child in node.values())
    return isinstance(node, list) and any(map(_reads_query, node))


def _holds_query(path: list[Json]) -> bool:
    """Whether a reference ends above the query, or takes a way there that is not written down."""
    for place, name in enumerate(_QUERY):
        if place == len(path) or path[place]["type"] != "string":
            return True
        if path[place]["value"] != name:
            return False
    return True
