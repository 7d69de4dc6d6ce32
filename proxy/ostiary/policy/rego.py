"""What OPA says about Rego files: their syntax tree, and the mistakes that its compiler finds.

OPA itself is asked, as a child process; nothing here reads Rego by its text.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ostiary.errors import ConfigurationError
from ostiary.models import Json

_DEADLINE: Final = 120
"""Seconds for one run of OPA. The largest map measured takes three."""

_IMPURE: Final = (
    "crypto.x509.parse_and_verify_",  # which looks at the clock
    "http.",
    "io.jwt.",
    "opa.runtime",
    "providers.",
    "rand.",
    "time.now",
    "uuid.",
)
"""How the names of built-ins begin whose answer does not follow from the input, or that are about tokens, which never
reach the policy. A decision made with one could not be replayed, and what it depends on could not be told to a cache.
Beside them, whatever OPA itself says is not deterministic, and of `net.` all but arithmetic with addresses."""


def is_pure(builtin: Mapping[str, Json]) -> bool:
    """Whether what is enforced may use this built-in, as OPA's capabilities describe it."""
    name = str(builtin["name"])
    if builtin.get("nondeterministic") or name.startswith(_IMPURE):
        return False
    return not name.startswith("net.") or name.startswith("net.cidr_")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegoMistake:
    """One thing that OPA refuses. `row` counts from 1."""

    path: Path
    row: int
    message: str


class Opa:
    """The commands of the OPA binary that a build needs."""

    def __init__(self, binary: Path) -> None:
        self._binary = binary

    def parse(self, path: Path) -> Json | RegoMistake:
        """The syntax tree of a file, with locations, or the first mistake in it."""
        run = self._run("parse", "--format", "json", "--json-include", "locations,-comments", str(path))
        if run.returncode == 0:
            return json.loads(run.stdout)
        found = list(_mistakes(run))
        return found[0] if found else RegoMistake(path=path, row=1, message=_said(run))

    def check(self, *paths: Path, capabilities: Path | None = None) -> list[RegoMistake]:
        """What `opa check --strict` refuses in directories and files that are loaded together."""
        options = [] if capabilities is None else [f"--capabilities={capabilities}"]
        run = self._run("check", "--strict", "--format", "json", *options, *map(str, paths))
        if run.returncode == 0:
            return []
        return list(_mistakes(run)) or [RegoMistake(path=paths[0], row=1, message=_said(run))]

    def test(self, *paths: Path) -> list[Json]:
        """What became of each test, as `opa test` tells it. Raises `ConfigurationError` where none can be run."""
        run = self._run("test", "--format", "json", *map(str, paths))
        with contextlib.suppress(ValueError):
            found = json.loads(run.stdout)
            if isinstance(found, list):
                return found
        raise ConfigurationError(_lines(run))

    def covered_by_tests(self, *paths: Path) -> Json | None:
        """Which lines the tests reach, by file; None where a test fails, since OPA then does not say."""
        run = self._run("test", "--coverage", "--format", "json", *map(str, paths))
        with contextlib.suppress(ValueError):
            found = json.loads(run.stdout)
            return found["files"] if isinstance(found, dict) and isinstance(found.get("files"), dict) else None
        return None

    def pure_capabilities(self) -> Json:
        """This OPA's capabilities without the built-ins that are not pure, and without network access."""
        run = self._run("capabilities", "--current")
        if run.returncode != 0:
            raise ConfigurationError([f"{self._binary}: OPA does not tell its capabilities: {_said(run)}"])
        document = json.loads(run.stdout)
        document["builtins"] = [each for each in document["builtins"] if is_pure(each)]
        document["allow_net"] = []
        return document

    def evaluate(self, bundle: Path, query: str, document: Json) -> tuple[Json, Json]:
        """The value of a query, with strict built-in errors, and which lines it reached, by the bundle's files.

        Raises `ConfigurationError` where there is none.
        """
        options = [
            "--format",
            "json",
            "--bundle",
            str(bundle),
            "--strict-builtin-errors",
            "--coverage",
            "--stdin-input",
        ]
        run = self._run("eval", *options, query, stdin=json.dumps(document))
        with contextlib.suppress(ValueError, KeyError, IndexError, TypeError):
            found = json.loads(run.stdout)
            return found["result"][0]["expressions"][0]["value"], found["coverage"]["files"]
        raise ConfigurationError([mistake.message for mistake in _mistakes(run)] or [_said(run)])

    def sign(self, bundle: Path, *, key: Path, algorithm: str, claims: Path, into: Path) -> None:
        """Write `.signatures.json` of a bundle into a directory. Raises `ConfigurationError`."""
        options = ["--signing-key", str(key), "--signing-alg", algorithm, "--claims-file", str(claims)]
        run = self._run("sign", *options, "--output-file-path", str(into), "--bundle", str(bundle))
        if run.returncode != 0:
            raise ConfigurationError([f"{key}: OPA does not sign with this key: {_said(run)}"])

    def verify(self, bundle: Path, *, key: Path, key_id: str, scope: str, algorithm: str) -> str | None:
        """What OPA says against a bundle, its signature first; None if nothing. Raises `ConfigurationError`."""
        options = ["--verification-key", str(key), "--verification-key-id", key_id, "--scope", scope]
        options += ["--signing-alg", algorithm, "--output", os.devnull]
        run = self._run("build", *options, "--bundle", str(bundle))
        return None if run.returncode == 0 else _said(run)

    def _run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(  # noqa: S603 - no shell, and the binary is the configured one
                [str(self._binary), *arguments],
                input=stdin,
                capture_output=True,
                check=False,
                encoding="utf-8",
                errors="replace",
                timeout=_DEADLINE,
            )
        except OSError as error:
            raise ConfigurationError([f"{self._binary}: OPA cannot be run: {error.strerror}"]) from error
        except subprocess.TimeoutExpired as error:
            raise ConfigurationError([f"{self._binary}: OPA did not finish within {_DEADLINE} s"]) from error


def _mistakes(run: subprocess.CompletedProcess[str]) -> Iterator[RegoMistake]:
    for text in (run.stderr, run.stdout):
        try:
            document = json.loads(text)
        except ValueError:
            continue
        for error in document.get("errors") or ():
            location = error.get("location") or {}
            yield RegoMistake(
                path=Path(location.get("file", "")), row=max(location.get("row", 1), 1), message=error["message"]
            )


def _lines(run: subprocess.CompletedProcess[str]) -> list[str]:
    """Where and what, one line each."""
    found = [f"{mistake.path}:{mistake.row}: {mistake.message}" for mistake in _mistakes(run)]
    return found or [_said(run)]


def _said(run: subprocess.CompletedProcess[str]) -> str:
    return " ".join((run.stderr or run.stdout).split()) or f"exit code {run.returncode}"
