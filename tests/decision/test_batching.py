"""Questions that are asked together go together, and nobody's answer depends on the company."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from ostiary import assets
from ostiary.decision.batching import BatchingPolicy
from ostiary.decision.query import Answer, EvaluationFailed
from ostiary.errors import PolicyUnavailable
from ostiary.models import Json
from ostiary.opa.client import OpaClient
from ostiary.opa.sidecar import ManagedOpa
from ostiary.policy.bundle import build_bundle


class Echo:
    """A `BatchQuery` that answers each question with itself, and keeps what it was asked.

    While `held` is set, calls wait. A question `"poison"` spoils the call that it is in.
    """

    def __init__(self) -> None:
        self.calls: list[list[Json]] = []
        self.held = asyncio.Event()
        self.held.set()
        self.down = False

    async def query(self, document: Mapping[str, Json]) -> Answer:
        return (await self._answer([document]))[0]

    async def query_batch(self, documents: Sequence[Mapping[str, Json]]) -> list[Answer]:
        return await self._answer(documents)

    async def _answer(self, documents: Sequence[Mapping[str, Json]]) -> list[Answer]:
        self.calls.append([document["q"] for document in documents])
        await self.held.wait()
        if self.down:
            raise PolicyUnavailable("OPA cannot be asked")
        if any(document["q"] == "poison" for document in documents):
            raise EvaluationFailed("OPA answered 500")
        return [Answer(defined=True, result=document["q"], revision="1-a") for document in documents]


async def ask(policy: BatchingPolicy, *questions: Json) -> list[Json]:
    answers = await asyncio.gather(*(policy.query({"q": q}) for q in questions), return_exceptions=True)
    return [one.result if isinstance(one, Answer) else type(one) for one in answers]


async def test_a_lone_question_goes_alone() -> None:
    echo = Echo()
    assert await ask(BatchingPolicy(policy=echo, deadline=5), 1) == [1]
    assert echo.calls == [[1]]


async def test_questions_of_one_turn_go_in_one_call_and_get_their_own_answers() -> None:
    echo = Echo()
    assert await ask(BatchingPolicy(policy=echo, deadline=5), *range(5)) == list(range(5))
    assert echo.calls == [[0, 1, 2, 3, 4]]


async def test_what_comes_while_all_lanes_are_taken_goes_when_one_is_free() -> None:
    echo = Echo()
    echo.held.clear()
    policy = BatchingPolicy(policy=echo, deadline=5, most=3, lanes=2)
    asked = [asyncio.create_task(ask(policy, n)) for n in range(10)]
    await asyncio.sleep(0.02)
    assert echo.calls == [[0, 1, 2], [3, 4, 5]]
    echo.held.set()
    assert await asyncio.gather(*asked) == [[n] for n in range(10)]
    assert echo.calls[2:] == [[6, 7, 8], [9]]


def asked_by(number: int, subject: str = "web", *, query: int = 0, groups: int = 0) -> dict[str, Json]:
    claims: dict[str, Json] = {"tenant": "acme", "groups": ["g"] * groups}
    return {
        "q": f"{subject}-{number}",
        "subject": {"id": subject, "properties": {"issuer": "https://idp.test", "claims": claims}},
        "resource": {"properties": {"segments": ["orders"], "query": [["a", "b"]] * query or None}},
    }


async def test_identities_take_turns() -> None:
    """Whoever asks much waits for itself: who comes last with one question is in the next call."""
    echo = Echo()
    echo.held.clear()
    policy = BatchingPolicy(policy=echo, deadline=5, most=3, lanes=1)
    asked = [asyncio.create_task(policy.query(asked_by(n, "greedy"))) for n in range(9)]
    await asyncio.sleep(0.01)
    asked += [asyncio.create_task(policy.query(asked_by(n, "web"))) for n in range(2)]
    await asyncio.sleep(0.01)
    echo.held.set()
    await asyncio.gather(*asked)
    assert echo.calls == [
        ["greedy-0", "greedy-1", "greedy-2"],
        ["greedy-3", "web-0", "greedy-4"],
        ["web-1", "greedy-5", "greedy-6"],
        ["greedy-7", "greedy-8"],
    ]


async def test_what_is_asked_aside_waits_for_none_of_its_identity_s_own() -> None:
    echo = Echo()
    echo.held.clear()
    policy = BatchingPolicy(policy=echo, deadline=5, most=3, lanes=1)
    asked = [asyncio.create_task(policy.query(asked_by(n, "greedy"))) for n in range(6)]
    await asyncio.sleep(0.01)
    asked += [asyncio.create_task(policy.aside.query(asked_by(n, "greedy"))) for n in range(6, 8)]
    await asyncio.sleep(0.01)
    echo.held.set()
    await asyncio.gather(*asked)
    assert echo.calls == [
        ["greedy-0", "greedy-1", "greedy-2"],
        ["greedy-3", "greedy-6", "greedy-4"],
        ["greedy-7", "greedy-5"],
    ]


@pytest.mark.parametrize(("query", "groups"), [(256, 0), (0, 512)])
async def test_questions_that_hold_a_lot_fill_a_call_sooner(query: int, groups: int) -> None:
    echo = Echo()
    policy = BatchingPolicy(policy=echo, deadline=5, lanes=1)
    await asyncio.gather(
        policy.query(asked_by(0, "light")),
        *(policy.query(asked_by(n, "heavy", query=query, groups=groups)) for n in range(2)),
        *(policy.query(asked_by(n, "light")) for n in range(1, 3)),
    )
    assert echo.calls == [["light-0", "heavy-0"], ["light-1", "heavy-1"], ["light-2"]]


async def test_one_that_spoils_a_call_goes_without_an_answer_alone() -> None:
    echo = Echo()
    assert await ask(BatchingPolicy(policy=echo, deadline=5), 1, "poison", 2) == [1, EvaluationFailed, 2]
    assert echo.calls == [[1, "poison", 2], [1], ["poison"], [2]]


async def test_nobody_is_asked_again_where_nobody_answers() -> None:
    echo = Echo()
    echo.down = True
    assert await ask(BatchingPolicy(policy=echo, deadline=5), 1, 2) == [PolicyUnavailable, PolicyUnavailable]
    assert echo.calls == [[1, 2]]


async def test_the_deadline_counts_the_wait_and_who_was_late_is_not_asked_about() -> None:
    echo = Echo()
    echo.held.clear()
    policy = BatchingPolicy(policy=echo, deadline=0.05, most=1, lanes=1)
    assert await ask(policy, 1, 2) == [PolicyUnavailable, PolicyUnavailable]
    echo.held.set()
    assert await ask(policy, 3) == [3]
    assert echo.calls == [[1], [3]]


async def test_who_went_away_is_not_asked_about() -> None:
    echo = Echo()
    echo.held.clear()
    policy = BatchingPolicy(policy=echo, deadline=5, most=1, lanes=1)
    first, second = (asyncio.create_task(policy.query({"q": q})) for q in (1, 2))
    await asyncio.sleep(0.01)
    second.cancel()
    await asyncio.sleep(0)
    echo.held.set()
    assert (await first).result == 1
    await asyncio.sleep(0.01)
    assert echo.calls == [[1]]


POLICY = """
package policy

