"""A profile tells whose time it is: by function, and by part of the proxy with what libraries do for it."""

from __future__ import annotations

import pytest

from benchmarks.profiling import Profile, part_of, speedscope

RUN = "Runner.run (asyncio/runners.py:86)"
LINE = "Pipeline.__call__ (ostiary/pipeline.py:60)"
SEND = "Cycle._send_body (ostiary/server/cycle.py:249)"
TASK = "current_task (asyncio/tasks.py:35)"
WRITER = "GroupWriter._run (ostiary/audit/writer.py:285)"


def folded() -> list[str]:
    return [
        f"<module> (benchmarks/rung.py:1);{RUN};{LINE};{SEND} 6\n",
        f"<module> (benchmarks/rung.py:1);{RUN};{LINE};{TASK} 3\n",
        f"{WRITER} 1\n",
        f"<module> (benchmarks/rung.py:1);{RUN};main (benchmarks/rung.py:170);load (yaml/reader.py:1) 50\n",
        "<module> (benchmarks/rung.py:1);_find_and_load (<frozen importlib._bootstrap>:1165) 40\n",
    ]


def test_what_was_seen_while_the_worker_started_is_left_out() -> None:
    assert Profile.parse(folded()).samples == 10


def test_functions_are_counted_where_they_are_innermost_and_wherever_they_are() -> None:
    profile = Profile.parse(folded())
    assert dict(profile.own()) == {SEND: 6, TASK: 3, WRITER: 1}
    assert profile.total()[LINE] == 9


def test_what_a_library_does_for_a_part_is_the_parts() -> None:
    assert dict(Profile.parse(folded()).parts()) == {"server": 6, "pipeline": 3, "audit": 1}


@pytest.mark.parametrize(
    ("stack", "part"),
    [
        ((RUN, LINE, SEND), "server"),
        ((RUN, LINE, TASK), "pipeline"),
        ((RUN, TASK), "asyncio"),
        (("<module> (<string>:1)",), "the interpreter"),
    ],
)
def test_the_part_is_the_innermost_of_ours_or_else_the_innermost_library(stack: tuple[str, ...], part: str) -> None:
    assert part_of(stack) == part


def test_the_viewers_document_has_every_stack_with_its_weight() -> None:
    document = speedscope(Profile.parse([f"{LINE};{SEND} 2", f"{LINE};{TASK} 1"]))
    assert document["shared"] == {"frames": [{"name": SEND}, {"name": LINE}, {"name": TASK}]}
    assert document["profiles"][0]["samples"] == [[1, 0], [1, 2]]
    assert document["profiles"][0]["weights"] == [2, 1]
    assert document["profiles"][0]["endValue"] == 3
