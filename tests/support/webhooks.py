"""Parts for tests of webhooks: records as far along as they are wanted, and a receiver that checks what it gets."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pytest_httpserver import HTTPServer
from standardwebhooks import Webhook as Verifier
from werkzeug import Request, Response

from ostiary.grants import blocks, life
from ostiary.grants.blocks import Block, BlockDraft, BlockTransition
from ostiary.grants.life import Transition
from ostiary.grants.records import Record
from ostiary.grants.webhooks.block_notices import block_notice
from ostiary.grants.webhooks.notices import Notice, notice_of
from ostiary.marks import subject_mark
from support.grants import ANN, CID, IDP, asked, moment

SECRET: Final = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER: Final = "whsec_" + base64.b64encode(bytes(range(40, 80))).decode()
OWN: Final = "https://ostiary.shop.test"

Answer = Callable[[int], Response]


def record(*transitions: Transition, **changes: Any) -> Record:
    """One that was asked for, a second before the first of these, and each a second after the other."""
    ruling = changes.pop("ruling", None)
    found = life.ask(asked(**changes), moment(), id="g-1", patience=3600, ruling=ruling)
    for seconds, transition in enumerate(transitions, start=1):
        found = transition(found, moment(seconds, change=1 + seconds))
    return found


def block_draft(**changes: Any) -> BlockDraft:
    given: dict[str, Any] = {"id": "b-1", "mark": subject_mark(IDP, ANN.subject), "reason": "a stolen laptop"}
    return BlockDraft(actor=CID.owner, **given | changes)


def block(*transitions: BlockTransition, duration: int | None = None) -> Block:
    """One that was blocked, a second before the first of these, and each a second after the other."""
    found = blocks.begin(block_draft(duration=duration), moment())
    for seconds, transition in enumerate(transitions, start=1):
        found = transition(found, moment(seconds, change=1 + seconds))
    return found


def last_notice(found: Record | Block) -> Notice:
    if isinstance(found, Block):
        return block_notice(found, len(found.steps) - 1)
    return notice_of(found, len(found.steps) - 1, public_url=OWN)


@dataclass(slots=True)
class Receiver:
    """What came, in order: verified, or it is refused with 401. `answers` says what else is answered, by how many came
    before; `hold` keeps an answer back while it is clear."""

    server: HTTPServer
    answers: Answer = field(default=lambda _: Response(status=204))
    secret: str = SECRET
    came: list[tuple[dict[str, str], Any]] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.hold.set()
        self.server.expect_request("/hook", method="POST").respond_with_handler(self._take)

    @property
    def url(self) -> str:
        return self.server.url_for("/hook")

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.came]

    def _take(self, request: Request) -> Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        Verifier(self.secret).verify(request.data, headers)
        self.came.append((headers, json.loads(request.data)))
        number = len(self.came) - 1
        self.hold.wait(20)
        return self.answers(number)
