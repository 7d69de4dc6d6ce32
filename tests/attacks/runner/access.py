"""Access that is asked for, approved, used and taken away: people at the proxy's own API, and a real store of grants.

A step is an object: what is done, and beside it what is to come of it.

    {"as": "web", "post": "requests", "body": {…}}      or `get`; `text` is a body that is sent as it is
    {"as": "web", "use": "/orders/1/refund"}            a request that takes a grant
    {"grant": {"duration": 60}}                         web asks, and the approver approves
    {"wait": 2} {"at": 3} {"clock": "-1h"} {"store": "gone"}  time passes, or is set; the store answers nobody

    "status", "reason"      of the answer
    "times": 50             so often, all at once; "served" of them are let through, and all others are refused
    "alike": true           the answer is the same as that of the step before, and takes no other time
    "shows": {…}            members of the answer

`{id}` and `{digest}` are those of the record that was answered last, `{name.id}` of the one that is `named` so. The
last step is what the expectation of the case is about, unless it says itself what is to come of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from attacks.runner import amounts
from attacks.runner.corpus import Case, Spec, Unintelligible, encoded
from attacks.runner.faults import KeyServer
from attacks.runner.fixture import PATIENT, PERMISSIONS, attacked_proxy
from attacks.runner.forgery import ISSUER, jwks
from attacks.runner.labs import Findings, Lab, Place, _lab, short_directory
from attacks.runner.plans import Plan
from attacks.runner.service import Service
from attacks.runner.wire import Answer, connected
from support.machine import Machine
from support.proxy import OWN_HOST

STORE: Final = "grants.db"
USED: Final = "/orders/123/refund"
ASKED: Final[Mapping[str, Any]] = {
    "service": "orders",
    "endpoints": ["refund"],
    "duration": 60,
    "reason": "charge 7 was made twice",
}
PEOPLE: Final = PERMISSIONS.replace(
    "callers:\n",
    f"callers:\n  other: {{issuer: {ISSUER}, subject: other}}\n  peer: {{issuer: {ISSUER}, subject: peer}}\n",
).replace(
    "eligible:\n",
    """eligible:
  - {caller: other, service: orders, endpoints: [refund], approvers: [peer], max_duration: 30m}
  - {caller: refund-approver, service: orders, endpoints: [refund], approvers: [refund-approver, peer],
     max_duration: 30m}
