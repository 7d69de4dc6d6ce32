"""The smaller commands, and what all commands have in common: where answers and mistakes go, and how they end."""

from __future__ import annotations

import contextlib
import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import jwt
import pytest

from ostiary import __version__
from ostiary.config import config_schema
from ostiary.demo.issuer import ISSUER, KEY_FILE, DemoIssuer
from ostiary.demo.place import latest, latest_demo, new_demo
from ostiary.grants.openapi import openapi_document
from ostiary.opa.install import FLOOR, PINNED, digest_of
from ostiary.policy.schema import cases_schema, permissions_schema
from support.cli import COMMAND, POLICY, REGO, Ran, ostiary, write_policy

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schema"


# schema


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("permissions", "permissions.schema.json"),
        ("config", "ostiary.schema.json"),
        ("cases", "cases.schema.json"),
        ("access", "access.openapi.json"),
    ],
)
def test_the_printed_schema_is_the_published_file(name: str, file: str) -> None:
    assert ostiary("schema", name) == Ran(0, (SCHEMAS / file).read_text(encoding="utf-8"), "")
    assert json.loads(ostiary("schema", name).out) in (
        permissions_schema(),
        config_schema(),
        cases_schema(),
        openapi_document(),
    )


def test_there_is_no_other_schema() -> None:
    ran = ostiary("schema", "nothing")
    assert (ran.status, ran.out) == (2, "")
    assert "'permissions', 'config', 'cases'" in ran.err


# version


def test_the_version_says_what_decides_and_parses() -> None:
    line = (
        f"ostiary {__version__} (Python {platform.python_version()}; an OPA of at least {FLOOR}, or {PINNED} is got)\n"
    )
    assert ostiary("version") == Ran(0, line, "")
    assert ostiary("--version") == ostiary("version")
    document = json.loads(ostiary("version", "--json").out)
    packages = document.pop("packages")
    assert document == {
        "ostiary": __version__,
        "python": platform.python_version(),
        "opa": {"pinned": PINNED, "least": FLOOR},
    }
    assert {"starlette", "uvicorn", "httptools", "PyJWT", "opa-python-client"} <= set(packages)


# token


NO_DEMO = Ran(2, "", "no demo runs here: start one with 'ostiary demo', or name the directory of one with --dir\n")


def test_a_token_is_that_of_the_demo_that_runs() -> None:
    assert ostiary("token", "web") == NO_DEMO
    place = new_demo()
    issuer = DemoIssuer(place)
    with latest(place):
        ran = ostiary("token", "ann", "--lifetime", "30")
    assert ostiary("token", "web") == NO_DEMO
    key = jwt.PyJWK(issuer.jwks()["keys"][0])
    claims = jwt.decode(ran.out.strip(), key, audience="ostiary-demo", issuer=ISSUER)
    assert (ran.status, ran.err) == (0, "")
    assert (claims["sub"], claims["groups"], claims["exp"] - claims["iat"]) == ("ann", ["support"], 30)


def test_a_demo_that_ends_leaves_the_name_to_one_that_began_since() -> None:
    first, second = new_demo(), new_demo()
    with contextlib.ExitStack() as since:
        with latest(first):
            assert latest_demo() == first
            since.enter_context(latest(second))
        assert latest_demo() == second
    assert latest_demo() is None


def test_a_demo_that_ends_gives_the_name_back_to_one_that_still_runs() -> None:
    new_demo()  # one that never ran
    with latest(first := new_demo()):
        with latest(new_demo()):
            assert latest_demo() != first
        assert latest_demo() == first
    assert latest_demo() is None


def test_a_demo_whose_process_was_killed_is_not_the_latest() -> None:
    script = "import os; from ostiary.demo.place import latest, new_demo; latest(new_demo()).__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert latest_demo() is None


def test_a_token_for_somebody_unknown_comes_with_a_note(tmp_path: Path) -> None:
    DemoIssuer(tmp_path)
    ran = ostiary("token", "wbe", "--dir", tmp_path)
    assert (ran.status, ran.err) == (
        0,
        "the demo's issuer vouches for nothing about 'wbe'; it knows web, reporting, auditor, ann, lee, sam\n",
    )
    assert jwt.decode(ran.out.strip(), options={"verify_signature": False})["sub"] == "wbe"


