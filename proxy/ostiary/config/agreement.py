"""Whether configuration and permission map speak of the same services, issuers and claims."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from ostiary.config.model import Config
from ostiary.policy.model import Caller, Conditions, Eligibility, Permission, PermissionMap
from ostiary.policy.words import closest, quoted
from ostiary.spiffe import SpiffeId


def check_agreement(config: Config, permission_map: PermissionMap) -> list[str]:
    """What does not fit together: one sentence each, none where all does.

    Nothing of it widens access: whatever is missing on one side is refused. But somebody expects it to work.
    """
    return list(
        dict.fromkeys(
            (*_services(config, permission_map), *_callers(config, permission_map), *_claims(config, permission_map))
        )
    )


def _services(config: Config, permission_map: PermissionMap) -> Iterator[str]:
    for name in permission_map.services:
        if name not in config.services:
            hint = closest(name, set(config.services) - set(permission_map.services))
            yield (
                f"service {quoted(name)} is in the permission map and not in the configuration: "
                f"it cannot be reached{hint}"
            )
    for name in config.services:
        if name not in permission_map.services:
            hint = closest(name, set(permission_map.services) - set(config.services))
            yield f"service {quoted(name)} is in the configuration and not in the permission map: all is denied{hint}"


def _callers(config: Config, permission_map: PermissionMap) -> Iterator[str]:
    issuers = {issuer.issuer for issuer in config.issuers}
    client_ca = None if config.listen.tls is None else config.listen.tls.client_ca
    if client_ca is not None:
        issuers.add(client_ca.issuer)
    for name, caller in permission_map.callers.items():
        if caller.issuer is not None and caller.issuer not in issuers:
            hint = closest(caller.issuer, issuers)
            yield f"caller {quoted(name)} has an issuer that is not configured, {quoted(caller.issuer)}{hint}"
        if caller.spiffe is not None and SpiffeId.parse(caller.spiffe).trust_domain not in config.trust_domains:
            proofs = ", ".join(config.listen.identity)
            if config.trust_domains:
                hint = f"the trust domains it knows: {', '.join(sorted(config.trust_domains))}"
                yield f"caller {quoted(name)} is a SPIFFE ID, which this listener never proves ({hint})"
            else:
                yield f"caller {quoted(name)} is a SPIFFE ID, which a listener with identity [{proofs}] never proves"


def _claims(config: Config, permission_map: PermissionMap) -> Iterator[str]:
    exposed = {issuer.issuer: issuer.claims for issuer in config.issuers}
    for name, caller in permission_map.callers.items():
        if caller.issuer in exposed:
            yield from _hidden(f"caller {quoted(name)}", caller, caller.claims or (), exposed)
    sections: dict[str, Sequence[Permission | Eligibility]] = {
        "permissions": permission_map.permissions,
        "eligible": permission_map.eligible,
    }
    for section, entries in sections.items():
        for index, entry in enumerate(entries):
            caller = permission_map.callers[entry.caller]
            if entry.when is not None and caller.issuer in exposed:
                yield from _hidden(f"{section}[{index}].when", caller, _needed(entry.when), exposed)


def _needed(when: Conditions) -> list[str]:
    return [*(when.claims or ()), *(reference.claim for reference in (when.path or {}).values())]


def _hidden(where: str, caller: Caller, claims: Iterable[str], exposed: Mapping[str, Collection[str]]) -> Iterator[str]:
    shown = exposed[caller.issuer or ""]
    for claim in claims:
        if claim not in shown:
            yield (
                f"{where} depends on the claim {quoted(claim)}, which issuer {quoted(caller.issuer)} "
                f"is not configured to show to the policy: it never holds{closest(claim, shown)}"
            )