""",
)
"""Beside those of the fixture: `other` may ask for the same, of somebody else; and who approves may ask, too."""

_UNHEARD: Final = 6.0
"""Seconds in which a proxy has to say that its store is gone, or is there again; it takes two, and half a second."""
_VOID: Final = 2.2
"""Seconds after which nothing counts of a store that is gone: two, of which a moment may have passed unseen."""
_SAMPLES: Final = 150
_NOBODYS: Final = "g-" + "0" * 32


@contextlib.asynccontextmanager
async def access_lab(place: Place) -> AsyncIterator[Lab]:
    """The fixture with a store of grants, two workers, and a clock that can be set."""
    async with (
        Service().running() as service,
        KeyServer(good={"idp": jwks()}).running() as keys,
        short_directory() as here,
    ):
        machine = Machine(here)
        proxy = attacked_proxy(
            permissions=PEOPLE,
            issuers={ISSUER: keys.url("idp")},
            origins={"orders": f"http://127.0.0.1:{service.port}"},
            limits=PATIENT,
            environment=machine.environment,
            extra={
                "grants": {"url": f"sqlite:///{STORE}", "deadline": "500ms", "requests_per_day": 10_000},
                "workers": 2,
            },
        )
        async with _lab(proxy, service, keys, machine=machine) as lab:
            yield lab


def planned(case: Case, steps: Sequence[Mapping[str, Any]], *, last: bool = False) -> Plan:
    """Raises `Unintelligible`."""
    if not steps:
        raise Unintelligible("there is no step")
    read = [_Read(dict(step)) for step in steps]

    async def attempt(lab: Lab) -> Findings:
        story = Story(lab, case)
        found: Findings = []
        try:
            for number, step in enumerate(read, start=1):
                wrong = await step.take(story, judged=number == len(read))
                found += [f"step {number}: {one}" for one in wrong]
                if found:
                    break  # what comes after it would say nothing
        finally:
            for undo in reversed(story.undo):
                await undo()
            found += await story.tidied()
        return found + await lab.served()

    return Plan(case=case, attempt=attempt, lab="access", last=last or any(step.lasts for step in read))


@dataclass
class Story:
    """What steps have done so far."""

    lab: Lab
    case: Case
    began: float = field(default_factory=time.monotonic)
    known: dict[str, str] = field(default_factory=dict)
    answer: Answer | None = None
    undo: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    def filled(self, text: str) -> str:
        def value(found: re.Match[str]) -> str:
            if found[1] not in self.known:
                raise Unintelligible(f"nothing is called {found[0]}")
            return self.known[found[1]]

        return re.sub(r"\{((?:\w+\.)?(?:id|digest))\}", value, text)

    def remember(self, answer: Answer, name: str | None) -> None:
        self.answer = answer
        with contextlib.suppress(ValueError):
            document = json.loads(answer.body)
            if answer.status in (200, 201) and isinstance(document, dict):
                for member in ("id", "digest"):
                    if isinstance(document.get(member), str):
                        self.known[member] = document[member]
                        if name is not None:
                            self.known[f"{name}.{member}"] = document[member]

    async def tidied(self) -> Findings:
        """Nothing is left for the next case: each approver takes back what there is."""
        found: Findings = []
        for approver in ("approver", "peer"):
            message = _message("POST", "revocations", self.lab.forge.token(approver), body=b'{"reason":"over"}')
            answer = await self.lab.ask(message)
            found += [] if answer.status == 200 else [f"revoking what is left was answered {answer.status}"]
        return found


# One step.


class _Read:
    """A step that was understood. Raises `Unintelligible`."""

    def __init__(self, told: dict[str, Any]) -> None:
        spec = Spec(told)
        self.who = str(spec.take("as", default="web"))
        self.status, self.reason = spec.take("status"), spec.take("reason")
        self.times, self.served = int(spec.take("times", default=1)), spec.take("served")
        self.alike, self.shows = bool(spec.take("alike", default=False)), dict(spec.take("shows", default={}))
        self.named = spec.take("named")
        self.headers = {str(name): value for name, value in dict(spec.take("headers", default={})).items()}
        self.at = spec.take("at")
        self.does = self._deed(spec)
        spec.done()

    @property
    def lasts(self) -> bool:
        """Whether others would meet what it does."""
        return self.does.func in (_without_store, _clock)

    def _deed(self, spec: Spec) -> partial[Awaitable[Findings]]:
        if (wait := spec.take("wait")) is not None:
            return partial(_wait, float(wait))
        if (clock := spec.take("clock")) is not None:
            return partial(_clock, seconds(str(clock)))
        if (store := spec.take("store")) is not None:
            if store != "gone":
                raise Unintelligible(f"{store!r} is nothing that a store of grants does")
            return partial(_without_store)
        if (grant := spec.take("grant")) is not None:
            return partial(_grant, dict(grant), self)
        if (used := spec.take("use")) is not None:
            return partial(_use, str(used), self)
        for method in ("get", "post", "put", "patch", "delete"):
            if (path := spec.take(method)) is not None:
                body, text = spec.take("body"), spec.take("text")
                if text is None and method == "post":
                    text = json.dumps({} if body is None else body)
                return partial(_api, method.upper(), str(path), text, self)
        raise Unintelligible(f"{', '.join(spec.names) or 'a step'}: nothing is done")

    async def take(self, story: Story, *, judged: bool) -> Findings:
        if self.at is not None:
            await asyncio.sleep(max(0.0, story.began + float(self.at) - time.monotonic()))
        judged = judged and (self.status, self.served) == (None, None)
        return await self.does(story, judged)

    def compared(self, answer: Answer, before: Answer | None) -> Findings:
        """What of the answer is not as the step says."""
        problem = answer.problem or {}
        found = []
        if self.status is not None and answer.status != self.status:
            found.append(f"answered {answer.status} {problem.get('reasons', '')} {problem.get('detail', '')}")
        if self.reason is not None and problem.get("reasons") != [self.reason]:
            found.append(f"the reason is {problem.get('reasons')}, not {self.reason}")
        if self.reason is None and answer.status == 429:
            found.append("it was refused for asking too much, and says nothing")
        if self.alike and (before is None or _anonymous(answer) != _anonymous(before)):
            found.append("the answer is told from the one before")
        document = json.loads(answer.body) if self.shows else {}
        for name, value in self.shows.items():
            if document.get(name) != value:
                found.append(f"{name} is {document.get(name)!r}")
        return found


async def _wait(seconds: float, story: Story, judged: bool) -> Findings:
    await asyncio.sleep(seconds)
    return []


async def _clock(seconds: float, story: Story, judged: bool) -> Findings:
    """The machine's clock is set, and set right again when the case is over."""
    machine: Machine = story.lab.known["machine"]
    machine.step(seconds)

    async def right() -> None:
        machine.step(-seconds)

    story.undo.append(right)
    return []


