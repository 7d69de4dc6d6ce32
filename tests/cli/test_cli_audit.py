"""`ostiary audit …` on audits that the real parts have written."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ostiary.audit.reading import Selection, follow, last, sizes
from ostiary.errors import IdentityInvalid, TargetMalformed
from support.audit import Stages, credential, decision, exchange, forward, identity, request, target
from support.cli import COMMAND, CONFIG, ostiary
from support.trail import Place, rewrite, trail_log, written


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Where the commands run, with the configuration of a proxy and the audit that it has left."""
    (tmp_path / "ostiary.yaml").write_text(
        CONFIG.format(port=8080, upstream=9001, opa="{managed: {bundle: bundle}}"), encoding="utf-8"
    )
    return Place(tmp_path)


@pytest.fixture
def recorded(place: Place) -> tuple[Place, list[str]]:
    """A forwarded request, a denied one and a stranger's. With the decision ids, in their order."""

    async def main() -> None:
        log = trail_log(place)
        await log.start()
        await forward(log)
        for stages in (
            Stages(decide=decision(allow=False, reasons=("permission-missing",))),
            Stages(identify=IdentityInvalid("no")),
        ):
            await asyncio.sleep(0.02)  # lines are told apart by their time
            await stages.pipeline(log)(*stages.asgi())
        await log.close()

    asyncio.run(main())
    return place, [line["decision_id"] for line in place.lines() if line["kind"] in ("decision", "refusal")]


# verify


def test_a_whole_audit_is_said_to_be(place: Place) -> None:
    written(place, [[1, 2], [3]])
    ran = ostiary("audit", "verify")
    assert (ran.status, ran.out, ran.err) == (0, "5 records of 1 chain: whole\n", "")


def test_what_was_done_is_a_row_and_the_status_one(place: Place) -> None:
    written(place, [[1, 2], [3]])
    (file,) = place.files()
    rewrite(file, lambda lines: [*lines[:2], lines[2].replace(b'"/"', b'"/x"'), *lines[3:]])
    ran = ostiary("audit", "verify")
    heading, row, verdict = ran.out.splitlines()
    assert heading.split() == ["what", "file", "line", "seq", "decision"]
    assert " ".join(row.split()) == f"altered {file.name} 3 3 {2:032x} record 3 is not what was written"
    assert (ran.status, verdict) == (1, "5 records of 1 chain: not whole")


def test_without_the_keys_it_says_where_they_would_be(place: Place) -> None:
    written(place, [[1]])
    ran = ostiary("audit", "verify", "--keys", str(place.checkpoints))
    assert ran.status == 2
    assert (
        ran.err
        == "the keys are where the configuration of the proxy says: name it by -c, or their directory by --keys\n"
    )


@pytest.mark.parametrize("harm", ["an end", "a run", "everything"])
def test_without_checkpoints_it_cannot_be_told_what_is_gone(place: Place, harm: str) -> None:
    written(place, [[1, 2], [3]])
    written(place, [[4]])
    last = place.files()[-1]
    if harm == "an end":
        rewrite(last, lambda lines: lines[:1])
    else:
        for path in place.files() if harm == "everything" else [last]:
            path.unlink()
    assert ostiary("audit", "verify").status == 1
    for path in place.checkpoints.iterdir():
        path.unlink()
    assert ostiary("audit", "verify").status == 2
    place.checkpoints.rmdir()
    ran = ostiary("audit", "verify")
    assert (ran.status, ran.out.splitlines()[-1].partition(": ")[2]) == (2, "it cannot be told whether it is whole")


def test_as_json_it_is_one_document(place: Place) -> None:
    written(place, [[1]], end=False)
    written(place, [[2]])
    document = json.loads(ostiary("audit", "verify", "--json").out)
    first, second = document.pop("chains")
    (note,) = document.pop("notes")
    assert document == {"verdict": "whole", "records": 6, "findings": [], "untold": 0}
    assert (note["kind"], note["line"], note["seq"]) == ("resume", 1, 2)
    assert {**second, "since": None, "until": None} == {
        "worker": "w0",
        "chain": second["chain"],
        "first": 1,
        "last": 4,
        "since": None,
        "until": None,
        "ended": True,
        "covered": 4,
    }
    assert (first["ended"], first["last"]) == (False, 2)


