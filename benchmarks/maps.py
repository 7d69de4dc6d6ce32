"""Maps of different sizes, by the Rego bench: how long they take to compile and to load, and what they weigh."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final

from benchmarks.processes import BUILD, MEASURED, ROOT, pinned

_BENCH: Final = ROOT / "benchmarks" / "rego.py"
_OPTION: Final = "--sizes"


def sizes() -> dict[str, Any] | None:
    """The Rego bench's result; None where it does not know about sizes. Its own gate is not this one's business."""
    if _OPTION not in _BENCH.read_text(encoding="utf-8"):
        return None
    result = BUILD / "bench-rego.json"
    result.unlink(missing_ok=True)
    done = subprocess.run([sys.executable, _BENCH, _OPTION], check=False, preexec_fn=pinned(MEASURED))
    if not result.exists():
        raise SystemExit(f"the Rego bench ended with {done.returncode}, without a result")
    document: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return document
