"""The command line in tests: `ostiary …` as its entry point runs it, in this process, and as a real process."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ostiary.cli import main

COMMAND: Final = (sys.executable, "-m", "ostiary")

POLICY: Final = """\
services:
  orders:
    endpoints:
      list-orders: GET /orders
      get-order: GET /orders/{order_id}
      cancel-order: DELETE /orders/{order_id}
      export: GET /orders/export
  billing:
    endpoints:
      charge: POST /charges
      refund: POST /charges/{charge_id}/refund
      ledger: GET /tenants/{tenant_id}/ledger
roles:
  order-reader: {orders: [list-orders, get-order]}
callers:
  web: {issuer: https://idp.test, subject: web}
  job: {spiffe: spiffe://shop.test/job}
  support: {issuer: https://idp.test, claims: {groups: support}}
  support-lead: {issuer: https://idp.test, claims: {groups: support-lead, tenant: [acme, umbrella]}}
  unused: {issuer: https://idp.test, subject: unused}
permissions:
  - {caller: web, roles: [order-reader]}
  - {caller: web, service: orders, endpoints: [cancel-order], when: {source: [10.0.0.0/8, "2001:db8::/32"]}}
  - {caller: web, service: billing, endpoints: [charge], credential: {per_call: true, lifetime: 30s}}
  - {caller: job, service: orders, endpoints: [list-orders], when: {read_only: true, query: {status: [open, paid], page: "*"}}}
  - caller: support
    roles: [order-reader]
    when:
      hours: {from: "08:00", to: "18:00", days: [mon, tue, wed, thu, fri], timezone: Europe/Paris}
      claims: {tenant: acme}
  - {caller: support-lead, service: billing, endpoints: [ledger], when: {path: {tenant_id: {claim: tenant}}}}
  - {caller: support-lead, service: orders, endpoints: [export], when: {custom: {weekly: {"on": sunday}}}}
eligible:
  - {caller: support, service: billing, endpoints: [refund], approvers: [support-lead], max_duration: 30m, max_uses: 5,
     when: {hours: {from: "22:00", to: "06:00", days: [sat, sun], timezone: UTC}}}
"""  # noqa: E501 - one permission a line

REGO: Final = """\
package policy

deny contains "orders are listed a page at a time" if {
	input.resource.id == "orders"
	some ["page", "all"] in input.resource.properties.query
}

condition("weekly", argument, request) if {
	argument.on == "sunday"
	time.weekday(request.context.time * 1000000000) == "Sunday"
}
"""

CONFIG: Final = """\
listen: {{data: "127.0.0.1:{port}", public_ports: [8443]}}
issuers:
  - {{issuer: https://idp.test, audience: proxy, key_file: idp.pem, algorithms: [ES256], claims: [groups]}}
services:
  orders: {{hosts: [orders.localhost], upstream: "http://127.0.0.1:{upstream}"}}
  billing: {{hosts: [billing.localhost, bills.test], upstream: "http://127.0.0.1:{upstream}"}}
opa: {opa}
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a command."""

    status: int
    out: str
    err: str


def ostiary(*arguments: object, environ: Mapping[str, str] | None = None) -> Ran:
    """Run a command in this process, through the entry point that the installed program has."""
    out, err = io.StringIO(), io.StringIO()
    status: int | str | None = 0
    with _as_command(arguments, environ or {}), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            status = ended.code
    if status is not None and not isinstance(status, int):
        raise TypeError(f"the command ended with {status!r}")
    return Ran(status or 0, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _as_command(arguments: tuple[object, ...], environ: Mapping[str, str]) -> Iterator[None]:
    saved, variables = sys.argv, dict(os.environ)
    sys.argv = ["ostiary", *map(str, arguments)]
    os.environ.update(environ)
    try:
        yield
    finally:
        sys.argv = saved
        os.environ.clear()
        os.environ.update(variables)


def watched(*arguments: object, columns: int = 80, cwd: Path | None = None) -> Ran:
    """Run a command as a process on a terminal of that many columns. What it prints is in `out`, errors included."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, columns))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment |= {"TERM": "dumb", "NO_COLOR": "1"}
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        cwd=cwd,
    )
    os.close(theirs)
    text = b""
    try:
        # Linux says EIO once nobody has the other end.
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 65536):
                text += piece
        status = process.wait(60)
    finally:
        os.close(ours)
        if process.poll() is None:
            process.kill()
            process.wait()
    return Ran(status, text.decode().replace("\r\n", "\n"), "")


def write_policy(directory: Path, *, permissions: str = POLICY, rego: str = REGO) -> Path:
    directory.mkdir()
    (directory / "permissions.yaml").write_text(permissions, encoding="utf-8")
    if rego:
        (directory / "policy.rego").write_text(rego, encoding="utf-8")
    return directory
