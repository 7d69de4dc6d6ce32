"""Whatever else stands in a fence is checked as what it is: maps load and build, configurations load, Rego compiles."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from ostiary import assets
from ostiary.config import check_agreement, load_config
from ostiary.errors import ConfigurationError
from ostiary.policy.bundle import build_bundle
from ostiary.policy.model import load_permissions
from support.docs import Block, blocks, pages

ALL = [block for page in pages() for block in blocks(page)]

CONDITIONS = """\
services:
  orders: {endpoints: {get-order: "GET /orders/{order_id}"}}
callers:
  web: {issuer: https://idp.test, subject: web}
permissions:
  - caller: web
    service: orders
    endpoints: [get-order]
    when:
"""


def chosen(*, language: str, titled: str = "", words: Iterable[str] = ()) -> list[Block]:
    """The blocks of a language, whose title ends so, with these words and no others."""
    return [
        block
        for block in ALL
        if block.language == language and str(block.title or "").endswith(titled) and block.words == tuple(words)
    ]


def where(block: Block) -> str:
    return block.where


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    kinds = {
        (block.language, Path(str(block.title)).name if block.title else None, block.words)
        for block in ALL
        if block.language not in {"console", "text"}
    }

    assert kinds == {
        ("yaml", "permissions.yaml", ()),
        ("yaml", "permissions.yaml", ("mistakes",)),
        ("yaml", "ostiary.yaml", ()),
        ("yaml", "orders_cases.yaml", ()),  # run by its page
        ("yaml", "opa.yaml", ()),  # run by OPA
        ("yaml", "orders-api.yaml", ("openapi",)),  # imported by its page
        ("yaml", None, ("when",)),
        ("yaml", None, ("config",)),
        ("yaml", None, ("listen",)),
        ("yaml", None, ("issuer",)),
        ("rego", "example.rego", ()),
        ("rego", "policy.rego", ()),
        ("rego", "policy.rego", ("mistakes",)),
        ("rego", "policy_test.rego", ()),
        ("python", "orders.py", ()),
        ("python", "idp.py", ()),
        ("python", "receiver.py", ()),  # run by the tests of webhooks, with the template
        ("json", "message.json", ()),
        ("python", "refund.py", ()),  # run by its page
        ("json", "request.json", ()),
        ("json", "line.json", ()),
    }


def test_text_shows_no_commands() -> None:
    assert not [block.where for block in ALL if block.language == "text" and "$ " in block.text]


@pytest.mark.parametrize("block", [block for block in ALL if block.title], ids=where)
def test_the_reader_is_told_which_file_it_is(block: Block) -> None:
    assert f"`{Path(str(block.title)).name}`" in block.before or f"{block.title}`" in block.before


@pytest.mark.parametrize("block", chosen(language="yaml", titled="permissions.yaml"), ids=where)
def test_a_permission_map_loads_and_builds(block: Block, tmp_path: Path, opa_binary: Path) -> None:
    path = tmp_path / "policy" / "permissions.yaml"
    path.parent.mkdir()
    path.write_text(block.text, encoding="utf-8")
    for rego in chosen(language="rego", titled=str(block.title).replace("permissions.yaml", "policy.rego")):
        if rego.page == block.page:
            (path.parent / "policy.rego").write_text(rego.text, encoding="utf-8")

    assert load_permissions(path).permissions
    built = build_bundle(path.parent, tmp_path / "out", opa=opa_binary, sequence=0, rego_root=assets.rego())
    assert [warning for warning in built.warnings if ": observe." not in warning] == []  # which is always warned of


CONFIG = {
    "listen": {"data": "127.0.0.1:8080"},
    "issuers": [{"issuer": "https://idp.test", "audience": "proxy", "key_file": "jwks.json", "algorithms": ["ES256"]}],
    "services": {"orders": {"hosts": ["orders.localhost"], "upstream": "http://127.0.0.1:9001"}},
    "opa": {"managed": {"bundle": "build/shop"}},
}


@pytest.mark.parametrize("block", chosen(language="yaml", words=["config"]), ids=where)
def test_a_part_of_the_configuration_loads(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "ostiary.yaml"
    path.write_text(json.dumps(CONFIG | yaml.safe_load(block.text)), encoding="utf-8")
    load_config(path, {})


@pytest.mark.parametrize("block", chosen(language="yaml", words=["when"]), ids=where)
def test_a_condition_loads(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "permissions.yaml"
    path.write_text(CONDITIONS + "".join(f"      {line}\n" for line in block.text.splitlines()), encoding="utf-8")

    assert load_permissions(path).permissions[0].when is not None


def test_every_condition_has_its_example() -> None:
    shown = {block.text.partition(":")[0] for block in chosen(language="yaml", words=["when"])}

    assert shown == {"source", "hours", "claims", "read_only", "query", "path", "custom"}


@pytest.mark.parametrize("block", chosen(language="yaml", titled="ostiary.yaml"), ids=where)
def test_a_configuration_loads(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "ostiary.yaml"
    path.write_text(block.text, encoding="utf-8")

    assert load_config(path, os.environ).services


AROUND = """\
services: {orders: {hosts: [orders.localhost], upstream: "http://127.0.0.1:9001"}}
opa: {managed: {bundle: build/demo}}
"""
ISSUER = "issuers: [{issuer: https://idp.test, audience: proxy, key_file: keys.json, algorithms: [ES256]}]\n"


def indented(block: Block, prefix: str) -> str:
    return "".join(f"{prefix}{line}\n" for line in block.text.splitlines())


@pytest.mark.parametrize("block", chosen(language="yaml", words=["listen"]), ids=where)
def test_a_listener_loads(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "ostiary.yaml"
    tokens = "jwt" in block.text.partition("identity:")[2].partition("]")[0]
    path.write_text(f"listen:\n{indented(block, '  ')}{ISSUER if tokens else ''}{AROUND}", encoding="utf-8")

    assert load_config(path, os.environ).listen


@pytest.mark.parametrize("block", chosen(language="yaml", words=["issuer"]), ids=where)
def test_an_issuer_loads(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "ostiary.yaml"
    first, *rest = indented(block, "    ").splitlines(keepends=True)
    issuer = "".join([first.replace("    ", "  - ", 1), *rest])
    path.write_text(f"listen: {{data: 127.0.0.1:8080}}\nissuers:\n{issuer}{AROUND}", encoding="utf-8")

    assert load_config(path, os.environ).issuers


def test_the_readme_s_configuration_fits_its_map(tmp_path: Path) -> None:
    for block in ALL:
        if block.page.name == "README.md" and block.language == "yaml":
            (tmp_path / str(block.title)).write_text(block.text, encoding="utf-8")

    assert (
        check_agreement(
            load_config(tmp_path / "ostiary.yaml", os.environ), load_permissions(tmp_path / "permissions.yaml")
        )
        == []
    )


def test_the_other_last_line_of_the_configuration_loads(tmp_path: Path) -> None:
    [block] = [block for block in chosen(language="yaml", titled="ostiary.yaml") if block.page.name == "README.md"]
    external = 'opa: {url: "unix:///run/opa/opa.sock"}\n'
    *lines, last = block.text.splitlines(keepends=True)
    path = tmp_path / "ostiary.yaml"
    path.write_text("".join([*lines, external]), encoding="utf-8")

    assert last.startswith("opa: {managed:")
    assert f"`{external.strip()}`" in block.page.read_text(encoding="utf-8")
    assert load_config(path, os.environ).opa.managed is None


@pytest.mark.parametrize("block", chosen(language="rego"), ids=where)
def test_rego_is_formatted_and_compiles_strictly(block: Block, tmp_path: Path, opa_binary: Path) -> None:
    shutil.copytree(assets.rego(), tmp_path / "rego")
    path = tmp_path / "rego" / "organisation" / Path(str(block.title)).name
    path.parent.mkdir()
    path.write_text(block.text, encoding="utf-8")

    for check in (["fmt", "--fail", "--list", str(path)], ["check", "--strict", str(tmp_path / "rego")]):
        run = subprocess.run([opa_binary, *check], capture_output=True, text=True, check=False)
        assert (run.returncode, run.stdout + run.stderr) == (0, "")


def test_the_rule_of_the_readme_is_the_demo_s() -> None:
    [block] = chosen(language="rego", titled="example.rego")
    demo = (assets.demo_bundle() / "policy.rego").read_text(encoding="utf-8")

    assert block.text[block.text.index("deny contains") :] in demo


@pytest.mark.parametrize("block", [block for block in ALL if "mistakes" in block.words], ids=where)
def test_what_is_said_to_be_a_mistake_is_one(block: Block, tmp_path: Path, opa_binary: Path) -> None:
    source = tmp_path / "wrong"
    source.mkdir()
    (source / "permissions.yaml").write_text("services: {orders: {endpoints: {all: GET /orders}}}\n", encoding="utf-8")
    (source / Path(str(block.title)).name).write_text(block.text, encoding="utf-8")

    with pytest.raises(ConfigurationError):
        build_bundle(source, tmp_path / "out", opa=opa_binary, sequence=0, rego_root=assets.rego())


@pytest.mark.parametrize("block", chosen(language="python"), ids=where)
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block.title), "exec")


def test_the_service_of_the_readme_can_be_made() -> None:
    [block] = [block for block in chosen(language="python") if block.page.name == "README.md"]
    names: dict[str, object] = {"__name__": "orders"}
    exec(compile(block.text, "orders.py", "exec"), names)

    assert callable(names["app"])


@pytest.mark.parametrize("block", chosen(language="json"), ids=where)
def test_json_is_json(block: Block) -> None:
    assert json.loads(block.text)
