"""What a deployment's files say is to be run, run on this machine: the commands, arguments, files and mounts of its
containers, with every path of theirs below a temporary root.

    with laid_out(root, pod, config_maps=…, secrets=…) as pod:
        opa = pod.start("opa")

What is not run is what a container runtime does: the image, its user, its namespaces and its limits.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

PATIENCE: Final = 60.0
POD: Final = "ostiary-0"
"""Its name, the one thing that a container asks of the cluster."""
_END_OF_A_PATH: Final = r"(?![A-Za-z0-9_.-])"


def mapped(text: str, paths: Mapping[str, Path]) -> str:
    """The text with each of these paths replaced, and with this machine alone listened on."""
    known = sorted(paths, key=len, reverse=True)
    pattern = "|".join(map(re.escape, known)) or "(?!)"
    text = re.sub(rf"(?<![A-Za-z0-9_.-])(?:{pattern}){_END_OF_A_PATH}", lambda found: str(paths[found[0]]), text)
    return text.replace("0.0.0.0:", "127.0.0.1:")


@dataclass(kw_only=True)
class Container:
    """`paths` are where its mounts are on this machine."""

    name: str
    command: Sequence[str]
    paths: Mapping[str, Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def argv(self, command: Sequence[str], programs: Mapping[str, Sequence[str]]) -> list[str]:
        program, *arguments = command
        return [*programs[Path(program).name], *(mapped(each, self.paths) for each in arguments)]


class Processes:
    """Containers by name, as processes. Those that still run when this is left are ended by force."""

    def __init__(self, root: Path, containers: Sequence[Container], *, opa: Path) -> None:
        self.containers = {one.name: one for one in containers}
        self._root = root
        self._programs = {"ostiary": [sys.executable, "-m", "ostiary"], "opa": [str(opa)]}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.containers.values():
            if one.process is not None and one.process.poll() is None:
                one.process.kill()
                one.process.wait()

    def log(self, name: str) -> str:
        return (self._root / f"{name}.log").read_text(encoding="utf-8")

    def start(self, name: str) -> None:
        one = self.containers[name]
        with (self._root / f"{name}.log").open("wb") as log:
            one.process = subprocess.Popen(
                one.argv(one.command, self._programs),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._root,
                env={"PATH": os.environ["PATH"], "SSL_CERT_FILE": os.devnull, **one.environment},
            )

    def probe(self, name: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in a container."""
        argv = self.containers[name].argv(command, self._programs)
        return subprocess.run(argv, cwd=self._root, capture_output=True, text=True, check=False, timeout=PATIENCE)

    def await_probe(self, name: str, command: Sequence[str]) -> None:
        """Run it until it succeeds, as the kubelet does. Raises `TimeoutError` with the log if it never does."""
        last = ""

        def succeeds() -> bool:
            nonlocal last
            process = self.containers[name].process
            if process is None or process.poll() is not None:
                raise ChildProcessError(f"{name} does not run: {self.log(name)}")
            done = self.probe(name, command)
            last = done.stdout + done.stderr
            return done.returncode == 0

        try:
            until(succeeds, pause=0.3)
        except TimeoutError:
            raise TimeoutError(f"{name}: {last}{self.log(name)}") from None

    def end(self, name: str) -> int:
        """SIGTERM, and the exit status."""
        process = self.containers[name].process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        return process.wait(PATIENCE)


def until(holds: Callable[[], object], *, pause: float = 0.05) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(pause)


# Pods


@dataclass(frozen=True, kw_only=True)
class Volumes:
    """What the cluster would have: config maps and secrets by name, each entry's content by its key."""

    root: Path
    config_maps: Mapping[str, Mapping[str, str]]
    secrets: Mapping[str, Mapping[str, bytes]]


def containers_of(template: Mapping[str, Any], volumes: Volumes, *, claims: Sequence[str]) -> list[Container]:
    """Of a pod's template, its volumes made below `volumes.root`: first those that start first."""
    spec = template["spec"]
    places = {name: _empty(volumes.root / name) for name in claims}
    places |= {each["name"]: _volume(each, volumes) for each in spec["volumes"]}
    return [
        _container(each, spec["volumes"], places, volumes)
        for each in [*spec.get("initContainers", []), *spec["containers"]]
    ]


def _container(
    container: Mapping[str, Any], listed: Sequence[Mapping[str, Any]], places: Mapping[str, Path], volumes: Volumes
) -> Container:
    mounts = container["volumeMounts"]
    paths = {
        one["mountPath"]: places[one["name"]] / one["subPath"] if "subPath" in one else places[one["name"]]
        for one in mounts
    }
    maps = {each["name"]: each["configMap"]["name"] for each in listed if "configMap" in each}
    for one in mounts:
        for key, text in volumes.config_maps[maps[one["name"]]].items() if one["name"] in maps else ():
            if one.get("subPath", key) == key:
                (places[one["name"]] / key).write_text(mapped(text, paths), encoding="utf-8")
    return Container(
        name=container["name"],
        command=[*container.get("command", []), *container.get("args", [])],
        paths=paths,
        environment={one["name"]: one.get("value", POD) for one in container.get("env", [])},
    )


def _volume(volume: Mapping[str, Any], volumes: Volumes) -> Path:
    place = volumes.root / volume["name"]
    if "secret" in volume:
        secret = volume["secret"]
        content = volumes.secrets[secret["secretName"]]
        chosen = {one["path"]: content[one["key"]] for one in secret["items"]} if "items" in secret else content
        place.mkdir()
        publish(place, chosen, mode=secret["defaultMode"])
        return place
    return _empty(place)


def _empty(place: Path) -> Path:
    """As the kubelet leaves an `emptyDir`, or a claim, to the group of the pod."""
    place.mkdir()
    place.chmod(0o2777)
    return place


def publish(place: Path, files: Mapping[str, bytes], *, mode: int) -> None:
    """Put a secret's content into its volume as the kubelet does: all of it at once, behind a symbolic link."""
    version = place / f"..{time.time_ns()}"
    version.mkdir()
    for name, content in files.items():
        (version / name).touch(mode=0o600)
        (version / name).write_bytes(content)
        (version / name).chmod(mode)
        if not (place / name).is_symlink():
            (place / name).symlink_to(f"..data/{name}")
    link = place / "..new"
    link.symlink_to(version.name)
    link.replace(place / "..data")