async def _grant(asked: dict[str, Any], step: _Read, story: Story, judged: bool) -> Findings:
    lab = story.lab
    body = json.dumps({**ASKED, **asked}).encode()
    answer = await lab.ask(_message("POST", "requests", lab.forge.token(step.who), body=body))
    story.remember(answer, step.named)
    if answer.status != 201:
        return [f"asking was answered {answer.status} {answer.body[:200]!r}"]
    approval = json.dumps({"digest": story.known["digest"]}).encode()
    path = f"requests/{story.known['id']}/approve"
    if asked.get("duration", 60) < 10:
        await asyncio.sleep(1 - time.time() % 1)  # it lasts to the second: from here on the whole of it
    answer = await lab.ask(_message("POST", path, lab.forge.token("approver"), body=approval))
    story.remember(answer, step.named)
    story.began = time.monotonic()
    return [] if answer.status == 200 else [f"approving was answered {answer.status} {answer.body[:200]!r}"]


async def _use(path: str, step: _Read, story: Story, judged: bool) -> Findings:
    token = story.lab.forge.token(step.who)
    message = story.lab.request(path, token, method="POST")
    return await _sent(message, token, step, story, judged)


async def _api(method: str, path: str, text: str | None, step: _Read, story: Story, judged: bool) -> Findings:
    token = story.lab.forge.token(step.who)
    content = None if text is None else amounts.body(story.filled(text)).whole()
    if span := re.search(r"\{(\d+)\.\.(\d+)\}", path):
        numbers = range(int(span[1]), int(span[2]) + 1)
        return await _all_unknown([path.replace(span[0], str(number)) for number in numbers], token, step, story)
    message = _message(method, story.filled(path), token, body=content, headers=step.headers)
    if step.alike and (wrong := await _as_fast(message, story)):
        return wrong
    return await _sent(message, token, step, story, judged)


async def _sent(message: bytes, token: str, step: _Read, story: Story, judged: bool) -> Findings:
    lab, before = story.lab, story.answer
    mark = lab.mark()
    if step.times > 1:
        answers = await asyncio.gather(*(lab.ask(message) for _ in range(step.times)))
        return _counted(answers, step, story, mark)
    if judged:
        found = await lab.attack(message, expected=story.case.expected, kind=story.case.kind, secrets=[token])
        if step.reason is None and not step.alike and not step.shows:
            return found
        again = await lab.ask(message)
        story.remember(again, step.named)
        return found + step.compared(again, before)
    answer = await lab.ask(message)
    story.remember(answer, step.named)
    return step.compared(answer, before)


def _counted(answers: Sequence[Answer], step: _Read, story: Story, mark: tuple[int, int, int]) -> Findings:
    story.answer = answers[-1]
    served = sum(answer.status < 300 for answer in answers)
    odd = sorted({answer.status for answer in answers if not (answer.status < 300 or 400 <= answer.status < 500)})
    found = [f"some were answered {odd}"] if odd else []
    if step.served is not None and served != step.served:
        found.append(f"{served} were served, not {step.served}: {Counter(one.status for one in answers)}")
    service = story.lab.service
    if service is not None and step.does.func is _use and len(service.since(mark[0])) != served:
        found.append(f"the service saw {len(service.since(mark[0]))} of them")
    return found


