"""`ostiary health`: what a probe is told. By a proxy and an OPA that run: tests/deploy/test_pod.py."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.cli import ostiary
from support.faults import free_port


@pytest.mark.parametrize("address", ["unix:nowhere.sock", "127.0.0.1:{port}", "127.0.0.2:{port}"])
def test_nobody_who_answers_is_not_well(address: str) -> None:
    ran = ostiary("health", "--admin", address.format(port=free_port()))

    assert (ran.status, ran.out) == (1, "")
    assert "does not answer" in ran.err


def test_it_waits_for_what_is_not_there_yet() -> None:
    began = time.monotonic()

    assert ostiary("health", "--admin", "unix:nowhere.sock", "--wait", "1").status == 1
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--ready", "--live"], "--ready and --live are two questions: ask one"),
        (["--opa", "unix:a", "--admin", "unix:b"], "--opa asks an OPA, and --admin and --config are about the proxy"),
        (["--admin", "10.0.0.1:80"], "'10.0.0.1:80' is not unix:PATH or 127.0.0.1:PORT"),
    ],
)
def test_questions_that_make_no_sense_are_mistakes(arguments: list[str], told: str) -> None:
    ran = ostiary("health", *arguments)

    assert (ran.status, ran.out, ran.err) == (2, "", told + "\n")


def test_a_probe_imports_nothing_of_the_proxy(tmp_path: Path) -> None:
    """It runs every few seconds, on the processor that serves requests."""
    code = """
import sys
sys.argv = ["ostiary", "health", "--live", "--admin", "unix:nowhere.sock"]
from ostiary.cli import main
try:
    main()
except SystemExit:
    print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert not {"ostiary.config", "httpx", "aiohttp", "yaml", "starlette", "cryptography"} & set(done.stdout.split())
