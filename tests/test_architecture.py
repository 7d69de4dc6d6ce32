"""The import rules: four layers, each of which knows only what is under it.

    kernel <- request stages <- services <- composition

Read from the source text, so that an import inside a function counts too. And what a process imports before it knows
whether its configuration needs it: nearly all that a start takes, and much of a worker's memory.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "proxy" / "ostiary"

KERNEL = {
    "addresses",
    "errors",
    "marks",
    "models",
    "interfaces",
    "clock",
    "bounded",
    "shares",
    "disk",
    "keyfile",
    "exchange",
    "problem",
    "access",
    "target",
    "routes",
    "strictjson",
    "spiffe",
    "peer",
}
STAGES = {"identity", "decision", "credential", "upstream", "audit", "server", "concierge"}
SERVICES = {"opa", "policy", "distribution", "grants", "admin", "telemetry"}
COMPOSITION = {
    "app",
    "deciding",
    "granting",
    "holding",
    "governing",
    "__main__",
    "logs",
    "metering",
    "notifying",
    "worker",
    "worker_messages",
    "worker_process",
    "worker_start",
    "supervisor",
    "turnover",
    "lookout",
    "config",
    "cli",
    "demo",
    "assets",
    "crew",
    "listening",
    "page",
    "named_files",
    "reloading",
    "comparing",
    "stage_settings",
    "certificates",
    "bundle_server",
}
LEAVES = {"pipeline", "verify"}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[tuple[str, str]]:
    """(part, imported name) of every import of ostiary in a file, wherever it stands."""
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [(node.module, alias.name) for alias in node.names]
        else:
            continue
        for module, name in names:
            head, *rest = module.split(".")
            if head == "ostiary":
                found.add((rest[0] if rest else name, name))
    return found


SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_every_part_of_the_package_has_a_layer() -> None:
    parts = {part_of(path) for path in SOURCES} - {"__init__"}
    assert parts <= KERNEL | STAGES | SERVICES | COMPOSITION | LEAVES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    part = part_of(path)
    known = {name for name, _ in imports(path)} - {part, "__version__"}
    if part in KERNEL or part == "pipeline":
        allowed = KERNEL
    elif part in STAGES:
        allowed = KERNEL  # stages never know each other, and never the configuration
    elif part == "verify":
        allowed = {"addresses", "errors", "routes", "target", "bounded", "clock", "strictjson"}
    elif part in SERVICES:
        allowed = KERNEL | STAGES | {"assets"}
    else:
        return  # the composition may know everything
    assert known <= allowed, f"{part} must not know {sorted(known - allowed)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_parts_use_only_public_names_of_one_another(path: Path) -> None:
    part = part_of(path)
    private = {(other, name) for other, name in imports(path) if other != part and name.startswith("_")}
    assert private - {("__version__", "__version__")} == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_validated_with_assert(path: Path) -> None:
    """`python -O` removes assertions: what must hold is an `if` and a `raise`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)] == []


# Each is a process's way: a worker begins by importing its supervisor's main module (multiprocessing).
STARTS = {
    "worker": "import ostiary.__main__, ostiary.worker_start, ostiary.worker",
    "supervisor": "import ostiary.__main__, ostiary.cli.commands, ostiary.cli.run",
}
OPTIONAL = {
    "asyncpg",
    "botocore",
    "duckdb",
    "httpcore",
    "httpx",
    "jsonschema",
    "opentelemetry",
    "ostiary.grants.api",
    "ostiary.grants.webhooks.sender",
    "ostiary.policy.bundle",
    "rich",
    "sqlite3",
}
"""What takes a configuration that asks for it."""
UNNEEDED = {
    # It is handed a configuration that has been read and checked.
    "worker": {"ostiary.cli.commands", "ostiary.supervisor", "pydantic.plugin._loader", "typer", "yaml"},
    "supervisor": {"ostiary.app", "ostiary.pipeline", "ostiary.worker", "uvloop"},
}


@pytest.mark.parametrize("process", STARTS)
def test_a_start_imports_nothing_that_it_may_not_need(process: str) -> None:
    program = f"import sys\n{STARTS[process]}\nprint(*sys.modules)"
    started = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(started.stdout.split()) & (OPTIONAL | UNNEEDED[process]) == set()


@pytest.mark.parametrize(
    "program",
    [
        "gc.disable()\nfrom ostiary.worker import settle_collector\nsettle_collector()",
        "from ostiary.cli import uncollected\nwith uncollected(): import ostiary.cli.run",
    ],
    ids=STARTS,
)
def test_the_collector_works_after_a_start_and_leaves_out_what_that_made(program: str) -> None:
    program = f"import gc\n{program}\nprint(gc.isenabled(), gc.get_freeze_count() > len(gc.get_objects()))"
    started = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert started.stdout == "True True\n"
