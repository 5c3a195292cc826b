"""Third-party plugins: distributions that name a module in the entry point group `pilothouse.plugins`."""

from importlib.metadata import entry_points

from pilothouse import policies
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.policy import filters, pickers, scorers

GROUP = "pilothouse.plugins"
assert policies


def load_plugins() -> None:
    pass
