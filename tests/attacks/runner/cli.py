"""`make attacks [CORPUS=file]`: one line for each case that falls short, and how many held."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from attacks.runner.corpus import Case, CorpusError, load
from attacks.runner.fixture import HOST
from attacks.runner.forgery import AUDIENCE, ISSUER, KEY_ID
from attacks.runner.run import Outcome, Report, run
from attacks.runner.target import Target, run_against

HERE: Final = Path(__file__).parents[1]
CORPORA: Final = (HERE / "attacks.json", HERE / "ours.json", HERE / "access.json")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make attacks", description=__doc__)
    parser.add_argument("corpus", nargs="*", type=Path, help="files of cases; ours if none is named")
    parser.add_argument("--target", metavar="URL", help="a proxy that runs already: http://127.0.0.1:8080")
    known = parser.add_argument_group("of the target")
    known.add_argument("--host", default=HOST, help="its service's name in Host (default: %(default)s)")
    known.add_argument("--key", metavar="FILE", type=Path, help="the RSA private key (PEM) of its issuer")
    known.add_argument("--key-id", default=KEY_ID, help="and the key's id (default: %(default)s)")
    known.add_argument("--issuer", default=ISSUER, help="default: %(default)s")
    known.add_argument("--audience", default=AUDIENCE, help="default: %(default)s")
    known.add_argument("--token", help="a token of the caller web, where the key is not known")
    known.add_argument("--service", metavar="PORT", type=int, help="be its service, on this port of 127.0.0.1")
    known.add_argument("--audit", metavar="DIR", type=Path, help="the directory of its audit")
    parser.add_argument("--only", metavar="TEXT", help="only cases whose id or class begins so; controls always")
    parser.add_argument("--verbose", action="store_true", help="say of each case that it held, and how long it took")
    told = parser.parse_args(arguments)
    try:
        cases = load(*(told.corpus or CORPORA))
    except CorpusError as error:
        print(error, file=sys.stderr)
        return 2
    if told.only:
        cases = [
            case
            for case in cases
            if case.is_control or case.id.startswith(told.only) or case.kind.startswith(told.only)
        ]

    def on_outcome(outcome: Outcome) -> None:
        if outcome.findings:
            say(f"{outcome.case.id} ({outcome.case.expected}): {'; '.join(outcome.findings)}")
        elif told.verbose and outcome.held:
            say(f"{outcome.case.id} held ({outcome.seconds:.2f} s)")

    try:
        report = asyncio.run(_report(told, cases, on_outcome))
    except CorpusError as error:
        print(error, file=sys.stderr)
        return 2
    if told.verbose:
        print(f"in {report.seconds:.1f} s")
    return concluded(report)


async def _report(told: argparse.Namespace, cases: list[Case], on_outcome: Callable[[Outcome], None]) -> Report:
    if told.target is None:
        return await run(cases, on_outcome=on_outcome)
    target = Target(
        url=told.target,
        host=told.host,
        issuer=told.issuer,
        audience=told.audience,
        key_id=told.key_id,
        key_file=told.key,
        token=told.token,
        service_port=told.service,
        audit=told.audit,
    )
    return await run_against(target, cases, on_outcome=on_outcome)


def concluded(report: Report) -> int:
    for outcome in report.not_yet:
        say(f"{outcome.case.id} not tried: {outcome.not_yet}")
    if report.not_yet:
        say(f"{len(report.not_yet)} not tried")
    say(f"{len(report.held)} held, {len(report.fell_short)} fell short")
    return report.status


def say(line: str) -> None:
    """Print it wherever it goes: cases have characters that a terminal may not have, or that are none."""
    encoding = sys.stdout.encoding or "ascii"
    print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)