@pytest.mark.parametrize(
    "content", [b"", b"secret", b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----"]
)
def test_a_key_that_is_none_is_not_shown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY_FILE).write_bytes(content)
    assert ostiary("token", "web", "--dir", tmp_path) == Ran(
        2, "", f"{tmp_path}/{KEY_FILE}: is not the key of a demo's issuer\n"
    )


def test_mistakes_about_tokens(tmp_path: Path) -> None:
    said = [ostiary("token", *each) for each in (["web", "--dir", tmp_path], ["web", "--dir", "nowhere"], [""])]
    assert said == [
        Ran(2, "", f"{tmp_path}: no demo has run there: it has no {KEY_FILE}\n"),
        Ran(2, "", f"nowhere: no demo has run there: it has no {KEY_FILE}\n"),
        Ran(2, "", "'' is not a subject, which is printable ASCII\n"),
    ]
    assert [ostiary("token", "web", "--lifetime", each).status for each in ("0", "3601", "1h")] == [2, 2, 2]


# bundle build


def test_a_build_prints_the_revision(policy: Path, tmp_path: Path) -> None:
    ran = ostiary("bundle", "build", policy, "-o", "out", "--sequence", "12")
    revision = json.loads((tmp_path / "out" / ".manifest").read_text())["revision"]
    assert ran == Ran(0, f"out: revision {revision}\n", "")
    assert re.fullmatch(r"12-[0-9a-f]{16}", revision)
    again = ostiary("bundle", "build", policy, "-o", "out", "--sequence", "12", "--json")
    assert (again.status, again.err) == (0, "")
    assert json.loads(again.out) == {"path": "out", "revision": revision, "warnings": []}


def test_warnings_are_beside_the_answer(tmp_path: Path) -> None:
    rego = REGO + '\ndeny contains "no" if not startswith(input.subject.id, "w")\n'
    source = write_policy(tmp_path / "policy", rego=rego)
    warning = (
        f"{source}/policy.rego:13: 'not' over a call on 'input' is undefined, not true, where the field is missing, so "
        "the rule does not fire; put the call into a rule of its own and negate that"
    )
    ran = ostiary("bundle", "build", source, "-o", "out", "--sequence", "1")
    assert (ran.status, ran.err) == (0, f"warning: {warning}\n")
    document = json.loads(ostiary("bundle", "build", source, "-o", "out", "--sequence", "1", "--json").out)
    assert document["warnings"] == [warning]


