"""The definition of the image. Nothing here can build one: it is read, and its `RUN` lines are run in an environment
of their own, in which its packages are those of these tests. What is not run: the layers, and the base images."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from ostiary.opa.install import PINNED
from support.tools import ROOT

FILE = ROOT / "deploy" / "image" / "Containerfile"
PINS = ROOT / "deploy" / "constraints.txt"


class Step(NamedTuple):
    word: str
    rest: str


def steps() -> list[Step]:
    lines = [line for line in FILE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Step(*line.split(maxsplit=1)) for line in joined.splitlines()]


def said(word: str) -> list[str]:
    return [step.rest for step in steps() if step.word == word]


def test_everything_it_is_made_of_is_pinned() -> None:
    images = [words.split()[0] for words in said("FROM")]

    assert images[0] == f"openpolicyagent/opa:{PINNED}-static"
    assert len(set(images[1:])) == 1  # what is built for one Python runs on it
    version = re.fullmatch(r"python:(\d+\.\d+\.\d+)-slim-[a-z]+", images[1])
    assert version is not None
    assert version[1] in SpecifierSet(">=3.11")
    assert all("--constraint deploy/constraints.txt" in run for run in said("RUN") if "-m pip" in run)


def test_what_the_proxy_may_need_is_in_it() -> None:
    """What an extra adds to `ostiary run`: a pod whose configuration asks for it would start again for ever. The other
    extras are for commands that people run elsewhere."""
    (installed,) = [run for run in said("RUN") if "-m pip" in run and "--constraint" in run]
    extras = re.search(r"'\.\[([a-z0-9,]+)\]'", installed)
    assert extras is not None
    assert set(extras[1].split(",")) == {"postgresql", "otlp"}
    pinned = {canonicalize_name(line.split("==")[0]) for line in PINS.read_text(encoding="utf-8").split()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in extras[1].split(","):
        assert {canonicalize_name(Requirement(one).name) for one in project["optional-dependencies"][extra]} <= pinned


def test_it_runs_as_nobody_and_keeps_what_builds_it_out() -> None:
    last = max(number for number, step in enumerate(steps()) if step.word == "FROM")
    final = steps()[last:]

    assert [step.rest for step in final if step.word == "USER"] == ["10001:10001"]
    assert not [step for step in final if step.word in ("RUN", "ADD")]
    assert all(step.rest.startswith("--from=") for step in final if step.word == "COPY")
    assert [json.loads(step.rest) for step in final if step.word in ("ENTRYPOINT", "CMD")] == [["ostiary"], ["run"]]


def test_what_it_copies_is_in_its_context() -> None:
    allowed = (FILE.parent / "Containerfile.dockerignore").read_text(encoding="utf-8").split()
    for words in said("COPY"):
        if not words.startswith("--from="):
            for source in words.split()[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in allowed


def copied(source: Path) -> None:
    """The context, as the `COPY` lines put it into the image."""
    for words in said("COPY"):
        if words.startswith("--from="):
            continue
        *names, target = words.split()
        for name in names:
            place = source / target / Path(name).name if target.endswith("/") else source / target
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, place)


def test_its_run_lines_make_an_ostiary_that_takes_the_opa(tmp_path: Path, opa_binary: Path) -> None:
    """pip fetches nothing here: its dependencies are there already, and their versions are those of the constraints."""
    source, installed = tmp_path / "src", tmp_path / "ostiary"
    copied(source)
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    for number, line in enumerate(said("RUN")):
        text = line.replace("/opt/ostiary", str(installed)).replace("/usr/local/bin/opa", str(opa_binary))
        text = re.sub(r"^python ", f"{sys.executable} ", text)
        command = ["sh", "-ec", text]
        done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        if number == 0:  # the packages of these tests stand in for those that pip would fetch
            (site,) = installed.glob("lib/python*/site-packages")
            (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    ran = subprocess.run([installed / "bin" / "ostiary", "version"], capture_output=True, text=True, check=True)
    assert "ostiary" in ran.stdout
    assert not (installed / "bin" / "pip").exists()
    project = tmp_path / "shop"  # what is no Python is in the wheel, too
    subprocess.run([installed / "bin" / "ostiary", "init", project], capture_output=True, check=True)
    assert (project / ".gitignore").is_file()
    assert [path.name for path in installed.glob("lib/python*/site-packages/ostiary/_assets/rego")] == ["rego"]
