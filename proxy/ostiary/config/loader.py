"""Reading `ostiary.yaml`, once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ostiary.config.fields import VARIABLE
from ostiary.config.model import Config
from ostiary.errors import ConfigurationError
from ostiary.policy.document import Place, read_document
from ostiary.policy.mistakes import Inspection

CONFIGURATION: Final = Path("ostiary.yaml")
"""The file, where none is named."""

SECRETS: Final[frozenset[Place]] = frozenset(
    {
        ("opa", "token"),
        ("grants", "url"),
        ("grants", "webhooks", "<name>", "url"),
        ("grants", "webhooks", "<name>", "secret"),
    }
)
"""Where the whole value may be `${NAME}`, an environment variable. `<name>` stands for any."""


def load_config(path: Path, environ: Mapping[str, str]) -> Config:
    """Read and check the configuration; `environ` fills secrets.

    Relative paths are relative to the file. Raises `ConfigurationError` with every mistake, each
    `file:line: what is wrong`; a secret is in none of them.
    """
    if path == CONFIGURATION and not os.path.lexists(path):
        raise ConfigurationError([f"{path}: there is no such file here; -c names another, ostiary init writes one"])
    document = read_document(path)
    inspection = Inspection(document)
    *names, last = (".".join(map(str, place)) for place in sorted(SECRETS))
    hint = f"an environment variable fills a secret only ({', '.join(names)} and {last}): write the value"
    inspection.refuse(Config, {place: hint for place in _variables(document.value, ()) if not _secret(place)})
    return inspection.validate(Config, {"base": path.absolute().parent, "environ": environ})


def _secret(place: Place) -> bool:
    return any(
        len(place) == len(known) and all(step in ("<name>", given) for step, given in zip(known, place, strict=True))
        for known in SECRETS
    )


def _variables(value: Any, place: Place) -> Iterator[Place]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _variables(entry, (*place, key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _variables(entry, (*place, index))
    elif isinstance(value, str) and VARIABLE.search(value):
        yield place
