"""From the permission map to `data.ostiary.map`: the tables that the Rego looks things up in.

Everything a decision needs is one look-up by a ground key; nothing is scanned. The shape, by top-level key:

    format     the number of this format
    services   service → true
    endpoints  service → endpoint → "GET /orders/{order_id}": the route table as the proxy reads it
    routes     service → the route index (`ostiary.policy.routing`)
    forms      service → endpoint → what shows that a path is that endpoint's (`ostiary.policy.routing`)
    callers    how an identity becomes callers: `subjects`, `workloads` (SPIFFE) and `claims` by issuer; `indexed` lists
               the claims that an issuer's callers are found by, `demands` what a caller's entry asks beyond its key
    sole       issuer → subject → the one caller that a token without claims makes of it
    access     caller → service → endpoint → the id of its terms; `plain` is the id of the plainest, if nobody has a say
               beside the map
    terms      id → `standing`, `eligible` and `shadow` variants, each with its conditions and credential profile; and
               what an answer that looked at them depends on (`ostiary.policy.terms`)
    roles      role → service → endpoints, for explanations
    observe    service → the Unix second until which what is not allowed is let through; only if there are such
    operators  caller → true: those who may block; only if there are such
    hooks      which of the organisation's rules exist: `{"deny": true, "allow": true}`
    reads_query
               true if `deny` can depend on the query: one that cannot be decoded, so that it is null, is refused then

Terms are interned: the same conditions and credential are stored once, however many permissions have them, so that a
permission costs one short string. The document is a function of the map: equal maps give equal bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from ostiary.models import Json
from ostiary.policy.model import Caller, PermissionMap
from ostiary.policy.routing import route_forms, route_index, spells_number
from ostiary.policy.terms import (
    Key,
    Kind,
    Terms,
    compile_conditions,
    conditions_digest,
    limits_of,
    profile_of,
    strictest,
)

FORMAT: Final = 1
"""The number of the format of `data.ostiary.map`. It grows with every change that older Rego or proxies misread."""


def compile_map(
    permissions: PermissionMap, *, hooks: Collection[str] = (), reads_query: bool = False
) -> dict[str, Json]:
    """The content of `data.ostiary.map`. `hooks` names the rules, `deny` and `allow`, that the organisation has."""
    services = dict(sorted(permissions.services.items()))
    terms = Terms()
    _add_standing(permissions, terms)
    _add_eligible(permissions, terms)
    callers = _callers(permissions.callers)
    return {
        "format": FORMAT,
        "services": dict.fromkeys(services, True),
        "endpoints": {
            name: {each.name: f"{each.method} {each.path}" for each in service.endpoints.values()}
            for name, service in services.items()
        },
        "routes": {name: route_index(service.endpoints.values()) for name, service in services.items()},
        "forms": {
            name: route_forms(service.endpoints.values())
            for name, service in services.items()
            if not spells_number(name)
        },
        "callers": callers,
        "sole": sole_callers(callers),
        **terms.tables(alone=not hooks),
        "roles": {name: dict(sorted(role.items())) for name, role in sorted(permissions.roles.items())},
        "hooks": dict.fromkeys(sorted(hooks), True),
        **({"reads_query": True} if reads_query else {}),
        **({"observe": _observed(permissions)} if permissions.observe else {}),
        **({"operators": dict.fromkeys(sorted(permissions.operators), True)} if permissions.operators else {}),
    }


def _add_standing(permissions: PermissionMap, terms: Terms) -> None:
    collected: dict[tuple[Kind, Key], dict[str, Json]] = defaultdict(dict)
    for permission in permissions.permissions:
        digest, profile = conditions_digest(permission.when), profile_of(permission.credential)
        kind: Kind = "shadow" if permission.shadow else "standing"
        for service, endpoint in permissions.covered(permission):
            variants = collected[kind, (permission.caller, service, endpoint.name)]
            if digest in variants:
                # Two permissions that always hold together: the strictest credential of both.
                variants[digest]["credential"] = strictest(variants[digest]["credential"], profile)
                continue
            conditions = compile_conditions(permission.when, endpoint.template)
            variants[digest] = {"id": digest, "credential": profile, **conditions}
    for (kind, key), variants in collected.items():
        for digest in sorted(variants):
            terms.add(kind, key, variants[digest])


def _add_eligible(permissions: PermissionMap, terms: Terms) -> None:
    for eligibility in permissions.eligible:
        variant = {
            "id": conditions_digest(eligibility.when),
            "credential": profile_of(eligibility.credential),
            **limits_of(eligibility),
        }
        endpoints = permissions.services[eligibility.service].endpoints
        for name in eligibility.endpoints:
            conditions = compile_conditions(eligibility.when, endpoints[name].template)
            terms.add("eligible", (eligibility.caller, eligibility.service, name), {**variant, **conditions})


def _observed(permissions: PermissionMap) -> dict[str, Json]:
    return {service: observed.until for service, observed in sorted(permissions.observe.items())}


def _callers(callers: Mapping[str, Caller]) -> dict[str, Json]:
    """Each caller under the one key it is found by; `demands` holds what else must be true of the identity."""
    subjects: dict[str, Json] = {}
    workloads: dict[str, Json] = {}
    claims: dict[str, Json] = {}
    demands: dict[str, Json] = {}
    for name, caller in sorted(callers.items()):
        wanted = dict(sorted((caller.claims or {}).items()))
        if caller.spiffe is not None:
            domain = "/".join(caller.spiffe.split("/")[:3])
            _append(workloads, [domain, caller.spiffe], name)
        elif caller.subject is not None:
            _append(subjects, [_issuer(caller), caller.subject], name)
            if wanted:
                demands[name] = wanted
        else:
            claim, values = next(iter(wanted.items()))
            for value in dict.fromkeys(values):
                _append(claims, [_issuer(caller), claim, value], name)
            if len(wanted) > 1:
                demands[name] = wanted
    return {
        "subjects": subjects,
        "workloads": workloads,
        "claims": claims,
        "indexed": indexed_claims(claims),
        "demands": demands,
    }


def indexed_claims(claims: Mapping[str, Json]) -> dict[str, Json]:
    """Issuer to the claims that its callers are found by."""
    return {issuer: sorted(found) for issuer, found in sorted(claims.items())}


def sole_callers(callers: Mapping[str, Json]) -> dict[str, Json]:
    """Issuer and subject to the one caller that a token without claims makes of them."""
    found: dict[str, Json] = {}
    for issuer, named in callers["subjects"].items():
        for subject, names in named.items():
            undemanding = [name for name in names if name not in callers["demands"]]
            if len(undemanding) == 1 and not (spells_number(issuer) or spells_number(subject)):
                found.setdefault(issuer, {})[subject] = undemanding[0]
    return found


def _issuer(caller: Caller) -> str:
    if caller.issuer is None:
        raise ValueError("a caller without a SPIFFE ID has an issuer")  # the model sees to it
    return caller.issuer


def _append(tree: dict[str, Json], path: Iterable[str], name: str) -> None:
    *above, last = path
    for key in above:
        tree = tree.setdefault(key, {})
    tree.setdefault(last, []).append(name)
