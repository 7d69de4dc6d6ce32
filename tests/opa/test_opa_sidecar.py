"""OPA as a child process: it comes up right or not at all, comes back when it dies, and never outlives its owner."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ostiary.decision.revision import Revision
from ostiary.errors import PolicyUnavailable
from ostiary.opa.address import OpaAddress
from ostiary.opa.client import OpaClient
from ostiary.opa.external import ExternalOpa
from ostiary.opa.probe import OpaNotReady
from ostiary.opa.process import OpaProcess
from ostiary.opa.sidecar import ManagedOpa
from support.opa import ALLOWED, DENIED, REGO, REVISION, FakeOpa, document, response, until, write_bundle

QUESTION = {"subject": {"id": "web"}}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def open_files() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def managed(opa_binary: Path, bundle: Path, tmp_path: Path) -> ManagedOpa:
    return ManagedOpa(binary=opa_binary, bundle=bundle, directory=tmp_path / "run", interval=0.05, first_pause=0.05)


@pytest.fixture
async def client(managed: ManagedOpa) -> AsyncIterator[OpaClient]:
    async with managed, OpaClient(address=managed.address, deadline=2) as client:
        yield client


async def test_it_is_open_when_it_serves_the_bundle_and_gone_when_it_is_closed(
    managed: ManagedOpa, tmp_path: Path
) -> None:
    assert managed.state == "starting"
    async with managed:
        assert (managed.state, managed.revision) == ("serving", REVISION)
        pid = managed.pid
        assert pid is not None
        async with OpaClient(address=managed.address, deadline=2) as client:
            assert (await client.query(QUESTION)).result == ALLOWED
    assert (managed.state, managed.pid) == ("down", None)
    assert not alive(pid)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["bundle", "lock"]


async def test_its_socket_is_for_owner_and_group_in_a_directory_of_the_owner_alone(
    managed: ManagedOpa, client: OpaClient
) -> None:
    path = managed.address.socket
    assert path is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_without_a_directory_it_has_a_temporary_one(opa_binary: Path, bundle: Path) -> None:
    async with ManagedOpa(binary=opa_binary, bundle=bundle) as managed:
        path = managed.address.socket
        assert path is not None
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.parent.exists()


async def test_a_directory_that_others_can_enter_is_refused(opa_binary: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(OpaNotReady, match="mode 0700"):
        async with ManagedOpa(binary=opa_binary, bundle=bundle, directory=tmp_path / "open"):
            pass


async def test_a_directory_has_one_owner(
    managed: ManagedOpa, client: OpaClient, opa_binary: Path, bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(OpaNotReady, match="used by another ostiary"):
        async with ManagedOpa(binary=opa_binary, bundle=bundle, directory=tmp_path / "run"):
            pass
    assert (await client.query(QUESTION)).result == ALLOWED


async def test_sockets_that_a_killed_owner_left_are_removed(managed: ManagedOpa, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    for name in ("opa.sock", "opa-000001.sock", "opa-000007.sock"):
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(tmp_path / "run" / name))
        left.close()
    async with managed, OpaClient(address=managed.address, deadline=2) as client:
        assert (await client.query(QUESTION)).result == ALLOWED
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["bundle", "lock", "opa.sock"]


async def test_when_it_is_killed_it_comes_back_and_the_same_client_goes_on(
    managed: ManagedOpa, client: OpaClient
) -> None:
    first = managed.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: managed.state == "down")
    with pytest.raises(PolicyUnavailable):
        await client.query(QUESTION)
    await until(lambda: managed.state == "serving")
    assert managed.pid not in (None, first)
    assert managed.restarts == 1
    assert (await client.query(QUESTION)).result == ALLOWED


async def test_one_that_cannot_come_back_is_tried_again_ever_more_slowly(
    opa_binary: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = tmp_path / "opa"
    program.symlink_to(opa_binary)
    bundle = write_bundle(tmp_path / "bundle")
    async with ManagedOpa(
        binary=program, bundle=bundle, directory=tmp_path / "run", first_pause=0.02, longest_pause=0.1
    ) as managed:
        program.unlink()
        os.kill(managed.pid or 0, signal.SIGKILL)
        await until(lambda: managed.restarts >= 4)
        assert managed.state == "down"
        program.symlink_to(opa_binary)
        await until(lambda: managed.state == "serving")
    pauses = [record.args[0] for record in caplog.records if record.args and "next attempt" in record.msg]  # type: ignore[index]
    assert pauses[:3] == [pytest.approx(0.04), pytest.approx(0.08), pytest.approx(0.1)]
    assert "cannot be started: No such file or directory" in caplog.text


class Forgetful:
    """Is told of bundles that are active, and fails at the given times."""

    def __init__(self, *fails: int) -> None:
        self._fails = fails
        self.told: list[str] = []

    def __call__(self, revision: Revision) -> None:
        self.told.append(str(revision))
        if len(self.told) in self._fails:
            raise IndexError


async def test_no_unforeseen_error_leaves_it_without_anybody_who_looks_after_it(
    opa_binary: Path, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither after a death nor after a new bundle, which whoever could not be told of it is told of again."""
    active, others = Forgetful(2, 3), children(os.getpid())
    async with ManagedOpa(
        binary=opa_binary,
        bundle=bundle,
        directory=tmp_path / "run",
        on_active=active,
        interval=0.05,
        first_pause=0.05,
        longest_pause=0.2,
    ) as managed:
        first = managed.pid or 0
        os.kill(first, signal.SIGKILL)
        await until(lambda: len(active.told) == 2)
        assert managed.state == "down"
        await until(lambda: managed.state == "serving")
        second = managed.pid or 0
        write_bundle(bundle, revision="8-ff")
        await until(lambda: len(active.told) == 3)
        assert managed.state == "down"
        await until(lambda: managed.revision == "8-ff")
        assert (managed.state, active.told) == ("serving", [REVISION, REVISION, "8-ff", "8-ff"])
        await until(lambda: children(os.getpid()) == [*others, managed.pid])
        assert second not in (first, managed.pid)
        os.kill(managed.pid or 0, signal.SIGKILL)
        await until(lambda: managed.restarts == 2 and managed.state == "serving")
    assert caplog.text.count("OPA could not be looked after") == 2


