"""What a deployment runs, as a CycloneDX 1.6 document: ostiary, its dependencies, and the OPA that it installs.

    python deploy/sbom.py ENVIRONMENT > sbom.cdx.json

ENVIRONMENT is a virtual environment in which ostiary is installed and nothing but what it needs, or its Python.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ostiary.opa.install import PINNED

ROOT = Path(__file__).resolve().parent.parent


def components(environment: str) -> dict[str, Any]:
    """The document for the Python of an environment. Raises `CalledProcessError`."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", str(ROOT / "pyproject.toml")]
    command += ["--spec-version", "1.6", "--output-format", "JSON", "--output-reproducible", environment]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def with_opa(document: dict[str, Any], *, version: str) -> dict[str, Any]:
    """The document with the program that decides, on which ostiary itself depends."""
    reference = f"opa@{version}"
    opa = {
        "type": "application",
        "bom-ref": reference,
        "name": "opa",
        "version": version,
        "purl": f"pkg:golang/github.com/open-policy-agent/opa@v{version}",
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }
    ours = document["metadata"]["component"]["bom-ref"]
    dependencies = [
        one | {"dependsOn": sorted([*one.get("dependsOn", ()), reference])} if one["ref"] == ours else one
        for one in document["dependencies"]
    ]
    return document | {
        "components": [*document["components"], opa],
        "dependencies": [*dependencies, {"ref": reference}],
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    print(json.dumps(with_opa(components(sys.argv[1]), version=PINNED), indent=2))
