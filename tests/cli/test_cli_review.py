"""What a change of policy lets through, from sources, bundles, archives and git, told to people, programs and pull
requests."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ostiary.policy.rego import Opa
from ostiary.policy.review.compare import compare
from ostiary.policy.review.markdown import LARGEST, NO_DOCUMENT, code, render
from ostiary.policy.review.rules import compare_rules
from ostiary.policy.review.snapshot import read_published
from support.cli import COMMAND, POLICY, REGO, Ran, ostiary, write_policy

WIDER = POLICY.replace("source: [10.0.0.0/8,", "source: [10.0.0.0/7,")
SAME = "no change: both let the same through\n"
TOLD = """\
WIDENS    web changes at orders: cancel-order (DELETE /orders/{order_id})
            was      standing; if source 10.0.0.0/8 or 2001:db8::/32; credential reusable, 1m
            is       standing; if source 10.0.0.0/7 or 2001:db8::/32; credential reusable, 1m
            wider    source 10.0.0.0/8 or 2001:db8::/32 became source 10.0.0.0/7 or 2001:db8::/32

changes: 1 widening
"""


@pytest.fixture(scope="session")
def wider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_policy(tmp_path_factory.mktemp("wider") / "policy", permissions=WIDER)


def test_sources_bundles_and_archives_are_compared_with_one_another(
    policy: Path, bundle: Path, wider: Path, tmp_path: Path
) -> None:
    assert ostiary("bundle", "build", wider, "-o", "b.tar.gz", "--sequence", "8").status == 0
    assert ostiary("bundle", "diff", policy, bundle) == Ran(0, SAME, "")
    assert ostiary("bundle", "diff", bundle, wider) == Ran(0, TOLD, "")
    assert ostiary("bundle", "diff", bundle, "b.tar.gz") == Ran(0, TOLD, "")
    assert ostiary("bundle", "diff", "b.tar.gz", bundle).out.endswith("changes: 1 narrowing\n")


def test_a_widening_is_a_failure_only_where_it_is_asked_for(bundle: Path, wider: Path, tmp_path: Path) -> None:
    assert ostiary("bundle", "build", wider, "-o", "wider", "--sequence", "8").status == 0
    assert ostiary("bundle", "diff", bundle, "wider", "--fail-on", "widening") == Ran(1, TOLD, "")
    assert ostiary("bundle", "diff", "wider", bundle, "--fail-on", "widening").status == 0
    assert ostiary("bundle", "diff", bundle, bundle, "--fail-on", "widening") == Ran(0, SAME, "")
    assert ostiary("bundle", "diff", bundle, "wider", "--fail-on", "anything").status == 2


def test_the_document_is_whole_and_is_rendered(bundle: Path, wider: Path, tmp_path: Path) -> None:
    ran = ostiary("bundle", "diff", bundle, wider, "--json", "--fail-on", "widening")
    document = json.loads(ran.out)
    [change] = document["access"]
    assert (ran.status, document["kind"], document["widening"]) == (1, "diff", True)
    assert document["old"] == {
        "policy": str(bundle),
        "revision": json.loads((bundle / ".manifest").read_bytes())["revision"],
    }
    assert document["new"] == {"policy": str(wider), "revision": None}
    assert change == {
        "kind": "changed",
        "widening": True,
        "narrowing": False,
        "callers": ["web"],
        "endpoints": [{"service": "orders", "endpoint": "cancel-order", "request": "DELETE /orders/{order_id}"}],
        "before": ["standing; if source 10.0.0.0/8 or 2001:db8::/32; credential reusable, 1m"],
        "after": ["standing; if source 10.0.0.0/7 or 2001:db8::/32; credential reusable, 1m"],
        "wider": ["source 10.0.0.0/8 or 2001:db8::/32 became source 10.0.0.0/7 or 2001:db8::/32"],
        "narrower": [],
    }
    (tmp_path / "diff.json").write_text(ran.out)
    written = ostiary("bundle", "report", "diff.json").out
    assert written.startswith("## Policy: **more is let through**\n")
    assert "### Widened\n\n- `web` changes at `orders`: `cancel-order: DELETE /orders/{order_id}`\n" in written


RULES: dict[str, tuple[str, list[tuple[str, str, str]]]] = {
    "a comment, and another layout": (
        REGO.replace("deny contains", "# why\n\ndeny contains").replace('"sunday"\n\ttime', '"sunday"\n\n\ttime'),
        [],
    ),
    "one refusal more": (
        f'{REGO}\ndeny contains "no" if {{\n\tsome _ in input.context.grants\n}}\n',
        [("changed", "policy.deny", "narrowing")],
    ),
    "no refusal": (
        REGO.replace(REGO[REGO.index("deny") : REGO.index("condition")], ""),
        [("removed", "policy.deny", "widening")],
    ),
    "another condition": (
        REGO.replace('== "Sunday"', '== "Monday"'),
        [("changed", "policy.condition weekly", "unjudged")],
    ),
    "another refusal": (REGO.replace('"all"', '"every"'), [("changed", "policy.deny", "unjudged")]),
    "what may be kept": (
        f'{REGO}\ncaching := {{"deny": {{"max_age": 5, "vary": []}}}}\n',
        [("added", "policy.caching", "unjudged")],
    ),
    "a rule that must hold": (f"{REGO}\nallow if input.subject.id\n", [("added", "policy.allow", "unjudged")]),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_that_nobody_can_judge_count_as_widening(name: str, bundle: Path, opa_binary: Path) -> None:
    rego, expected = RULES[name]
    files = {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    old = read_published(files, label="old")
    new = read_published(files | {"organisation/policy.rego": rego.encode()}, label="new")
    found = compare_rules(old, new, lambda: Opa(opa_binary))
    assert [(each.kind, each.rule, each.effect) for each in found] == expected
    assert compare(old, new, rules=found).widening == any(effect != "narrowing" for _, _, effect in expected)


def altered(bundle: Path, to: Path, *keys: str, value: Any) -> Path:
    """A copy whose compiled map was changed by hand."""
    to.mkdir()
    for path in bundle.rglob("*"):
        if path.is_file():
            copy = to / path.relative_to(bundle)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    document = json.loads((to / "data.json").read_bytes())
    holder = document["ostiary"]["map"]
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    (to / "data.json").write_text(json.dumps(document))
    return to


@pytest.mark.parametrize(
    ("keys", "value", "told"),
    [
        (("sole", "https://idp.test", "ann"), "web", "callers"),
        (("forms", "orders", "list-orders"), ["GET", "%.0[1]s", "^.*$"], "routes"),
        (("terms", "plain"), {"standing": []}, "terms"),
        (("hooks",), {}, "terms"),
        (("reads_query",), False, "which hooks the map says there are"),
    ],
)
def test_tables_that_the_map_does_not_explain_are_not_believed(
    keys: tuple[str, ...], value: Any, told: str, bundle: Path, tmp_path: Path
) -> None:
    ran = ostiary("bundle", "diff", bundle, altered(bundle, tmp_path / "altered", *keys, value=value), "--json")
    assert [each["effect"] for each in json.loads(ran.out)["rules"]] == ["unjudged"], ran
    assert json.loads(ran.out)["rules"][0]["rule"].startswith(told)


def test_who_becomes_an_operator_widens(bundle: Path, tmp_path: Path) -> None:
    callers = json.loads((bundle / "data.json").read_bytes())["ostiary"]["map"]["access"]
    name = min(callers)
    other = altered(bundle, tmp_path / "other", "operators", value={name: True})
    for old, new, told in ((bundle, other, ("added", "widening")), (other, bundle, ("removed", "narrowing"))):
        ran = ostiary("bundle", "diff", old, new, "--json")
        rules = [(each["rule"], each["kind"], each["effect"]) for each in json.loads(ran.out)["rules"]]
        assert rules == [(f"operator {name}", *told)]
    nobody = altered(bundle, tmp_path / "nobody", "operators", value={"nobody": True})
    assert ostiary("bundle", "diff", bundle, nobody).status == 2


def test_what_a_bundle_holds_besides_is_told(bundle: Path, tmp_path: Path) -> None:
    other = altered(bundle, tmp_path / "other", "roles", value={})
    (other / "policy" / "data.json").parent.mkdir(exist_ok=True)
    (other / "policy" / "data.json").write_text("{}")
    (other / "ostiary" / "more.rego").write_text("package ostiary.authz\n\nmore := 1\n")
    rules = json.loads(ostiary("bundle", "diff", bundle, other, "--json").out)["rules"]
    assert [(each["rule"], each["kind"]) for each in rules] == [
        ("ostiary's own Rego", "added"),
        ("policy/data.json", "added"),
    ]


def git(*arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.test")
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def test_the_base_branch_is_compared_with_this_tree(tmp_path: Path) -> None:
    source = write_policy(tmp_path / "policy")
    git("init", "--initial-branch", "main")
    git("add", ".")
    git("commit", "--message", "policy")
    (source / "permissions.yaml").write_text(WIDER)
    assert ostiary("bundle", "diff", "main:./policy", "policy") == Ran(0, TOLD, "")
    (source / "permissions.yaml").write_text(POLICY.replace("weekly:", "weakly:"))
    git("commit", "--all", "--message", "wrong")
    assert ostiary("bundle", "diff", "main~1:policy", "main:policy") == Ran(
        2, "", "main:policy/permissions.yaml:32: no rule answers the condition 'weakly' (did you mean 'weekly'?)\n"
    )
    (source / "link.rego").symlink_to("policy.rego")
    git("add", ".")
    git("commit", "--message", "link")
    for name, told in [
        ("main:nowhere", "main:nowhere: there is no such file, and none in git\n"),
        ("main:policy/policy.rego", "main:policy/policy.rego: is no directory in git (fatal: not a tree object)\n"),
        ("main:policy", "main:policy: link.rego is not a file\n"),
    ]:
        assert ostiary("bundle", "diff", name, "policy") == Ran(2, "", told)


def test_without_git_a_revision_is_a_mistake(policy: Path, tmp_path: Path) -> None:
    ran = ostiary("bundle", "diff", "main:policy", policy, environ={"PATH": str(tmp_path)})
    assert ran == Ran(2, "", "git: cannot be run: No such file or directory; name a directory or an archive\n")


def test_what_cannot_be_compared_or_reported(policy: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("[]")
    (tmp_path / "kind").write_text('{"kind": "other"}')
    (tmp_path / "half").write_text('{"kind": "diff"}')
    foreign = altered(bundle, tmp_path / "foreign", "callers", value={})
    future = altered(bundle, tmp_path / "future", "format", value=99)
    said = [
        ostiary("bundle", *arguments)
        for arguments in (
            ("diff", "nowhere", policy),
            ("diff", "text", policy),
            ("diff", foreign, bundle),
            ("diff", future, bundle),
            ("report", "nowhere"),
            ("report", "text"),
            ("report", "kind"),
            ("report", "half"),
        )
    ]
    assert [(ran.status, ran.out) for ran in said] == [(2, "")] * len(said)
    assert [ran.err for ran in said] == [
        "nowhere: there is no such file or directory\n",
        "text: it is no whole archive (tar, gzip)\n",
        f"{foreign}: is not a bundle that 'ostiary bundle build' wrote\n",
        f"{future}: its map has the format 99, and 1 is read here: build it again with 'ostiary bundle build'\n",
        "nowhere: No such file or directory\n",
        f"text: {NO_DOCUMENT}\n",
        f"kind: {NO_DOCUMENT}\n",
        "half: is not the diff that it says it is\n",
    ]


def test_what_cannot_be_reported_of_standard_input_is_said_of_it(tmp_path: Path) -> None:
    for text, said in (("{}", NO_DOCUMENT), ("", "is not JSON")):
        command = [*COMMAND, "bundle", "report", "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"standard input: {said}\n")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a", "`a`"),
        ("`", "`` ` ``"),
        ("a``b", "```a``b```"),
        ("", "`  `"),
        ("a\n# b", r'`"a\n# b"`'),
        ("@team", "`@team`"),
    ],
)
def test_no_text_of_others_is_more_than_a_code_span(text: str, written: str) -> None:
    assert code(text) == written


def test_a_report_fits_a_comment() -> None:
    change = {"kind": "lost", "widening": False, "callers": ["web"], "before": ["x"], "after": []}
    change |= {"endpoints": [{"service": "s", "endpoint": "e", "request": "GET /"}] * 50, "wider": [], "narrower": []}
    side = {"policy": "p", "revision": None}
    document = {"kind": "diff", "old": side, "new": side, "widening": False, "observed": [], "access": [change] * 5000}
    written = render([("a", document | {"rules": [], "callers": [], "endpoints": []})])
    assert LARGEST - 1000 < len(written) < LARGEST + 1000
    assert " and 40 more\n" in written
    assert written.rstrip().endswith("more lines.")
