"""Pages in Markdown whose commands are run and whose output is compared.

What a fence says after its language decides what is done with the block:

    ```console                       each `$ ` line is run (`> ` continues it), what follows is what it prints
    ```console background            the last command is left running; what it prints first is compared
    ```yaml title="policy/x.yaml"    written to that file, for the commands after it; so with any other language
    ```yaml map, when or config      a fragment that is loaded as that part of a file
    ```text, ```mermaid              shown only

A block is left out only by `<!-- not run: why -->` on the line before it. In shown output a line `...` stands for any
lines. Values that differ from run to run (`PLACEHOLDERS`) are compared by their kind, and the same value on the page is
the same value in the run, also in the commands after it: a port that a demo chose takes the place of the page's.

`OSTIARY_DOCS=write pytest tests/docs` puts what was printed into the pages.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import selectors
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from support.faults import free_port

ROOT: Final = Path(__file__).resolve().parent.parent.parent
HOME: Final = "/home/you"
"""The home directory of whoever the pages are about; commands begin in it."""

PLACEHOLDERS: Final = {
    "time": (
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z"
        r"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
        r"|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"
        r"|\b\d{8}T\d{9}Z"
        r"|\b1[789]\d{8}\b"
    ),
    "duration": r"(?<=_ms\": )\d+\.\d+|(?<=_ms\":)\d+\.\d+|(?<=\()\d+(?:\.\d+)?(?:ms|µs|s)(?=\))",
    "id": r"\b[0-9a-f]{32}\b",
    "mac": r"\b[0-9a-f]{64}\b",
    "digest": r"\bsha256:[0-9a-f]{16}\b",
    "revision": r"\b\d{1,9}-[0-9a-f]{16}\b",
    "key": r"(?<=\")[A-Za-z0-9_-]{43}(?=\")",
    "credential": r"(?<=\")[A-Za-z0-9_-]{22}(?=\")",
    "place": r"\bdemo-[a-z0-9_]{8}\b",
    "process": r"(?<=kill -9 )\d+|(?<=process )\d+",
    "port": r"(?<=[0-9A-Za-z]:)\d{4,5}\b|(?<=--port )\d{4,5}\b|(?<=http\.server )\d{4,5}\b",
    "home": re.escape(HOME) + r"\b",
}
"""Kind to the pattern of its values."""

_UNBOUND: Final = frozenset({"time", "duration"})
"""Kinds of which the same value on the page need not be the same one in the run."""

_VALUE: Final = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in PLACEHOLDERS.items()))
_FENCE: Final = re.compile(r"^```(?P<info>.*)$")
_TITLE: Final = re.compile(r'title="([^"]+)"')
_EXCLUSION: Final = re.compile(r"^<!-- not run: (.*) -->$")
_ELISION: Final = "..."

# OPA says so to whoever runs it as root; people do not, and containers of tests do.
_NOISE: Final = re.compile(r"^.*OPA running with uid or gid 0\..*\n?", re.MULTILINE)

_PAUSE: Final = 0.05
"""Seconds before each command. People take longer, and lines of the audit are there within ten milliseconds."""

_PATIENCE: Final = 60.0
"""Seconds for a command to end, or for one in the background to print what is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block. `line` is that of the fence, from 1; `excluded` why it is not run, if it is not."""

    page: Path
    line: int
    language: str
    words: tuple[str, ...]
    title: str | None
    text: str
    before: str
    excluded: str | None

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command of a console block. Lines are counted in the page from 1; the output is those from `begin` up to,
    and without, `end`."""

    text: str
    output: str
    begin: int
    end: int


def pages() -> list[Path]:
    """Every page that is checked here, the README first. The others have tests beside what they describe."""
    elsewhere = {"audit.md", "configuration.md", "deployment.md", "headers.md", "verify.md"}
    found = sorted(path for path in (ROOT / "docs").glob("*.md") if path.name not in elsewhere)
    return [ROOT / "README.md", *found]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    opened: int | None = None
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if fence is None:
            continue
        if opened is None:
            opened = number
            continue
        language, *words = (_FENCE.match(lines[opened]) or fence)["info"].split()
        title = _TITLE.search(lines[opened])
        previous = lines[opened - 1] if opened else ""
        exclusion = _EXCLUSION.match(previous)
        found.append(
            Block(
                page=page,
                line=opened + 1,
                language=language,
                words=tuple(word for word in words if not word.startswith("title=")),
                title=title[1] if title else None,
                text="\n".join(lines[opened + 1 : number]) + "\n",
                before=_paragraph_before(lines, opened),
                excluded=exclusion[1] if exclusion else None,
            )
        )
        opened = None
    if opened is not None:
        raise ValueError(f"{page}:{opened + 1}: this block is not closed")
    return found