async def test_whoever_cannot_be_told_of_the_first_bundle_leaves_nothing_behind(
    opa_binary: Path, bundle: Path, tmp_path: Path
) -> None:
    before = children(os.getpid())
    with pytest.raises(IndexError):
        async with ManagedOpa(binary=opa_binary, bundle=bundle, directory=tmp_path / "run", on_active=Forgetful(1)):
            pass
    assert children(os.getpid()) == before


@pytest.mark.parametrize("with_pipe", [False, True], ids=["prctl", "pipe"])
async def test_it_ends_when_its_owner_is_killed(
    opa_binary: Path, bundle: Path, tmp_path: Path, with_pipe: bool
) -> None:
    """Both leashes: the kernel's on Linux, and the one for other systems."""
    script = textwrap.dedent(
        """
        import asyncio, sys, uvloop
        from pathlib import Path
        from ostiary.opa.process import OpaProcess
        async def main(binary, bundle, socket, with_pipe):
            process = await OpaProcess.start(
                binary=Path(binary), bundle=Path(bundle), socket=Path(socket), with_pipe=with_pipe == "True"
            )
            while not Path(socket).exists():
                await asyncio.sleep(0.01)
            print(process.pid, flush=True)
            await asyncio.sleep(60)
        uvloop.run(main(*sys.argv[1:]))
        """
    )
    owner = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        str(opa_binary),
        str(bundle),
        str(tmp_path / "s"),
        str(with_pipe),
        stdout=subprocess.PIPE,
    )
    try:
        assert owner.stdout is not None
        pid = int(await owner.stdout.readline())
        family = [pid, *children(pid)]
        assert len(family) == (2 if with_pipe else 1)
        assert all(map(alive, family))
    finally:
        owner.kill()
        await owner.wait()
    await until(lambda: not any(map(alive, family)))


@pytest.mark.parametrize("with_pipe", [False, True], ids=["prctl", "pipe"])
async def test_stopping_it_leaves_nothing_behind(
    opa_binary: Path, bundle: Path, tmp_path: Path, with_pipe: bool
) -> None:
    files = open_files()
    process = await OpaProcess.start(binary=opa_binary, bundle=bundle, socket=tmp_path / "s", with_pipe=with_pipe)
    await until((tmp_path / "s").exists)
    family = [process.pid, *children(process.pid)]
    await process.stop()
    await until(lambda: not any(map(alive, family)))
    assert open_files() <= files


async def test_one_that_ignores_being_asked_to_end_is_killed(tmp_path: Path, bundle: Path) -> None:
    stubborn = tmp_path / "opa"
    stubborn.write_text(f"#!/bin/sh\ntrap '' TERM\ntouch {tmp_path}/up\nwhile :; do sleep 0.05; done\n")
    stubborn.chmod(0o755)
    process = await OpaProcess.start(binary=stubborn, bundle=bundle, socket=tmp_path / "s")
    await until((tmp_path / "up").exists)
    before = time.monotonic()
    await process.stop()
    assert not alive(process.pid)
    assert time.monotonic() - before < 5


async def test_a_ctrl_c_for_the_proxy_is_not_one_for_opa(managed: ManagedOpa, client: OpaClient) -> None:
    pid = managed.pid
    assert pid is not None
    assert os.getpgid(pid) != os.getpgid(0)


