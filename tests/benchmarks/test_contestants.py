"""What is measured still fits the proxy: stand-ins that no longer stand anywhere would make a bench of nothing."""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pytest_httpserver import HTTPServer

from benchmarks.contestants import EVERYTHING, Field, all_ready, resident_with
from benchmarks.deployment import deployed
from benchmarks.messages import HOST
from benchmarks.mix import read_decisions
from benchmarks.rung import RUNGS, SCRIPTED, lacking, stand_ins


@pytest.fixture
def field(httpserver: HTTPServer) -> Iterator[Field]:
    """Below a short path: a unix socket's has at most a hundred bytes."""
    httpserver.expect_request("/orders/42").respond_with_data("ok")
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ostiary-bench-")))
        yield Field(deployed(place / "orders", upstream=httpserver.port), stack)


def ask(port: int, **headers: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}/orders/42", headers={"Host": HOST, **headers}, trust_env=False)


def test_the_lowest_rung_forwards_whoever_asks_and_records_nothing(field: Field, httpserver: HTTPServer) -> None:
    rung = field.rung("low", RUNGS[0])
    all_ready([rung])
    assert ask(rung.port).status_code == 200
    assert ask(rung.port, Authorization="Bearer of nothing").status_code == 200
    (seen, _), *_ = httpserver.log
    assert len(seen.headers["Authorization"]) > 500
    assert list(read_decisions(rung.audit)) == []


def test_the_scripted_rung_has_everything_but_the_decision(field: Field, httpserver: HTTPServer) -> None:
    rung = field.rung("scripted", SCRIPTED)
    all_ready([rung])
    assert ask(rung.port).status_code == 401
    assert ask(rung.port, Authorization=f"Bearer {field.token()}").status_code == 200
    (seen, _), *_ = httpserver.log
    assert field.token() not in seen.headers["Authorization"]
    (decided,) = read_decisions(rung.audit)
    assert decided.about == ("web", "orders", "get-order")


def test_the_whole_proxy_is_configured_as_it_is_run(field: Field) -> None:
    proxy = field.ostiary(EVERYTHING, cached_decisions=0)
    all_ready([proxy])
    assert ask(proxy.port, Authorization=f"Bearer {field.token()}").status_code == 200
    (decided,) = read_decisions(proxy.audit)
    assert decided.about == ("web", "orders", "get-order")
    assert not decided.cached


def test_a_worker_is_weighed_with_as_many_decisions_as_it_was_to_keep(field: Field) -> None:
    assert resident_with(field.memory(50), 50) > 10_000_000


def test_each_rung_lacks_one_stage_less_than_the_one_before() -> None:
    assert [lacking(rung) for rung in RUNGS] == [RUNGS[number + 1 :] for number in range(len(RUNGS))]
    replaced = [stand_ins(rung).keys() for rung in RUNGS]
    assert all(fewer < more for more, fewer in itertools.pairwise(replaced))
    assert replaced[-1] == stand_ins(SCRIPTED).keys() == set()


def test_a_proxy_keeps_as_many_decisions_as_it_is_told_and_else_as_it_would(field: Field, tmp_path: Path) -> None:
    def limits(**told: int) -> dict[str, int]:
        found: dict[str, int] = json.loads(field.deployment.configure(tmp_path, port=1, **told).read_text())["limits"]
        return found

    assert limits(cached_decisions=0)["cached_decisions"] == 0
    assert "cached_decisions" not in limits()