def _paragraph_before(lines: list[str], fence: int) -> str:
    above = [line for line in lines[:fence] if not _EXCLUSION.match(line)]
    while above and not above[-1].strip():
        above.pop()
    paragraph: list[str] = []
    while above and above[-1].strip():
        paragraph.insert(0, above.pop())
    return "\n".join(paragraph)


def commands(block: Block) -> list[Command]:
    """The commands of a console block, each with what it is shown to print."""
    found: list[Command] = []
    lines = block.text.splitlines()
    place = 0
    while place < len(lines):
        if not lines[place].startswith("$ "):
            raise ValueError(f"{block.where}: a console block begins with a command, '$ …'")
        text = [lines[place][2:]]
        place += 1
        while place < len(lines) and lines[place].startswith("> "):
            text.append(lines[place][2:])
            place += 1
        begin = place
        while place < len(lines) and not lines[place].startswith("$ "):
            place += 1
        found.append(
            Command(
                text="\n".join(text),
                output="\n".join(lines[begin:place]),
                begin=block.line + 1 + begin,
                end=block.line + 1 + place,
            )
        )
    return found


class Mismatch(AssertionError):
    """What was printed is not what the page shows."""


@dataclass(slots=True)
class Bindings:
    """Which value of a run stands for which of the page."""

    values: dict[str, str] = field(default_factory=dict)

    def applied(self, text: str) -> str:
        """The page's text with the run's values, as far as they are known."""
        return _VALUE.sub(lambda found: self.values.get(found[0], found[0]), text)

    def undone(self, text: str) -> str:
        """The run's text with the page's values, the longest first."""
        for shown, actual in sorted(self.values.items(), key=lambda pair: -len(pair[1])):
            text = text.replace(actual, shown)
        return text

    def compare(self, shown: str, printed: str, *, prefix: bool = False) -> None:
        """Raise `Mismatch` unless `printed` is what `shown` describes (or begins so); learn its values if it is."""
        shown, printed = _trimmed(shown), _trimmed(printed)
        pattern, kinds = self._pattern(shown)
        match = re.compile(pattern, re.DOTALL)
        found = match.match(printed) if prefix else match.fullmatch(printed)
        if found is None:
            expected, seen = self.applied(shown).splitlines(), printed.splitlines()
            raise Mismatch("\n".join(difflib.unified_diff(expected, seen, "shown", "printed", lineterm="")))
        learnt = {kinds[name]: value for name, value in found.groupdict().items() if name in kinds}
        self.values.update(learnt)

    def _pattern(self, shown: str) -> tuple[str, dict[str, str]]:
        pieces: list[str] = []
        names: dict[str, str] = {}
        here: dict[str, str] = {}
        place = 0
        for value in _VALUE.finditer(shown):
            pieces.append(_escaped(shown[place : value.start()]))
            place = value.end()
            kind, text = value.lastgroup or "", value[0]
            if kind in _UNBOUND:
                pieces.append(f"(?:{PLACEHOLDERS[kind]})")
            elif text in self.values:
                pieces.append(re.escape(self.values[text]))
            elif text in here:
                pieces.append(f"(?P={here[text]})")
            else:
                name = f"v{len(names)}"
                here[text] = name
                names[name] = text
                pieces.append(f"(?P<{name}>{PLACEHOLDERS[kind]})")
        pieces.append(_escaped(shown[place:]))
        return "".join(pieces), names


def _escaped(text: str) -> str:
    return "\n".join(".*?" if line == _ELISION else re.escape(line) for line in text.split("\n"))


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in _NOISE.sub("", text).splitlines()).strip("\n")


