"""What is to be told gets there, however often it takes, and nothing waits for a receiver but what it is to be told."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time as clock
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from ostiary.grants import life
from ostiary.grants.base import DatabaseStore
from ostiary.grants.webhooks import deliverer as deliverer_module
from ostiary.grants.webhooks.deliverer import Deliverer, WebhookFacts
from ostiary.grants.webhooks.notices import Notice
from ostiary.grants.webhooks.sender import Outcome, Sender, Webhook
from ostiary.grants.webhooks.templates import BUILT_IN
from support.grants import ANN, CID, draft
from support.webhooks import OTHER, OWN, SECRET, Receiver, last_notice, record


@pytest.fixture
def receiver(httpserver: HTTPServer) -> Receiver:
    return Receiver(httpserver)


def webhook(url: str, name: str = "chat", **changes: Any) -> Webhook:
    return Webhook(**{"name": name, "url": url, "template": BUILT_IN["generic"], "secret": SECRET, **changes})


@asynccontextmanager
async def delivering(store: DatabaseStore, *webhooks: Webhook, **changes: Any) -> AsyncIterator[Deliverer]:
    given = {"interval": 0.01, "first_pause": 0.05, "lease": 5.0, **changes}
    sender = given.pop("sender", None) or Sender(deadline=2)
    deliverer = Deliverer(store, webhooks, sender=sender, public_url=OWN, **given)
    await deliverer.start()
    yield deliverer
    await deliverer.close()


async def given(store: DatabaseStore, id: str = "g-1", **changes: Any) -> None:
    """Asked for, approved and given back: three changes."""
    found = await store.ask(draft(id, **changes))
    await store.recorded(id, 1)
    await store.change(id, life.approve(CID, digest=found.digest))
    await store.recorded(id, 3)
    await store.change(id, life.drop(ANN))
    await store.recorded(id, 4)


async def until(true: Callable[[], bool]) -> None:
    deadline = clock.monotonic() + 20
    while not true():
        assert clock.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_all_is_told_in_order_and_signed(store: DatabaseStore, receiver: Receiver) -> None:
    async with delivering(store, webhook(receiver.url)) as deliverer:
        await given(store)
        await until(lambda: deliverer.facts == (WebhookFacts(name="chat", delivered=3),))
    assert receiver.ids == ["g-1-0", "g-1-2", "g-1-3"]
    assert [body["type"] for _, body in receiver.came] == ["grant.requested", "grant.activated", "grant.dropped"]
    assert receiver.came[0][0]["content-type"] == "application/json"


async def test_what_fails_is_tried_again_with_its_id_and_the_time_of_the_attempt(
    store: DatabaseStore, receiver: Receiver
) -> None:
    receiver.answers = lambda number: Response(status=503 if number < 2 else 200)
    sender = Sender(deadline=2, now=lambda: clock.time() + 10 * len(receiver.came))
    async with delivering(store, webhook(receiver.url), sender=sender) as deliverer:
        await given(store)
        await until(lambda: deliverer.facts == (WebhookFacts(name="chat", delivered=3, failed=2),))
    assert receiver.ids == ["g-1-0", "g-1-0", "g-1-0", "g-1-2", "g-1-3"]
    stamps = [int(headers["webhook-timestamp"]) for headers, _ in receiver.came]
    assert stamps[0] < stamps[1] < stamps[2]


async def test_what_is_refused_for_one_grant_keeps_no_other_back(store: DatabaseStore, receiver: Receiver) -> None:
    receiver.answers = lambda number: Response(status=400 if receiver.ids[number].startswith("g-1-") else 200)
    async with delivering(store, webhook(receiver.url), first_pause=60.0) as deliverer:
        await given(store)
        await given(store, "g-2", key="another")
        await until(lambda: deliverer.facts[0].delivered == 3)
        await until(lambda: deliverer.facts[0].waiting == 3)
    assert receiver.ids == ["g-1-0", "g-2-0", "g-2-2", "g-2-3"]


async def test_a_receiver_that_hangs_delays_no_other_and_no_change(store: DatabaseStore, receiver: Receiver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = webhook(f"http://127.0.0.1:{silent.getsockname()[1]}/hook", name="silent")
        async with delivering(store, hanging, webhook(receiver.url)) as deliverer:
            began = clock.monotonic()
            await given(store)
            await until(lambda: deliverer.facts[1].delivered == 3)
            assert clock.monotonic() - began < 2
            await until(lambda: deliverer.facts[0].failure is not None)
            assert deliverer.facts[0].failure == "did not answer within 2 s"
            assert (await store.waiting("silent")).number == 3


async def test_what_is_too_old_is_given_up_and_the_rest_is_told(
    store: DatabaseStore, receiver: Receiver, time: Any, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = lambda number: Response(status=404 if receiver.ids[number] == "g-1-0" else 200)
    async with delivering(store, webhook(receiver.url, give_up_after=60)) as deliverer:
        await given(store)
        await until(lambda: deliverer.facts[0].failed > 0)
        time.moved += 61
        await until(lambda: (deliverer.facts[0].delivered, deliverer.facts[0].waiting) == (2, 0))
    assert (deliverer.facts[0].given_up, deliverer.facts[0].failure) == (1, None)
    assert "the webhook chat is never told of g-1-0 (requested): it answered 404" in caplog.messages
    assert receiver.url not in caplog.text


async def test_what_was_not_foreseen_is_seen_and_does_not_end_the_telling(
    store: DatabaseStore, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliverer_module, "_PAUSE", 0.05)
    sender = Unlucky(deadline=2)
    async with delivering(store, webhook(receiver.url), sender=sender) as deliverer:
        await given(store)
        await until(lambda: deliverer.facts[0].failure == "cannot be told what is in the store: IndexError")
        sender.lucky = True
        await until(lambda: deliverer.facts == (WebhookFacts(name="chat", delivered=3),))


class Unlucky(Sender):
    """Comes upon a mistake of its own. `lucky`: it does not."""

    lucky = False

    async def send(self, webhook: Webhook, notice: Notice) -> Outcome:
        if not self.lucky:
            raise IndexError
        return await super().send(webhook, notice)


async def test_only_what_is_wanted_is_told(store: DatabaseStore, receiver: Receiver) -> None:
    one = webhook(receiver.url, events=frozenset({"activated", "dropped"}), services=frozenset({"billing"}))
    async with delivering(store, one):
        await given(store, service="orders")
        await given(store, "g-2", key="another")
        await until(lambda: len(receiver.came) == 2)
        await until_none_waits(store)
    assert receiver.ids == ["g-2-2", "g-2-3"]


async def until_none_waits(store: DatabaseStore) -> None:
    deadline = clock.monotonic() + 20
    while (await store.waiting("chat")).number:
        assert clock.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_two_proxies_tell_it_once(store: DatabaseStore, receiver: Receiver) -> None:
    async with delivering(store, webhook(receiver.url)) as one, delivering(store, webhook(receiver.url)) as other:
        for number in range(5):
            await given(store, f"g-{number}", key=str(number))
        await until(lambda: one.facts[0].delivered + other.facts[0].delivered == 15)
        await until_none_waits(store)
    assert sorted(receiver.ids) == sorted(set(receiver.ids))


def telling(address: str, receiver: Receiver) -> subprocess.Popen[bytes]:
    program = f"from support.processes import teller; teller({address!r}, {receiver.url!r}, {SECRET!r})"
    return subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[1])


async def test_a_death_before_it_is_known_that_it_was_told_tells_it_again(
    store: DatabaseStore, address: Callable[[DatabaseStore], str], receiver: Receiver
) -> None:
    receiver.hold.clear()
    await store.know(["chat"])
    await given(store)
    process = telling(address(store), receiver)
    await until(lambda: len(receiver.came) == 1 or process.poll() is not None)
    process.kill()
    process.wait()
    receiver.hold.set()
    async with delivering(store, webhook(receiver.url)) as deliverer:
        await until(lambda: deliverer.facts[0].delivered == 3)
    assert receiver.ids == ["g-1-0", "g-1-0", "g-1-2", "g-1-3"]


# One attempt


async def sent(one: Webhook) -> str | None:
    return (await Sender(deadline=2).send(one, last_notice(record()))).failure


async def test_no_redirect_is_followed(httpserver: HTTPServer) -> None:
    receiver = Receiver(httpserver)
    httpserver.expect_request("/away").respond_with_response(Response(status=307, headers={"location": receiver.url}))
    assert await sent(webhook(httpserver.url_for("/away"))) == "answered 307"
    assert receiver.came == []


@pytest.mark.parametrize(
    ("header", "status", "least", "most"),
    [
        ("7", 429, 7, 7),
        (formatdate(clock.time() + 3600, usegmt=True), 503, 1, 3600),
        ("soon", 503, None, None),
        (None, 503, None, None),
        (None, 410, 3600, 3600),
    ],
    ids=["seconds", "date", "words", "nothing", "gone"],  # the time in them would not be every process's
)
async def test_a_receiver_says_how_long_it_wants_nothing(
    header: str | None, status: int, least: float | None, most: float | None, receiver: Receiver
) -> None:
    receiver.answers = lambda _: Response(status=status, headers={} if header is None else {"retry-after": header})
    wait = (await Sender(deadline=2).send(webhook(receiver.url), last_notice(record()))).wait
    if least is None or most is None:
        assert wait is None
    else:
        assert wait is not None
        assert least <= wait <= most


async def test_an_address_that_is_never_connected_to_is_told_nothing(receiver: Receiver) -> None:
    """It is the one that was really connected to, whatever the name said before."""
    sender = Sender(deadline=2, refused=((ip_network("127.0.0.0/8"), "this machine"),))
    outcome = await sender.send(webhook(receiver.url.replace("localhost", "127.0.0.1")), last_notice(record()))
    assert outcome.failure == "leads to an address that is never connected to"
    assert receiver.came == []


async def test_who_is_not_there_is_told_later() -> None:
    assert await sent(webhook("http://127.0.0.1:1/t0ken")) == "cannot be reached: ConnectError"


async def test_an_answer_without_end_is_not_read(httpserver: HTTPServer) -> None:
    def endless() -> Any:
        while True:
            yield b"x" * 65536

    httpserver.expect_request("/hook").respond_with_response(Response(endless(), status=200))
    began = clock.monotonic()
    assert await sent(webhook(httpserver.url_for("/hook"))) is None
    assert clock.monotonic() - began < 1


async def test_a_secret_in_a_file_is_read_each_time(receiver: Receiver, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    one = webhook(receiver.url, secret="", secret_file=file)
    file.write_text(f"{OTHER}\n{SECRET}\n", encoding="ascii")
    assert await sent(one) is None
    assert len(receiver.came[0][0]["webhook-signature"].split()) == 2
    file.write_text("whsec_", encoding="ascii")
    assert await sent(one) == "cannot be told: a secret is written whsec_ and the base64 of 24 to 64 random bytes"
    file.unlink()
    assert (await sent(one) or "").startswith("cannot be told: [Errno 2]")


async def test_a_receiver_whose_certificate_is_not_trusted_is_told_nothing(receiver: Receiver) -> None:
    url = receiver.url.replace("http:", "https:")
    assert await sent(webhook(url)) == "cannot be reached: ConnectError"
    assert receiver.came == []
