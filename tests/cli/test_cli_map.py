"""`ostiary map`: for a person on a terminal, one line an access in a pipe, and the other formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ostiary.policy.accessmap import access_map
from ostiary.policy.diagrams import dot, mermaid
from ostiary.policy.model import load_permissions
from support.cli import POLICY, Ran, ostiary, watched, write_policy


def test_in_a_pipe_each_access_is_one_whole_line(policy: Path) -> None:
    assert ostiary("map", policy) == Ran(
        0,
        """\
caller        service  endpoint      request                           kind      credential     when
job           orders   list-orders   GET /orders                       standing  reusable, 1m   read-only; query only status = open or paid, page = anything
support       billing  refund        POST /charges/{charge_id}/refund  eligible  reusable, 1m   approved by support-lead, for at most 30m, for 5 requests; hours 22:00–06:00 sat,sun UTC
support       orders   get-order     GET /orders/{order_id}            standing  reusable, 1m   hours 08:00–18:00 mon–fri Europe/Paris; claims tenant = acme
support       orders   list-orders   GET /orders                       standing  reusable, 1m   hours 08:00–18:00 mon–fri Europe/Paris; claims tenant = acme
support-lead  billing  ledger        GET /tenants/{tenant_id}/ledger   standing  reusable, 1m   path tenant_id = the claim tenant
support-lead  orders   export        GET /orders/export                standing  reusable, 1m   custom weekly {"on": "sunday"}
web           billing  charge        POST /charges                     standing  one call, 30s
web           orders   cancel-order  DELETE /orders/{order_id}         standing  reusable, 1m   source 10.0.0.0/8 or 2001:db8::/32
web           orders   get-order     GET /orders/{order_id}            standing  reusable, 1m
web           orders   list-orders   GET /orders                       standing  reusable, 1m
""",  # noqa: E501 - the lines are not folded
        "",
    )


def test_on_a_terminal_it_is_grouped_and_fits(policy: Path) -> None:
    assert watched("map", policy, "--caller", "support", columns=60) == Ran(
        0,
        """\
support  https://idp.test, claims groups = support
  billing
    refund       POST /charges/{charge_id}/refund
                 eligible: approved by support-lead, for at
                   most 30m, for 5 requests
                 if hours 22:00–06:00 sat,sun UTC
  orders
    get-order    GET /orders/{order_id}
                 if hours 08:00–18:00 mon–fri Europe/Paris
                 if claims tenant = acme
    list-orders  GET /orders
                 if hours 08:00–18:00 mon–fri Europe/Paris
                 if claims tenant = acme
""",
        "",
    )


def test_for_programs_and_for_diagrams(policy: Path) -> None:
    found = access_map(load_permissions(policy / "permissions.yaml"))
    file = policy / "permissions.yaml"
    assert json.loads(ostiary("map", policy, "--json").out) == found.document()
    assert json.loads(ostiary("map", file, "--format", "json").out) == found.document()
    assert ostiary("map", file, "--format", "mermaid") == Ran(0, mermaid(found), "")
    assert ostiary("map", file, "--format", "dot") == Ran(0, dot(found), "")


def test_nothing_that_is_written_is_taken_for_markup(tmp_path: Path) -> None:
    """Brackets and colons stay what they are."""
    text = POLICY.replace("subject: web", 'subject: "[red]:smile:[/red]"')
    ran = watched("map", write_policy(tmp_path / "policy", permissions=text), "--caller", "web", "--service", "billing")
    assert ran.out.splitlines()[0] == 'web  https://idp.test, subject "[red]:smile:[/red]"'


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere"], "nowhere: there is no such file or directory"),
        (["empty"], "empty/permissions.yaml: there is no such file"),
        (["{policy}", "--caller", "wbe"], "the map has no caller 'wbe' (did you mean 'web'?)"),
        (["{policy}", "--service", "order"], "the map has no service 'order' (did you mean 'orders'?)"),
    ],
)
def test_mistakes(policy: Path, tmp_path: Path, arguments: list[str], line: str) -> None:
    (tmp_path / "empty").mkdir()
    assert ostiary("map", *(each.format(policy=policy) for each in arguments)) == Ran(2, "", f"{line}\n")


def test_every_mistake_of_a_map_is_a_line(tmp_path: Path) -> None:
    text = POLICY.replace("roles: [order-reader]}", "roles: [order-raeder]}").replace('"08:00"', '"8:00"')
    write_policy(tmp_path / "policy", permissions=text)
    assert ostiary("map", "policy") == Ran(
        2,
        "",
        "policy/permissions.yaml:22: permissions[0].roles[0]: unknown role 'order-raeder' "
        "(did you mean 'order-reader'?)\n"
        "policy/permissions.yaml:29: permissions[4].when.hours.from: '8:00' is not an hour, which is written 08:00, "
        "up to 24:00\n",
    )


def test_an_unknown_format_is_wrong_use(policy: Path) -> None:
    ran = ostiary("map", policy, "--format", "svg")
    assert (ran.status, ran.out) == (2, "")
    assert "'--format'" in ran.err
