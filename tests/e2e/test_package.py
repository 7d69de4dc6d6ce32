"""What is published: a wheel that needs no checkout, a source distribution that makes the same wheel, and a command
that is quick to answer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from ostiary.cli.commands import COMMANDS, app
from support.installed import demo_check

CHECKOUT = Path(__file__).resolve().parents[2]
CARRIED = ("rego", "bundles/demo")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, and the wheel that is built from it and not from the checkout."""
    place = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", place, CHECKOUT],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return place


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory that has nothing to do with the checkout, with a short name: unix sockets are made below it."""
    with tempfile.TemporaryDirectory(prefix="ost-", dir="/tmp") as place:
        yield Path(place)


def files(root: Path, pattern: str) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob(pattern) if path.is_file()}


def test_the_wheel_carries_the_package_the_rego_and_the_demos_policy(wheel: Path) -> None:
    """Every file of them, and nothing that a run leaves behind."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {f"ostiary/{name}" for name in files(CHECKOUT / "proxy" / "ostiary", "*.py")} | {"ostiary/py.typed"}
    starter = CHECKOUT / "proxy" / "ostiary" / "cli" / "starter"
    expected |= {f"ostiary/cli/starter/{name}" for name in files(starter, "*")}
    expected |= {
        f"ostiary/_assets/{path.relative_to(CHECKOUT)}"
        for root in CARRIED
        for path in (CHECKOUT / root).rglob("*")
        if path.suffix in {".rego", ".yaml"}
    }
    assert names == expected


def test_the_source_distribution_has_what_a_checkout_needs(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"pyproject.toml", "README.md", "LICENSE", "Makefile", "deploy/constraints.txt", "tests/conftest.py"}
    needed |= {f"proxy/ostiary/{name}" for name in files(CHECKOUT / "proxy" / "ostiary", "*.py")}
    assert needed - names == set()
    assert not [name for name in names if "__pycache__" in name or "_cache/" in name or name.endswith(".pyc")]


async def test_an_installed_wheel_runs_the_demo_without_a_checkout(
    wheel: Path, outside: Path, opa_binary: Path
) -> None:
    """In an environment of its own. With -O no assertion holds anything up, and every promise is held all the same."""
    python = await asyncio.to_thread(install, wheel, outside / "venv")
    script = "import ostiary.assets as a; print(a.__file__, a.rego(), a.demo_bundle())"
    where = await asyncio.to_thread(
        subprocess.run, [python, "-c", script], cwd=outside, capture_output=True, text=True, check=True
    )
    assert [path for path in where.stdout.split() if not path.startswith(str(outside / "venv"))] == []
    demos = [[python, "-m", "ostiary"], [python, "-O", "-m", "ostiary"]]
    for outcomes in await asyncio.gather(*(demo_check(demo, home=outside, cwd=outside) for demo in demos)):
        assert [outcome for outcome in outcomes if not outcome["held"]] == []
        assert len(outcomes) >= 13


def install(wheel: Path, place: Path) -> str:
    """The Python of a new environment with the wheel in it, and nothing of the checkout.

    What the wheel depends on comes from the environment of the tests by a path file, which is read last and whose own
    path files are not: the checkout that is installed there in place is not found.
    """
    venv.create(place, with_pip=False)
    (site,) = place.glob("lib/python*/site-packages")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel],
        check=True,
    )
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return str(place / "bin" / "python")


@pytest.mark.parametrize("arguments", [["version"], ["--help"]], ids=" ".join)
def test_the_command_answers_at_once(arguments: list[str]) -> None:
    """The parts of a proxy, which take a second, are not imported to say what the command is."""
    script = (
        "import sys; sys.argv[1:] = " + repr(arguments) + "\n"
        "from ostiary.cli.commands import app\n"
        "app(standalone_mode=False)\n"
        "print(sorted({'uvicorn', 'starlette', 'aiohttp', 'jwt', 'ostiary.app', 'ostiary.config'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_helps_line_of_a_command_is_its_own(name: str) -> None:
    """The list of commands is written down, so that showing it imports none of them; each says the same of itself."""
    command = typer.main.get_group(app).commands[name]
    assert command.help.startswith(COMMANDS[name])
