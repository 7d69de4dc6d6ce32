"""Which bundles are used: none that is older than what was active, over restarts, and none that fails its probe."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import stat
from pathlib import Path
from typing import Any

import jwt
import pytest

from ostiary.clock import ManualClock
from ostiary.decision.revision import Revision
from ostiary.decision.rollback import Statement, statement_beside
from ostiary.errors import ConfigurationError
from ostiary.opa.address import OpaAddress
from ostiary.opa.archive import Algorithm, ArchiveError, Contents, Verification, verify
from ostiary.opa.client import OpaClient
from ostiary.opa.external import ExternalOpa
from ostiary.opa.process import OpaProcess
from ostiary.opa.record import ConfirmationMemory, PolicyRecord
from ostiary.opa.rollback import StatementError, sign_statement, verified
from ostiary.opa.sidecar import ManagedOpa
from ostiary.opa.statements import StatementFile
from ostiary.opa.vetting import BundleRefused, OpaNotReady, Vetting
from ostiary.policy.archive import pack
from support.opa import NOW, PROBES, REGO, until, write_bundle
from support.signing import Signer

QUESTION = {"subject": {"id": "web"}}


def revision(text: str) -> Revision:
    found = Revision.parse(text)
    assert found is not None
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "policy.json"


def record(path: Path, name: str = "path:/bundle") -> PolicyRecord:
    """As it is read at a start."""
    return PolicyRecord.read(path, name=name)


def took(path: Path, *revisions: str) -> Vetting:
    """A vetting that has seen these, one after the other, and was started again."""
    vetting = Vetting(record=record(path))
    for text in revisions:
        vetting.took(revision(text))
    return Vetting(record=record(path))


def admit(vetting: Vetting, text: str) -> None:
    asyncio.run(vetting.admit(revision(text)))


# The record.


def test_what_was_active_is_remembered_over_restarts_for_each_bundle(path: Path) -> None:
    took(path, "7-a", "8-b")
    Vetting(record=record(path, "scope:other")).took(revision("3-c"))
    remembered = record(path).remembered
    assert remembered is not None
    assert (remembered.highest, remembered.active) == (revision("8-b"), revision("8-b"))
    other = record(path, "scope:other").remembered
    assert other is not None
    assert other.active == revision("3-c")
    assert record(path, "scope:third").remembered is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["policy.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"format": 2, "bundles": {}}',
        '{"format": 1, "bundles": []}',
        '{"format": 1, "bundles": {"path:/bundle": null}}',
        '{"format": 1, "bundles": {"path:/bundle": {"highest": "7-a", "active": "7-a"}}}',
        '{"format": 1, "bundles": {"path:/bundle": {"highest": "7", "active": "7-a", "confirmed": 1}}}',
        '{"format": 1, "bundles": {"path:/bundle": {"highest": "7-a", "active": "7-a", "confirmed": true}}}',
    ],
)
def test_a_record_that_cannot_be_read_is_no_empty_one(path: Path, text: str) -> None:
    """Else whoever spoils it could bring back an older bundle."""
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"policy\.json: is not what a proxy remembers"):
        record(path)


def test_a_confirmation_is_remembered_now_and_then(path: Path) -> None:
    vetting = Vetting(record=record(path), clock=ManualClock(float(NOW)))
    vetting.took(revision("7-a"))
    memory = ConfirmationMemory(vetting.record, most=100)
    found = []
    for at in (NOW + 9, NOW + 10, NOW + 19, NOW + 20):
        memory.confirmed(revision("7-a"), float(at))
        memory.confirmed(revision("8-b"), float(at) + 50)  # which is not active
        remembered = record(path).remembered
        assert remembered is not None
        found.append(remembered.confirmed - NOW)
    assert found == [0, 10, 10, 20]
    vetting.took(revision("7-a"))  # again: the time of its confirmation stays
    remembered = record(path).remembered
    assert remembered is not None
    assert remembered.confirmed == NOW + 20


# Sequences.


@pytest.mark.parametrize("text", ["8-b", "8-other", "9-c"])
def test_what_is_not_older_may_follow(path: Path, text: str) -> None:
    admit(took(path, "7-a", "8-b"), text)


def test_what_is_older_than_what_was_active_may_not_over_restarts(path: Path) -> None:
    with pytest.raises(BundleRefused, match="the bundle 7-a does not follow 8-b, which was active before"):
        admit(took(path, "7-a", "8-b"), "7-a")


def test_another_bundle_of_one_sequence_is_taken_and_warned_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Which of them is older nobody knows. What is newer, or the same again, is no reason to warn."""
    vetting = Vetting(record=record(path))
    for text in ("7-a", "7-b", "7-b", "7-a", "8-c"):
        admit(vetting, text)
        vetting.took(revision(text))
    told = "the bundle {} takes the place of {}, and may be older than that: they have one sequence"
    assert caplog.messages == [told.format("7-b", "7-a"), told.format("7-a", "7-b")]


