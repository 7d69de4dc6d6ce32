"""`ostiary bundle test`: an organisation's tests and tables of cases, on its sources and on what is built of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ostiary import assets
from ostiary.cli.output import fail, note, print_json, print_lines, visible
from ostiary.cli.sources import needed_opa, policy_directory
from ostiary.errors import ConfigurationError
from ostiary.policy.bundle import PERMISSIONS, build_bundle
from ostiary.policy.cases import CASES, Table, case_files, load_cases
from ostiary.policy.model import PermissionMap, load_permissions
from ostiary.policy.organisation import TESTS
from ostiary.policy.rego import Opa
from ostiary.policy.suite import Coverage, Failure, Tests, covered_by_cases, run_tests, tests_of
from ostiary.policy.verdicts import Verdicts, judge


def command(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="The directory with permissions.yaml and *.rego.")],
    threshold: Annotated[
        float | None,
        typer.Option(
            "--coverage-threshold",
            metavar="PERCENT",
            min=0,
            max=100,
            help="Exit with 1 if less of the rules' lines is reached.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Run the tests of DIR, *_test.rego, on its sources and on the bundle that is built of them, and ask that bundle
    about the cases of DIR, *_cases.yaml.

    Exit status 0: all hold, and they reach enough. 1: one does not, too little is reached, or there is none. 2: there
    are mistakes in DIR.
    """
    files = case_files(policy_directory(source))
    if not tests_of(source) and not files:
        fail(f"{source}: has neither tests, {TESTS}, nor cases, {CASES}", status=1)
    binary, root = needed_opa(), assets.rego()
    opa = Opa(binary)
    with tempfile.TemporaryDirectory(prefix="ostiary-test-") as place:
        built = build_bundle(source, Path(place) / "bundle", opa=binary, sequence=0, rego_root=root)
        for warning in built.warnings:
            note(f"warning: {warning}")
        known = load_permissions(source / PERMISSIONS)
        verdicts = judge(_tables(files, known), known, built.path, opa)
        tests, coverage = run_tests(source, built.path, opa=opa, rego_root=root)
        if verdicts.reached is None:
            coverage = None
        elif coverage is not None:
            coverage |= covered_by_cases(verdicts.reached, source, built.path)
    enough = coverage is not None and (threshold is None or coverage.suffices(threshold))
    passed = not tests.failures and not verdicts.missed and enough
    if as_json:
        print_json(
            {
                "passed": passed,
                "tests": _tests(tests),
                "cases": {"passed": verdicts.passed, "failed": [asdict(each) for each in verdicts.missed]},
                "coverage": _coverage(coverage, threshold),
            }
        )
    else:
        reached = _reached(coverage, threshold, enough=enough)
        lines = [*_in_words(tests), *_told(verdicts), *reached]
        print_lines([visible(line) for line in lines], hang=10)
    if not passed:
        raise typer.Exit(1)


def _tables(files: list[Path], known: PermissionMap) -> list[Table]:
    """Every table, or all mistakes of all."""
    tables: list[Table] = []
    mistakes: list[str] = []
    for file in files:
        try:
            tables.append(load_cases(file, known))
        except ConfigurationError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigurationError(mistakes)
    return tables


def _tests(tests: Tests) -> dict[str, Any]:
    failed = [
        {"file": each.file, "line": each.line, "test": each.test, "on": list(each.on), "said": list(each.said)}
        for each in tests.failures
    ]
    return {"passed": tests.passed, "failed": failed}


def _coverage(coverage: Coverage | None, threshold: float | None) -> dict[str, Any] | None:
    if coverage is None:
        return None
    return {
        "percent": coverage.percent,
        "lines": coverage.lines,
        "threshold": threshold,
        "uncovered": list(coverage.uncovered()),
    }


def _in_words(tests: Tests) -> Iterator[str]:
    for failure in tests.failures:
        yield f"FAIL      {failure.file}:{failure.line}: {failure.test}{_only(failure)}"
        yield from (f"          {line}" for line in failure.said)
    if tests.passed or tests.failures:
        yield f"tests     {_counted(tests.passed, len(tests.failures))}, on the sources and on the bundle"


def _only(failure: Failure) -> str:
    return f" (on the {failure.on[0]} only)" if len(failure.on) == 1 else ""


def _told(verdicts: Verdicts) -> Iterator[str]:
    for miss in verdicts.missed:
        yield f"FAIL      {miss.file}:{miss.line}: {miss.asked}"
        yield f"          expected  {miss.expected}"
        yield f"          got       {miss.got}"
        yield f"          why       {miss.why}"
    if verdicts.passed or verdicts.missed:
        yield f"cases     {_counted(verdicts.passed, len(verdicts.missed))}"


def _counted(passed: int, failed: int) -> str:
    return f"{passed} passed, {failed} failed" if failed else f"{passed} passed"


def _reached(coverage: Coverage | None, threshold: float | None, *, enough: bool) -> Iterator[str]:
    if coverage is None:
        yield "coverage  is not told where a test fails"
        return
    if not coverage.lines:
        yield "coverage  there is no rule in Rego that could be reached"
        return
    demanded = "" if enough else f", of which {threshold:g}% are demanded"
    yield f"coverage  {coverage.percent:g}% of {coverage.lines} lines of rules{demanded}"
    yield from (f"          not reached: {lines}" for lines in coverage.uncovered())