class Shell:
    """A bash that keeps its variables and directory from command to command. Everything it started ends with it."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._logs = directory
        self._count = 0
        self._background: list[str] = []
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError, Mismatch):
            for job in reversed(self._background):
                self.run(f"kill -TERM {job} 2>/dev/null; wait {job}")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # the session that was made above
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def run(self, text: str) -> str:
        """Run a command to its end, and return what it printed, errors included."""
        self._count += 1
        mark = f"-- end of command {self._count} --"
        self._tell(f"{{ {text}\n}} </dev/null 2>&1\nprintf '%s' '{mark}'\n")
        return self._heard(mark, text)

    def start(self, text: str) -> Path:
        """Leave a command running, and return the file that it prints to."""
        self._count += 1
        log = self._logs / f".background-{self._count}.log"
        job = self.run(f"{{ exec {text}\n}} >{shlex.quote(str(log))} 2>&1 & echo $!").strip()
        self._background.append(job)
        return log

    def _tell(self, text: str) -> None:
        if self._process.stdin is None:
            raise OSError("the shell has no input")
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def _heard(self, mark: str, command: str) -> str:
        pipe = self._process.stdout
        if pipe is None:
            raise OSError("the shell has no output")
        heard = b""
        deadline = time.monotonic() + _PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while not heard.endswith(mark.encode()):
                if not selector.select(deadline - time.monotonic()):
                    raise Mismatch(f"{command!r} did not end within {_PATIENCE:g} s: {heard.decode()}")
                piece = os.read(pipe.fileno(), 65536)
                if not piece:
                    raise Mismatch(f"the shell ended in {command!r}: {heard.decode()}")
                heard += piece
        return heard.removesuffix(mark.encode()).decode()


@dataclass(slots=True, kw_only=True)
class Reading:
    """A page being read: its files written and its commands run, in order, in a home directory of its own."""

    page: Path
    home: Path
    shell: Shell
    bindings: Bindings
    printed: dict[int, tuple[int, str]] = field(default_factory=dict)
    """What has to be put in the place of the lines from … to … of the page."""

    def read(self, *, write: bool = False) -> None:
        """Raise `Mismatch` at the first thing that is not as the page says; with `write`, note it instead."""
        for block in blocks(self.page):
            if block.excluded is not None:
                continue
            if block.title is not None:
                self._write(block)
            elif block.language == "console":
                self._run(block, write=write)

    def _write(self, block: Block) -> None:
        directory = Path(self.shell.run("pwd").strip())
        path = directory / str(block.title)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.bindings.applied(block.text), encoding="utf-8")

    def _run(self, block: Block, *, write: bool) -> None:
        found = commands(block)
        for command in found:
            text = self.bindings.applied(command.text)
            background = "background" in block.words and command is found[-1]
            if background:
                self._await(command, self.shell.start(text), block)
                await_listeners(text)
                continue
            time.sleep(_PAUSE)
            printed = self.shell.run(text)
            try:
                self.bindings.compare(command.output, printed)
            except Mismatch as mismatch:
                if not write:
                    raise Mismatch(f"{block.where}: $ {command.text}\n{mismatch}") from None
                self.printed[command.begin] = (command.end, self.bindings.undone(_trimmed(printed)))

    def _await(self, command: Command, log: Path, block: Block) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self.bindings.compare(command.output, log.read_text(encoding="utf-8"), prefix=True)
            except (Mismatch, FileNotFoundError) as mismatch:
                if time.monotonic() > deadline:
                    raise Mismatch(f"{block.where}: $ {command.text}\n{mismatch}") from None
                time.sleep(0.05)
            else:
                return


@contextlib.contextmanager
def reading(page: Path, home: Path, environment: Mapping[str, str]) -> Iterator[Reading]:
    """A page with a shell for it. Ports are chosen here, unless a demo on the page chooses them itself."""
    bindings = Bindings({HOME: str(home)})
    written = [block.text for block in blocks(page) if block.excluded is None]
    if not any(text.startswith("$ ostiary demo\n") for text in written):
        shown = {found[0] for text in written for found in _VALUE.finditer(text) if found.lastgroup == "port"}
        bindings.values |= dict(zip(sorted(shown), free_ports(len(shown)), strict=True))
    with Shell(home, environment) as shell:
        yield Reading(page=page, home=home, shell=shell, bindings=bindings)


def await_listeners(command: str) -> None:
    """Wait until somebody listens on each port that a command names: what it starts may say nothing when it is up."""
    deadline = time.monotonic() + _PATIENCE
    for port in [int(found[0]) for found in _VALUE.finditer(command) if found.lastgroup == "port"]:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                if time.monotonic() > deadline:
                    raise Mismatch(f"{command!r} does not listen on {port}") from None
                time.sleep(0.05)
            else:
                break


def free_ports(count: int) -> list[str]:
    """Different ports on which nobody listens."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return [str(port) for port in found]


def rewrite(page: Path, printed: Mapping[int, tuple[int, str]]) -> None:
    """Put what was printed into the page. Output with an elision is for people to change."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for begin, (end, text) in sorted(printed.items(), reverse=True):
        if _ELISION not in lines[begin - 1 : end - 1]:
            lines[begin - 1 : end - 1] = text.splitlines()
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
