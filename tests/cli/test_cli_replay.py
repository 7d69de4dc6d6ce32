"""`ostiary replay`: decisions that a real OPA made of one bundle, made again of another."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ostiary.errors import IdentityInvalid
from support.cli import POLICY, Ran, ostiary, watched, write_policy
from support.recorded import NOON, asked, record

TOKEN = f"eyJhbGciOiJub25lIn0.eyJzdWIiOiJ3ZWIifQ.{'c2ln' * 12}"
CHANGED = (
    POLICY.replace("[10.0.0.0/8,", "[10.0.0.0/8, 192.0.2.0/24,")
    .replace("get-order", "read-order")
    .replace("order-reader: {orders: [list-orders, read-order]}", "order-reader: {orders: [read-order]}")
)

REQUESTS = [
    asked("GET", "/orders/42", endpoint="get-order"),
    asked("GET", "/orders/42", endpoint="get-order", time=NOON + 59),
    asked("GET", "/orders/42", endpoint="get-order", time=NOON + 60),
    asked("GET", "/orders", endpoint="list-orders"),
    asked("GET", "/orders?page=2", endpoint="list-orders"),
    asked("DELETE", "/orders/7", endpoint="cancel-order", source="192.0.2.9"),
    asked("DELETE", "/orders/7", endpoint="cancel-order", source="198.51.100.1"),
    asked("GET", "/orders/42", subject="nobody"),
    asked("GET", f"/orders?page={TOKEN}", endpoint="list-orders"),
    IdentityInvalid("no"),
]


@pytest.fixture(scope="session")
def audit(bundle: Path, opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    directory = tmp_path_factory.mktemp("recorded") / "audit"
    return directory, asyncio.run(record(directory, bundle, REQUESTS, opa=opa_binary))


@pytest.fixture(scope="session")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_policy(tmp_path_factory.mktemp("changed") / "policy", permissions=CHANGED)


def told(ids: list[str]) -> str:
    return f"""\
ALLOWS    1 of web at orders/cancel-order: by web/orders/cancel-order/0e9dfc03, was condition-source
            2026-09-22T12:00:00Z  {ids[5]}  DELETE /orders/7 by web of https://idp.test from 192.0.2.9
denies    2 of web at orders/list-orders: permission-missing
            2026-09-22T12:00:00Z  {ids[3]}  GET /orders by web of https://idp.test from 10.0.0.7
            2026-09-22T12:00:00Z  {ids[4]}  GET /orders by web of https://idp.test from 10.0.0.7
          3 of web at orders/get-order, unchanged
          1 of nobody known at orders/get-order, unchanged
          1 of web at orders/cancel-order, unchanged
left out  1: the policy was not asked: refused before that, or answered by the proxy itself
left out  1: a token was in the request, of which the audit has only a digest

