"""What differs beside the maps' accesses: rules in Rego, who are operators, and whatever else OPA would load.

Rules are compared as OPA parses them, so that a comment, another layout or another file is no change. What a changed
rule lets through nobody can tell by reading it: it is unjudged, and counts as a widening. Two things can be told. A
`deny` refuses whatever it is said of, so one more narrows, if nothing else in Rego changes; and one less widens.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from ostiary.errors import ConfigurationError
from ostiary.models import Json
from ostiary.policy.compiler import indexed_claims, sole_callers
from ostiary.policy.organisation import PACKAGE
from ostiary.policy.rego import Opa, RegoMistake
from ostiary.policy.review.changes import Effect, RuleChange
from ostiary.policy.review.snapshot import Published, Snapshot
from ostiary.policy.routing import route_forms, route_index, spells_number
from ostiary.policy.terms import KINDS, PLAIN, canonical, plain_terms, terms_document

_DENY: Final = f"{PACKAGE}.deny"
_OWN: Final = "ostiary's own Rego"


class _Rule(NamedTuple):
    """`text` is everything of a rule that has a meaning: its syntax tree with the imports of its file."""

    name: str
    text: str


def compare_rules(old: Published, new: Published, opa: Callable[[], Opa]) -> list[RuleChange]:
    """Everything that differs but for what the maps say. `opa` is asked for only where Rego differs.

    Raises `ConfigurationError` for Rego that OPA cannot parse.
    """
    found = [*_rego(old, new, opa), *_tables(old.map, new.map)]
    hooks = [(each.map.hooks, each.map.reads_query) for each in (old, new)]
    if hooks[0] != hooks[1] and not found:
        found.append(RuleChange(kind="changed", rule="which hooks the map says there are", effect="unjudged"))
    found += _operators(old.map, new.map)
    found += [
        RuleChange(kind=_kind(name in old.beside, name in new.beside), rule=name, effect="unjudged")
        for name in sorted(old.beside.keys() | new.beside.keys())
        if old.beside.get(name) != new.beside.get(name)
    ]
    order: tuple[Effect, ...] = ("widening", "unjudged", "narrowing")
    return sorted(found, key=lambda each: (order.index(each.effect), each.rule))


def _operators(old: Snapshot, new: Snapshot) -> Iterator[RuleChange]:
    """Who may block may lift blocks, too. Whether another definition of one is more people is not judged."""
    for name in sorted(old.operators | new.operators):
        was, now = name in old.operators, name in new.operators
        if was and now and old.definitions[name] == new.definitions[name]:
            continue
        effect: Effect = "unjudged" if was and now else "widening" if now else "narrowing"
        yield RuleChange(kind=_kind(was, now), rule=f"operator {name}", effect=effect)


def _kind(before: bool, after: bool) -> Any:
    return "changed" if before and after else "removed" if before else "added"


def _rego(old: Published, new: Published, opa: Callable[[], Opa]) -> list[RuleChange]:
    before, after = Counter(old.rego.values()), Counter(new.rego.values())
    if before == after:
        return []
    parser = opa()
    was, now = Counter(_rules(old, before - after, parser)), Counter(_rules(new, after - before, parser))
    gone, come = was - now, now - was
    names = {rule.name for rule in (*gone, *come)}
    left = {rule.name for rule in was & now}
    found: list[RuleChange] = []
    for name in sorted(names):
        lost, gained = any(rule.name == name for rule in gone), any(rule.name == name for rule in come)
        effect: Effect = "unjudged"
        if name == _DENY and lost and not gained:
            effect = "widening"
        elif name == _DENY and gained and not lost and names == {_DENY}:
            effect = "narrowing"
        kept = name in left
        found.append(RuleChange(kind=_kind(lost or kept, gained or kept), rule=name, effect=effect))
    return found


def _rules(published: Published, texts: Counter[bytes], opa: Opa) -> Iterator[_Rule]:
    """Of these files; those that both have need not be read."""
    for name, text in sorted(published.rego.items()):
        if text not in texts:
            continue
        tree = _parsed(opa, text, f"{published.label}: {name}")
        package = ".".join(str(part["value"]) for part in tree["package"]["path"][1:])
        imports = canonical(sorted(canonical(_meaning(each, {})) for each in tree.get("imports") or ()))
        for rule in tree.get("rules") or ():
            yield _Rule(_name(package, rule["head"]), f"{package} {imports} {canonical(_meaning(rule, {}))}")


def _parsed(opa: Opa, text: bytes, label: str) -> Mapping[str, Json]:
    with tempfile.TemporaryDirectory(prefix="ostiary-diff-") as place:
        path = Path(place) / "module.rego"
        path.write_bytes(text)
        tree = opa.parse(path)
    if isinstance(tree, RegoMistake):
        raise ConfigurationError([f"{label}:{tree.row}: {tree.message}"])
    return dict(tree)


def _name(package: str, head: Mapping[str, Json]) -> str:
    """The rule as people call it; a condition with its name."""
    if package == "ostiary" or package.startswith("ostiary."):
        return _OWN
    names = [str(part["value"]) for part in head["ref"]]
    arguments: Iterable[Json] = head.get("args") or ()
    first: Json = next(iter(arguments), {})
    which = f" {first['value']}" if names == ["condition"] and first.get("type") == "string" else ""
    return ".".join([package, *names]) + which


def _meaning(node: Json, wildcards: dict[str, str]) -> Json:
    """Without locations, and with the names that OPA gives to `_` counted from the rule's beginning."""
    if isinstance(node, dict):
        if node.get("type") == "var" and str(node.get("value")).startswith("$"):
            return {"type": "var", "value": wildcards.setdefault(node["value"], f"${len(wildcards)}")}
        return {name: _meaning(each, wildcards) for name, each in sorted(node.items()) if name != "location"}
    return [_meaning(each, wildcards) for each in node] if isinstance(node, list) else node


