"""A candidate that is asked beside the policy that decides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from ostiary.config.fields import FilePath
from ostiary.config.opa import Opa
from ostiary.policy.mistakes import StandIn
from ostiary.policy.model import Strict


class Candidate(Strict):
    """A candidate policy that is asked about some of the requests too, after they were decided. Its answers change
    nothing: where they differ is counted (`ostiary candidate`) and logged."""

    bundle: Annotated[FilePath, StandIn("stand-in")]
    """The candidate: a directory or an archive made by `ostiary bundle build`, signed where `opa.managed.verification`
    says so. Another in its place is taken over as the policy's is. A second OPA serves it, with low priority."""
    sample: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Which part of the decisions is asked about: 1 is all of them."""

    def mistakes(self, opa: Opa) -> Iterator[tuple[tuple[int | str, ...], str]]:
        """What does not fit the policy that decides."""
        if opa.managed is None:
            yield ("candidate",), "needs a managed OPA (opa.managed), beside which a second one serves it"
        elif self.bundle == opa.managed.bundle:
            yield ("candidate", "bundle"), "is the bundle that decides: nothing could differ"
