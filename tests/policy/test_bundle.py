"""Building a bundle directory: what is in it, what is refused, and that it is put in place whole."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from ostiary import assets
from ostiary.clock import written_instant
from ostiary.decision.revision import Revision
from ostiary.errors import ConfigurationError
from ostiary.policy.archive import pack
from ostiary.policy.bundle import Bundle, build_bundle

CONDITION = 'condition("name", argument, request)'
PERMISSIONS = """\
services:
  shop: {endpoints: {list: GET /orders}}
callers:
  web: {issuer: https://idp.test, subject: web}
permissions:
  - {caller: web, service: shop, endpoints: [list]}
"""


class Builder:
    """A source directory, and the bundle that is built of it."""

    def __init__(self, opa: Path, place: Path) -> None:
        self.opa = opa
        self.source = place / "source"
        self.out = place / "out"
        self.source.mkdir()
        self.write("permissions.yaml", PERMISSIONS)

    def write(self, name: str, text: str) -> Path:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def build(self, sequence: int | None = 7) -> Bundle:
        return build_bundle(self.source, self.out, opa=self.opa, sequence=sequence, rego_root=assets.rego())

    def mistakes(self) -> list[str]:
        """What the build refuses, each line without the directory."""
        with pytest.raises(ConfigurationError) as caught:
            self.build()
        return [mistake.removeprefix(f"{self.source}/") for mistake in caught.value.mistakes]

    def content(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.out).as_posix(): path.read_bytes() for path in self.out.rglob("*") if path.is_file()
        }


@pytest.fixture
def builder(opa_binary: Path, tmp_path: Path) -> Builder:
    return Builder(opa_binary, tmp_path)


def test_a_bundle_is_the_map_beside_the_rego(builder: Builder) -> None:
    builder.write("policy.rego", 'package policy\n\ndeny contains "no" if input.x == 1\n')
    builder.write("policy_test.rego", "package policy.tests\n\ntest_nothing if true\n")
    builder.write("more/teams.rego", "package policy.teams\n\nnames := {1}\n")
    built = builder.build()
    content = builder.content()
    ours = {
        path.relative_to(assets.rego()).as_posix()
        for path in assets.rego().rglob("*.rego")
        if not path.name.endswith("_test.rego") and path.parent.name not in ("explain", "testing")
    }
    organisation = {f"organisation/{name}" for name in ("policy.rego", "more/teams.rego")}
    assert content.keys() == {".manifest", "data.json", *ours, *organisation}
    manifest = json.loads(content[".manifest"])
    assert manifest == {
        "revision": built.revision,
        "roots": ["ostiary", "policy"],
        "rego_version": 1,
        "metadata": {"ostiary": {"format": 1}},
    }
    data = json.loads(content["data.json"])
    assert list(data) == ["ostiary"]
    assert list(data["ostiary"]) == ["map"]
    assert data["ostiary"]["map"]["endpoints"] == {"shop": {"list": "GET /orders"}}
    assert data["ostiary"]["map"]["hooks"] == {"deny": True}
    assert built == Bundle(revision=built.revision, path=builder.out, warnings=())
    assert Revision.parse(built.revision) is not None


def test_equal_sources_give_equal_bytes_wherever_they_are(builder: Builder, opa_binary: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    other = Builder(opa_binary, tmp_path / "elsewhere")
    assert builder.build().revision == other.build().revision
    assert builder.content() == other.content()


def test_equal_sources_give_an_equal_archive_at_another_time_in_another_place_by_another_user(
    builder: Builder, opa_binary: Path, tmp_path: Path
) -> None:
    """Whatever their files' times and modes are, what the umask is, and in which order they were written."""
    (tmp_path / "elsewhere").mkdir()
    other = Builder(opa_binary, tmp_path / "elsewhere")
    for one in (builder, other):
        for name in ("b.rego", "a.rego") if one is builder else ("a.rego", "b.rego"):
            one.write(f"more/{name}", f"package policy.{name[0]}\n\nx := 1\n")
    for path in (tmp_path / "elsewhere").rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    archives = []
    for one, umask in ((builder, 0o022), (other, 0o077)):
        before = os.umask(umask)
        try:
            one.build()
            pack(one.out, tmp_path / f"{umask}.tar.gz")
        finally:
            os.umask(before)
        archives.append((tmp_path / f"{umask}.tar.gz").read_bytes())
    assert archives[0] == archives[1]


def test_any_change_is_another_revision(builder: Builder) -> None:
    revisions = [builder.build().revision, builder.build(8).revision]
    builder.write("permissions.yaml", PERMISSIONS.replace("/orders", "/order"))
    revisions.append(builder.build().revision)
    builder.write("policy.rego", "package policy\n\nallow if true\n")
    revisions.append(builder.build().revision)
    builder.write("policy.rego", "package policy\n\n# A comment.\nallow if true\n")
    revisions.append(builder.build().revision)
    assert [revision.partition("-")[0] for revision in revisions] == ["7", "8", "7", "7", "7"]
    assert len({revision.partition("-")[2] for revision in revisions}) == 4


def test_the_demo_builds_without_a_warning(opa_binary: Path, tmp_path: Path) -> None:
    built = build_bundle(assets.demo_bundle(), tmp_path / "demo", opa=opa_binary, sequence=1, rego_root=assets.rego())
    assert built.warnings == ()


APPROVED = """\
services:
  shop: {endpoints: {list: GET /orders, remove: DELETE /orders}}
callers:
  web: {issuer: https://idp.test, subject: web}
  ann: {issuer: https://idp.test, subject: ann}
  ben: {issuer: https://idp.test, subject: ben}
  leads: {issuer: https://idp.test, claims: {groups: leads}}
eligible:
  - {caller: web, service: shop, endpoints: [list, remove], approvers: [%s], approvals: %d, max_duration: 1h}
  - {caller: web, service: shop, endpoints: [list, remove], approvers: [%s], max_duration: 30m,
     when: {source: [10.0.0.0/8]}}
"""


@pytest.mark.parametrize(
    ("first", "needed", "second", "able"),
    [("ann, ben", 2, "ann", 1), ("ann", 1, "ben", 0), ("ann, ben", 2, "web, ann", 1), ("ben, web", 1, "web", None)],
)
def test_eligibilities_that_nobody_can_approve_together_are_warned_of(
    builder: Builder, first: str, needed: int, second: str, able: int | None
) -> None:
    place = builder.write("permissions.yaml", APPROVED % (first, needed, second))
    if able is None:  # one of them alone is a mistake
        assert "nobody approves a request of their own" in builder.mistakes()[0]
        return
    told = f"together with line 9 {needed} must approve and {able} can"
    assert builder.build().warnings == (f"{place}:10: eligible.1: web cannot get list, remove of shop: {told}",)


def test_those_that_somebody_can_approve_are_not(builder: Builder) -> None:
    for first, second in (("ann, ben", "ben, ann"), ("leads, ann", "leads")):
        builder.write("permissions.yaml", APPROVED % (first, 2, second))
        assert builder.build().warnings == ()


def test_what_is_observed_is_warned_of_and_ends_within_a_month(builder: Builder) -> None:
    now = time.time()

    def observe(seconds: float) -> str:
        until = written_instant(int(now + seconds))
        builder.write("permissions.yaml", f"{PERMISSIONS}observe:\n  shop: {{until: {until}}}\n")
        return until

    place, line = builder.source / "permissions.yaml", PERMISSIONS.count("\n") + 2
    until = observe(30 * 86400)
    told = f"{place}:{line}: observe.shop: every caller is let through everywhere until {until}"
    assert builder.build().warnings == (told,)
    found = json.loads(builder.content()["data.json"])["ostiary"]["map"]
    assert found["observe"] == {"shop": int(now + 30 * 86400)}
    until = observe(-60)
    assert builder.build().warnings == (f"{place}:{line}: observe.shop: has ended at {until}: take it out",)
    observe(31 * 86400 + 60)
    with pytest.raises(ConfigurationError) as refused:
        builder.build()
    assert refused.value.mistakes == (f"{place}:{line}: observe.shop.until: is more than 31 days away",)


def test_another_test_is_no_other_revision(builder: Builder) -> None:
    before = builder.build().revision
    builder.write("policy_test.rego", "package policy.tests\n\ntest_it if true\n")
    assert builder.build().revision == before


def test_a_test_that_does_not_compile_is_refused(builder: Builder) -> None:
    builder.write("more/policy_test.rego", "package policy.tests\n\ntest_it if data.policy.nothing(1)\n")
    assert builder.mistakes() == ["more/policy_test.rego:3: undefined function data.policy.nothing"]


def test_what_is_for_tests_is_for_tests_alone(builder: Builder) -> None:
    uses = "import data.ostiary.testing\n\n"
    builder.write("policy_test.rego", f"package policy.tests\n\n{uses}test_it if testing.subject({{}})\n")
    builder.build()
    builder.write("policy.rego", f"package policy\n\n{uses}allow if testing.subject({{}})\n")
    assert builder.mistakes() == ["policy.rego:5: undefined function data.ostiary.testing.subject"]


@pytest.mark.parametrize(
    ("rego", "mistake"),
    [
        (
            "package ostiary.authz\n\ndecision := {}\n",
            "policy.rego:1: the package is 'ostiary.authz'; the organisation's own is 'policy', or below it",
        ),
        (
            "# here\npackage policies\n",
            "policy.rego:2: the package is 'policies'; the organisation's own is 'policy', or below it",
        ),
        (
            'package policy\n\ncondition(name, _, _) if name == "x"\n',
            f"policy.rego:3: the name of a condition is a literal text in the head: {CONDITION}",
        ),
        (
            "package policy\n\ndefault condition(_, _, _) := true\n",
            f"policy.rego:3: the name of a condition is a literal text in the head: {CONDITION}",
        ),
        (
            'package policy\n\ncondition("x", _) if true\n',
            "policy.rego:3: 'condition' is a function of three arguments: condition(\"name\", argument, request)",
        ),
        (
            "package policy\n\ncondition.x := true\n",
            "policy.rego:3: 'condition' is a function of three arguments: condition(\"name\", argument, request)",
        ),
        (
            'package policy\n\ncondition("deny", _, _) if true\n',
            "policy.rego:3: a condition cannot be named 'deny': 'caching' states that rule's dependencies under it",
        ),
        (
            'package policy\n\ndeny := "no" if input.x\n',
            "policy.rego:3: 'deny' is a set of texts: deny contains \"why\" if { ... }",
        ),
        (
            "package policy\n\ndeny if input.x\n",
            "policy.rego:3: 'deny' is a set of texts: deny contains \"why\" if { ... }",
        ),
        (
            "package policy\n\nallow contains 1\n",
            "policy.rego:3: 'allow' is true or it is not: allow if { ... }",
        ),
        (
            "package policy\n\nallow(x) if x\n",
            "policy.rego:3: 'allow' is true or it is not: allow if { ... }",
        ),
        ("package policy\n\ncaching(_) := {}\n", "policy.rego:3: 'caching' is an object, not a function"),
        ("package policy\n\nallow if {\n", "policy.rego:4: unexpected eof token"),
        ("package policy\n\nallow if x\n", "policy.rego:3: var x is unsafe"),
        ("package policy\n\nallow if { q := 1 }\n", "policy.rego:3: assigned var q unused"),
        (
            'package policy\n\nallow if http.send({"url": "http://x", "method": "GET"}).status_code == 200\n',
            "policy.rego:3: undefined function http.send",
        ),
        ("package policy\n\nallow if time.now_ns() > 0\n", "policy.rego:3: undefined function time.now_ns"),
        ("package policy\n\nallow if opa.runtime().env.X\n", "policy.rego:3: undefined function opa.runtime"),
        (
            'package policy\n\nallow if io.jwt.decode_verify(input.subject.id, {"secret": "x"})[0]\n',
            "policy.rego:3: undefined function io.jwt.decode_verify",
        ),
        (
            "package policy\n\nallow if io.jwt.decode(input.subject.id)[1].admin\n",
            "policy.rego:3: undefined function io.jwt.decode",
        ),
        (
            'package policy\n\nallow if net.lookup_ip_addr("idp.test") != set()\n',
            "policy.rego:3: undefined function net.lookup_ip_addr",
        ),
        (
            'package policy\n\nallow if rand.intn("x", 2) == 1\n',
            "policy.rego:3: undefined function rand.intn",
        ),
        (
            'package policy\n\nallow if json.match_schema({}, {"$ref": "http://idp.test/"})[0]\n',
            "policy.rego:3: undefined function json.match_schema",
        ),
        (
            "package policy.allow\n\nx := false\n",
            "policy.rego:1: a package of the name 'policy.allow' would stand for the rule",
        ),
    ],
)
def test_rego_that_could_widen_or_not_count_is_refused(builder: Builder, rego: str, mistake: str) -> None:
    builder.write("policy.rego", rego)
    assert builder.mistakes() == [mistake]
    assert not builder.out.exists()


@pytest.mark.parametrize("name", ["data.json", "data.yaml", "data.yml", "lists/data.json"])
def test_data_beside_the_rego_is_refused(builder: Builder, name: str) -> None:
    """It would be in no bundle, and what a rule refuses by it would be let through."""
    builder.write(name, "{}")
    told = "is in no bundle: what it says is a constant in Rego, or a condition in permissions.yaml"
    assert builder.mistakes() == [f"{name}: {told}"]
    assert not builder.out.exists()


def test_a_bundle_among_the_sources_may_hold_its_data(builder: Builder) -> None:
    builder.out = builder.source / "build" / "policy"
    builder.write("shop_cases.yaml", "")  # read by 'bundle test'
    builder.write("metadata.json", "{}")
    assert builder.build() == builder.build()


UNDEFINED = "is undefined: a bundle holds no data but the map; write it as a constant in Rego"
UNNAMED = "'data' is read without a name that is written out, data.policy or data.ostiary"


@pytest.mark.parametrize(
    ("rego", "row", "told"),
    [
        ('deny contains "x" if input.subject.id in data.blocked', 3, f"data.blocked {UNDEFINED}"),
        ('deny contains "x" if data["blocked"].all[_]', 3, f"data.blocked {UNDEFINED}"),
        ('import data.blocked as b\n\ndeny contains "x" if b[input.subject.id]', 3, f"data.blocked {UNDEFINED}"),
        ("deny contains data.why if input.x", 3, f"data.why {UNDEFINED}"),
        ("helper(x) := data.table[x]", 3, f"data.table {UNDEFINED}"),
        ('deny contains "x" if helper with data.a as 1\n\nhelper if input.x', 3, f"data.a {UNDEFINED}"),
        ('deny contains "x" if data[input.subject.id]', 3, UNNAMED),
        ('import data as d\n\ndeny contains "x" if d.blocked', 3, UNNAMED),
        ('deny contains "x" if {\n\tpolicy := "blocked"\n\tdata[policy]\n}', 5, UNNAMED),
    ],
)
def test_a_rule_that_reads_data_that_no_bundle_holds_is_refused(
    builder: Builder, rego: str, row: int, told: str
) -> None:
    builder.write("policy.rego", f"package policy\n\n{rego}\n")
    assert builder.mistakes() == [f"policy.rego:{row}: {told}"]


def test_the_map_other_packages_and_what_tests_replace_can_be_read(builder: Builder) -> None:
    builder.write("teams.rego", "package policy.teams\n\nnames := {1}\n")
    rule = 'deny contains "x" if count(data.policy.teams.names) > count(data.ostiary.map.endpoints)'
    builder.write("policy.rego", f"package policy\n\nimport data.policy.teams\n\nallow if teams.names\n\n{rule}\n")
    test = "test_it if data.policy.deny with data.fixture as 1 with input as data.fixture"
    builder.write("policy_test.rego", f"package policy.tests\n\n{test}\n")
    builder.build()


@pytest.mark.parametrize(
    ("rego", "row", "package"),
    [
        ('deny contains "x" if not data.ostiary.authz.decision.allow with input as {}', 3, "data.ostiary.authz"),
        ('import data.ostiary.authz\n\ndeny contains "x" if asked\n\nasked if authz.decision', 3, "data.ostiary.authz"),
        ("allow if helper\n\nhelper if data.ostiary.organisation.objects", 5, "data.ostiary.organisation"),
        ("allow if {\n\tsome name\n\tdata.ostiary[name].decision\n}", 5, "data.ostiary"),
    ],
)
def test_a_rule_that_asks_what_asks_it_is_named(builder: Builder, rego: str, row: int, package: str) -> None:
    """And not the circle, in files that its author does not know."""
    harmless = "\n\nplain if data.ostiary.routes.x\n\nendpoints := data.ostiary.map.endpoints\n"
    builder.write("policy.rego", f"package policy\n\n{rego}{harmless}")
    told = f"{package} asks the rules of the organisation, which so cannot ask for it"
    assert builder.mistakes() == [f"policy.rego:{row}: {told}"]


def test_a_test_may_use_what_a_rule_may_not(builder: Builder) -> None:
    builder.write("policy_test.rego", "package policy.tests\n\ntest_clock if time.now_ns() > 0\n")
    builder.build()


@pytest.mark.parametrize("rule", ["allow := true", 'deny contains "x" if true', "condition(_, _, _) if true"])
def test_a_test_file_defines_no_hook(builder: Builder, rule: str) -> None:
    """Tests would hold for a rule that is not enforced."""
    name = rule.partition(" ")[0].partition("(")[0]
    builder.write("policy_test.rego", f"package policy\n\n{rule}\n")
    assert builder.mistakes() == [
        f"policy_test.rego:3: a file of tests defines no {name!r}; a test replaces rules by 'with'"
    ]


def test_a_test_in_another_package_is_refused(builder: Builder) -> None:
    builder.write("policy_test.rego", "package policy_test\n\ntest_it if true\n")
    assert builder.mistakes() == [
        "policy_test.rego:1: the package is 'policy_test'; the organisation's own is 'policy', or below it"
    ]


def test_all_mistakes_are_told_at_once(builder: Builder) -> None:
    builder.write("permissions.yaml", PERMISSIONS.replace("caller: web, service: shop", "caller: wbe, service: shpo"))
    builder.write("a.rego", "package other\n")
    builder.write("b.rego", 'package policy\n\nallow(x) if x\n\ndeny := "no"\n')
    found = builder.mistakes()
    assert [mistake.rpartition(": ")[0].partition(": ")[0] for mistake in found] == [
        "permissions.yaml:6",
        "permissions.yaml:6",
        "a.rego:1",
        "b.rego:3",
        "b.rego:5",
    ]


def test_a_condition_that_no_rule_answers_is_refused(builder: Builder) -> None:
    entry = "  - {caller: web, service: shop, endpoints: [list], when: {custom: {frehs: 1}}}\n"
    builder.write("permissions.yaml", PERMISSIONS + entry)
    assert builder.mistakes() == ["permissions.yaml:7: no rule answers the condition 'frehs'"]
    builder.write("policy.rego", 'package policy\n\ncondition("fresh", _, _) if true\n')
    assert builder.mistakes() == ["permissions.yaml:7: no rule answers the condition 'frehs' (did you mean 'fresh'?)"]
    builder.write("policy_test.rego", 'package policy\n\ncondition("frehs", _, _) if true\n')
    assert len(builder.mistakes()) == 1  # a rule that only tests have answers nothing


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        ('deny contains "x" if not startswith(input.x, "a")', [3]),
        ('deny contains "x" if not input.x > 1', [3]),
        ('deny contains "x" if not input.x in {1}', [3]),
        ('deny contains "x" if not startswith(lower(input.x), "a")', [3]),
        ('deny contains "x" if count([1 | not startswith(input.x, "a")]) > 0', [3]),
        ('deny contains "x" if not input.x == 1', []),
        ('deny contains "x" if not input.x', []),
        ('deny contains "x" if not good\n\ngood if startswith(input.x, "a")', []),
        ('deny contains "x" if {\n\tid := input.subject.id\n\tnot startswith(id, "a")\n}', []),
    ],
)
def test_a_negated_call_on_the_input_is_warned_of(builder: Builder, rule: str, rows: list[int]) -> None:
    path = builder.write("policy.rego", f"package policy\n\n{rule}\n")
    warnings = [warning for warning in builder.build().warnings if "'not' over a call" in warning]
    assert [warning.partition(": ")[0] for warning in warnings] == [f"{path}:{row}" for row in rows]


