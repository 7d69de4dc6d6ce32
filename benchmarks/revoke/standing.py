"""Streams that stand on a permission: from the instant at which a bundle without it is announced until they are cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.rego.publishing import stamped
from benchmarks.rego.report import Part
from benchmarks.revoke.connection import PATIENCE
from benchmarks.revoke.load import load_of
from benchmarks.revoke.proxies import MAP, SQLITE, Proxy, proxies
from benchmarks.revoke.streams import BOUND, STREAMS, opened
from benchmarks.revoke.trials import at_most, meanwhile, milliseconds, pause, show_machine, show_wrong, told
from ostiary import assets
from ostiary.opa.install import ensure_opa
from ostiary.page import Page
from ostiary.policy.bundle import build_bundle

CONNECTIONS: Final = 8
SHARE: Final = 20
"""One of so many trials: for each of them OPA is started twice."""
_TICK: Final = 0.0005
_ALLOWING: Final[Mapping[str, Any]] = {
    **MAP,
    "permissions": [*MAP["permissions"], {"caller": "web", "service": "news", "endpoints": ["events"]}],
}


def measure(place: Path, trials: int) -> Part:
    with proxies(place, [SQLITE]) as (proxy,):
        return asyncio.run(measured(proxy, max(1, trials // SHARE), place=place))


async def measured(proxy: Proxy, trials: int, *, place: Path) -> Part:
    with contextlib.closing(Page.attach(proxy.page)) as page:
        policy = Policy(proxy, page, place)
        load = load_of(proxy, asked="/orders/42")
        async with load.on(proxy, connections=CONNECTIONS):
            with meanwhile() as machine:
                found = [await _cut(proxy, policy) for _ in range(trials)]
    row: dict[str, Any] = {
        "trials": len(found),
        "streams": STREAMS,
        "answers": load.answers,
        "cut": milliseconds(found),
        "wrong": len(load.wrong),
        "meanwhile": machine,
    }
    print(f"standing: {row['trials']:,} trials with {STREAMS} streams each, {row['answers']:,} answers")
    print(f"  {told('bundle announced → the last stream is cut:', row['cut'])}")
    show_machine(machine)
    show_wrong(load)
    name = "another bundle announced → streams that it does not allow cut: p99"
    return Part(name="standing", members={"standing": row}, targets=[at_most(name, row["cut"]["p99_ms"], BOUND)])


class Policy:
    """Publishes bundles that let `web` have the stream, and bundles that do not."""

    def __init__(self, proxy: Proxy, page: Page, place: Path) -> None:
        self._proxy = proxy
        self._page = page
        self._place = place
        self._sequence = 1
        self._allowing = self._built("allowing", _ALLOWING)
        self._lacking = self._built("lacking", MAP)

    def _built(self, name: str, permissions: Mapping[str, Any]) -> Path:
        source, bundle = self._place / f"source-{name}", self._place / f"bundle-{name}"
        source.mkdir()
        (source / "permissions.yaml").write_text(json.dumps(permissions), encoding="utf-8")
        build_bundle(source, bundle, opa=ensure_opa(), sequence=1, rego_root=assets.rego())
        return bundle

    async def allow(self) -> None:
        await self._publish(self._allowing)

    async def refuse(self) -> float:
        """When that was announced, by `time.monotonic`."""
        return await self._publish(self._lacking)

    async def _publish(self, built: Path) -> float:
        self._sequence += 1
        revision = await asyncio.to_thread(stamped, built, self._proxy.bundle, sequence=self._sequence)
        async with asyncio.timeout(PATIENCE):
            while self._page.revision() != str(revision):  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(_TICK)
        return time.monotonic()


async def _cut(proxy: Proxy, policy: Policy) -> float:
    """Seconds until the last of the streams has ended; 0 if all had before that was seen."""
    await policy.allow()
    streams = [await opened(proxy) for _ in range(STREAMS)]
    await pause(0.0, 0.04)
    if any(stream.ended.done() for stream in streams):
        raise SystemExit("a stream has ended by itself")
    announced = await policy.refuse()
    async with asyncio.timeout(PATIENCE):
        ended = [await stream.ended for stream in streams]
    return max(0.0, max(ended) - announced)
