"""SPIFFE IDs: the one grammar of workloads' names, for policy, tokens, certificates and what proxies forward.

SPIFFE-ID sections 2.1 to 2.3. Compared as exact text: nothing is decoded, folded or normalised, so two spellings are
two names, and what has a second reading (a dot segment, an escape, a port) is no name at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_BYTES: Final = 2048

_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}")
_ID: Final = re.compile(r"spiffe://([a-z0-9._-]{1,255})((?:/[A-Za-z0-9._-]+)+)")


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A workload's name. `trust_domain` is without a scheme: `shop.test`."""

    text: str
    trust_domain: str

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Raises `ValueError`. A trust domain alone names an authority, and no workload: it is refused too."""
        found = _ID.fullmatch(text) if len(text) <= MAX_BYTES else None
        if found is None or not {".", ".."}.isdisjoint(found[2].split("/")):
            raise ValueError("not the SPIFFE ID of a workload")
        return cls(text, found[1])

    @property
    def issuer(self) -> str:
        """The issuer of an identity of this name: its trust domain, as an ID."""
        return domain_id(self.trust_domain)

    def __str__(self) -> str:
        return self.text


def is_trust_domain(name: str) -> bool:
    """Whether this is the name of a trust domain, without a scheme."""
    return _DOMAIN.fullmatch(name) is not None


def domain_id(trust_domain: str) -> str:
    return f"spiffe://{trust_domain}"
