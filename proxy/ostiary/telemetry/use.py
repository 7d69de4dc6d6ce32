"""Which standing permissions of the active policy have been used since the proxy was started.

The list of them comes from OPA, once for each revision, and only where somebody asks for metrics.
"""

from __future__ import annotations

from collections.abc import Iterable

from ostiary.models import Json
from ostiary.telemetry.catalogue import LABEL_SETS


class PermissionUse:
    """Compares what was used with what there is. `revision` is the one whose permissions are known, None at first."""

    def __init__(self) -> None:
        self._known: frozenset[str] = frozenset()
        self._used: set[str] = set()
        self.revision: str | None = None

    def know(self, revision: str, permissions: frozenset[str]) -> None:
        """These are all there are. What is not among them is forgotten."""
        self.revision = revision
        self._known = permissions
        self._used &= permissions

    def used(self, permissions: Iterable[str]) -> None:
        """These were used. What is not among those that are known may be of a newer policy, or a grant."""
        self._used.update(permissions)
        if len(self._used) > len(self._known) + LABEL_SETS:
            self._used &= self._known

    def counts(self) -> dict[str, int] | None:
        """How many are `used` and `unused`; None before they are known."""
        if self.revision is None:
            return None
        used = len(self._used & self._known)
        return {"used": used, "unused": len(self._known) - used}


def standing_permissions(compiled: Json) -> frozenset[str]:
    """The ids of all standing permissions of a map, `caller/service/endpoint/<8 hex of its conditions>`.

    `compiled` is `data.ostiary.map`. Raises `ValueError` for what does not have its form.
    """
    try:
        access, terms = compiled["access"], compiled["terms"]
        suffixes = {number: [f"/{one['id']}" for one in each.get("standing", ())] for number, each in terms.items()}
        return frozenset(
            f"{caller}/{service}/{endpoint}{suffix}"
            for caller, services in access.items()
            for service, endpoints in services.items()
            for endpoint, number in endpoints.items()
            for suffix in suffixes[number]
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("the map has another form than is known here") from error
