from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from ostiary.opa.install import ensure_opa

# What `assert` says in the tests' own parts is said under `python -O`, too, and tells what differed.
pytest.register_assert_rewrite("support")

# Where it is installed (by what writes the bill of materials), jsonschema has it compile the grammar of URIs, which
# takes each worker seconds; no schema here checks one.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

# How long an example takes is the machine's business, and a slow one is no failure of the promise.
settings.register_profile("ostiary", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ostiary")


FIRST = (
    "e2e/test_restarts.py",
    "docs/test_docs_pages.py",
    "attacks/test_attacks.py",
    "e2e/test_reload.py",
    "e2e/test_forwarding_identities.py",
    "e2e/test_faults_issuer.py",
    "e2e/test_demo.py",
    "e2e/test_faults.py",
    "decision/test_cache_soundness.py",
    "e2e/test_faults_machine.py",
    "e2e/test_killed_workers.py",
    "e2e/test_supervisor_life.py",
    "soak/test_soak.py",
    "e2e/test_policy_change.py",
    "e2e/test_policy_rollout.py",
    "e2e/test_open_exchanges.py",
    "audit/test_audit_death.py",
    "e2e/test_faults_opa.py",
    "e2e/test_package.py",
    "e2e/test_faults_upstream.py",
    "fuzz/test_fuzz.py",
    "policy/test_rego_cost.py",
    "attacks/test_runner.py",
    "e2e/test_supervisor_start.py",
)
"""Modules that take the longest, so that no core has nothing to do while the last of them runs."""


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # what is made while tests are collected stays


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()
    gc.enable()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: a good part of what tests do is to wait. With two more, deadlines pass."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {Path(__file__).parent / name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="session")
def opa_binary() -> Path:
    """OPA as the installer finds or gets it: `OSTIARY_OPA`, PATH, the user's cache, a release, or `go install`.

    Without one the tests fail: a policy that was not asked has not been tested.
    """
    return ensure_opa(progress=lambda line: print(line, flush=True))