def test_elsewhere_the_key_of_the_checkpoints_is_named(place: Place, tmp_path: Path) -> None:
    """An auditor has copies, the keys of the chains, and the public key that `ostiary audit key` prints."""
    written(place, [[1]])
    public = ostiary("audit", "key")
    assert (public.status, public.out.splitlines()[0]) == (0, "-----BEGIN PUBLIC KEY-----")
    elsewhere = tmp_path / "elsewhere"
    for name in ("audit", "state/audit-keys", "state/checkpoints"):
        shutil.copytree(tmp_path / name, elsewhere / Path(name).name)
    (elsewhere / "key.pem").write_text(public.out, encoding="utf-8")
    (tmp_path / "ostiary.yaml").unlink()
    arguments = ["--keys", elsewhere / "audit-keys", "--checkpoints", elsewhere / "checkpoints"]

    ran = ostiary("audit", "verify", elsewhere / "audit", *arguments, "--checkpoint-key", elsewhere / "key.pem")
    assert (ran.status, ran.out) == (0, "3 records of 1 chain: whole\n")
    assert ostiary("audit", "verify", elsewhere / "audit", *arguments).status == 2
    assert ostiary("audit", "verify", elsewhere / "audit").status == 2


@pytest.mark.parametrize("harm", ["no key", "another kind"])
def test_a_key_that_is_none_is_a_mistake(place: Place, tmp_path: Path, harm: str) -> None:
    written(place, [[1]])
    path = tmp_path / "key.pem"
    if harm == "no key":
        path.write_text("no key", encoding="utf-8")
    else:
        command = "openssl ecparam -name prime256v1 -genkey -noout | openssl pkey -pubout"
        path.write_bytes(subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout)
    ran = ostiary("audit", "verify", "--checkpoint-key", path)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f"{path}: is not a")


@pytest.mark.parametrize("command", ["verify", "tail", "query", "export"])
def test_a_directory_that_is_not_there_is_a_mistake(place: Place, command: str) -> None:
    ran = ostiary("audit", command, "nowhere")
    assert (ran.status, ran.out, ran.err) == (2, "", "nowhere: there is no such directory\n")


# tail


def words(out: str) -> list[list[str]]:
    return [line.split()[1:3] for line in out.splitlines()]


def test_tail_shows_the_last_lines_of_requests(recorded: tuple[Place, list[str]]) -> None:
    _, (forwarded, denied, stranger) = recorded
    everything = [[forwarded, "decision"], [forwarded, "completion"], [denied, "refusal"], [stranger, "refusal"]]
    assert words(ostiary("audit", "tail").out) == everything
    assert words(ostiary("audit", "tail", "-n", "2").out) == everything[2:]
    line = ostiary("audit", "tail", "-n", "1").out.split()
    assert line[3:11] == ["-", "orders", "-", "GET", "/orders/42", "refused", "401", "identity-invalid"]
    lines = [json.loads(line) for line in ostiary("audit", "tail", "-n", "1", "--json").out.splitlines()]
    assert [(one["decision_id"], one["kind"], len(one["mac"])) for one in lines] == [(stranger, "refusal", 64)]


def test_tail_takes_a_completion_with_the_decision_it_belongs_to(recorded: tuple[Place, list[str]]) -> None:
    _, (forwarded, denied, _) = recorded
    assert words(ostiary("audit", "tail", "--caller", "web", "--endpoint", "get-order").out) == [
        [forwarded, "decision"],
        [forwarded, "completion"],
        [denied, "refusal"],
    ]
    assert words(ostiary("audit", "tail", "--reason", "permission-missing").out) == [[denied, "refusal"]]
    assert words(ostiary("audit", "tail", "--service", "billing").out) == []


