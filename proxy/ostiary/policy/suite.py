"""Running the organisation's tests, on its sources and on the bundle that is built of them, and what they reach.

Both hold the same rules. A test that passes on the sources and fails on the bundle found a mistake of ours, or of how
the bundle is made; what is enforced is the bundle.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from ostiary.models import Json
from ostiary.policy.bundle import in_bundle, our_rego, rego_for_tests
from ostiary.policy.organisation import TESTS, rego_files
from ostiary.policy.rego import Opa

SOURCES: Final = "sources"
BUNDLE: Final = "bundle"

_Piece: TypeAlias = tuple[int, int, int, int]
"""A head or an expression: first row, column, last row, column; as OPA tells them, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A test that does not hold, and where: `on` is of `sources` and `bundle`. `said` is what it printed, or why."""

    file: str
    line: int
    test: str
    on: tuple[str, ...]
    said: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tests:
    """What became of the tests. `passed` counts those that hold on the sources and on the bundle."""

    passed: int
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which parts of the organisation's rules were reached, by file. A line is reached if every part of it is."""

    reached: Mapping[str, frozenset[_Piece]]
    missed: Mapping[str, frozenset[_Piece]]

    def __or__(self, other: Coverage) -> Coverage:
        """What either reached."""
        files = {*self.reached, *other.reached}
        reached = {file: _of(self.reached, file) | _of(other.reached, file) for file in files}
        missed = {file: (_of(self.missed, file) | _of(other.missed, file)) - reached[file] for file in files}
        return Coverage(reached, missed)

    @property
    def lines(self) -> int:
        """All that can be reached."""
        return sum(len(_rows(pieces) | _rows(_of(self.missed, file))) for file, pieces in self.reached.items())

    @property
    def missed_lines(self) -> int:
        return sum(len(_rows(pieces)) for pieces in self.missed.values())

    @property
    def percent(self) -> float:
        """In tenths, rounded down: only what is whole is 100. Of nothing, nothing is missed."""
        lines = self.lines
        return 100.0 if not lines else (lines - self.missed_lines) * 1000 // lines / 10

    def suffices(self, threshold: float) -> bool:
        return (self.lines - self.missed_lines) * 100 >= threshold * self.lines

    def uncovered(self) -> Iterator[str]:
        """`file:first-last` of the lines that were not reached."""
        for file in sorted(self.missed):
            for first, last in _ranges(sorted(_rows(self.missed[file]))):
                yield f"{file}:{first}" if first == last else f"{file}:{first}-{last}"


def tests_of(source: Path) -> list[Path]:
    """The organisation's tests."""
    return [path for path in rego_files(source) if path.match(TESTS)]


def _rules_of(source: Path) -> list[Path]:
    return [path for path in rego_files(source) if not path.match(TESTS)]


def covered_by_cases(report: Mapping[str, Json], source: Path, bundle: Path) -> Coverage:
    """What cases reached, by the files of the sources; `report` is by those of the bundle."""
    return read_coverage(report, {str(in_bundle(path, source, bundle)): str(path) for path in _rules_of(source)})


def run_tests(source: Path, bundle: Path, *, opa: Opa, rego_root: Path) -> tuple[Tests, Coverage | None]:
    """Run the tests of `source` on its own rules and on `bundle`, which was built of it.

    What is reached counts on the sources; None where a test fails. Raises `ConfigurationError` where OPA cannot run
    them.
    """
    tests = tests_of(source)
    rules = _rules_of(source)
    beside = [rego_for_tests(rego_root), *tests]
    sources = [bundle / "data.json", *our_rego(rego_root), *rules, *beside]
    on_bundle = opa.test(bundle, *beside)
    report = opa.covered_by_tests(*sources)
    on_sources = on_bundle if report is not None else opa.test(*sources)
    coverage = None if report is None else read_coverage(report, {str(path): str(path) for path in rules})
    return _tests({SOURCES: on_sources, BUNDLE: on_bundle}), coverage


def read_coverage(report: Mapping[str, Json], names: Mapping[str, str]) -> Coverage:
    """From OPA's report: of each file of `names`, by the name that it has there."""
    return Coverage(
        {name: _pieces(report.get(file, {}).get("covered")) for file, name in names.items()},
        {name: _pieces(report.get(file, {}).get("not_covered")) for file, name in names.items()},
    )


def _tests(results: Mapping[str, Sequence[Json]]) -> Tests:
    failed: dict[tuple[str, int, str], list[str]] = {}
    said: dict[tuple[str, int, str], tuple[str, ...]] = {}
    every = set()
    for where, found in results.items():
        for result in found:
            location = result["location"]
            package = result["package"].removeprefix("data.")
            test = location["file"], location["row"], f"{package}.{result['name']}"
            every.add(test)
            if result.get("fail") or result.get("error") or result.get("skip"):
                failed.setdefault(test, []).append(where)
                said[test] = tuple(_said(result))
    failures = [
        Failure(file=file, line=line, test=name, on=tuple(on), said=said[file, line, name])
        for (file, line, name), on in sorted(failed.items())
    ]
    return Tests(passed=len(every) - len(failures), failures=tuple(failures))


def _said(result: Mapping[str, Json]) -> Iterator[str]:
    if result.get("skip"):
        yield "is still to be written"
    if result.get("error"):
        yield " ".join(str(result["error"].get("message", result["error"])).split())
    yield from base64.b64decode(result.get("output", "")).decode(errors="replace").splitlines()


def _pieces(ranges: Sequence[Json] | None) -> frozenset[_Piece]:
    return frozenset(piece for each in ranges or () for piece in _piece(each["start"], each["end"]))


def _piece(start: Mapping[str, int], end: Mapping[str, int]) -> Iterator[_Piece]:
    if "col" in start:
        yield start["row"], start["col"], end["row"], end.get("col", 0)
        return
    for row in range(start["row"], end["row"] + 1):  # an OPA that tells whole lines joins those that follow each other
        yield row, 0, row, 0


def _of(pieces: Mapping[str, frozenset[_Piece]], file: str) -> frozenset[_Piece]:
    return pieces.get(file, frozenset())


def _rows(pieces: Iterable[_Piece]) -> set[int]:
    return {row for first, _, last, _ in pieces for row in range(first, last + 1)}


def _ranges(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    begin = None
    for place, row in enumerate(rows):
        begin = row if begin is None else begin
        if place + 1 == len(rows) or rows[place + 1] != row + 1:
            yield begin, row
            begin = None
