"""What all workers together have compared with a candidate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ostiary.decision.comparison import CandidateFacts, Difference
from ostiary.models import Json


def candidate_document(state: str, revision: str | None, facts: Sequence[CandidateFacts]) -> dict[str, Json]:
    """What each knows of the candidate `revision`; those that still know another one have compared nothing with it."""
    known = [one for one in facts if one.revision == revision]
    differences: Counter[Difference] = Counter()
    for one in known:
        differences.update(dict(one.differences))
    return {
        "state": state,
        "revision": revision,
        "compared": sum(one.compared for one in known),
        "dropped": sum(one.dropped for one in known),
        "unanswered": sum(one.unanswered for one in facts),
        "differences": [{**each._asdict(), "count": count} for each, count in differences.most_common()],
        "unnamed_differences": sum(one.unnamed for one in known),
    }
