"""Permission maps: whatever is written in one, it loads and compiles, or every mistake is said as one."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Hashable
from pathlib import Path

from fuzz.target import demand
from ostiary.errors import ConfigurationError
from ostiary.policy.compiler import compile_map
from ostiary.policy.model import load_permissions
from support.files import CONDITIONS, PERMISSIONS

WORDS = (
    b"services:", b"endpoints:", b"roles:", b"callers:", b"permissions:", b"eligible:", b"when:", b"{", b"}", b"[",
    b"]", b": ",
    b"- ", b"*", b"&a", b"*a", b"<<: *a", b"!!python/object:os.system", b"!!binary a", b"|\n", b">-\n", b"'", b'"',
    b"null", b"~",
    b"no", b"0o7", b"1e9", b".nan", b"2026-01-01", b"08:00", b"GET /a/{b}", b"GET /a/{b:int}", b"GET /**", b"{a:text}",
    b"{a}{b}", b"GET", b"TRACE /", b"30m", b"-1s", b"999999999d", b"10.0.0.0/8", b"0.0.0.0/0", b"::1/129", b"\t",
    b"---\n",
    b"...\n", b"%YAML 1.1\n", b"? ", b"\xef\xbb\xbf", b"\xff\xfe", b"\xc2\x85", b"\xe2\x80\xa8", b"[" * 300,
    b"a: {" * 300,
    b"caller: ", b"service: ", b"spiffe://x.test/a", b"issuer: ", b"claims: {", b"timezone: Europe/Paris",
    b"custom: {a: b}",
)  # fmt: skip


class Maps:
    name = "maps"
    share = 0.02
    words = WORDS

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ostiary-fuzz-")
        self._path = Path(self._folder.name) / "permissions.yaml"

    def make(self, rng: random.Random) -> bytes:
        lines = PERMISSIONS.encode().splitlines(keepends=True)
        for _ in range(rng.choice((0, 1, 2, 4))):
            at = rng.randrange(len(lines))
            lines[at] = rng.choice(
                (b"", lines[rng.randrange(len(lines))], lines[at].replace(b":", b"", 1), lines[at] * 2)
            )
        if rng.random() < 0.3:
            indented = b"".join(b"      " + line for line in CONDITIONS.encode().splitlines(keepends=True))
            lines.insert(-3, b"  - caller: web\n    roles: [order-reader]\n    when:\n" + indented)
        return b"".join(lines)

    def check(self, case: bytes) -> Hashable:
        self._path.write_bytes(case)
        try:
            permissions = load_permissions(self._path)
        except ConfigurationError as error:
            demand(error.mistakes, "a mistake that is not said")
            for mistake in error.mistakes:
                demand(mistake.startswith((str(self._path), "permissions.yaml")), "where", mistake)
            return tuple(
                sorted(
                    {"".join(filter(str.isalpha, mistake.partition(": ")[2]))[-20:] for mistake in error.mistakes[:3]}
                )
            )
        compile_map(permissions)
        return len(permissions.permissions), len(permissions.eligible), len(permissions.callers)

    def close(self) -> None:
        self._folder.cleanup()
