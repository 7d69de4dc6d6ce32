"""The tour: what the demo shows, as curl lines to copy and as checks that run by themselves.

The two are made from the same stops, so that what is printed is what is checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from ostiary.demo.run import OWN_HOST, Demo
from ostiary.demo.services import credential_file, digest

_RECOVERY: Final = 15.0
"""Seconds for OPA to be back by itself."""

_AUDIT_PATIENCE: Final = 5.0

_OWN: Final = OWN_HOST.removesuffix(".localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """One request of the tour, and what it shows.

    `subject` is whose token it carries (None: none). `status` is what is expected; each of `reasons` has to be given.
    """

    shows: str
    subject: str | None
    method: str = "GET"
    service: str
    path: str
    status: int
    reasons: tuple[str, ...] = ()

    def curl(self, port: int) -> str:
        """The line to copy. `$WEB` and the like hold the tokens."""
        parts = ["curl -s"]
        if self.method != "GET":
            parts.append(f"-X {self.method}")
        if self.subject is not None:
            parts.append(f'-H "Authorization: Bearer ${self.subject.upper()}"')
        parts.append(f'"http://{self.service}.localhost:{port}{self.path}"')
        return " ".join(parts)


_REFUND: Final = Stop(
    shows="eligible, but not granted: it would have to be requested",
    subject="ann",
    method="POST",
    service="billing",
    path="/charges/7/refund",
    status=403,
    reasons=("grant-required",),
)

STOPS: Final = (
    Stop(shows="a permission allows it", subject="web", service="orders", path="/orders/42", status=200),
    Stop(
        shows="a credential for one call, for a charge",
        subject="web",
        method="POST",
        service="billing",
        path="/charges",
        status=200,
    ),
    Stop(
        shows="no permission: denied, with the reason",
        subject="reporting",
        service="orders",
        path="/orders/42",
        status=403,
        reasons=("permission-missing",),
    ),
    Stop(
        shows="no token",
        subject=None,
        service="orders",
        path="/orders/42",
        status=401,
        reasons=("identity-missing",),
    ),
    Stop(
        shows="an endpoint that nobody wrote down",
        subject="web",
        service="orders",
        path="/internal/debug",
        status=403,
        reasons=("unknown-endpoint",),
    ),
    Stop(
        shows="a method that the endpoint does not have",
        subject="web",
        method="PUT",
        service="orders",
        path="/orders/42",
        status=403,
        reasons=("unknown-endpoint",),
    ),
    Stop(
        shows="allowed from 10.0.0.0/8 only, and this is 127.0.0.1",
        subject="web",
        method="DELETE",
        service="orders",
        path="/orders/42",
        status=403,
        reasons=("condition-source",),
    ),
    Stop(
        shows="a rule of the organisation, with its text",
        subject="web",
        service="orders",
        path="/orders?page=all",
        status=403,
        reasons=("policy-denied",),
    ),
    _REFUND,
)

_APPROVER: Final = "lee"
_SECONDS: Final = 600
_WHY: Final = "charge 7 was made twice"
_WHY_NOT: Final = "it was another charge"

_WITHOUT_OPA: Final = Stop(
    shows="OPA killed: 503, and back by itself",
    subject="web",
    service="orders",
    path="/orders/42/invoices/2026",  # asked nowhere else: what was decided still is, for 5 seconds at most
    status=503,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One line of the check: what was shown, and whether it held."""

    shows: str
    held: bool
    seen: str

    def document(self) -> dict[str, Any]:
        return {"shows": self.shows, "held": self.held, "seen": self.seen}


