"""`ostiary bundle test`: an organisation's tests, on its sources and on what is built of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ostiary import assets
from ostiary.cli.output import fail, note, print_json, print_lines
from ostiary.cli.sources import needed_opa, policy_directory
from ostiary.policy.bundle import build_bundle
from ostiary.policy.rego import Opa
from ostiary.policy.suite import Coverage, Failure, Tests, run_tests, test_files


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
    """Run the tests of DIR, *_test.rego, on its sources and on the bundle that is built of them.

    Exit status 0: all hold, and they reach enough. 1: one does not, too little is reached, or there is none. 2: there
    are mistakes in DIR.
    """
    binary, root = needed_opa(), assets.rego()
    opa = Opa(binary)
    if not test_files(policy_directory(source)):
        fail(f"{source}: has no tests: *_test.rego", status=1)
    with tempfile.TemporaryDirectory(prefix="ostiary-test-") as place:
        built = build_bundle(source, Path(place) / "bundle", opa=binary, sequence=0, rego_root=root)
        for warning in built.warnings:
            note(f"warning: {warning}")
        tests, coverage = run_tests(source, built.path, opa=opa, rego_root=root)
    enough = coverage is not None and (threshold is None or coverage.suffices(threshold))
    passed = not tests.failures and enough
    if as_json:
        document = {"passed": passed, "tests": _tests(tests), "coverage": _coverage(coverage, threshold)}
        print_json(document)
    else:
        print_lines([*_in_words(tests), *_reached(coverage, threshold, enough=enough)], hang=10)
    if not passed:
        raise typer.Exit(1)


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
    failed = f", {len(tests.failures)} failed" if tests.failures else ""
    yield f"tests     {tests.passed} passed{failed}, on the sources and on the bundle"


def _only(failure: Failure) -> str:
    return f" (on the {failure.on[0]} only)" if len(failure.on) == 1 else ""


def _reached(coverage: Coverage | None, threshold: float | None, *, enough: bool) -> Iterator[str]:
    if coverage is None:
        yield "coverage  is not told where a test fails"
        return
    demanded = "" if enough else f", of which {threshold:g}% are demanded"
    yield f"coverage  {coverage.percent:g}% of {coverage.lines} lines of rules{demanded}"
    yield from (f"          not reached: {lines}" for lines in coverage.uncovered())
