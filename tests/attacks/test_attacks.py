"""Every case of the corpora, tried by the runner that `make attacks` is: one test for each."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from attacks.runner.cli import CORPORA
from attacks.runner.corpus import Case, load
from attacks.runner.run import Outcome, Report, run

# All labs are started and every case is tried before the first test can tell.
pytestmark = pytest.mark.timeout(600)

CASES = load(*CORPORA)


@pytest.fixture(scope="module")
def report(opa_binary: Path) -> Report:
    return asyncio.run(run(CASES))


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_the_case_holds(report: Report, case: Case) -> None:
    outcome = report.outcomes[case.id]
    assert (outcome.findings, outcome.not_yet) == ((), None)


def test_no_case_is_left_out(report: Report) -> None:
    assert sorted(report.outcomes) == sorted(case.id for case in CASES)
    assert all(isinstance(outcome, Outcome) for outcome in report.outcomes.values())
