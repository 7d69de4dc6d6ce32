"""What this stage needs of whoever holds the policy. `ostiary.opa` implements it over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ostiary.errors import PolicyUnavailable
from ostiary.models import Json


class EvaluationFailed(PolicyUnavailable):
    """The engine was there, and could not evaluate what it was asked: a built-in failed, or two rules conflict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A well-formed answer to one question.

    `defined` is false where the rule had no value: OPA then leaves `result` out, which is not the same as null.
    `revision` is that of the bundle which gave the answer, read in the same transaction; None if it was not told.
    """

    defined: bool
    result: Json
    revision: str | None


class PolicyQuery(Protocol):
    async def query(self, document: Mapping[str, Json]) -> Answer:
        """Ask for the decision on this `input`, once, within the deadline. No answer is `PolicyUnavailable`."""


class Freshness(Protocol):
    def age(self, revision: str) -> float:
        """Seconds since `revision` was last known to be the published one."""