def test_there_is_a_least_revision_whatever_was_active(path: Path) -> None:
    took(path, "7-a")
    vetting = Vetting(record=record(path), minimum=8)
    for text in ("6-z", "7-a", "7-b"):
        with pytest.raises(BundleRefused, match=r"older than opa\.minimum_revision, 8"):
            admit(vetting, text)
    admit(vetting, "8-b")


# Statements.


@pytest.fixture
def signer(tmp_path: Path, opa_binary: Path) -> Signer:
    return Signer(tmp_path / "signer", opa_binary)


@pytest.fixture
def statement(tmp_path: Path) -> Path:
    (tmp_path / "statements").mkdir()
    return tmp_path / "statements" / "shop.rollback"


def back(to: str = "7-a", *, back_from: str = "9-c", scope: str = "ostiary", expires: int = NOW + 600) -> Statement:
    return Statement(back_from=revision(back_from), to=revision(to), scope=scope, expires=expires)


def put(statement: Path, signer: Signer, said: Statement, *, key_id: str = "release") -> None:
    content = sign_statement(said, key=signer.private, key_id=key_id, algorithm=signer.algorithm, now=NOW)
    statement.write_bytes(content)


def judging(path: Path, statement: Path, verification: Verification, *, minimum: int = 0) -> Vetting:
    return Vetting(
        record=record(path),
        minimum=minimum,
        statement=StatementFile(statement),
        verification=verification,
        clock=ManualClock(float(NOW)),
    )


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "EdDSA"])
def test_a_signed_statement_goes_back_once(
    path: Path,
    statement: Path,
    tmp_path: Path,
    opa_binary: Path,
    algorithm: Algorithm,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """To that one bundle; and what it took back does not return, but something newer does."""
    signer = Signer(tmp_path / "other", opa_binary, algorithm)
    took(path, "7-a", "8-b", "9-c")
    put(statement, signer, back())
    vetting = judging(path, statement, signer.verification)
    with pytest.raises(BundleRefused, match="is for 7-a"):
        admit(vetting, "7-other")
    admit(vetting, "7-a")
    vetting.took(revision("7-a"))
    assert "rolled back from the bundle 9-c to 7-a, as a signed statement says" in caplog.text

    statement.unlink()
    vetting = judging(path, statement, signer.verification)  # it stays so over a restart, without the statement
    admit(vetting, "7-a")
    with pytest.raises(BundleRefused, match="does not follow 9-c, which was active before"):
        admit(vetting, "7-other")
    for text in ("8-b", "9-c", "9-other"):
        told = (
            f"{text} was taken back by the signed statement that went back to 7-a: only what is newer than 9-c follows"
        )
        with pytest.raises(BundleRefused, match=f"^the bundle {told}$"):
            admit(vetting, text)
    admit(vetting, "10-d")
    vetting.took(revision("10-d"))
    put(statement, signer, back())
    with pytest.raises(BundleRefused, match="takes back what is not newer than 9-c"):
        admit(vetting, "7-a")


def test_a_statement_that_does_not_hold_takes_nothing_back(
    path: Path, statement: Path, signer: Signer, tmp_path: Path, opa_binary: Path
) -> None:
    took(path, "9-c")
    other = Signer(tmp_path / "other", opa_binary)
    vetting = judging(path, statement, signer.verification)

    def refused(words: str) -> None:
        with pytest.raises(BundleRefused, match=f"7-a does not follow 9-c, which was active before{words}"):
            admit(vetting, "7-a")

    refused("$")
    for content in (b"", b"x" * 20_000, b"eyJ.eyJ.x", b"{}"):
        statement.write_bytes(content)
        refused(", and the statement .* is not believed: ")
    put(statement, other, back())
    refused(", .* its signature is none of ES256 by the configured key")
    put(statement, signer, back(), key_id="other")
    refused(", .* it is not signed as the key 'release'")
    put(statement, signer, back(scope="other"))
    refused(", .* it is not signed for the scope 'ostiary'")
    put(statement, signer, back(expires=NOW))
    refused(", .* has expired")
    put(statement, signer, back(back_from="8-b"))
    refused(", .* takes back what is not newer than 8-b")
    statement.unlink()
    statement.mkdir()
    refused(", .* it cannot be read: Is a directory")
    statement.rmdir()
    put(statement, signer, back())
    admit(vetting, "7-a")
    with pytest.raises(BundleRefused, match="minimum_revision"):
        admit(judging(path, statement, signer.verification, minimum=8), "7-a")
    with pytest.raises(BundleRefused, match="does not follow"):
        admit(Vetting(record=record(path), statement=StatementFile(statement)), "7-a")  # nobody's signature is believed


def test_no_signature_of_a_bundle_is_a_statement_nor_the_other_way_round(statement: Path, signer: Signer) -> None:
    """The same key makes both."""
    claims = {"scope": "ostiary", "from": "9-c", "to": "7-a", "exp": NOW + 600, "keyid": "release", "files": []}
    pem = signer.private.read_bytes()
    token = jwt.PyJWS().encode(json.dumps(claims).encode(), pem, "ES256", headers={"kid": "release", "typ": "JWT"})
    statement.write_text(token)
    with pytest.raises(StatementError, match="no statement of a rollback"):
        verified(statement.read_bytes(), signer.verification)
    put(statement, signer, back())
    signed = Contents(files={"data.json": 2}, manifest={}, signature=statement.read_text().strip())
    with pytest.raises(ArchiveError):
        verify(signed, signer.verification)


def test_a_statement_goes_back_and_not_on(signer: Signer) -> None:
    with pytest.raises(ConfigurationError, match="9-c is not older than 7-a"):
        sign_statement(back("9-c", back_from="7-a"), key=signer.private, key_id="release", algorithm="ES256", now=NOW)
    for key in (signer.public, signer.place / "absent"):
        with pytest.raises(ConfigurationError, match=r"no private key|cannot be read"):
            sign_statement(back(), key=key, key_id="release", algorithm="ES256", now=NOW)


# With OPA.


def managed(
    opa_binary: Path, bundle: Path, path: Path, *, verification: Verification | None = None, minimum: int = 0
) -> ManagedOpa:
    vetting = Vetting(
        record=record(path),
        minimum=minimum,
        statement=StatementFile(statement_beside(bundle)),
        verification=verification,
    )
    return ManagedOpa(
        binary=opa_binary,
        bundle=bundle,
        verification=verification,
        vetting=vetting,
        directory=path.parent / "run",
        interval=0.05,
        first_pause=0.05,
        longest_pause=0.2,
    )


WRONG_PROBES: dict[str, tuple[str, Any, str]] = {
    "allows everybody": (
        REGO.replace('input.subject.id == "web"', "input.subject.id"),
        PROBES,
        r"fails its probe: it allows what it has to deny",
    ),
    "allows nobody": (REGO.replace('"web"', '"other"'), PROBES, "fails its probe: it does not allow what it has to"),
    "decides nothing": (REGO.replace("default allow := false\n", ""), PROBES, "does not decide"),
    "fails": (REGO + "\nallow if to_number(input.subject.id) == 1\n", PROBES, "does not decide"),
    "brings no probe": (REGO, None, "has no probe"),
    "brings an empty one": (REGO, [], "has no probe"),
    "brings only a yes": (REGO, PROBES[:1], "has no probe"),
    "brings a broken one": (REGO, [*PROBES, {"input": 1, "allow": False}], "has no probe"),
}


async def test_a_bundle_that_fails_its_probe_is_not_used_and_the_last_good_one_comes_back(
    opa_binary: Path, tmp_path: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A directory, too, is kept: OPA that dies comes back with the good one, and so does a proxy that is restarted."""
    caplog.set_level(logging.ERROR, "ostiary.opa")
    bundle = write_bundle(tmp_path / "bundle", revision="7-a")
    async with managed(opa_binary, bundle, path) as opa, OpaClient(address=opa.address, deadline=2) as client:
        for number, (rego, probes, words) in enumerate(WRONG_PROBES.values(), 8):
            write_bundle(bundle, revision=f"{number}-b", rego=rego, probes=probes)
            await until(lambda: f"the bundle {number}-b" in caplog.text)  # noqa: B023 - called in this turn
            refusal = next(line for line in caplog.messages if f"the bundle {number}-b" in line)
            assert words in refusal
            assert "7-a stays active" in refusal
            assert opa.refused is not None
            assert words in opa.refused
            assert (await client.query(QUESTION)).revision == "7-a"
        assert opa._process is not None
        opa._process._process.kill()
        await until(lambda: opa.restarts > 0 and opa.state == "serving")
        assert (await client.query(QUESTION)).revision == "7-a"
    async with managed(opa_binary, bundle, path) as opa:
        assert opa.revision == "7-a"
        assert opa.refused is not None
        write_bundle(bundle, revision="20-c")
        await until(lambda: opa.revision == "20-c")
        assert opa.refused is None


@pytest.mark.parametrize("archived", [False, True])
async def test_a_bundle_that_is_mended_is_looked_at_at_once(
    opa_binary: Path, tmp_path: Path, path: Path, archived: bool
) -> None:
    """The pause between two attempts is for the same bundle."""
    place = tmp_path / ("bundle.tar.gz" if archived else "bundle")

    def publish(text: str, rego: str = REGO) -> None:
        """As a whole, as `ostiary bundle build` does."""
        built = write_bundle(tmp_path / "built", revision=text, rego=rego)
        if archived:
            pack(built, place)
            shutil.rmtree(built)
        else:
            shutil.rmtree(place, ignore_errors=True)
            built.rename(place)

    publish("7-a")
    async with ManagedOpa(
        binary=opa_binary, bundle=place, directory=path.parent / "run", interval=0.05, longest_pause=3600
    ) as opa:
        for broken, mended in (("8-b", "8-c"), ("9-d", "9-d")):
            publish(broken, WRONG_PROBES["allows everybody"][0])
            await until(lambda: f"the bundle {broken} fails" in (opa.refused or ""))  # noqa: B023 - in this turn
            publish(mended)
            await until(lambda: opa.revision == mended)  # noqa: B023


async def test_a_managed_opa_goes_back_by_a_statement_beside_the_bundle(
    opa_binary: Path, tmp_path: Path, path: Path, signer: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = tmp_path / "shop.tar.gz"

    def start() -> ManagedOpa:
        return managed(opa_binary, bundle, path, verification=signer.verification)

    signer.publish(bundle, revision="7-a")
    older = bundle.read_bytes()
    async with start():
        pass
    signer.publish(bundle, revision="8-b")
    async with start() as opa:
        newer = bundle.read_bytes()
        bundle.write_bytes(older)
        await until(lambda: "7-a does not follow 8-b" in (opa.refused or ""))
        assert opa.revision == "8-b"
        clockless = Statement(back_from=revision("8-b"), to=revision("7-a"), scope="ostiary", expires=2**40)
        put(statement_beside(bundle), signer, clockless)
        await until(lambda: opa.revision == "7-a")
        statement_beside(bundle).unlink()
        bundle.write_bytes(newer)
        await until(lambda: "8-b was taken back" in (opa.refused or ""))
        assert opa.revision == "7-a"
    bundle.write_bytes(older)
    async with start() as opa:
        assert (opa.revision, opa.refused) == ("7-a", None)
    with pytest.raises(OpaNotReady, match="minimum_revision"):
        async with managed(opa_binary, bundle, path, verification=signer.verification, minimum=8):
            pass


async def test_an_opa_of_another_with_an_older_bundle_is_not_ready_after_a_restart(
    opa_binary: Path, tmp_path: Path, path: Path
) -> None:
    """It may get another one by itself, which is waited for."""
    took(path, "8-b")
    bundle = write_bundle(tmp_path / "bundle", revision="7-a")
    address = OpaAddress(socket=tmp_path / "s")
    process = await OpaProcess.start(binary=opa_binary, bundle=bundle, socket=tmp_path / "s")
    try:
        with pytest.raises(OpaNotReady, match="7-a does not follow 8-b"):
            async with ExternalOpa(address=address, vetting=Vetting(record=record(path)), start_timeout=2):
                pass
    finally:
        await process.stop()
    write_bundle(bundle, revision="9-c")
    process = await OpaProcess.start(binary=opa_binary, bundle=bundle, socket=tmp_path / "s")
    try:
        async with ExternalOpa(address=address, vetting=Vetting(record=record(path)), start_timeout=20):
            pass
    finally:
        await process.stop()
    remembered = record(path).remembered
    assert remembered is not None
    assert remembered.active == revision("9-c")