8 decisions, 7 distinct: 1 newly allowed, 2 newly denied, 5 unchanged
"""


def test_what_would_be_another_decision_is_told(audit: tuple[Path, list[str]], changed: Path) -> None:
    directory, ids = audit
    assert ostiary("replay", "--bundle", changed, "--audit", directory) == Ran(0, told(ids), "")


def test_the_policy_that_decided_decides_so_again(audit: tuple[Path, list[str]], policy: Path, bundle: Path) -> None:
    directory, _ = audit
    ran = ostiary("replay", "--bundle", bundle, directory, "--json", "--fail-on", "newly-allowed")
    found = json.loads(ran.out)
    assert (ran.status, found["newly_allowed"], found["newly_denied"]) == (0, 0, 0)
    assert found["unchanged"] == {"allowed": 5, "denied": 3, "for_other_reasons": 0}
    assert found["policy"]["revision"].startswith("7-")


def test_the_exit_status_is_asked_for(audit: tuple[Path, list[str]], policy: Path, changed: Path) -> None:
    directory, _ = audit
    for kind, status in (("newly-allowed", 1), ("newly-denied", 1), ("anything", 2)):
        assert ostiary("replay", "--bundle", changed, directory, "--fail-on", kind).status == status
    both = ("--fail-on", "newly-allowed", "--fail-on", "newly-denied")
    assert ostiary("replay", "--bundle", policy, directory, *both).status == 0


def test_lines_that_are_no_records_are_named(
    audit: tuple[Path, list[str]], policy: Path, opa_binary: Path, tmp_path: Path
) -> None:
    directory, _ = audit
    [path] = directory.glob("*.ndjson")
    lines = path.read_bytes().splitlines()
    whole = json.loads(lines[0])
    broken: list[Any] = [
        b"nonsense",
        {**whole, "schema": 2},
        {**whole, "kind": "other"},
        {**whole, "input": {"subject": {}}},
        {**whole, "input": {**whole["input"], "subject": {}}},
        {**whole, "result": []},
        {**whole, "result": None},
        {"schema": 1, "kind": "lost", "over_quota": {"identity-invalid": 7}, "identities": []}
        | {"other_identities": {"permission-missing": 1}, "no_room": {"completion": 5}},
        lines[0][:100],
    ]
    written = [lines[0], *(each if isinstance(each, bytes) else json.dumps(each).encode() for each in broken)]
    (tmp_path / "a.ndjson").write_bytes(b"\n".join(written))
    ran = ostiary("replay", "--bundle", policy, "a.ndjson")
    assert (ran.status, ran.err) == (0, "")
    gated = ostiary("replay", "--bundle", policy, "a.ndjson", "--fail-on", "newly-allowed")
    told = "7 lines are malformed, so it is not known whether there is a decision to fail on\n"
    assert gated == Ran(2, ran.out, told)
    assert ran.out.splitlines()[1:-2] == [
        "malformed a.ndjson:2: is not a JSON object",
        "malformed a.ndjson:3: is of the schema 2, and 1 is read here",
        "malformed a.ndjson:4: is of the kind 'other', which is not known here",
        "malformed a.ndjson:5: has an input that is not the decision contract's",
        "malformed a.ndjson:7: has a result that is not an object",
        f"malformed decision {whole['decision_id']}: has an input that is not the decision contract's",
        "malformed a.ndjson:10: is not a JSON object",
        "left out  1: no answer of the policy is recorded",
        "left out  8: counted by the audit instead of recorded, beyond its quota or for want of room",
    ]


def test_packed_files_and_those_that_are_named_twice(
    audit: tuple[Path, list[str]], changed: Path, tmp_path: Path
) -> None:
    directory, ids = audit
    [path] = directory.glob("*.ndjson")
    (tmp_path / "packed").mkdir()
    packed = tmp_path / "packed" / f"{path.name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert ostiary("replay", "--bundle", changed, "packed", packed, "--audit", packed) == Ran(0, told(ids), "")
    packed.write_bytes(packed.read_bytes()[:-20])
    assert ostiary("replay", "--bundle", changed, packed) == Ran(2, "", f"{packed}: is no whole gzip file\n")


def test_many_lines_are_read_by_several_processes(audit: tuple[Path, list[str]], changed: Path, tmp_path: Path) -> None:
    directory, _ = audit
    [path] = directory.glob("*.ndjson")
    content = path.read_bytes()
    times = 17 * 1024 * 1024 // len(content) + 1
    (tmp_path / "many.ndjson").write_bytes(content * times)
    ran = watched("replay", "--bundle", changed, "many.ndjson", columns=200)
    said = f"{8 * times:,} decisions, 7 distinct: {times:,} newly allowed, {2 * times:,} newly denied, "
    assert said in ran.out
    assert ran.status == 0


def test_a_candidate_that_fails_to_answer_denies(audit: tuple[Path, list[str]], tmp_path: Path) -> None:
    directory, _ = audit
    failing = write_policy(
        tmp_path / "failing",
        rego='package policy\n\ndeny contains "no" if {\n\tinput.resource.properties.segments[1] == "42"\n'
        '\tto_number(input.subject.id) > 0\n}\n\ncondition("weekly", _, _) := false\n',
    )
    found = json.loads(ostiary("replay", "--bundle", failing, directory, "--json").out)
    assert [(each["count"], each["reasons"]) for each in found["changes"] if each["kind"] == "newly-denied"] == [
        (3, ["policy-unavailable"])
    ]


def test_what_cannot_be_replayed_at_all(policy: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.ndjson").write_text("")
    nothing = "there is no recorded decision that can be replayed\n"
    assert ostiary("replay", "--bundle", policy, "empty.ndjson").err == nothing
    assert ostiary("replay", "--bundle", policy, "empty.ndjson").status == 2
    assert ostiary("replay", "--bundle", policy, "gone.ndjson") == Ran(
        2, "", "gone.ndjson: No such file or directory\n"
    )
    assert ostiary("replay", "--bundle", "gone", "empty.ndjson").err == "gone: there is no such file or directory\n"
    assert ostiary("replay", "empty.ndjson").status == 2


def test_the_report_holds_the_diff_and_the_replay(
    audit: tuple[Path, list[str]], bundle: Path, changed: Path, tmp_path: Path
) -> None:
    directory, ids = audit
    (tmp_path / "diff.json").write_text(ostiary("bundle", "diff", bundle, changed, "--json").out)
    written = ostiary("bundle", "report", "diff.json", "--audit", directory).out
    diff, _, replayed = written.partition("\n\n## Recorded decisions: ")
    assert diff == ostiary("bundle", "report", "diff.json").out.rstrip("\n")
    assert (
        replayed
        == f"""\
**1 newly allowed**, 2 newly denied

Asked again of `{changed}`: 8 decisions, 7 distinct. 3 stay allowed, 2 stay denied, 0 of them for other reasons.

### Newly allowed

- 1 of `web` at `orders`: `cancel-order`, by `web/orders/cancel-order/0e9dfc03`; was `condition-source`
  - `DELETE /orders/7` by `web` of `https://idp.test` from `192.0.2.9`, `2026-09-22T12:00:00Z`, `{ids[5]}`

### Newly denied

- 2 of `web` at `orders`: `list-orders`, `permission-missing`
  - `GET /orders` by `web` of `https://idp.test` from `10.0.0.7`, `2026-09-22T12:00:00Z`, `{ids[3]}`
  - `GET /orders` by `web` of `https://idp.test` from `10.0.0.7`, `2026-09-22T12:00:00Z`, `{ids[4]}`

### Not replayed

- 1: the policy was not asked: refused before that, or answered by the proxy itself
- 1: a token was in the request, of which the audit has only a digest
"""
    )
    (tmp_path / "replay.json").write_text(ostiary("replay", "--bundle", changed, directory, "--json").out)
    assert ostiary("bundle", "report", "diff.json", "replay.json").out == written
    assert ostiary("bundle", "report", "replay.json", "--audit", directory).status == 2
    assert ostiary("bundle", "report", "diff.json", "--bundle", changed).status == 2
