"""What the README and the pages under docs/ show is run here, in order, and what they show is what is printed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.docs import HOME, ROOT, Mismatch, blocks, commands, pages, reading, rewrite

WRITE = os.environ.get("OSTIARY_DOCS") == "write"
MOST_EXCLUDED = 2
"""Blocks that are not run: `make demo` with `make test`, and an installation into the reader's own environment."""

RUN = [page for page in pages() if any(block.language == "console" for block in blocks(page))]


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path: unix sockets are made below it, and theirs has at most about 100 bytes."""
    with tempfile.TemporaryDirectory(prefix="od-") as directory:
        yield Path(directory).resolve()


def environment(home: Path, opa: Path) -> dict[str, str]:
    """What a reader has: ostiary's Python and OPA on PATH, and nothing else of this machine's."""
    tools = home / ".local" / "bin"
    tools.mkdir(parents=True)
    (tools / "opa").symlink_to(opa)
    for name in ("python3", "ostiary"):
        (tools / name).write_text(f'#!/bin/sh\nexec "{Path(sys.executable).parent / name}" "$@"\n', encoding="utf-8")
        (tools / name).chmod(0o755)
    return {
        "HOME": str(home),
        "PATH": f"{tools}:/usr/local/bin:/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "80",
    }


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_what_the_page_shows_is_what_is_printed(page: Path, home: Path, opa_binary: Path) -> None:
    checkout = home / "ostiary"
    for name in ("bundles", "rego"):
        shutil.copytree(ROOT / name, checkout / name)
    with reading(page, home, environment(home, opa_binary)) as reader:
        if page.name == "README.md":
            reader.shell.run("cd ostiary")
        reader.read(write=WRITE)
    if WRITE and reader.printed:
        rewrite(page, reader.printed)
        pytest.fail(f"{page.name} was rewritten; read what changed")


def test_few_blocks_are_left_out_and_each_says_why() -> None:
    excluded = [block for page in pages() for block in blocks(page) if block.excluded is not None]

    assert all(len(str(block.excluded).split()) >= 5 for block in excluded)
    assert len(excluded) == MOST_EXCLUDED
    assert {command.text for block in excluded for command in commands(block)} == {
        "make demo",
        "make test",
        "python3 -m pip install .",
        "ostiary demo",
    }


@pytest.mark.parametrize(("target", "does"), [("demo", "ostiary demo"), ("test", "-m pytest")])
def test_the_two_commands_of_the_readme_are_targets_that_do_it(target: str, does: str) -> None:
    run = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)

    assert any(does in line for line in run.stdout.splitlines())


def test_no_page_shows_a_path_of_the_machine_it_was_written_on() -> None:
    for page in [*pages(), ROOT / "CHANGELOG.md"]:
        text = page.read_text(encoding="utf-8")
        assert "/tmp/" not in text, page.name
        assert str(ROOT) not in text.replace(HOME, ""), page.name


def test_a_page_that_shows_something_else_is_noticed(home: Path, opa_binary: Path, tmp_path: Path) -> None:
    page = ROOT / "docs" / "index.md"
    with reading(page, home, environment(home, opa_binary)) as reader:
        with pytest.raises(Mismatch):
            reader.bindings.compare("allowed", reader.shell.run("echo denied"))
        reader.bindings.compare("a\n...\nb http://x:8080", "a\n1\n2\nb http://x:40123")
        assert reader.bindings.applied("curl http://x:8080/") == "curl http://x:40123/"
        with pytest.raises(Mismatch):
            reader.bindings.compare("http://x:8080", "http://x:40124")