async def _all_unknown(paths: Sequence[str], token: str, step: _Read, story: Story) -> Findings:
    """Of ids that are guessed none is anything, and each answer is the same."""
    answers: set[tuple[int, bytes]] = set()
    mark = story.lab.mark()
    async with connected(story.lab.address) as client:
        for path in paths:
            await client.send(_message("GET", path, token, headers=step.headers))
            answer = await client.answer()
            answers.add((0, b"") if answer is None else (answer.status, _anonymous(answer)))
    found = [f"some were answered {status}" for status, _ in sorted(answers) if not 400 <= status < 500]
    if len(answers) != 1:
        found.append(f"{len(answers)} different answers")
    if story.lab.service is not None and story.lab.service.since(mark[0]):
        found.append("the service was reached")
    return found


async def _as_fast(message: bytes, story: Story) -> Findings:
    """Whether what is somebody else's takes as long as what is nobody's, as far as can be seen from here."""
    nobodys = re.sub(rb"g-[0-9a-f]{32}", _NOBODYS.encode(), message, count=1)
    seconds: dict[bytes, list[float]] = {message: [], nobodys: []}
    async with connected(story.lab.address) as client:
        for one in [message, nobodys] * _SAMPLES:
            began = time.perf_counter()
            await client.send(one)
            if await client.answer() is None:
                return ["the connection was closed"]
            seconds[one].append(time.perf_counter() - began)
    (low, median, high), (_, other, _) = (statistics.quantiles(times, n=4) for times in seconds.values())
    if abs(median - other) > high - low:
        return [f"the medians are {abs(median - other) * 1e6:.0f} µs apart, more than half of the samples spread"]
    return []


def _anonymous(answer: Answer) -> bytes:
    """Without what is another's in every answer."""
    return re.sub(rb"\b(?:g-)?[0-9a-f]{32}\b", b"", answer.body)


def _message(
    method: str, path: str, token: str, *, body: bytes | None = None, headers: Mapping[str, Any] | None = None
) -> bytes:
    """A header that is null is left out."""
    fields: dict[str, Any] = {"Host": OWN_HOST, "Authorization": f"Bearer {token}"}
    if body is not None:
        fields |= {"Content-Type": "application/json", "Content-Length": len(body)}
    fields |= headers or {}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    target = path if path.startswith("/") else f"/access/{path}"
    return encoded(f"{method} {target} HTTP/1.1\r\n{lines}\r\n") + (body or b"")


# The store, and time.

SECONDS: Final = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
TIME: Final = r"([+-]?\d+(?:\.\d+)?) ?(s|sec|min|m|h|d)?\b"


def seconds(text: str) -> float:
    found = re.fullmatch(TIME, text.strip())
    if found is None:
        raise Unintelligible(f"{text!r} is no time")
    return float(found[1]) * SECONDS[found[2] or ""]


async def _without_store(story: Story, judged: bool) -> Findings:
    """From here on to the end of the case the file answers nobody. Done once the proxy says so."""
    proxy = story.lab.proxy
    if proxy is None:
        raise Unintelligible("the store is not this runner's")
    stack = contextlib.ExitStack()
    await asyncio.to_thread(stack.enter_context, unreadable(proxy.place / STORE))
    since = time.monotonic()

    async def back() -> None:
        stack.close()
        if not await _says(story, "available"):
            raise TimeoutError("the store is there again, and the proxy does not say so")

    story.undo.append(back)
    if not await _says(story, None):
        return ["the store is gone, and the proxy does not say so"]
    await asyncio.sleep(max(0.0, since + _VOID - time.monotonic()))
    return []


async def _says(story: Story, told: str | None) -> bool:
    """Whether the health comes to say this of the grants, or anything but that they are available."""
    proxy, until = story.lab.proxy, time.monotonic() + _UNHEARD
    while proxy is not None and time.monotonic() < until:
        grants = (await asyncio.to_thread(proxy.health))[1]["grants"]
        if (grants == "available") == (told == "available"):
            return True
        await asyncio.sleep(0.05)
    return False


@contextlib.contextmanager
def unreadable(file: Path) -> Iterator[None]:
    """A database of SQLite of which this process has every lock that a reader or writer takes.

    They are bytes of its index (https://www.sqlite.org/walformat.html, "WAL Locks"): one to write, one for checkpoints,
    one for recovery and five to read.
    """
    descriptor = os.open(f"{file}-shm", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX, 8, 120)
        yield
    finally:
        os.close(descriptor)