class Tour:
    """The tour of one running demo, over real HTTP."""

    def __init__(self, demo: Demo) -> None:
        self._demo = demo
        self._tokens = {subject: demo.issuer.token(subject) for subject in subjects()}
        self._decisions: list[str] = []

    async def check(self) -> list[Outcome]:
        """Every stop, then what takes more than one request to show."""
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            outcomes = [await self._stop(client, stop) for stop in STOPS]
            looks = (
                self._granted_and_revoked,
                self._other_credential,
                self._no_shadow_path,
                self._no_replay,
                self._without_opa,
                self._all_audited,
            )
            return outcomes + [await look(client) for look in looks]

    async def _send(
        self,
        client: httpx.AsyncClient,
        method: str,
        service: str,
        path: str,
        token: str | None,
        *,
        document: Mapping[str, Any] | None = None,
    ) -> httpx.Response:
        """Through the proxy: programs connect to 127.0.0.1 and name the host."""
        headers = {"host": f"{service}.localhost"}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        url = f"http://127.0.0.1:{self._demo.ports['proxy']}{path}"
        response = await client.request(method, url, headers=headers, json=document)
        if "decision_id" in response.text:
            self._decisions.append(response.json()["decision_id"])
        elif decision := response.headers.get("ostiary-decision-id"):
            self._decisions.append(decision)
        return response

    async def _stop(self, client: httpx.AsyncClient, stop: Stop) -> Outcome:
        token = None if stop.subject is None else self._tokens[stop.subject]
        response = await self._send(client, stop.method, stop.service, stop.path, token)
        reasons = tuple(response.json().get("reasons", ()))
        named = {reason.partition(":")[0] for reason in reasons}
        held = response.status_code == stop.status and set(stop.reasons) <= named
        return Outcome(shows=stop.shows, held=held, seen=f"{response.status_code} {' '.join(reasons)}".rstrip())

    async def _granted_and_revoked(self, client: httpx.AsyncClient) -> Outcome:
        refund, holder = _REFUND, str(_REFUND.subject)

        async def use() -> int:
            return (await self._send(client, "POST", refund.service, refund.path, self._tokens[holder])).status_code

        async def step(subject: str, path: str, **document: Any) -> dict[str, Any]:
            sent = await self._send(
                client, "POST", _OWN, f"/access/requests{path}", self._tokens[subject], document=document
            )
            found: dict[str, Any] = sent.json()
            return found

        asked = await step(holder, "", service="billing", endpoints=["refund"], duration=_SECONDS, reason=_WHY)
        approved = await step(_APPROVER, f"/{asked.get('id')}/approve", digest=asked.get("digest", ""))
        allowed = await use()
        revoked = await step(_APPROVER, f"/{asked.get('id')}/revoke", reason=_WHY_NOT)
        refused = await use()
        states = [each.get("state") or str(each.get("reasons")) for each in (asked, approved, revoked)]
        return Outcome(
            shows="asked for and approved: allowed; revoked: refused",
            held=states == ["pending", "active", "revoked"] and (allowed, refused) == (200, refund.status),
            seen=f"{states[0]}, {states[1]}: {allowed}; {states[2]}: {refused}",
        )

    async def _other_credential(self, client: httpx.AsyncClient) -> Outcome:
        sent = self._tokens["web"]
        response = await self._send(client, "GET", "orders", "/orders/42", sent)
        saw = response.json().get("credential", "nothing")
        held = response.status_code == 200 and saw not in ("nothing", digest(sent)) and sent not in response.text
        return Outcome(
            shows="the service saw another credential than was sent", held=held, seen=f"sent {digest(sent)}, saw {saw}"
        )

    async def _no_shadow_path(self, client: httpx.AsyncClient) -> Outcome:
        status = await self._direct(client, "/orders/42", self._tokens["web"])
        return Outcome(
            shows="called directly with the client's token, the service refuses", held=status == 401, seen=str(status)
        )

    async def _no_replay(self, client: httpx.AsyncClient) -> Outcome:
        credential = credential_file(self._demo.place, "orders").read_text(encoding="ascii")
        own = await self._direct(client, "/orders/43", credential)
        other = await self._direct(client, "/orders", credential)
        return Outcome(
            shows="the swapped credential is refused on another endpoint",
            held=own == 200 and other == 401,
            seen=f"its own endpoint {own}, another {other}",
        )

    async def _direct(self, client: httpx.AsyncClient, path: str, token: str) -> int:
        url = f"http://127.0.0.1:{self._demo.ports['orders']}{path}"
        return (await client.get(url, headers={"authorization": f"Bearer {token}"})).status_code

    async def _without_opa(self, client: httpx.AsyncClient) -> Outcome:
        pid = self._demo.opa_pid
        if pid is None:
            return Outcome(shows="without OPA nothing is allowed", held=False, seen="OPA does not run")
        os.kill(pid, signal.SIGKILL)
        stop, token = _WITHOUT_OPA, self._tokens["web"]
        without = await self._send(client, stop.method, stop.service, stop.path, token)
        back = without
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RECOVERY):
                while back.status_code != 200:
                    await asyncio.sleep(0.05)
                    back = await self._send(client, stop.method, stop.service, stop.path, token)
        return Outcome(
            shows=stop.shows,
            held=without.status_code == stop.status and back.status_code == 200,
            seen=f"{without.status_code}, then {back.status_code}",
        )

    async def _all_audited(self, client: httpx.AsyncClient) -> Outcome:
        """Every answer names its decision, and the audit has a line for each."""
        missing = set(self._decisions)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AUDIT_PATIENCE):
                while missing:
                    missing = set(self._decisions) - await asyncio.to_thread(recorded, self._demo.audit)
                    await asyncio.sleep(0.05)
        return Outcome(
            shows="the audit has a record of each of these requests",
            held=not missing and bool(self._decisions),
            seen=f"{len(self._decisions) - len(missing)} of {len(self._decisions)}",
        )


