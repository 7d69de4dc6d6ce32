"""What is not enforced is counted, of every request."""

from __future__ import annotations

from dataclasses import replace

from ostiary.decision.scripted import ScriptedAuthorizer, allow, deny
from ostiary.decision.unenforced import CountingAuthorizer, UnenforcedFacts
from support.opa import request


async def test_what_is_let_through_and_what_a_shadow_would_have_allowed_is_counted() -> None:
    asked = request()
    allowed, denied = allow()(asked), deny()(asked)
    told = replace(denied, shadow="web/orders/get-order/00000000")
    observed = replace(allowed, observed=True, reasons=("permission-missing",), permission=None, expires_at=1)
    answers = [allowed, denied, told, observed, replace(observed, shadow=told.shadow), replace(denied, observed=True)]
    stage = CountingAuthorizer(ScriptedAuthorizer(answers))
    assert [await stage.decide(asked) for _ in answers] == answers
    assert stage.facts() == UnenforcedFacts(observed=2, shadowed=2)