def test_the_sequence_is_the_commit_count_of_the_source(builder: Builder) -> None:
    assert builder.build(None).revision.startswith("0-")

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.test", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", builder.source, *who, *arguments], check=True, capture_output=True)

    git("init", "--quiet")
    assert builder.build(None).revision.startswith("0-")
    for message in ("one", "two"):
        git("commit", "--quiet", "--allow-empty", "--no-verify", "--message", message)
    assert builder.build(None).revision.startswith("2-")
    assert builder.build(9).revision.startswith("9-")


def test_a_bundle_is_replaced_only_by_one_that_was_built(builder: Builder) -> None:
    first = builder.build()
    before = builder.content()
    builder.write("policy.rego", "package other\n")
    assert builder.mistakes()
    assert builder.content() == before
    builder.write("policy.rego", "package policy\n")
    second = builder.build()
    assert second.revision != first.revision
    assert "organisation/policy.rego" in builder.content()
    assert sorted(path.name for path in builder.out.parent.iterdir()) == ["out", "source"]


def test_a_directory_with_other_content_is_not_replaced(builder: Builder) -> None:
    builder.out.mkdir()
    kept = builder.out / "thesis.txt"
    kept.write_text("years of work", encoding="utf-8")
    assert builder.mistakes() == [
        f"{builder.out}: this directory has other content than a bundle of ostiary's; not replaced"
    ]
    kept.unlink()
    builder.build()


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"metadata": null}', '{"metadata": {"other": 1}}'])
def test_a_bundle_of_somebody_else_is_not_replaced(builder: Builder, manifest: str) -> None:
    builder.out.mkdir()
    (builder.out / ".manifest").write_text(manifest, encoding="utf-8")
    assert len(builder.mistakes()) == 1


def test_a_file_or_a_link_is_not_replaced(builder: Builder, tmp_path: Path) -> None:
    builder.out.write_text("x", encoding="utf-8")
    assert builder.mistakes() == [f"{builder.out}: this is not a directory, and is not replaced"]
    builder.out.unlink()
    builder.out.symlink_to(tmp_path / "nowhere")
    assert builder.mistakes() == [f"{builder.out}: this is not a directory, and is not replaced"]


def test_a_bundle_may_be_built_inside_its_source(builder: Builder) -> None:
    builder.out = builder.source / "build" / "demo"
    first = builder.build()
    assert builder.build().revision == first.revision


def test_without_opa_nothing_is_built(builder: Builder, tmp_path: Path) -> None:
    builder.opa = tmp_path / "nowhere"
    assert builder.mistakes() == [f"{tmp_path}/nowhere: OPA cannot be run: No such file or directory"]


def test_the_map_in_a_bundle_is_readable_by_the_server_that_will_load_it(builder: Builder) -> None:
    builder.build()
    command: list[Any] = [builder.opa, "eval", "--bundle", builder.out, "--format", "raw"]
    answer = subprocess.run([*command, "data.ostiary.map.format"], capture_output=True, check=True)
    assert answer.stdout.strip() == b"1"