def subjects() -> list[str]:
    return sorted({_APPROVER, *(stop.subject for stop in STOPS if stop.subject is not None)})


def recorded(directory: Path) -> set[str]:
    """The decision ids in the audit files of a directory."""
    lines = (line for path in directory.glob("*.ndjson") for line in path.read_bytes().splitlines())
    return {orjson.loads(line)["decision_id"] for line in lines if b'"decision_id"' in line}


def guide(demo: Demo, *, ostiary: str) -> str:
    """The tour to copy, line by line. `ostiary` is what calls the command in a shell, quoted for one."""
    port = demo.ports["proxy"]
    token = f"{ostiary} token --dir {shlex.quote(str(demo.place))}"
    lines = [
        f"The proxy listens on 127.0.0.1:{port}. OPA, an issuer and three services (orders, billing, reports) run too.",
        "",
        "Tokens of the demo's issuer, for another terminal:",
        "",
        *(f"  {subject.upper()}=$({token} {subject})" for subject in subjects()),
        "",
        "What to try:",
        "",
    ]
    for stop in STOPS:
        expected = " ".join([str(stop.status), *stop.reasons])
        lines += [f"  # {stop.shows} ({expected})", f"  {stop.curl(port)}", ""]
    lines += _guide_to_access(port, ostiary=ostiary)
    credential = shlex.quote(str(credential_file(demo.place, "orders")))
    lines += [
        "  # past the proxy, with the client's token: the service accepts only what the proxy minted (401)",
        f'  curl -s -H "Authorization: Bearer $WEB" "http://127.0.0.1:{demo.ports["orders"]}/orders/42"',
        "",
        "  # the credential that the service got, on another endpoint: it is good for one (401)",
        f'  curl -s -H "Authorization: Bearer $(cat {credential})" "http://127.0.0.1:{demo.ports["orders"]}/orders"',
        "",
        "  # without OPA nothing is allowed but what was a moment ago (503); it comes back by itself",
        f"  kill -9 {demo.opa_pid}; {_WITHOUT_OPA.curl(port)}",
        "",
        f"Every request is recorded in {demo.audit}, one JSON object per line.",
        f"The policy: {demo.place / 'policy'}. The configuration: {demo.place / 'ostiary.yaml'}.",
        "Ctrl-C ends the demo.",
    ]
    return "\n".join(lines)


def _guide_to_access(port: int, *, ostiary: str) -> list[str]:
    """What `_granted_and_revoked` does, by the commands."""
    holder, approver = f"OSTIARY_TOKEN=${str(_REFUND.subject).upper()}", f"OSTIARY_TOKEN=${_APPROVER.upper()}"
    asked = f"access request billing refund --for {_SECONDS // 60}m --reason {shlex.quote(_WHY)}"
    return [
        "  # requested by ann, and approved by lee, who is a support lead: allowed (200)",
        f"  export OSTIARY_URL=http://{OWN_HOST}:{port}",
        f"  GRANT=$({holder} {ostiary} {asked})",
        f"  DIGEST=$({approver} {ostiary} access show $GRANT --digest)",
        f"  {approver} {ostiary} access approve $GRANT --digest $DIGEST",
        f"  {_REFUND.curl(port)}",
        "",
        "  # taken away again: refused at once (403 grant-required)",
        f"  {approver} {ostiary} access revoke $GRANT --reason {shlex.quote(_WHY_NOT)}",
        f"  {_REFUND.curl(port)}",
        "",
    ]
