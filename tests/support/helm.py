"""The chart, rendered by helm itself."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from support.tools import ROOT, tool

CHART: Final = ROOT / "deploy" / "helm" / "ostiary"
VALUES: Final = ROOT / "deploy" / "kubernetes" / "values.yaml"
KUBERNETES: Final = ("1.30", "1.37")
"""The versions whose schemas the manifests are held to: the oldest that the chart takes, and the newest known."""


class Refused(Exception):
    """Helm renders nothing of these values. The message is its own."""


def template(directory: Path, values: Mapping[str, Any], *, release: str = "ostiary") -> str:
    """What `helm template` prints for these values, over the chart's own."""
    path = directory / "values.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    command = [tool("helm"), "template", release, CHART, "--namespace", "ostiary", "--values", path]
    command += ["--kube-version", f"{KUBERNETES[-1]}.0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refused(done.stderr)
    return done.stdout


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def named(rendered: list[dict[str, Any]], kind: str, name: str = "ostiary") -> dict[str, Any]:
    (found,) = [one for one in rendered if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """As helm puts values over values."""
    found = dict(values)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if both else value
    return found
