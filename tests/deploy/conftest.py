from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.surroundings import Surroundings, surrounded


@pytest.fixture(scope="session")
def surroundings(tmp_path_factory: pytest.TempPathFactory, opa_binary: Path) -> Iterator[Surroundings]:
    with surrounded(tmp_path_factory.mktemp("surroundings"), opa=opa_binary) as found:
        yield found