def _tables(old: Snapshot, new: Snapshot) -> Iterator[RuleChange]:
    """Tables that do not follow from what the map says, where that or they differ: what is compared is then not what
    OPA looks up. The map was altered, or built by another version."""
    services = _differing(old, new, "services", "endpoints", "routes", "forms")
    if not all(_route_follows(each, service) for service in services for each in (old, new)):
        yield _unexplained("routes")
    if _differing(old, new, "callers", "sole") and not (_callers_follow(old) and _callers_follow(new)):
        yield _unexplained("callers")
    if _differing(old, new, "terms", "hooks") and not (_terms_follow(old) and _terms_follow(new)):
        yield _unexplained("terms")


def _unexplained(table: str) -> RuleChange:
    return RuleChange(kind="changed", rule=f"{table}: a table that does not follow from the map", effect="unjudged")


def _differing(old: Snapshot, new: Snapshot, *tables: str) -> set[str]:
    """The entries that are not the same in both."""
    pairs = [(old.content[table], new.content[table]) for table in tables]
    return {name for one, other in pairs for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def _route_follows(snapshot: Snapshot, service: str) -> bool:
    found = [snapshot.content[table].get(service) for table in ("services", "routes", "forms")]
    if service not in snapshot.services:
        return not any(found)
    endpoints = snapshot.services[service].values()
    return found == [True, route_index(endpoints), None if spells_number(service) else route_forms(endpoints)]


def _callers_follow(snapshot: Snapshot) -> bool:
    callers = snapshot.content["callers"]
    indexed = indexed_claims(callers["claims"])
    return bool(snapshot.content["sole"] == sole_callers(callers) and callers["indexed"] == indexed)


def _terms_follow(snapshot: Snapshot) -> bool:
    terms = snapshot.content["terms"]
    if PLAIN in terms and (snapshot.hooks or terms[PLAIN] != plain_terms()):
        return False
    return all(
        each == terms_document({kind: each.get(kind, ()) for kind in KINDS}, alone=not snapshot.hooks)
        for each in terms.values()
    )