deny contains "no" if to_number(input.subject.properties.claims.level) > 5
"""


def question(**changes: Json) -> dict[str, Json]:
    return {
        "subject": {
            "type": "workload",
            "id": changes.get("subject", "web"),
            "properties": {
                "issuer": "http://idp.localhost",
                "method": "jwt",
                "claims": {"level": changes.get("level", "1")},
            },
        },
        "action": {"name": changes.get("method", "GET")},
        "resource": {
            "type": "service",
            "id": "orders",
            "properties": {"segments": ["orders", "42"], "query": []},
        },
        "context": {"time": 1_790_078_400, "source_ip": "127.0.0.1", "actor": None, "grants": []},
    }


async def test_a_real_opa_answers_together_what_it_answers_alone(opa_binary: Path, tmp_path: Path) -> None:
    """Also where a built-in fails on one of them: it alone is 503, with and without company."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "permissions.yaml").write_bytes((assets.demo_bundle() / "permissions.yaml").read_bytes())
    (source / "policy.rego").write_text(POLICY + '\ncondition("issued-by", _, _) if false\n', encoding="utf-8")
    bundle = build_bundle(source, tmp_path / "bundle", opa=opa_binary, sequence=1, rego_root=assets.rego()).path
    questions = [
        question(),
        question(method="DELETE"),
        question(subject="nobody"),
        question(level="not a number"),
        question(level="9"),
        question(method=7),
    ]
    async with (
        ManagedOpa(binary=opa_binary, bundle=bundle) as opa,
        OpaClient(address=opa.address, deadline=5) as client,
    ):
        alone = [await asyncio.gather(client.query(one), return_exceptions=True) for one in questions]
        policy = BatchingPolicy(policy=client, deadline=5)
        together = await asyncio.gather(*(policy.query(one) for one in questions), return_exceptions=True)
    expected = [one.result if isinstance(one, Answer) else type(one) for (one,) in alone]
    assert [one.result if isinstance(one, Answer) else type(one) for one in together] == expected
    assert [one if one is EvaluationFailed else one["allow"] for one in expected] == [
        True,
        False,
        False,
        EvaluationFailed,
        False,
        False,
    ]


@pytest.mark.parametrize("settings", [{"deadline": 0}, {"most": 0}, {"lanes": 0}])
async def test_limits_are_above_zero(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        BatchingPolicy(policy=Echo(), **{"deadline": 1, **settings})
