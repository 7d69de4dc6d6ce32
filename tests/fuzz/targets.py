"""Everything that is fuzzed. A further parser is a further class here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fuzz.certificates import Certificates
from fuzz.headers import Headers
from fuzz.maps import Maps
from fuzz.messages import Messages
from fuzz.paths import Paths
from fuzz.said import Hops, Preambles
from fuzz.target import Target
from fuzz.tokens import Tokens

TARGETS: Final[tuple[Callable[[], Target], ...]] = (
    Messages,
    Paths,
    Headers,
    Tokens,
    Preambles,
    Hops,
    Certificates,
    Maps,
)