async def test_opa_does_not_get_our_environment(
    opa_binary: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rego can read it, and secrets are in it."""
    monkeypatch.setenv("OSTIARY_SECRET", "s3cret")
    monkeypatch.setenv("GOGC", "50")
    process = await OpaProcess.start(binary=opa_binary, bundle=bundle, socket=tmp_path / "s")
    try:
        await until((tmp_path / "s").exists)
        assert b"s3cret" not in environment(process.pid)
        assert b"GOGC=50" in environment(process.pid).split(b"\0")
    finally:
        await process.stop()


@pytest.mark.parametrize(
    ("revision", "rego", "words"),
    [
        (REVISION, "package ostiary.authz\n\ndecision :=\n", "rego_parse_error"),
        (REVISION, 'package ostiary.authz\n\ndecision := {"allow": true}\n', "allows the empty question"),
        (REVISION, "package ostiary.other\n\ndecision := 1\n", "does not decide"),
        (REVISION, 'package ostiary.authz\n\ndecision := {"allow": "no"}\n', "does not decide"),
        ("today", REGO, "no revision of the form"),
    ],
)
async def test_a_bundle_that_is_no_good_does_not_start(
    opa_binary: Path, tmp_path: Path, revision: str, rego: str, words: str
) -> None:
    bundle = write_bundle(tmp_path / "bundle", revision=revision, rego=rego)
    with pytest.raises(OpaNotReady, match=words):
        async with ManagedOpa(binary=opa_binary, bundle=bundle, directory=tmp_path / "run"):
            pass
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name != "staged"] == ["lock"]


async def test_a_program_that_is_no_opa_does_not_start(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(OpaNotReady, match="OPA ended with status"):
        async with ManagedOpa(binary=Path("/bin/false"), bundle=bundle, directory=tmp_path / "run"):
            pass


async def test_a_socket_path_that_is_too_long_is_said(opa_binary: Path, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(OpaNotReady, match="too long for a unix socket"):
        async with ManagedOpa(binary=opa_binary, bundle=bundle, directory=tmp_path / ("d" * 100)):
            pass


class TestANewBundle:
    async def test_is_taken_over_without_failing_a_question(
        self, managed: ManagedOpa, client: OpaClient, bundle: Path
    ) -> None:
        """Questions go on all the while; each is answered, and once the new bundle answered, only by the new one."""
        old = managed.pid
        revisions: list[str | None] = []
        done = asyncio.Event()

        async def keep_asking() -> None:
            while not done.is_set():
                revisions.append((await client.query(QUESTION)).revision)
                await asyncio.sleep(0)

        asking = [asyncio.create_task(keep_asking()) for _ in range(4)]
        await asyncio.sleep(0.05)
        write_bundle(bundle, revision="8-ff")
        await until(lambda: managed.revision == "8-ff")
        await until(lambda: not alive(old or 0))
        done.set()
        await asyncio.gather(*asking)
        assert set(revisions) == {REVISION, "8-ff"}
        switch = revisions.index("8-ff")
        assert set(revisions[switch + len(asking) :]) == {"8-ff"}
        assert managed.restarts == 0

    async def test_with_the_same_sequence_is_taken_over_and_warned_of_once(
        self, managed: ManagedOpa, client: OpaClient, bundle: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, logger="ostiary.opa")
        write_bundle(bundle, revision="7-other")
        await until(lambda: managed.revision == "7-other")
        assert (await client.query(QUESTION)).revision == "7-other"
        said = [record.getMessage() for record in caplog.records if "7-other" in record.getMessage()]
        assert said == [
            f"the bundle 7-other takes the place of {REVISION}, and may be older than that: they have one sequence",
            f"the bundle 7-other is active, it was {REVISION} (OPA is process {managed.pid})",
        ]

    async def test_that_is_broken_is_not_taken_over(
        self, managed: ManagedOpa, client: OpaClient, bundle: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        write_bundle(bundle, revision="8-ff", rego="package ostiary.authz\n\ndecision :=\n")
        await until(lambda: "not taken over" in caplog.text)
        assert (managed.state, managed.revision) == ("serving", REVISION)
        assert (await client.query(QUESTION)).revision == REVISION

    async def test_with_an_older_revision_is_not_taken_over_not_even_after_a_death(
        self, managed: ManagedOpa, client: OpaClient, bundle: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        write_bundle(bundle, revision="6-ff")
        await until(lambda: "6-ff does not follow" in caplog.text)
        assert (await client.query(QUESTION)).revision == REVISION
        assert managed.refused == f"the bundle 6-ff does not follow {REVISION}, which was active before"
        os.kill(managed.pid or 0, signal.SIGKILL)
        await until(lambda: managed.restarts > 0 and managed.state == "serving")
        assert (await client.query(QUESTION)).revision == REVISION  # the one that was active last
        write_bundle(bundle, revision="9-ff")
        await until(lambda: managed.revision == "9-ff")
        assert (await client.query(QUESTION)).revision == "9-ff"
        assert managed.refused is None


class TestLogs:
    async def test_opas_lines_become_ours_at_their_level(
        self, managed: ManagedOpa, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with managed:
            await until(lambda: "Initializing server." in caplog.text)
        (record,) = [record for record in caplog.records if "Initializing" in record.getMessage()]
        assert (record.name, record.levelno) == ("ostiary.opa", logging.INFO)

    @pytest.fixture(autouse=True)
    def _level(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, logger="ostiary.opa")

    async def test_questions_are_in_no_log(
        self, managed: ManagedOpa, client: OpaClient, bundle: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Not the requests, and not what a `print` in Rego makes of them."""
        printing = REGO + '\nallow if {\n\tprint("input is", input)\n\tfalse\n}\n'
        write_bundle(bundle, revision="8-ff", rego=printing)
        await until(lambda: managed.revision == "8-ff")
        await client.query({"subject": {"id": "s3cret"}})
        assert managed.pid is not None
        os.kill(managed.pid, signal.SIGTERM)
        await until(lambda: "Server shutdown" in caplog.text)
        assert "s3cret" not in caplog.text
        assert "input is" not in caplog.text
        assert "Received request" not in caplog.text

    async def test_what_it_said_in_passing_is_not_given_as_the_cause_of_its_end(
        self, bundle: Path, tmp_path: Path
    ) -> None:
        talker = tmp_path / "opa"
        talker.write_text(
            """#!/bin/sh\nprintf '{"level":"info","msg":"Initializing server."}\\n'\nkill -9 $$\n""", encoding="utf-8"
        )
        talker.chmod(0o755)
        process = await OpaProcess.start(binary=talker, bundle=bundle, socket=tmp_path / "s")
        assert await process.wait() == "OPA was ended by SIGKILL"

    async def test_a_line_cannot_forge_another_nor_flood(
        self, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        talker = tmp_path / "opa"
        talker.write_text(
            "#!/bin/sh\n"
            """printf '{"level":"error","msg":"one\\\\nERROR two","password":"s3cret","err":"three"}\\n'\n"""
            "printf 'bare \\033[31m line\\n'\n"
            "printf '\\377\\n[1]\\n\\n'\n"
            "head -c 300000 /dev/zero | tr '\\0' 'x'\n"
        )
        talker.chmod(0o755)
        process = await OpaProcess.start(binary=talker, bundle=bundle, socket=tmp_path / "s")
        said = await process.wait()
        messages = [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "ostiary.opa"]
        assert messages == [
            (logging.ERROR, "one ERROR two err=three"),
            (logging.WARNING, "bare  [31m line"),
            (logging.WARNING, "�"),
            (logging.WARNING, "[1]"),
            (logging.WARNING, "x" * 1000),
        ]
        assert said.startswith("OPA ended with status 0; last output: one ERROR two err=three / bare")


class TestExternal:
    async def test_is_waited_for(self, opa_binary: Path, bundle: Path, tmp_path: Path) -> None:
        async def late() -> OpaProcess:
            await asyncio.sleep(0.2)
            return await OpaProcess.start(binary=opa_binary, bundle=bundle, socket=tmp_path / "s")

        starting = asyncio.create_task(late())
        try:
            async with ExternalOpa(address=OpaAddress(socket=tmp_path / "s"), start_timeout=10) as external:
                assert external.revision == REVISION
            assert alive((await starting).pid)
        finally:
            await (await starting).stop()

    async def test_that_does_not_come_is_said_with_the_reason(self) -> None:
        fake = FakeOpa(response(b"{}", status=500))
        async with fake.listening() as address:
            with pytest.raises(OpaNotReady, match=r"was not ready within 0.2 s: OPA answered 500"):
                async with ExternalOpa(address=OpaAddress.parse(address), start_timeout=0.2):
                    pass

    async def test_that_has_not_activated_its_bundle_is_not_ready(self) -> None:
        """Before activation OPA answers `{}` to everything."""
        fake = FakeOpa(response(b"{}"))
        async with fake.listening() as address:
            with pytest.raises(OpaNotReady, match="has the revision None"):
                async with ExternalOpa(address=OpaAddress.parse(address), start_timeout=0.1):
                    pass

    async def test_that_denies_everything_is_not_ready(self) -> None:
        fake = FakeOpa(response(document(DENIED)))
        async with fake.listening() as address:
            with pytest.raises(OpaNotReady, match="has no probe"):
                async with ExternalOpa(address=OpaAddress.parse(address), start_timeout=0.1):
                    pass
