"""`ostiary run`"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ostiary.cli.output import MISTAKE, fail
from ostiary.config import CONFIGURATION, Config, load_config
from ostiary.errors import ConfigurationError
from ostiary.logs import configure_logging
from ostiary.opa.install import OpaNotFound
from ostiary.opa.probe import OpaNotReady
from ostiary.supervisor import serve

_log = logging.getLogger("ostiary.run")


def command(
    config: Annotated[Path, typer.Option("-c", "--config", metavar="FILE", help="The configuration.")] = CONFIGURATION,
) -> None:
    """Run the proxy until SIGTERM or SIGINT, which drain it. SIGHUP reads the configuration again."""
    loaded = load_config(config, os.environ)
    configure_logging(level=loaded.logging.level, form=loaded.logging.format)
    try:
        serve(loaded, file=config)
    except ConfigurationError as error:
        _end(loaded, *error.mistakes, status=MISTAKE)
    except (OpaNotFound, OpaNotReady, OSError) as error:
        _end(loaded, f"{config}: {error}", status=1)


def _end(config: Config, *lines: str, status: int) -> NoReturn:
    """Say why it does not run: as text to whoever started it, or in the log if programs read that."""
    if config.logging.format == "text":
        fail(*lines, status=status)
    for line in lines:
        _log.critical("%s", line)
    raise typer.Exit(status)
