"""Building a bundle directory: the compiled map beside the Rego that reads it.

    OUT/.manifest          revision, roots `ostiary` and `policy`
    OUT/data.json          {"ostiary": {"map": …}}
    OUT/ostiary, policy/   our Rego, without its own tests; `policy/` stands in for hooks that the organisation has not
    OUT/organisation/      the organisation's Rego as it is in the source, without its tests

So OPA loads OUT as it is, and another test is no other revision. The tests are compiled with what was built, and with
`ostiary.testing`, which is for them alone. What no decision needs is not in it: OPA compiles all of a bundle's Rego
whenever it gets one, and meanwhile decides by the one before. Equal sources give equal bytes, whatever the machine.

OUT is put in place whole: written beside, then renamed. Between the two renames OUT does not exist for an instant,
during which OPA keeps what it has.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from ostiary.clock import SystemClock
from ostiary.errors import ConfigurationError
from ostiary.models import Json
from ostiary.policy.approving import approving_warnings
from ostiary.policy.compiler import FORMAT, compile_map
from ostiary.policy.document import Place, read_document
from ostiary.policy.model import Eligibility, Permission, PermissionMap, load_permissions
from ostiary.policy.observing import observing_mistakes, observing_warnings
from ostiary.policy.organisation import PACKAGE, TESTS, Organisation, read_organisation
from ostiary.policy.probes import probe_warnings, probes
from ostiary.policy.rego import Opa, RegoMistake
from ostiary.policy.terms import canonical
from ostiary.policy.words import closest, quoted

PERMISSIONS: Final = "permissions.yaml"
"""The name of the map in a source directory."""

MANIFEST: Final = ".manifest"
ROOTS: Final = ("ostiary", PACKAGE)
_ORGANISATION: Final = "organisation"
_DIGEST_LENGTH: Final = 16
_GIT_DEADLINE: Final = 30  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What was built. `warnings` are complete lines, `file:line: text`."""

    revision: str
    path: Path
    warnings: tuple[str, ...]


def build_bundle(source: Path, out: Path, *, opa: Path, sequence: int | None, rego_root: Path) -> Bundle:
    """Compile the directory `source` into the bundle directory `out`, replacing the bundle that is there.

    `opa` is the binary. `sequence` is the revision's; if None, the number of commits that the
    source's git repository has, and 0 without one. `rego_root` holds our own Rego (`ostiary.assets.rego()`).

    Raises `ConfigurationError` with every mistake, and leaves `out` as it was.
    """
    rego = Opa(opa)
    _refuse_foreign(out)
    organisation = read_organisation(source, rego, beside=out)
    now = SystemClock().now()
    permissions = _permissions(source, organisation, now=now)
    warnings = [
        *organisation.warnings,
        *observing_warnings(source / PERMISSIONS, permissions, now=now),
        *approving_warnings(source / PERMISSIONS, permissions),
    ]
    if sequence is None:
        sequence = _commits(source, warnings)
    if sequence < 0:
        raise ConfigurationError([f"{source}: a sequence is not negative"])
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as directory:
        place = Path(directory) / "bundle"
        content = compile_map(permissions, hooks=organisation.hooks, reads_query=organisation.denies_by_query)
        if not organisation.hooks:
            content["probes"] = probes(permissions, ask=None)
        _write(place, source, organisation, content, rego_root)
        capabilities = Path(directory) / "capabilities.json"
        _check(place, source, organisation, rego, beside=rego_for_tests(rego_root), capabilities=capabilities)
        if organisation.hooks:
            content["probes"] = probes(permissions, ask=partial(_allowed, place, rego))
            warnings.extend(probe_warnings(source, permissions, content["probes"]))
            _write_data(place, content)
        revision = f"{sequence}-{_digest(place)}"
        _write_json(place / MANIFEST, _manifest(revision))
        _put_in_place(place, out, aside=Path(directory) / "replaced")
    return Bundle(revision=revision, path=out, warnings=tuple(warnings))


def _permissions(source: Path, organisation: Organisation, *, now: float) -> PermissionMap:
    """The map, if both it and the organisation's Rego are without mistakes; else all mistakes of both."""
    mistakes = list(organisation.mistakes)
    path = source / PERMISSIONS
    try:
        permissions = load_permissions(path)
    except ConfigurationError as error:
        raise ConfigurationError([*error.mistakes, *mistakes]) from error
    mistakes.extend(observing_mistakes(path, permissions, now=now))
    if not organisation.mistakes:  # a file that cannot be read may hold the condition
        mistakes.extend(_unknown_conditions(path, permissions, organisation))
    if mistakes:
        raise ConfigurationError(mistakes)
    return permissions


def _unknown_conditions(path: Path, permissions: PermissionMap, organisation: Organisation) -> Iterator[str]:
    known = organisation.conditions
    wanted = [*_custom("permissions", permissions.permissions), *_custom("eligible", permissions.eligible)]
    unknown = [(place, name) for place, name in wanted if name not in known]
    if not unknown:
        return
    document = read_document(path)
    for place, name in unknown:
        line = document.line(place)
        yield f"{path}:{line}: no rule answers the condition {quoted(name)}{closest(name, known)}"


def _custom(section: str, entries: Sequence[Permission | Eligibility]) -> Iterator[tuple[Place, str]]:
    for index, entry in enumerate(entries):
        if entry.when is not None:
            yield from (((section, index, "when", "custom", name), name) for name in entry.when.custom or ())


