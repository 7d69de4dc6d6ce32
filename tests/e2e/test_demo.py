"""The demo, as it is run from a shell: up in seconds, each stop of its tour holds, and gone without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.faults import descendants, eventually
from support.installed import OSTIARY, demo_check, program

INSTALLED = str(Path(sys.executable).with_name("ostiary"))

UNHINDERED = 20
"""Seconds for an end that takes three, and thirty where something is waited for until its time is up."""


@pytest.fixture
def home() -> Iterator[Path]:
    """Where the demos of a test keep their files: below /tmp, because the paths of unix sockets are limited."""
    with tempfile.TemporaryDirectory(prefix="ost-", dir="/tmp") as place:
        yield Path(place)


@contextlib.contextmanager
def taken(*ports: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for port in ports:
            with contextlib.suppress(OSError):  # taken already, which is as good
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


async def test_two_demos_at_once_hold_every_promise_of_the_tour_on_ports_that_are_free(
    opa_binary: Path, home: Path
) -> None:
    """The ports that they would rather have are taken."""
    with taken(8080, 9000, 9002):
        found = await asyncio.gather(*(demo_check(home=home, cwd=home) for _ in range(2)))
    for outcomes in found:
        assert [outcome for outcome in outcomes if not outcome["held"]] == []
        assert len(outcomes) >= 13


async def test_an_open_connection_does_not_hold_up_the_end_of_the_demo(opa_binary: Path, home: Path) -> None:
    """Nothing waits for its time to be up. How many seconds it takes is the machine's business."""
    async with program(*OSTIARY, "demo", home=home, cwd=home) as demo:
        up = await demo.writes("Ctrl-C ends the demo.")
        (port,) = re.findall(r"The proxy listens on 127\.0\.0\.1:(\d+)", demo.text)
        async with httpx.AsyncClient(trust_env=False) as client:
            url = f"http://127.0.0.1:{port}/orders/42"
            answer = await client.get(url, headers={"host": "orders.localhost"})  # and its connection stays open
            assert answer.status_code == 401
            status, gone = await demo.end(signal.SIGINT)
        assert status == 0
        assert "Traceback" not in demo.text
    print(f"up in {up:.1f} s, gone in {gone:.1f} s")
    assert gone < UNHINDERED


@pytest.mark.parametrize("command", [(INSTALLED,), OSTIARY], ids=["script", "module"])
async def test_what_the_guide_prints_runs_as_it_is_copied(
    opa_binary: Path, home: Path, command: tuple[str, ...]
) -> None:
    """In a terminal whose PATH knows nothing of ostiary, and after another demo was run."""
    place = home / "a demo"
    async with program(*command, "demo", "--dir", str(place), home=home, cwd=home) as demo:
        await demo.writes("Ctrl-C ends the demo.")
        await demo_check(home=home, cwd=home)
        tokens = re.findall(r"^  [A-Z]+=\$\(.+ token .+\)$", demo.text, flags=re.MULTILINE)
        [request, *_] = re.findall(r"^  curl .+$", demo.text, flags=re.MULTILINE)
        assert len(tokens) == 4
        [access] = re.findall(r"^  export OSTIARY_URL=.+?\n\n.+?\n\n", demo.text, flags=re.MULTILINE | re.DOTALL)
        shown = "-o /dev/null -w '%{http_code} '"
        asked = re.sub(r"^  curl .+$", rf"\g<0> {shown}", access, flags=re.MULTILINE)
        copied = "\n".join(["set -e", *tokens, f"{request} {shown}", "exec 2>/dev/null", asked])
        ran = await asyncio.to_thread(
            subprocess.run,
            ["bash", "--noprofile", "--norc", "-c", copied],
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "200 active\n200 revoked\n403 ", "")
        await demo.end(signal.SIGINT)


async def test_the_demo_that_runs_has_a_name_and_one_that_ended_has_its_files(opa_binary: Path, home: Path) -> None:
    """A check has no name, and leaves nothing if everything held."""
    state = home / "ostiary"
    async with program(*OSTIARY, "demo", home=home, cwd=home) as demo:
        await demo.writes("Ctrl-C ends the demo.")
        [place] = state.glob("demo-*")
        assert (state / "demo").resolve() == place
        await demo_check(home=home, cwd=home)
        assert sorted(state.iterdir()) == [state / "demo", place]
        await demo.end(signal.SIGINT)
        assert demo.text.endswith(f"The demo has ended; its files stay in {place}.\n")
    assert list(state.iterdir()) == [place]
    assert (place / "ostiary.yaml").exists()


async def test_a_signal_ends_a_demo_that_is_coming_up(opa_binary: Path, home: Path) -> None:
    async with program(*OSTIARY, "demo", "--check", home=home, cwd=home) as demo:
        await eventually(lambda: len(descendants(demo.process.pid)) >= 2)  # OPA serves, and a worker starts
        status, gone = await demo.end(signal.SIGTERM)
        assert status == 1
        assert demo.text == ""
    assert list((home / "ostiary").iterdir()) == []
    assert gone < UNHINDERED
