"""Errors as a person at a terminal should see them: what, where, what to do; no traceback for what was foreseen."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from pilothouse.core.errors import ConfigError, PilothouseError

P = ParamSpec("P")
R = TypeVar("R")

WRONG_CONFIG, FAILED = 2, 1


def exits_with_problems(command: Callable[P, R]) -> Callable[P, R]:
    """Turns our own errors into messages and exit statuses. Anything else is a bug and keeps its traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ConfigError as error:
            for problem in error.problems:
                typer.echo(f"pilothouse: {problem}", err=True)
            raise typer.Exit(WRONG_CONFIG) from None
        except PilothouseError as error:
            typer.echo(f"pilothouse: {error}", err=True)
            raise typer.Exit(FAILED) from None

    return run
