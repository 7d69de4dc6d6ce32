from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from support.forwarding import reserved_port
from support.proxy import RunningProxy, running_proxy
from support.upstream import RawUpstream, Script


@pytest.fixture(scope="session")
def orders_port() -> Iterator[int]:
    with reserved_port() as port:
        yield port


@pytest.fixture(scope="session")
def proxy(opa_binary: Path, orders_port: int) -> Iterator[RunningProxy]:
    """One proxy with the default map, for all tests that leave it as they found it."""
    with running_proxy(upstreams={"orders": orders_port}) as running:
        yield running


@pytest.fixture
def orders(orders_port: int) -> Callable[[Script], AbstractAsyncContextManager[RawUpstream]]:
    """The service `orders` of `proxy`, for one test: what it does with a request is a script."""
    return lambda script: RawUpstream(script, port=orders_port).running()
