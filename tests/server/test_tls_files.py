"""The files behind TLS: what is wrong with them is said, and what they become is taken into use or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ostiary.certificates import TlsFiles
from ostiary.config.proofs import ClientCa, Tls
from ostiary.errors import ConfigurationError, IdentityInvalid
from support.server import PATIENCE
from support.tls import NOW, Pair, dns, root, workload

SHOP, NEXT, SERVERS, PLAIN = root("shop"), root("next"), root("servers"), root("plain")
AT = NOW.timestamp()
INTERVAL = 0.01


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    SERVERS.issue(dns("localhost")).write(tmp_path, "server")
    (tmp_path / "shop.pem").write_bytes(SHOP.pem)
    (tmp_path / "plain.pem").write_bytes(PLAIN.pem)
    return tmp_path


def files(directory: Path, *, group_readable: bool = False) -> TlsFiles:
    settings = Tls(
        certificate=directory / "server.pem",
        key=directory / "server-key.pem",
        trust_domains={"shop.test": directory / "shop.pem"},
        client_ca=ClientCa(issuer="https://ca.test", file=directory / "plain.pem"),
    )
    return TlsFiles(settings, group_readable=group_readable, interval=INTERVAL)


@pytest.fixture
async def watched(directory: Path) -> AsyncIterator[TlsFiles]:
    built = files(directory)
    built.load()
    await built.start()
    yield built
    await built.close()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 # what is waited for is somebody else's state
            await asyncio.sleep(INTERVAL)


def vouched(built: TlsFiles, pair: Pair) -> bool:
    try:
        built.trust.judge(pair.chain, AT)
    except IdentityInvalid:
        return False
    return True


def replace(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_bytes(content)
    new.replace(path)


def test_everything_is_loaded_together(directory: Path) -> None:
    built = files(directory)
    built.load()
    assert (built.state, built.trust.generation) == ("current", 1)
    assert vouched(built, workload(SHOP))
    assert vouched(built, PLAIN.issue(dns("web.test")))
    assert not vouched(built, workload(PLAIN))


def test_every_mistake_is_told_at_once(directory: Path) -> None:
    (directory / "shop.pem").write_bytes(b"")
    (directory / "plain.pem").write_bytes(workload(PLAIN).pem)
    (directory / "server.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\n")
    with pytest.raises(ConfigurationError) as refused:
        files(directory).load()
    assert refused.value.mistakes == (
        f"{directory}/shop.pem: holds no certificates in PEM, or a broken one",
        f"{directory}/plain.pem: holds a certificate that is no authority (basicConstraints, keyUsage)",
        f"{directory}/server.pem: holds no certificate in PEM, or a broken one",
    )


def test_files_that_are_not_there_are_told_at_once(directory: Path) -> None:
    for name in ("server-key.pem", "shop.pem"):
        (directory / name).unlink()
    with pytest.raises(ConfigurationError) as refused:
        files(directory).load()
    assert refused.value.mistakes == (
        f"{directory}/server-key.pem: cannot be read: No such file or directory",
        f"{directory}/shop.pem: cannot be read: No such file or directory",
    )


def test_a_key_that_others_can_read_is_refused_unless_they_are_its_group_and_that_is_said(directory: Path) -> None:
    key = directory / "server-key.pem"
    for mode, remedy in ((0o644, "chmod 600, or mount it so"), (0o440, "chmod 600, or set secrets.group_readable")):
        key.chmod(mode)
        with pytest.raises(ConfigurationError) as refused:
            files(directory).load()
        told = f"{key}: the listener's key is open to others (mode {mode:04o}): {remedy}"
        assert refused.value.mistakes == (told,)
    built = files(directory, group_readable=True)
    built.load()
    assert built.state == "current"


async def test_a_key_that_others_can_read_is_not_taken_into_use(directory: Path, watched: TlsFiles) -> None:
    successor = SERVERS.issue(dns("localhost"))
    before = watched.context
    (directory / "server-key.pem").chmod(0o644)
    (directory / "server-key.pem").write_bytes(successor.key_pem)
    (directory / "server.pem").write_bytes(successor.chain_pem)
    await until(lambda: watched.state == "outdated")
    assert watched.context is before


def test_a_key_that_is_another_certificate_s_is_told_without_being_shown(directory: Path) -> None:
    (directory / "server-key.pem").write_bytes(SHOP.key_pem)
    with pytest.raises(ConfigurationError) as refused:
        files(directory).load()
    assert refused.value.mistakes == (
        f"{directory}/server.pem and {directory}/server-key.pem: cannot be used together: key values mismatch",
    )


async def test_an_authority_that_is_added_is_trusted_and_one_that_is_removed_is_not(
    watched: TlsFiles, directory: Path
) -> None:
    context = watched.context
    replace(directory / "shop.pem", SHOP.pem + NEXT.pem)
    await until(lambda: vouched(watched, workload(NEXT)))
    assert vouched(watched, workload(SHOP))
    assert watched.context is not context
    replace(directory / "shop.pem", NEXT.pem)
    await until(lambda: not vouched(watched, workload(SHOP)))
    assert vouched(watched, workload(NEXT))
    assert (watched.state, watched.trust.generation) == ("current", 3)


async def test_another_certificate_is_taken_into_use(watched: TlsFiles, directory: Path) -> None:
    context = watched.context
    successor = SERVERS.issue(dns("localhost"))
    replace(directory / "server-key.pem", successor.key_pem)
    await until(lambda: watched.state == "outdated")
    assert watched.context is context, "a key that does not fit its certificate yet changes nothing"
    replace(directory / "server.pem", successor.pem)
    await until(lambda: watched.state == "current")
    assert watched.context is not context


async def test_a_link_that_is_moved_is_another_content(directory: Path) -> None:
    """As Kubernetes replaces what is mounted."""
    for version, authority in (("1", SHOP), ("2", NEXT)):
        (directory / version).mkdir()
        (directory / version / "shop.pem").write_bytes(authority.pem)
    (directory / "data").symlink_to("1")
    (directory / "shop.pem").unlink()
    (directory / "shop.pem").symlink_to("data/shop.pem")
    built = files(directory)
    built.load()
    await built.start()
    (directory / "next").symlink_to("2")
    (directory / "next").replace(directory / "data")
    await until(lambda: vouched(built, workload(NEXT)))
    assert not vouched(built, workload(SHOP))
    await built.close()


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(b"", id="emptied"),
        pytest.param(NEXT.pem[:100], id="half-written"),
        pytest.param(workload(NEXT).pem, id="no authority"),
        pytest.param(None, id="gone"),
    ],
)
async def test_what_cannot_be_used_leaves_everything_as_it_was_and_says_so(
    watched: TlsFiles, directory: Path, caplog: pytest.LogCaptureFixture, broken: bytes | None
) -> None:
    context, generation = watched.context, watched.trust.generation
    path = directory / "shop.pem"
    if broken is None:
        path.unlink()
    else:
        replace(path, broken)
    await until(lambda: watched.state == "outdated")
    assert (watched.context, watched.trust.generation) == (context, generation)
    assert vouched(watched, workload(SHOP))
    await asyncio.sleep(10 * INTERVAL)
    assert len([one for one in caplog.records if "cannot be used" in one.getMessage()]) == 1
    replace(path, SHOP.pem)
    await until(lambda: watched.state == "current")
    assert (watched.context, watched.trust.generation) == (context, generation)
    replace(path, NEXT.pem)
    await until(lambda: vouched(watched, workload(NEXT)))


async def test_what_is_still_being_written_is_not_taken_into_use(directory: Path) -> None:
    """A bundle of two authorities is one of one while it is written."""
    built = files(directory)
    built.load()
    whole = SHOP.pem + NEXT.pem
    (directory / "shop.pem").write_bytes(SHOP.pem + NEXT.pem)
    await built._look()
    (directory / "shop.pem").write_bytes(NEXT.pem)
    await built._look()
    assert vouched(built, workload(SHOP))
    (directory / "shop.pem").write_bytes(whole)
    await built._look()
    assert built.trust.generation == 1
    await built._look()
    assert built.trust.generation == 2
    assert vouched(built, workload(NEXT))


def test_a_context_that_was_not_loaded_is_not_served(directory: Path) -> None:
    with pytest.raises(RuntimeError, match="have not been loaded"):
        _ = files(directory).context
