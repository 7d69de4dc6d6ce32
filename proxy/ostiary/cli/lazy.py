"""Groups of commands: one whose modules are imported when they are used, and one whose help cuts nothing off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup

from ostiary.cli import uncollected

_SENTENCE: Final = 500
"""Characters, more than any has."""


class Group(TyperGroup):
    """Its help has the whole first sentence of each command, where click cuts it off at the end of a line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(limit=_SENTENCE)) for name, one in self.commands.items()])


def lazy_group(commands: Mapping[str, str], *, package: str) -> type[TyperGroup]:
    """The class of a group of `commands`: names, each with its line in the help.

    The command `name` is the module `package.name`: its `app`, where that is a group itself, or its function `command`.
    """

    class LazyGroup(TyperGroup):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.commands = _Modules(tuple(commands), package=package)  # type: ignore[assignment]  # read only here

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            """The help's list of commands, for which none of them is imported."""
            with formatter.section("Commands"):
                formatter.write_dl(list(commands.items()))

    return LazyGroup


class _Modules(Mapping[str, Any]):
    """Commands by name, each made from its module when it is asked for."""

    def __init__(self, names: tuple[str, ...], *, package: str) -> None:
        self._names = names
        self._package = package

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        with uncollected():
            module = import_module(f"{self._package}.{name}")
        parent = typer.Typer(pretty_exceptions_enable=False, add_completion=False, rich_markup_mode=None)
        if hasattr(module, "app"):
            parent.add_typer(module.app, name=name)
        else:
            parent.command(name)(module.command)
        return typer.main.get_group(parent).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
