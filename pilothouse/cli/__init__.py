"""The command line: opens files, shows what comes back, sets the exit status."""

from pilothouse.cli.app import app

__all__ = ["app"]
