"""`ostiary init`: what it writes passes everything that it tells its reader to run, and nothing is overwritten."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from ostiary.cli.project import texts
from ostiary.cli.writing import write_project
from ostiary.config import load_config
from ostiary.policy.model import load_permissions
from ostiary.policy.values import NO_NAME
from support.cli import Ran, ostiary

OPENAPI = """\
openapi: 3.0.3
info: {title: Orders API, version: "1"}
servers: [{url: https://api.shop.test/v1}]
paths:
  /orders:
    get: {operationId: listOrders, responses: {200: {description: ok}}}
    post: {operationId: createOrder, responses: {201: {description: ok}}}
  /orders/{orderId}:
    parameters: [{name: orderId, in: path, required: true, schema: {type: integer}}]
    get: {operationId: getOrder, responses: {200: {description: ok}}}
  "/orders/{orderId}.pdf":
    get: {operationId: printOrder, responses: {200: {description: ok}}}
"""
FILES = [
    "ostiary.yaml",
    "policy/permissions.yaml",
    "policy/policy_cases.yaml",
    "policy/policy.rego",
    "policy/policy_test.rego",
    "Makefile",
    ".github/workflows/policy.yaml",
    ".gitignore",
]


def environment(opa: Path, directory: Path) -> dict[str, str]:
    """A CI machine on which this ostiary is what its package index has, and from which nothing can be fetched."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(directory),
        "OSTIARY_OPA": str(opa),
        "PIP_NO_INDEX": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GITHUB_STEP_SUMMARY": str(directory / "summary.md"),
    }


def step(text: str, directory: Path, environ: Mapping[str, str]) -> Ran:
    """What comes of a `run:` as GitHub runs one that says no `shell:`, as a file of `bash -e`: without pipefail."""
    script = Path(environ["HOME"]) / "step.sh"
    script.write_text(text)
    shell = ["bash", "-e", str(script)]
    done = subprocess.run(shell, cwd=directory, env=dict(environ), capture_output=True, text=True, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)


def run(text: str, directory: Path, environ: Mapping[str, str]) -> str:
    done = step(text, directory, environ)
    assert done.status == 0, f"{text}: {done.out}{done.err}"
    return done.out


def workflow_runs(project: Path, base: str) -> list[tuple[str, dict[str, str]]]:
    """The `run:` lines of the workflow, each with the step's own variables, for a pull request against `base`."""
    workflow = yaml.safe_load((project / ".github/workflows/policy.yaml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    steps = workflow["jobs"]["policy"]["steps"]
    assert "defaults" not in workflow
    assert not any("shell" in each for each in steps)  # so each is run as `step` does
    return [
        (
            step["run"],
            {name: value.replace("${{ github.base_ref }}", base) for name, value in step.get("env", {}).items()},
        )
        for step in steps
        if "run" in step
    ]


def commit(project: Path, environ: Mapping[str, str], message: str) -> None:
    identity = "-c user.name=t -c user.email=t@shop.test"
    run(f"git add --all && git {identity} commit --quiet --message '{message}'", project, environ)


def test_what_is_written_passes_its_own_workflow(tmp_path: Path, opa_binary: Path) -> None:
    """The `run:` lines themselves, in their order, on a pull request that lets `web` do more. What is written of no
    document passes `make test check` on the page about it."""
    (tmp_path / "api.yaml").write_text(OPENAPI)
    sources = ["--from", tmp_path / "api.yaml", "--from", f"billing={tmp_path / 'api.yaml'}"]
    project, environ = tmp_path / "shop", environment(opa_binary, tmp_path)

    assert ostiary("init", project, *sources).status == 0
    run("git init --quiet --initial-branch main", project, environ)
    commit(project, environ, "begin")
    run("git update-ref refs/remotes/origin/main HEAD", project, environ)
    permissions = project / "policy" / "permissions.yaml"
    permission = "{caller: web, service: orders, endpoints: [list-orders"
    permissions.write_text(permissions.read_text().replace(permission, f"{permission}, get-order"))
    commit(project, environ, "let the web application show an order")

    for text, variables in workflow_runs(project, "main"):
        run(text, project, {**environ, **variables})
    shown = (tmp_path / "summary.md").read_text()
    assert "`web` gains `orders`: `get-order: GET " in shown
    assert run("git status --porcelain", project, environ) == ""  # what is built is ignored


@pytest.fixture
def shop(tmp_path: Path, opa_binary: Path) -> tuple[Path, dict[str, str]]:
    """A project below the root of a repository, and how it is run. `origin/main` is the state before it came."""
    project, environ = tmp_path / "all" / "shop", environment(opa_binary, tmp_path)
    ostiary("init", project)
    run("git init --quiet --initial-branch main ..", project, environ)
    run("git -c user.name=t -c user.email=t@shop.test commit --quiet --allow-empty --message none", project, environ)
    run("git update-ref refs/remotes/origin/main HEAD", project, environ)
    return project, environ


def widened(project: Path, environ: Mapping[str, str]) -> None:
    """Commit the project to `origin/main`, and let a caller do more in the files."""
    commit(project, environ, "begin")
    run("git update-ref refs/remotes/origin/main HEAD", project, environ)
    permissions = project / "policy" / "permissions.yaml"
    permissions.write_text(
        permissions.read_text().replace("endpoints: [list-orders]}", "endpoints: [list-orders, get-order]}")
    )


def impact(project: Path, environ: Mapping[str, str]) -> tuple[int, str, str]:
    """The workflow's last step: its status, what is on the page of the run, and the last line of the log."""
    text, variables = workflow_runs(project, "main")[-1]
    done = step(text, project, {**environ, **variables})
    assert done.out == ""
    return done.status, Path(environ["GITHUB_STEP_SUMMARY"]).read_text(), done.err


def test_a_widening_fails_the_step_where_that_is_asked_for_and_its_report_is_there_before(
    shop: tuple[Path, dict[str, str]],
) -> None:
    project, environ = shop
    widened(project, environ)
    status, before, log = impact(project, environ)
    assert (status, log) == (0, "")
    assert "`staff`, `web` gain `orders`: `get-order: GET " in before

    makefile = project / "Makefile"
    makefile.write_text(makefile.read_text().replace("FAIL_ON ?=\n", "FAIL_ON ?= widening\n"))
    status, page, log = impact(project, environ)
    assert (status, page) == (2, before * 2)
    assert log.startswith("More is let through, or that cannot be told: the report says what.\nmake: *** ")


@pytest.mark.parametrize("broken", ["diff", "report"])
def test_a_report_that_cannot_be_written_fails_the_step(shop: tuple[Path, dict[str, str]], broken: str) -> None:
    project, environ = shop
    widened(project, environ)
    if broken == "diff":
        (project / "policy" / "policy.rego").write_text("package policy\n\nallow if {\n")
    fails = (
        f'#!/bin/sh\n[ "$2" != report ] || {{ echo no report >&2; exit 1; }}\nexec {sys.executable} -m ostiary "$@"\n'
    )
    command = project / "build" / "ostiary"
    command.parent.mkdir(exist_ok=True)
    command.write_text(fails)
    command.chmod(0o755)
    said = {"diff": "policy/policy.rego:4: unexpected eof token\n", "report": "no report\n"}
    status, page, log = impact(project, {**environ, "OSTIARY": str(command)})
    assert (status, page) == (2, "")
    assert log.startswith(said[broken])


def test_a_base_without_a_policy_has_nothing_to_compare_with(shop: tuple[Path, dict[str, str]]) -> None:
    assert impact(*shop) == (0, "origin/main has no policy to compare with.\n", "")


def test_a_base_that_is_not_there_is_a_mistake(shop: tuple[Path, dict[str, str]]) -> None:
    """It was mistyped or not fetched: nothing is known of what it lets through."""
    project, environ = shop
    done = step("make impact BASE=origin/mian", project, environ)
    assert (done.status, done.out) == (2, "")
    assert "origin/mian cannot be compared with: fetch it, or name another revision, BASE=...\n" in done.err


def test_the_rego_that_is_written_is_formatted(tmp_path: Path, opa_binary: Path) -> None:
    ostiary("init", tmp_path)
    check = [opa_binary, "fmt", "--fail", "--list", str(tmp_path / "policy")]

    assert subprocess.run(check, capture_output=True, text=True, check=False).stdout == ""


def test_documents_become_services_and_what_is_left_out_is_told_and_denied(tmp_path: Path) -> None:
    (tmp_path / "api.yaml").write_text(OPENAPI)
    ran = ostiary("init", "shop", "--from", "api.yaml", "--from", "billing=api.yaml")

    told = "api.yaml:12: GET /v1/orders/{orderId}.pdf is left out: the segment '{orderId}.pdf' of"
    assert ran.out.split() == [f"shop/{name}" for name in FILES]
    assert [line.startswith(f"warning: {told}") for line in ran.err.splitlines()] == [True, True, False]
    services = load_permissions(tmp_path / "shop" / "policy" / "permissions.yaml").services
    assert {service: list(one.endpoints) for service, one in services.items()} == {
        "orders": ["list-orders", "create-order", "get-order"],
        "billing": ["list-orders", "create-order", "get-order"],
    }
    assert services["orders"].endpoints["get-order"].path == "/v1/orders/{orderId:int}"
    assert f"      # {told}" in (tmp_path / "shop" / "policy" / "permissions.yaml").read_text()
    assert load_config(tmp_path / "shop" / "ostiary.yaml", {}).services["orders"].upstream.host == "api.shop.test"


def test_what_comes_next_is_told_from_where_one_is(tmp_path: Path) -> None:
    told = "make test check, then put your issuer and services into ostiary.yaml\n"
    assert ostiary("init").err == f"Next: {told}"
    assert ostiary("init", "a b").err == f"Next: cd 'a b' && {told}"


def test_nothing_is_overwritten_and_nothing_is_written_beside_it(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("mine")
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "policy.rego").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    ran = ostiary("init")

    assert (ran.status, ran.out) == (2, "")
    assert ran.err.splitlines() == [
        "policy/policy.rego: is there already, and nothing is overwritten",
        "Makefile: is there already, and nothing is overwritten",
    ]
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "Makefile").read_text() == "mine"


def test_what_was_written_is_taken_back_where_the_rest_cannot_be(tmp_path: Path) -> None:
    """A directory is where the Makefile's own directory cannot be made: a file has its name."""
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        write_project(tmp_path / "shop", {**texts([]), "Makefile/x": ""})

    assert list(tmp_path.iterdir()) == []


def test_mistakes_of_all_documents_are_told_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(OPENAPI)
    (tmp_path / "b.yaml").write_text(OPENAPI)
    (tmp_path / "old.yaml").write_text("swagger: '2.0'\n")
    (tmp_path / "own.yaml").write_text(OPENAPI.replace("Orders", "Ostiary"))
    documents = [part for name in ("a", "b", "old", "own", "none") for part in ("--from", f"{name}.yaml")]
    ran = ostiary("init", "shop", *documents)

    assert (ran.status, ran.out) == (2, "")
    assert ran.err.splitlines() == [
        "b.yaml: a.yaml is the service 'orders', too: name one, --from NAME=b.yaml",
        "old.yaml:1: Swagger 2.0 is not read: convert it to OpenAPI 3",
        "own.yaml: the service name 'ostiary' is reserved for the proxy itself: say another, --from NAME=own.yaml",
        "none.yaml: there is no such file",
    ]
    assert not (tmp_path / "shop").exists()


def test_a_name_that_cannot_be_given_is_told_as_one(tmp_path: Path) -> None:
    (tmp_path / "api.yaml").write_text(OPENAPI)
    (tmp_path / "-.yaml").write_text(OPENAPI.replace("Orders API", "'?'"))
    (tmp_path / "v=1").mkdir()
    names = (
        "ostiary=api.yaml",
        "Bad Name=api.yaml",
        "=api.yaml",
        "-.yaml",
        "v=1/none.yaml",
        "./v=1/none.yaml",
        "a=none",
    )
    ran = ostiary("init", "shop", *[part for name in names for part in ("--from", name)])

    assert (ran.status, ran.out) == (2, "")
    assert ran.err.splitlines() == [
        "api.yaml: the service name 'ostiary' is reserved for the proxy itself: say another, --from NAME=api.yaml",
        f"api.yaml: 'Bad Name' {NO_NAME}",
        f"api.yaml: '' {NO_NAME}",
        "-.yaml: its title names no service: say which, --from NAME=-.yaml",
        "1/none.yaml: there is no such file",
        "v=1/none.yaml: there is no such file",
        "none: there is no such file",
    ]


def test_a_document_cannot_write_lines_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "api.yaml").write_text(OPENAPI + '  "/x\\npermissions:\\n": {get: {}}\n')
    ran = ostiary("init", "shop", "--from", "api.yaml")

    assert ran.status == 0
    assert (
        "# api.yaml:13: GET /v1/x\\npermissions:\\n is left out"
        in (tmp_path / "shop" / "policy" / "permissions.yaml").read_text()
    )


def test_names_that_yaml_would_take_for_something_else_are_names(tmp_path: Path) -> None:
    (tmp_path / "api.yaml").write_text(
        OPENAPI.replace("Orders API", "404 API").replace("listOrders", "'1e5'").replace("getOrder", "'null'")
    )
    assert ostiary("init", "shop", "--from", "api.yaml").status == 0
    services = load_permissions(tmp_path / "shop" / "policy" / "permissions.yaml").services
    assert list(services["404"].endpoints) == ["1e5", "create-order", "null"]


def test_what_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "api.yaml").write_text(OPENAPI)
    ran = ostiary("init", "shop", "--from", "orders-=api.yaml")

    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("ostiary.yaml:14: services.orders-.hosts[0]: ")
    assert not (tmp_path / "shop").exists()