def _write(place: Path, source: Path, organisation: Organisation, content: Json, rego_root: Path) -> None:
    place.mkdir()
    _write_data(place, content)
    for path in our_rego(rego_root):
        _copy(path, place / path.relative_to(rego_root))
    for path in organisation.rules:
        _copy(path, in_bundle(path, source, place))


def _write_data(place: Path, content: Json) -> None:
    _write_json(place / "data.json", {"ostiary": {"map": content}})


def _allowed(place: Path, rego: Opa, questions: Sequence[Json]) -> list[bool]:
    """What the bundle says. One question that fails, fails all: then each half is asked by itself."""
    try:
        decisions, _ = rego.evaluate(place, "data.ostiary.authz.decisions", {"evaluations": list(questions)})
        return [each["allow"] is True for each in decisions]
    except ConfigurationError:
        if len(questions) == 1:
            return [False]
        half = len(questions) // 2
        return [*_allowed(place, rego, questions[:half]), *_allowed(place, rego, questions[half:])]


def in_bundle(path: Path, source: Path, bundle: Path) -> Path:
    """Where the bundle has a file of the organisation's."""
    return bundle / _ORGANISATION / path.relative_to(source)


def our_rego(root: Path) -> list[Path]:
    """Our own Rego, as every bundle has it: without tests, and without what is for tests and for explanations."""
    aside = (rego_for_tests(root), rego_for_explanations(root))
    found = [path for path in sorted(root.rglob("*.rego")) if not path.match(TESTS) and path not in aside]
    if not found:
        raise ConfigurationError([f"{root}: there is no Rego of ostiary's here"])
    return found


def rego_for_tests(root: Path) -> Path:
    """`data.ostiary.testing`, which tests import."""
    return root / "ostiary" / "testing" / "testing.rego"


def rego_for_explanations(root: Path) -> Path:
    """`data.ostiary.explain`, which reads a bundle for people."""
    return root / "ostiary" / "explain" / "explain.rego"


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(path.read_bytes())


def _write_json(path: Path, document: Json) -> None:
    path.write_text(canonical(document) + "\n", encoding="ascii")


def _check(
    place: Path, source: Path, organisation: Organisation, opa: Opa, *, beside: Path, capabilities: Path
) -> None:
    """What will be enforced must do without impure built-ins; tests, which have `beside`, may use them."""
    capabilities.write_text(json.dumps(opa.pure_capabilities()), encoding="utf-8")
    found = opa.check(place, capabilities=capabilities) or opa.check(place, *organisation.tests, beside)
    if not found:
        return
    lines = list(_circles(found, organisation))
    if lines:
        raise ConfigurationError(lines)
    theirs = place / _ORGANISATION
    for mistake in found:
        path = mistake.path
        if path.is_relative_to(theirs):
            path = source / path.relative_to(theirs)
        named = path if path.is_relative_to(source) else path.name
        lines.append(f"{named}:{mistake.row}: {mistake.message}")
    raise ConfigurationError(lines)


def _circles(found: Sequence[RegoMistake], organisation: Organisation) -> Iterator[str]:
    """Where the organisation's rules ask for what asks them. OPA tells the whole circle, rule by rule, in our files."""
    circles = [mistake.message for mistake in found if " is recursive: " in mistake.message]
    for place, package in organisation.asked:
        if any(f"{package}." in circle for circle in circles):
            yield f"{place}: {package} asks the rules of the organisation, which so cannot ask for it"


def _digest(place: Path) -> str:
    """Of every file's path and content, so that nothing in the bundle can change under one revision."""
    digest = hashlib.sha256()
    for path in sorted(place.rglob("*")):
        if path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{content}  {path.relative_to(place).as_posix()}\n".encode())
    return digest.hexdigest()[:_DIGEST_LENGTH]


def _manifest(revision: str) -> Json:
    return {
        "revision": revision,
        "roots": list(ROOTS),
        "rego_version": 1,
        "metadata": {"ostiary": {"format": FORMAT}},
    }


def _refuse_foreign(out: Path) -> None:
    """A directory with anything in it is replaced only if it is a bundle that was built here."""
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise ConfigurationError([f"{out}: this is not a directory, and is not replaced"])
    if not any(out.iterdir()):
        return
    try:
        manifest = json.loads((out / MANIFEST).read_bytes())
        ours = "ostiary" in manifest["metadata"]
    except (OSError, ValueError, LookupError, TypeError):
        ours = False
    if not ours:
        raise ConfigurationError([f"{out}: this directory has other content than a bundle of ostiary's; not replaced"])


def _put_in_place(place: Path, out: Path, *, aside: Path) -> None:
    place.chmod(0o755)
    if out.exists():
        out.rename(aside)
    try:
        place.rename(out)
    except OSError:
        if aside.exists():
            aside.rename(out)
        raise


def _commits(source: Path, warnings: list[str]) -> int:
    if _git(source, "rev-parse", "--is-inside-work-tree") != "true":
        return 0
    if _git(source, "rev-parse", "--is-shallow-repository") == "true":
        warnings.append(
            f"{source}:1: a shallow clone does not know its commit count: fetch it whole or give a sequence"
        )
    count = _git(source, "rev-list", "--count", "HEAD")
    return int(count) if count.isdecimal() else 0


def _git(source: Path, *arguments: str) -> str:
    """What git answers, or nothing: without git, or outside a repository, there is no count."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        run = subprocess.run(  # noqa: S603 - no shell, fixed arguments
            ["git", "-C", str(source), *arguments],  # noqa: S607 - git is wherever PATH has it
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
            env=environment,
            timeout=_GIT_DEADLINE,
        )
        if run.returncode == 0:
            return run.stdout.strip()
    return ""
