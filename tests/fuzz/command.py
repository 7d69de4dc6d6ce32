"""`python -m fuzz [--cases N] [--seed N] [--target NAME …] [--workers N]`, with `tests` on the path (`make fuzz`)."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import random
import sys
import time
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import Queue

from fuzz.runner import Finding, run
from fuzz.targets import TARGETS


def _worker(shares: dict[str, int], seed: int, out: Queue[int | Finding | None]) -> None:
    for name, cases in shares.items():
        for finding in run(name, cases=cases, seed=seed, tick=out.put):
            out.put(finding)
    out.put(None)


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description="Look for what no test was written for.")
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--target", action="append", choices=[make.name for make in TARGETS])  # type: ignore[attr-defined]
    options = parser.parse_args()
    targets = {make.name: make.share for make in TARGETS}  # type: ignore[attr-defined]
    if options.target:
        targets = {name: targets[name] for name in options.target}
    whole = sum(targets.values())
    shares = {name: max(1, round(options.cases * share / whole / options.workers)) for name, share in targets.items()}
    print(f"seed {options.seed}: {sum(shares.values()) * options.workers:,} cases of {', '.join(shares)}", flush=True)
    context = multiprocessing.get_context("spawn")
    out: Queue[int | Finding | None] = context.Queue()
    workers = [
        context.Process(target=_worker, args=(shares, options.seed * 1000 + number, out))
        for number in range(options.workers)
    ]
    for worker in workers:
        worker.start()
    findings = _watch(out, workers, cases=sum(shares.values()) * options.workers)
    for worker in workers:
        worker.join()
    return 1 if findings or any(worker.exitcode for worker in workers) else 0


def _watch(out: Queue[int | Finding | None], processes: list[SpawnProcess], *, cases: int) -> int:
    begun = shown = time.monotonic()
    done = findings = 0
    workers = len(processes)
    while workers:
        try:
            news = out.get(timeout=1)
        except queue.Empty:
            if any(process.exitcode for process in processes):
                return findings  # one died, which its exit status tells
            continue
        if news is None:
            workers -= 1
        elif isinstance(news, Finding):
            findings += 1
            print(f"\n{news.target}: {news.said[:2000]}\n  kept as {news.keep()}", flush=True)
        else:
            done += news
        now = time.monotonic()
        if now - shown > 1 or not workers:
            shown = now
            end = "\r" if workers and sys.stdout.isatty() else "\n"
            if end == "\r" or not workers or done % 20_000 < 2000:
                print(
                    f"{done:,} of {cases:,}, {done / (now - begun):,.0f} a second, {findings} found",
                    end=end,
                    flush=True,
                )
    return findings
