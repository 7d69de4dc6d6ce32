"""`ostiary run`"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ostiary.cli.output import fail
from ostiary.config import CONFIGURATION, load_config
from ostiary.logs import configure_logging
from ostiary.opa.install import OpaNotFound
from ostiary.opa.probe import OpaNotReady
from ostiary.supervisor import serve


def command(
    config: Annotated[Path, typer.Option("-c", "--config", metavar="FILE", help="The configuration.")] = CONFIGURATION,
) -> None:
    """Run the proxy until SIGTERM or SIGINT, which drain it. SIGHUP reads the configuration again."""
    loaded = load_config(config, os.environ)
    configure_logging(level=loaded.logging.level, form=loaded.logging.format)
    try:
        serve(loaded, file=config)
    except (OpaNotFound, OpaNotReady, OSError) as error:
        fail(f"{config}: {error}", status=1)