def test_a_reason_that_there_is_not_is_said_to_be_none(recorded: tuple[Place, list[str]]) -> None:
    ran = ostiary("audit", "tail", "--reason", "permission-mising")
    assert (ran.status, ran.out) == (0, "")
    said = "--reason: 'permission-mising' is no reason of this version (did you mean 'permission-missing'?)\n"
    assert ran.err == said
    assert ostiary("audit", "tail", "--reason", "policy-denied: orders are listed a page at a time").err == ""


def test_what_comes_between_the_last_lines_and_those_that_follow_is_shown_once(place: Place) -> None:
    written(place, [[1]])
    now = sizes([place.audit])
    written(place, [[2]])
    shown = [line["decision_id"] for line in last([place.audit], 10, Selection(), until=now)]
    following = follow([place.audit], Selection(), since=now)
    assert [*shown, next(following)["decision_id"]] == [f"{1:032x}", f"{2:032x}"]


@pytest.mark.parametrize("length", [10, 70_000])
def test_a_line_that_was_half_written_is_shown_once_it_is_whole(place: Place, length: int) -> None:
    """However long its half is."""
    written(place, [[1]], end=False)
    (file,) = place.audit.glob("*.ndjson")
    whole = file.read_bytes()
    line = whole.splitlines(keepends=True)[-1].replace(f"{1:032x}".encode(), f"{2:032x}".encode())
    line = line[:-2] + b',"padding":"' + b"x" * 80_000 + b'"}\n'
    file.write_bytes(whole + line[:length])
    now = sizes([place.audit])
    assert now == {file: len(whole)}
    shown = [line["decision_id"] for line in last([place.audit], 10, Selection(), until=now)]
    following = follow([place.audit], Selection(), since=now)
    file.write_bytes(whole + line)
    assert [*shown, next(following)["decision_id"]] == [f"{1:032x}", f"{2:032x}"]


def test_tail_keeps_the_place_of_what_is_not_known_and_says_the_cause(place: Place) -> None:
    log = trail_log(place)

    async def main() -> None:
        await log.start()
        refusal = TargetMalformed("an empty segment")
        log.refused(refusal, decision_id="0" * 32, peer="192.0.2.1", method="GET", target=b"/orders//42")
        await log.close()

    asyncio.run(main())
    told = ostiary("audit", "tail").out
    assert " refusal - - - GET /orders//42 refused 400 target-malformed an empty segment" in told


def test_what_is_only_observed_stands_out(place: Place) -> None:
    log, shadow = trail_log(place), "web/orders/get-order/11111111"
    observed = decision(
        observed=True, shadow=shadow, reasons=("permission-missing",), permission=None, expires_at=1_800_000_000
    )

    async def main() -> None:
        await log.start()
        carried = exchange()
        with log.record(carried) as record:
            record.resolved(target())
            record.identified(identity())
            record.decided(request(), observed)
            await record.commit(credential())
            await carried.respond(200, [], b"{}")
        await log.close()

    asyncio.run(main())
    told = f" decision web orders get-order GET /orders/42 OBSERVED shadow={shadow} permission-missing\n"
    assert told in ostiary("audit", "tail").out
    assert [(row["observed"], row["shadow"], row["reasons"]) for row in rows()] == [
        (True, shadow, ["permission-missing"])
    ]


def test_no_terminal_obeys_what_a_stranger_sent(place: Place) -> None:
    """In the files it is escaped, and so it has to be where their lines are shown as JSON."""
    log = trail_log(place)
    sent = b"/\x9b31m\xe2\x80\xae\x7f"

    async def main() -> None:
        await log.start()
        log.refused(TargetMalformed("x"), decision_id="0" * 32, peer="192.0.2.1", method="GET", target=sent)
        await log.close()

    asyncio.run(main())
    for shown in (["tail", "--json"], ["tail"], ["export"], ["query", "--json"], ["verify", "--json"]):
        assert all(line.isprintable() for line in ostiary("audit", *shown).out.split("\n")), shown
    assert json.loads(ostiary("audit", "tail", "--json").out)["path"] == sent.decode("latin-1")