def test_every_mistake_of_a_policy_is_a_line_and_nothing_is_built(tmp_path: Path) -> None:
    text = POLICY.replace("weekly:", "weakly:")
    write_policy(tmp_path / "policy", permissions=text)
    write_policy(tmp_path / "other", permissions=text, rego=REGO.replace("package policy", "package ostiary.authz"))
    assert [ostiary("bundle", "build", each, "-o", "out") for each in ("policy", "other")] == [
        Ran(
            2,
            "",
            "policy/permissions.yaml:32: no rule answers the condition 'weakly' (did you mean 'weekly'?)\n",
        ),
        Ran(
            2,
            "",
            "other/policy.rego:1: the package is 'ostiary.authz'; the organisation's own is 'policy', or below it\n",
        ),
    ]
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_built_from_or_into(policy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note").write_text("")
    said = [
        ostiary("bundle", "build", source, "-o", out)
        for source, out in (
            ("nowhere", "out"),
            ("file", "out"),
            (policy, "file"),
            (policy, "mine"),
            (policy, "file/out"),
            (policy, "b.tgz"),
        )
    ]
    assert [(ran.status, ran.out) for ran in said] == [(2, "")] * 6
    assert [ran.err for ran in said] == [
        "nowhere: there is no such directory\n",
        "file: is a file; name the directory that holds permissions.yaml and *.rego\n",
        "file: this is not a directory, and is not replaced\n",
        "mine: this directory has other content than a bundle of ostiary's; not replaced\n",
        "file/out: cannot be written: File exists\n",
        "b.tgz: an archive is written as .tar.gz; a directory is not called so\n",
    ]
    assert ostiary("bundle", "build", policy, "-o", "out", "--sequence", "-1").status == 2


def test_a_build_without_opa(policy: Path) -> None:
    assert ostiary("bundle", "build", policy, "-o", "out", environ={"OSTIARY_OPA": "/nowhere/opa"}) == Ran(
        2, "", "The OPA that OSTIARY_OPA names cannot be used: /nowhere/opa is not an OPA that runs.\n"
    )


@pytest.mark.parametrize(
    "command",
    [["build", "nowhere", "-o", "out"], ["test", "nowhere"], ["sign", "nowhere", "--key", "k", "--key-id", "i"]],
    ids=lambda command: str(command[0]),
)
def test_what_is_not_there_is_told_before_an_opa_is_looked_for(command: list[str]) -> None:
    """To get one can take minutes."""
    ran = ostiary("bundle", *command, environ={"OSTIARY_OPA": "/nowhere/opa"})
    assert ran.status == 2
    assert ran.err.lower() in ("nowhere: there is no such directory\n", "nowhere: no such file or directory\n")


def test_the_help_begins_with_what_is_done_first() -> None:
    listed = re.findall(r"^  ([a-z]+) ", ostiary("bundle", "--help").out.partition("Commands:")[2], re.MULTILINE)
    assert listed[0] == "build"
    assert listed.index("test") < listed.index("diff") < listed.index("publish") < listed.index("rollback")


@pytest.mark.parametrize("group", ["access", "audit", "bundle", "opa"])
def test_the_help_cuts_no_sentence_off(group: str) -> None:
    assert "..." not in ostiary(group, "--help").out.partition("Commands:")[2]


# opa install


def test_the_path_of_opa_is_the_answer(opa_binary: Path) -> None:
    assert ostiary("opa", "install") == Ran(0, f"{opa_binary}\n", "")
    assert ostiary("opa", "install", "--checksum", digest_of(opa_binary).upper()) == Ran(0, f"{opa_binary}\n", "")
    assert ostiary("opa", "install", "--checksum", "0" * 64) == Ran(
        1,
        "",
        f"The OPA that OSTIARY_OPA names cannot be used: {opa_binary} does not have the checksum that is asked for.\n",
    )
    assert ostiary("opa", "install", "--checksum", "sha256:0") == Ran(
        2, "", "'sha256:0' is not a SHA-256, which is 64 hexadecimal digits\n"
    )


# What all commands share.


def test_files_that_may_not_be_read_are_a_line(tmp_path: Path, policy: Path) -> None:
    """A directory where a file should be, a file where a directory should be, bytes that are no text."""
    (tmp_path / "latin.yaml").write_bytes(b"services: {caf\xe9: {}}")
    assert [ostiary("map", each) for each in ("latin.yaml", f"{policy}/permissions.yaml/x")] == [
        Ran(2, "", "latin.yaml:1: the file is not UTF-8\n"),
        Ran(2, "", f"{policy}/permissions.yaml/x: there is no such file or directory\n"),
    ]


def run(arguments: list[str], output: int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *arguments], stdout=output, stderr=subprocess.PIPE, check=False, timeout=60)


def test_a_reader_that_goes_away_ends_the_command_quietly(policy: Path) -> None:
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as reader:
        reader.wait()
        gone = reader.stdin
        assert gone is not None
        ran = run(["map", str(policy)], gone.fileno())
        assert (ran.returncode, ran.stderr) == (1, b"")
        gone.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_an_output_that_is_full_is_said(policy: Path) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        ran = run(["map", str(policy)], full.fileno())
    assert (ran.returncode, ran.stderr) == (2, b"No space left on device\n")


def test_a_closed_output_is_no_traceback(policy: Path) -> None:
    command = " ".join([*COMMAND, "map", str(policy), ">&-"])
    ran = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, check=False, timeout=60)
    assert (ran.returncode, b"Traceback" in ran.stderr) == (0, False)


def test_the_installed_entry_point_and_the_module_are_one() -> None:
    ran = subprocess.run([*COMMAND, "version"], capture_output=True, check=False, timeout=60)
    assert (ran.returncode, ran.stdout.decode(), ran.stderr) == (0, ostiary("version").out, b"")
