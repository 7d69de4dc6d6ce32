"""What docs/deployment.md shows: run here, but for what needs a cluster, a container runtime, or the whole machine."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from support.docs import blocks, commands, reading, rewrite
from support.helm import CHART, documents, template
from support.tools import ROOT, tool

PAGE = ROOT / "docs" / "deployment.md"
NOT_HERE = {"docker", "kubectl", "helm", "python3", "/opt/ostiary/bin/python", "install", "systemctl", "cd"}
"""What begins the commands that are not run."""


def test_what_the_page_shows_is_what_is_printed(opa_binary: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="od-") as directory:
        home = Path(directory).resolve()
        for name in ("bundles", "rego", "deploy"):
            shutil.copytree(ROOT / name, home / "ostiary" / name)
        tools = home / "bin"
        tools.mkdir()
        for name, program in (("opa", opa_binary), ("helm", tool("helm"))):
            (tools / name).symlink_to(program)
        for name in ("python3", "ostiary"):
            (tools / name).write_text(f'#!/bin/sh\nexec "{Path(sys.executable).parent / name}" "$@"\n')
            (tools / name).chmod(0o755)
        environment = {"HOME": str(home), "PATH": f"{tools}:/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        write = os.environ.get("OSTIARY_DOCS") == "write"
        with reading(PAGE, home, environment) as reader:
            reader.read(write=write)
        if reader.printed:
            rewrite(PAGE, reader.printed)
            pytest.fail("the page was rewritten; read what changed")


def test_what_is_not_run_says_why() -> None:
    excluded = [block for block in blocks(PAGE) if block.excluded is not None]

    assert all("test" in str(block.excluded) for block in excluded)
    assert {command.text.split()[0] for block in excluded for command in commands(block)} == NOT_HERE
    assert len(excluded) == 5


def test_files_that_commands_name_are_there() -> None:
    text = " ".join(
        command.text for block in blocks(PAGE) if block.language == "console" for command in commands(block)
    )
    named = {word for word in text.split() if word.startswith("ostiary/deploy/")}

    assert len(named) >= 8
    assert all((ROOT / word.removeprefix("ostiary/")).exists() for word in named)


def test_the_values_of_the_page_are_rendered(tmp_path: Path) -> None:
    [block] = [block for block in blocks(PAGE) if block.title == "values.yaml"]

    assert documents(template(tmp_path, yaml.safe_load(block.text)))
    assert CHART.is_dir()
