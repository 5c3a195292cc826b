"""Modules and groups of commands that are imported when they are used: a quick command waits for no other's imports."""

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group


class App(typer.Typer):
    """Builds only the command that the process was started for, if it was started for one of its own."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        asked = sys.argv[1:2]
        named = [command for command in self.registered_commands if _name(command) in asked]
        if named:
            self.registered_commands, self.registered_groups = named, []
        return super().__call__(*args, **kwargs)


class Later:
    """Stands for a module of this package."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(f"pilothouse.cli.{self._name}"), attribute)


def group_later(name: str, attribute: str, about: str) -> typer.Typer:
    """Stands for a `typer.Typer` of a module of this package; what it is about is told without importing it."""

    class Group(TyperGroup):
        def _real(self) -> Any:
            return get_group(getattr(import_module(f"pilothouse.cli.{name}"), attribute))

        def list_commands(self, ctx: Any) -> list[str]:
            return list(self._real().list_commands(ctx))

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return self._real().get_command(ctx, cmd_name)

    return typer.Typer(cls=Group, no_args_is_help=True, help=about)


def _name(command: Any) -> str:
    return str(command.name or command.callback.__name__.replace("_", "-"))
