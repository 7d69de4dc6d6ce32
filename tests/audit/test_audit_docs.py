"""The format that is published is the format that is written."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from ostiary.audit import AuditTrail, FileAuditLog, MemoryAuditLog, SyslogAddress, SyslogCopy
from ostiary.audit.findings import Kind
from ostiary.clock import ManualClock
from ostiary.errors import AuditUnavailable, IdentityInvalid, MessageMalformed
from support import trail
from support.audit import PipeSink, Stages, credential, exchange, forward, let_through, until

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "audit.md"
OF_REQUESTS = ("decision", "credential", "completion", "refusal", "answer")
OF_GRANTS = ("grant", "block")
OF_THE_LOG = ("lost", "outage")
OF_THE_COPY = ("uncopied",)
OF_THE_CHAIN = ("begin", "resume", "pruned", "end", "checkpoint")


def published() -> dict[str, list[str]]:
    """Kind → the fields of its table, in order."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    tables = {}
    for section in sections:
        title, _, text = section.partition("\n")
        table = re.search(r"^\| field \| holds \|\n\|---\|---\|\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
        if table is not None:
            tables[title.strip("`")] = re.findall(r"^\| `(\w+)` \|", table[1], flags=re.MULTILINE)
    return tables


async def written() -> dict[str, dict[str, Any]]:
    log = MemoryAuditLog(clock=ManualClock())
    carried = exchange()
    with log.record(carried) as record:
        await let_through(record)
        await record.commit(credential())
    await Stages(identify=IdentityInvalid()).pipeline(log)(*Stages().asgi())
    with log.record(carried):
        pass
    return {line["kind"]: line for line in log.documents}


@pytest.mark.parametrize("kind", ["decision", "credential", "completion", "refusal", "answer"])
async def test_the_lines_of_a_request_have_the_published_fields_in_their_order(kind: str) -> None:
    assert list((await written())[kind]) == published()[kind]


async def test_a_parser_refusal_has_the_fields_of_a_refusal() -> None:
    log = MemoryAuditLog()
    log.refused(MessageMalformed(), decision_id="d-1", peer=None)

    assert list(log.documents[0]) == published()["refusal"]


async def test_the_lines_about_the_log_itself_have_the_published_fields() -> None:
    sink = PipeSink()
    log = FileAuditLog(sink=sink, worker="w0", clock=ManualClock(), deadline=0.1, strangers_burst=0)
    await log.start()
    log.refused(MessageMalformed(), decision_id="d-1", peer=None)
    sink.fill()
    with pytest.raises(AuditUnavailable):
        await forward(log)
    content = sink.drain()
    await until(lambda: log.health().writable)
    await log.close()
    content += sink.drain()
    os.close(sink.reader)

    found = {line["kind"]: list(line) for line in map(json.loads, filter(None, content.splitlines()))}
    assert {kind: found[kind] for kind in ("lost", "outage")} == {
        kind: published()[kind] for kind in ("lost", "outage")
    }


def test_every_kind_is_published() -> None:
    assert tuple(published()) == (*OF_REQUESTS, *OF_GRANTS, *OF_THE_LOG, *OF_THE_COPY, *OF_THE_CHAIN)


def test_the_lines_of_the_chain_have_the_published_fields_and_then_their_seal(tmp_path: Path) -> None:
    place = trail.Place(tmp_path)
    trail.written(place, [[1], [2], [3]], max_bytes=600, keep=2, end=False)
    trail.written(place, [[4]])
    found = {line["kind"]: list(line) for line in place.lines()}
    (signed,) = (path for path in place.checkpoints.iterdir() if path.name.endswith("-000002.ndjson"))
    found["checkpoint"] = [*json.loads(signed.read_bytes().splitlines()[-1]), "seq", "mac"]

    assert {kind: found[kind] for kind in OF_THE_CHAIN} == {
        kind: [*published()[kind], "seq", "mac"] for kind in OF_THE_CHAIN
    }


def test_the_line_of_what_was_not_copied_has_the_published_fields(tmp_path: Path) -> None:
    place = trail.Place(tmp_path)
    copy = SyslogCopy(SyslogAddress(transport="unix", path=tmp_path / "nowhere"), worker="w0", queue_bytes=1)
    files, _ = trail.chained(place, written=copy.offer)
    sink = AuditTrail(files, worker="w0", clock=ManualClock(), copy=copy)
    sink.append([trail.record(1)])
    sink.close()

    (found,) = [line for line in place.lines() if line["kind"] == "uncopied"]
    assert list(found) == [*published()["uncopied"], "seq", "mac"]


def test_every_remark_of_verify_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `([a-z-]+)` \| .+ \|$", page[page.index("| finding |") : page.index("## What is")], re.MULTILINE
    )
    assert sorted(rows) == sorted(get_args(Kind))


def test_what_is_nested_is_named_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in ("jti", "per_call", "expires_at", "issuer", "subject", "token_id"))
