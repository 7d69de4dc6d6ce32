"""`ostiary bundle serve`, as OPA's own client and others see it."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ostiary.cli.examiner import ArchiveExaminer
from ostiary.clock import ManualClock
from ostiary.decision.revision import Revision
from ostiary.decision.rollback import Statement
from ostiary.distribution.access import Access, TokenFile
from ostiary.distribution.reports import FORGOTTEN, REPLACED, Reports
from ostiary.opa.rollback import sign_statement
from support.distribution import (
    PUBLISHER,
    READER,
    Local,
    archive,
    bundle_server,
    local,
    long_polling,
    opa_client,
    token_file,
    wait_until,
)
from support.opa import until
from support.served import raw_exchange

WAIT = {"prefer": "modes=snapshot,delta;wait=20"}
"""What OPA sends."""
BUNDLE = "application/vnd.openpolicyagent.bundles"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    directory = tmp_path / "published"
    directory.mkdir()
    archive(directory / "shop.tar.gz", 1)
    return directory


def tokens(place: Path) -> Access:
    return Access(
        readers=[TokenFile(token_file(place / "readers", READER))],
        publishers=[TokenFile(token_file(place / "publishers", PUBLISHER))],
    )


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_opas_wait_for_another_bundle_and_tell_what_they_have(
    published: Path, tmp_path: Path, opa_binary: Path
) -> None:
    """Real OPAs: without long polling they would look again after a minute."""
    readers = token_file(tmp_path / "readers", READER)
    publishers = token_file(tmp_path / "publishers", PUBLISHER)
    with bundle_server(published, "--reader-tokens", readers, "--publisher-tokens", publishers) as server:
        url = f"http://127.0.0.1:{server.port}"

        def rollout() -> dict[str, object]:
            found: dict[str, object] = httpx.get(f"{url}/status", headers=bearer(PUBLISHER)).json()
            return found

        config = long_polling(server.port, token=READER, proxy="orders-1")
        config["bundles"] = {"ostiary": config["bundles"]["shop"]}
        config["labels"]["resource"] = "shop.tar.gz"
        with opa_client(opa_binary, tmp_path / "opa", config) as opa:
            wait_until(lambda: opa.revision() == "1-0a1b2c3d")
            wait_until(lambda: rollout()["bundles"]["shop.tar.gz"]["waiting"] == 1)  # type: ignore[index]

            archive(published / "shop.tar.gz", 2)
            assert wait_until(lambda: opa.revision() == "2-0a1b2c3d") < 5
            third = archive(tmp_path / "third.tar.gz", 3).read_bytes()
            assert httpx.put(f"{url}/shop.tar.gz", content=third, headers=bearer(PUBLISHER)).status_code == 200
            assert wait_until(lambda: opa.revision() == "3-0a1b2c3d") < 5

            wait_until(lambda: rollout()["proxies"][0]["revision"] == "3-0a1b2c3d")  # type: ignore[index]
            [proxy] = rollout()["proxies"]  # type: ignore[misc]
            assert (proxy["proxy"], proxy["bundle"], proxy["error"]) == ("orders-1", "ostiary", None)
            assert proxy["published"] == "shop.tar.gz"
            assert proxy["since"] == pytest.approx(time.time(), abs=10)
            assert proxy["version"]

            # One that cannot be loaded leaves the one before it, and is told.
            wait_until(lambda: rollout()["bundles"]["shop.tar.gz"]["waiting"] == 1)  # type: ignore[index]
            broken = archive(tmp_path / "broken.tar.gz", 4, rego="package ostiary.authz\n\np := q").read_bytes()
            assert httpx.put(f"{url}/shop.tar.gz", content=broken, headers=bearer(PUBLISHER)).status_code == 200
            wait_until(lambda: rollout()["proxies"][0]["error"] is not None)  # type: ignore[index]
            assert opa.revision() == "3-0a1b2c3d"
            fifth = archive(tmp_path / "fifth.tar.gz", 5).read_bytes()
            assert httpx.put(f"{url}/shop.tar.gz", content=fifth, headers=bearer(PUBLISHER)).status_code == 200
            wait_until(lambda: opa.revision() == "5-0a1b2c3d")

            wait_until(lambda: rollout()["bundles"]["shop.tar.gz"]["waiting"] == 1)  # type: ignore[index]
            began = time.monotonic()
            server.process.terminate()
            assert server.process.wait(20) == 0
            assert time.monotonic() - began < 2  # who waits is let go


class Startled(ArchiveExaminer):
    """Comes upon a mistake of its own in what holds a word."""

    def examine(self, content: bytes) -> Revision:
        if b"startling" in content:
            raise IndexError
        return super().examine(content)


async def test_a_file_that_breaks_the_examiner_keeps_no_other_from_being_served_nor_the_next_of_its_name(
    published: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with local(published, examiner=Startled()) as server:

        def served() -> dict[str, int]:
            return {one.name: one.archive.revision.sequence for one in server.store.all()}

        (published / "a.tar.gz").write_bytes(b"startling")
        await until(lambda: "a.tar.gz is not served" in caplog.text)
        archive(published / "shop.tar.gz", 2)
        await until(lambda: served() == {"shop.tar.gz": 2})
        archive(published / "a.tar.gz", 1)
        await until(lambda: served() == {"a.tar.gz": 1, "shop.tar.gz": 2})


async def test_a_client_that_has_the_bundle_gets_another_one_only(published: Path) -> None:
    async with local(published) as server, httpx.AsyncClient() as client:
        first = await client.get(server.url())
        assert (first.status_code, first.headers["content-type"]) == (200, BUNDLE)
        assert first.content == (published / "shop.tar.gz").read_bytes()
        tag = first.headers["etag"]
        assert tag.startswith('"')  # a strong one
        assert first.headers["ostiary-revision"] == "1-0a1b2c3d"

        again = await client.get(server.url(), headers={"if-none-match": tag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        # OPA may send the tags of bundles before, too.
        assert (await client.get(server.url(), headers={"if-none-match": f'{tag}, "other"'})).status_code == 304
        other = await client.get(server.url(), headers={"if-none-match": '"other"', **WAIT})
        assert (other.status_code, other.content) == (200, first.content)

        head = await client.head(server.url())
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)
        assert (await client.get(server.url("other.tar.gz"), headers=WAIT)).status_code == 404
        assert (await client.get(server.url("../shop.tar.gz"))).status_code == 200  # httpx removes the dots itself
        for outside in ("%2e%2e%2fshop.tar.gz", ".lock", "%2elock", ""):
            assert (await client.get(server.url(outside))).status_code == 404


@pytest.mark.parametrize("prefer", ["modes=snapshot,delta;wait=1", "wait=1", 'modes=snapshot, wait="1"'])
async def test_who_waits_in_vain_is_told_so_in_time(published: Path, prefer: str) -> None:
    async with local(published) as server, httpx.AsyncClient() as client:
        tag = (await client.get(server.url())).headers["etag"]
        began = time.monotonic()
        waited = await client.get(server.url(), headers={"if-none-match": tag, "prefer": prefer}, timeout=30)
        assert (waited.status_code, waited.headers["etag"]) == (304, tag)
        assert 0.9 < time.monotonic() - began < 10


async def test_who_waits_is_served_at_once_by_a_file_that_is_put_there(published: Path) -> None:
    async with local(published) as server, httpx.AsyncClient(timeout=60) as client:
        tag = (await client.get(server.url())).headers["etag"]
        waiting = [
            asyncio.create_task(client.get(server.url(), headers={"if-none-match": tag, **WAIT})) for _ in range(20)
        ]
        await until(lambda: server.server.waiting("shop.tar.gz") == 20)
        began = time.monotonic()
        archive(published / "shop.tar.gz", 2)
        answers = await asyncio.gather(*waiting)
        assert time.monotonic() - began < 5
        assert {answer.headers["ostiary-revision"] for answer in answers} == {"2-0a1b2c3d"}
        assert server.server.waiting("shop.tar.gz") == 0


async def test_who_gives_up_waiting_is_forgotten(published: Path) -> None:
    async with local(published) as server, httpx.AsyncClient() as client:
        tag = (await client.get(server.url())).headers["etag"]
        with pytest.raises(httpx.ReadTimeout):
            await client.get(server.url(), headers={"if-none-match": tag, **WAIT}, timeout=0.2)
        await until(lambda: server.server.waiting("shop.tar.gz") == 0)


async def test_names_that_are_not_published_are_not_remembered(published: Path) -> None:
    async with local(published) as server, httpx.AsyncClient() as client:
        for number in range(20):
            assert (await client.get(server.url(f"{number}.tar.gz"), headers=WAIT)).status_code == 404
        assert server.store.awaited == frozenset()


async def test_nothing_more_is_read_of_a_stranger(published: Path, tmp_path: Path) -> None:
    async with local(published, access=tokens(tmp_path)) as server:
        endless = "PUT /shop.tar.gz HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n"
        answer = await raw_exchange(server.address, endless, "a")  # until the server closes
        assert answer.startswith(b"HTTP/1.1 401 ")


async def test_a_file_that_is_not_whole_is_not_served(published: Path, tmp_path: Path) -> None:
    async with local(published) as server, httpx.AsyncClient() as client:
        whole = archive(tmp_path / "whole.tar.gz", 2).read_bytes()
        (published / "shop.tar.gz").write_bytes(whole[:-20])
        (published / "none.tar.gz").write_bytes(b"none")
        archive(published / "more.tar.gz", 5)
        await until(lambda: server.store.get("more.tar.gz") is not None)
        assert (await client.get(server.url())).headers["ostiary-revision"] == "1-0a1b2c3d"
        assert (await client.get(server.url("none.tar.gz"))).status_code == 404

        (published / "shop.tar.gz").write_bytes(whole)
        await until(lambda: str(server.store.get("shop.tar.gz").archive.revision) == "2-0a1b2c3d")  # type: ignore[union-attr]
        (published / "shop.tar.gz").unlink()
        await until(lambda: server.store.get("shop.tar.gz") is None)
        assert (await client.get(server.url())).status_code == 404


async def put(server: Local, client: httpx.AsyncClient, content: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.put(server.url(), content=content, headers={**bearer(PUBLISHER), **named})


async def test_a_publication_follows_what_is_there(published: Path, tmp_path: Path) -> None:
    first, second, third = (archive(tmp_path / f"{n}.tar.gz", n).read_bytes() for n in (1, 2, 3))
    async with local(published, access=tokens(tmp_path)) as server, httpx.AsyncClient() as client:
        tag = (await client.get(server.url(), headers=bearer(READER))).headers["etag"]
        assert (await put(server, client, third, if_match=tag)).status_code == 200
        assert (published / "shop.tar.gz").read_bytes() == third

        late = await put(server, client, third + b"", if_match=tag)
        assert (late.status_code, late.headers["content-type"]) == (412, "application/problem+json")
        assert (await put(server, client, third, if_none_match="*")).status_code == 412
        older = await put(server, client, second)
        assert older.status_code == 409
        assert older.json()["detail"] == "2-0a1b2c3d does not follow 3-0a1b2c3d, which is published"
        assert (published / "shop.tar.gz").read_bytes() == third
        assert (await put(server, client, first, ostiary_force="older")).status_code == 200
        assert (published / "shop.tar.gz").read_bytes() == first
        assert [path.name for path in sorted(published.iterdir())] == [".lock", "shop.tar.gz"]  # noqa: ASYNC240


async def test_what_is_no_bundle_is_not_published(published: Path, tmp_path: Path) -> None:
    before = (published / "shop.tar.gz").read_bytes()
    async with local(published, access=tokens(tmp_path)) as server, httpx.AsyncClient() as client:
        refused = await put(server, client, before[:-20])
        assert refused.status_code == 422
        assert refused.json()["detail"] == "the bundle is refused: it is no whole archive (tar, gzip)"
        assert (await put(server, client, b"", if_none_match='"a"')).status_code == 400
        head = (
            f"PUT /shop.tar.gz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {PUBLISHER}\r\nContent-Length: {2**40}\r\n"
        )
        assert (await raw_exchange(server.address, f"{head}Connection: close\r\n\r\n")).startswith(b"HTTP/1.1 413 ")
        other = await client.put(server.url("shop.txt"), headers=bearer(PUBLISHER), content=before)
        assert other.status_code == 404
    assert (published / "shop.tar.gz").read_bytes() == before


async def test_who_may_read_and_who_may_publish(published: Path, tmp_path: Path) -> None:
    bundle = archive(tmp_path / "2.tar.gz", 2).read_bytes()
    async with local(published, access=tokens(tmp_path)) as server, httpx.AsyncClient() as client:

        async def answers(headers: dict[str, str]) -> list[int]:
            asked = [
                await client.get(server.url(), headers=headers),
                await client.post(server.url("status"), headers=headers, json=report("o-1")),
                await client.get(server.url("status"), headers=headers),
                await client.put(server.url(), headers=headers, content=bundle),
            ]
            return [answer.status_code for answer in asked]

        assert await answers({}) == [401] * 4
        assert await answers(bearer("another-token-of-nobody")) == [401] * 4
        assert await answers({"authorization": f"Basic {READER}"}) == [401] * 4
        assert await answers(bearer(READER)) == [200, 200, 403, 403]
        assert await answers(bearer(PUBLISHER)) == [200] * 4

        # Tokens come and go without a restart.
        token_file(tmp_path / "readers", "the-next-token-of-readers")
        assert (await client.get(server.url(), headers=bearer(READER))).status_code == 401
        assert (await client.get(server.url(), headers=bearer("the-next-token-of-readers"))).status_code == 200
        (tmp_path / "readers").chmod(0o644)
        assert (await client.get(server.url(), headers=bearer("the-next-token-of-readers"))).status_code == 401
        assert (await client.get(server.url(), headers={})).status_code == 401


async def test_a_statement_lies_beside_its_bundle(published: Path, tmp_path: Path) -> None:
    """For the same readers and publishers, and put there by hand as well."""
    name, content = "shop.tar.gz.rollback", statement(tmp_path)
    async with local(published, access=tokens(tmp_path)) as server, httpx.AsyncClient() as client:

        async def put(token: str, content: bytes, name: str = name) -> httpx.Response:
            return await client.put(server.url(name), headers=bearer(token), content=content)

        assert (await client.get(server.url(name), headers=bearer(READER))).status_code == 404
        assert (await client.get(server.url(name))).status_code == 401
        assert (await put("another-token-of-nobody", content)).status_code == 401
        assert (await put(READER, content)).status_code == 403
        assert (await put(PUBLISHER, content, ".lock.rollback")).status_code == 404
        assert (await put(PUBLISHER, b" " * 20_000)).status_code == 413
        refused = await put(PUBLISHER, b"none")
        assert (refused.status_code, refused.json()["detail"]) == (422, "the statement is refused: it is no JWS")
        assert not (published / name).exists()

        answer = await put(PUBLISHER, content)
        assert (answer.status_code, answer.json()) == (200, {"from": "9-c", "to": "1-0a1b2c3d", "expires": 2**40})
        assert (published / name).read_bytes() == content
        found = await client.get(server.url(name), headers=bearer(READER))
        assert (found.status_code, found.content, found.headers["content-type"]) == (200, content, "application/jose")
        (published / name).write_bytes(content[:-9])
        assert (await client.get(server.url(name), headers=bearer(READER))).content == content[:-9]
        assert [one.name for one in server.store.all()] == ["shop.tar.gz"]


def statement(place: Path) -> bytes:
    key = place / "key.pem"
    private = ec.generate_private_key(ec.SECP256R1())
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    back_from, to = Revision.parse("9-c"), Revision.parse("1-0a1b2c3d")
    assert back_from is not None
    assert to is not None
    said = Statement(back_from=back_from, to=to, scope="ostiary", expires=2**40)
    return sign_statement(said, key=key, key_id="release", algorithm="ES256", now=0)


async def test_a_server_without_publishers_takes_no_publication(published: Path) -> None:
    async with local(published) as server, httpx.AsyncClient() as client:
        answer = await client.put(server.url(), content=b"")
        assert (answer.status_code, answer.json()["detail"]) == (403, "this server knows no publishers")


def report(identifier: object, *, revision: str | None = "1-0a1b2c3d", **status: object) -> dict[str, object]:
    """What OPA posts, less what is of no use here."""
    bundle = {"name": "shop", "active_revision": revision, "metrics": {}, **status}
    return {"labels": {"id": identifier, "version": "1.22.2"}, "bundles": {"shop": bundle}}


async def test_reports_are_kept_by_what_they_say_last(published: Path) -> None:
    clock = ManualClock(1_790_000_000)
    async with local(published, clock=clock) as server, httpx.AsyncClient() as client:

        async def say(document: object, path: str = "status") -> int:
            return (await client.post(server.url(path), json=document)).status_code

        assert await say(report("o-1"), "status/partition") == 200
        clock.advance(60)
        assert await say(report("o-1", code="bundle_error", message="no\nroute")) == 200
        assert await say({"labels": {"id": "starting"}}) == 200
        expected = {
            "proxy": "o-1", "id": "o-1", "version": "1.22.2", "address": "127.0.0.1", "bundle": "shop",
            "resource": None, "published": "shop.tar.gz",
            "revision": "1-0a1b2c3d", "since": 1_790_000_000, "heard": 1_790_000_060, "error": "no route",
            "counts": None, "refused": None,
        }  # fmt: skip
        assert (await client.get(server.url("status"))).json()["proxies"] == [expected]

        assert await say(report("o-1", revision="2-0a1b2c3d")) == 200
        [found] = (await client.get(server.url("status"))).json()["proxies"]
        assert (found["revision"], found["since"], found["error"]) == ("2-0a1b2c3d", 1_790_000_060, None)
        clock.advance(FORGOTTEN)
        assert (await client.get(server.url("status"))).json()["proxies"] == []

        for wrong in ([], {}, {"labels": {}}, {"labels": {"id": 7}}, {"labels": {"id": "o"}, "bundles": []}):
            assert await say(wrong) == 400
        assert (await client.post(server.url("status"), content=b"{" * 100_000)).status_code == 400
        assert (await client.post(server.url("status"), content=b" " * 600_000)).status_code == 413


def test_who_was_started_again_takes_the_place_of_who_it_was() -> None:
    """OPA has another id after each start. But two of one name that both report are two: one may refuse the bundle."""
    clock = ManualClock()
    reports = Reports(clock=clock)

    def shown(*said: tuple[str, str, str]) -> list[tuple[str, str, str | None]]:
        for identifier, proxy, revision in said:
            labels = {"id": identifier, "proxy": proxy}
            body = json.dumps({"labels": labels, "bundles": {"shop": {"active_revision": revision}}})
            reports.take(body.encode(), address="127.0.0.1")
            clock.advance(1)
        return [(one.proxy, one.id, one.revision) for one in reports.latest()]

    assert shown(("a", "o-1", "1-a"), ("b", "o-1", "2-b"), ("c", "o-2", "1-a"), ("d", "", "1-a")) == [
        ("d", "d", "1-a"), ("o-1", "a", "1-a"), ("o-1", "b", "2-b"), ("o-2", "c", "1-a"),
    ]  # fmt: skip
    clock.advance(REPLACED)
    assert shown(("b", "o-1", "2-b")) == [("d", "d", "1-a"), ("o-1", "b", "2-b"), ("o-2", "c", "1-a")]
    assert shown(("a", "o-1", "1-a")) == [
        ("d", "d", "1-a"), ("o-1", "a", "1-a"), ("o-1", "b", "2-b"), ("o-2", "c", "1-a"),
    ]  # fmt: skip


def test_a_verdict_is_about_the_bundle_that_it_names() -> None:
    """And no more of it is kept than of the rest."""
    reports = Reports(clock=ManualClock())

    def kept(verdict: object, *revisions: str) -> list[tuple[str | None, str | None]]:
        bundles = {f"b{number}": {"active_revision": each} for number, each in enumerate(revisions)}
        reports.take(json.dumps({"labels": {"id": "o"}, "bundles": bundles, "ostiary": verdict}).encode(), address="a")
        return [(one.counts, one.refused) for one in reports.latest()]

    verdict = {"active": "2-b", "counts": "1-a", "refused": "older"}
    assert kept(verdict, "3-c") == [(None, None)]
    assert kept(verdict, "2-b") == [("1-a", "older")]
    assert kept({**verdict, "counts": "x" * 1000, "refused": "y" * 1000}, "2-b") == [("x" * 128, "y" * 300)]
    for wrong in (None, [], {"counts": 1, "refused": {}}):
        assert kept(wrong, "2-b") == [(None, None)]
    assert kept(verdict, "1-a", "2-b") == [(None, None), ("1-a", "older")]


def test_reports_take_so_much_memory_and_no_more() -> None:
    reports = Reports(clock=ManualClock(), most=100)
    long = "x" * 100_000
    for number in range(300):
        names = ",".join(f'"b{each}":{{"active_revision":"{long[:1000]}"}}' for each in range(50))
        reports.take(
            f'{{"labels":{{"id":"{number}","proxy":"{number}{long}"}},"bundles":{{{names}}}}}'.encode(), address="a"
        )
    kept = reports.latest()
    assert len(kept) == 100
    assert max(len(one.proxy) + len(one.revision or "") for one in kept) == 256
