from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from ostiary.opa.install import ensure_opa

# What `assert` says in the tests' own parts is said under `python -O`, too, and tells what differed.
pytest.register_assert_rewrite("support")

# How long an example takes is the machine's business, and a slow one is no failure of the promise.
settings.register_profile("ostiary", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ostiary")


@pytest.fixture(scope="session")
def opa_binary() -> Path:
    """OPA as the installer finds or gets it: `OSTIARY_OPA`, PATH, the user's cache, a release, or `go install`.

    Without one the tests fail: a policy that was not asked has not been tested.
    """
    return ensure_opa(progress=lambda line: print(line, flush=True))
