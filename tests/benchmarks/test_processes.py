"""What /proc says is read as proc(5) has it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.processes import cpu_seconds, family, parse_busy, parse_resident, parse_stat, resident, usage

STAT = (
    "4242 (odd) name (x)) S 1 4242 4242 0 -1 4194560 1500 0 0 0 120 30 7 8 20 0 3 0 100 5000 600 "
    "18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)

on_linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")


def test_cpu_time_is_user_and_system_whatever_the_process_is_called() -> None:
    assert parse_stat(STAT, ticks=100) == ("odd) name (x)", 1.5)


def test_a_core_is_busy_unless_it_is_idle_or_waits() -> None:
    text = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu1 100 20 30 4000 500 6 7 8 90 0\ncpu10 1 1 1 1 1 1 1 1 1 1\nintr 5\n"
    assert parse_busy(text, 1, ticks=100) == 1.71
    with pytest.raises(ValueError, match="no core 2"):
        parse_busy(text, 2, ticks=100)


def test_resident_memory_is_in_bytes() -> None:
    assert parse_resident("Name:\tx\nVmPeak:\t  900 kB\nVmRSS:\t  150 kB\nThreads:\t3\n") == 150 * 1024


def test_a_process_that_has_ended_has_no_resident_memory() -> None:
    assert parse_resident("Name:\tx\nState:\tZ (zombie)\n") == 0


@on_linux
def test_a_family_is_a_process_and_its_children_and_their_children() -> None:
    inner = "import sys; print('here', flush=True); sys.stdin.read()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "here\n"
        found = family(parent.pid)
        parent.communicate()
    assert parent.pid in found
    assert len(found) == 2


@on_linux
def test_the_usage_of_a_process_is_its_own_and_no_opa_is_in_it() -> None:
    busy = "import sys, time\nwhile time.process_time() < 0.05: pass\nprint('here', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        found = usage(process.pid)
        process.communicate()
    assert found.cpu > 0
    assert found.resident > 1_000_000
    assert (found.opa_cpu, found.opa_resident) == (0.0, 0)


@on_linux
def test_the_time_and_memory_of_one_process_are_those_that_it_knows_itself() -> None:
    before, told, after = time.process_time(), cpu_seconds(os.getpid()), time.process_time()
    assert before <= told <= after
    assert resident(os.getpid()) > 1_000_000
