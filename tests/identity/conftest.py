from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ostiary.clock import ManualClock
from ostiary.identity import ListenerAuthenticator, build_authenticator
from support.identity import Issuer, SigningKey, jwks, key_file, settings


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def issuer(clock: ManualClock) -> Issuer:
    return Issuer(clock=clock)


@pytest.fixture
async def authenticator(tmp_path: Path, clock: ManualClock) -> AsyncIterator[ListenerAuthenticator]:
    """Believes `https://idp.test` with RS256, whose keys are `k1` and `k2`; verifies every token anew."""
    other = SigningKey(id="k2", material="second")
    keys = key_file(tmp_path, jwks(SigningKey(), other))
    built = build_authenticator([settings(keys)], clock=clock, cache_capacity=0)
    await built.start()
    yield built
    await built.close()
