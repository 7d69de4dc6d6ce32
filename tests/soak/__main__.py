"""`python -m soak`: exit status 0 if nothing was wrong."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys

from soak.run import Soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description="A proxy under mixed traffic and faults.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="of an earlier run, to repeat it as far as that goes")
    given = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    print(f"seed {seed}, {given.minutes:g} minute(s)", flush=True)
    soak = Soak(seconds=60 * given.minutes, seed=seed)
    asyncio.run(soak.run())
    print(soak.report)
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