def test_tail_follows_what_comes(place: Place) -> None:
    written(place, [[1]])
    process = subprocess.Popen(
        [*COMMAND, "audit", "tail", "-f", "-n", "1"], cwd=place.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().split()[1:3] == [f"{1:032x}".encode(), b"decision"]
        written(place, [[2]])
        assert process.stdout.readline().split()[1:3] == [f"{2:032x}".encode(), b"decision"]
    finally:
        process.kill()
        process.communicate()


# query


def rows(*arguments: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ostiary("audit", "query", "--json", *arguments).out)
    return found


def test_query_has_a_row_for_each_request(recorded: tuple[Place, list[str]]) -> None:
    _, ids = recorded
    found = rows()
    assert [row["decision_id"] for row in found] == ids
    assert {key: value for key, value in found[0].items() if key not in ("time", "duration_ms", "decision_id")} == {
        "kind": "decision",
        "caller": "web",
        "subject": "web",
        "service": "orders",
        "endpoint": "get-order",
        "method": "GET",
        "path": "/orders/42",
        "status": 200,
        "outcome": "complete",
        "reasons": [],
        "observed": False,
        "shadow": None,
        "source_ip": "10.0.0.7",
    }
    assert [row["reasons"] for row in found[1:]] == [["permission-missing"], ["identity-invalid"]]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--caller", "web"], [0, 1]),
        (["--caller", "nobody"], []),
        (["--caller", "web' OR true --"], []),
        (["--service", "orders"], [0, 1, 2]),
        (["--endpoint", "get-order", "--reason", "permission-missing"], [1]),
        (["--reason", "identity-invalid"], [2]),
        (["--since", "1h"], [0, 1, 2]),
        (["--since", "2100-01-01T00:00:00Z"], []),
        (["--until", "1h"], []),
        (["--until", "2100-01-01"], [0, 1, 2]),
        (["-n", "1"], [2]),
    ],
)
def test_query_selects(recorded: tuple[Place, list[str]], arguments: list[str], found: list[int]) -> None:
    _, ids = recorded
    assert [row["decision_id"] for row in rows(*arguments)] == [ids[index] for index in found]


def test_query_finds_one_decision_and_prints_a_table(recorded: tuple[Place, list[str]]) -> None:
    _, ids = recorded
    heading, row = ostiary("audit", "query", "--decision", ids[1]).out.splitlines()
    assert heading.split()[:3] == ["time", "decision_id", "caller"]
    assert row.split()[1:] == [
        ids[1], "web", "orders", "get-order", "GET", "/orders/42", "403", "refused", "permission-missing",
    ]  # fmt: skip


def test_a_time_that_is_none_is_a_mistake(place: Place) -> None:
    written(place, [[1]])
    ran = ostiary("audit", "query", "--since", "yesterday")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("--since: 'yesterday' is not a time")


def test_without_duckdb_a_query_says_what_to_install(place: Place) -> None:
    written(place, [[1]])
    program = (
        "import sys; sys.modules['duckdb'] = None; sys.argv = ['ostiary', 'audit', 'query']; "
        "from ostiary.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=place.home, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "queries take DuckDB: pip install 'ostiary[query]'\n"


def test_an_audit_without_a_record_has_no_rows(place: Place) -> None:
    place.audit.mkdir()
    assert rows() == []
    assert ostiary("audit", "tail").out == ""
    assert ostiary("audit", "export").out == ""


# export


def test_export_prints_an_event_for_each_request(recorded: tuple[Place, list[str]]) -> None:
    _, ids = recorded
    events = [json.loads(line) for line in ostiary("audit", "export", "--format", "ocsf").out.splitlines()]
    found = {event["metadata"]["uid"]: (event["class_uid"], event["status"], event["status_code"]) for event in events}
    assert found == {
        ids[0]: (6003, "Success", "200"),
        ids[1]: (6003, "Failure", "403"),
        ids[2]: (6003, "Failure", "401"),
    }
    denied = ostiary("audit", "export", "--reason", "permission-missing").out.splitlines()
    assert [json.loads(line)["metadata"]["uid"] for line in denied] == [ids[1]]
