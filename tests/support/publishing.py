"""Bundles for a proxy that runs, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from ostiary import assets
from ostiary.page import Page
from ostiary.policy.bundle import build_bundle
from support.opa import until
from support.proxy import RunningProxy


class Policy:
    """Publishes bundles for a proxy, each later than the one before."""

    def __init__(self, proxy: RunningProxy, opa: Path) -> None:
        self._proxy = proxy
        self._opa = opa
        self._sequence = 1

    async def publish(self, permissions: str) -> str:
        """The revision, once it is announced."""
        self._sequence += 1
        (self._proxy.place / "policy" / "permissions.yaml").write_text(permissions)
        built = await asyncio.to_thread(
            build_bundle,
            self._proxy.place / "policy",
            self._proxy.bundle,
            opa=self._opa,
            sequence=self._sequence,
            rego_root=assets.rego(),
        )
        with contextlib.closing(Page.attach(self._proxy.place / "state" / "page")) as page:
            await until(lambda: page.revision() == built.revision, seconds=60)
        return built.revision
