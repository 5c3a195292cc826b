"""advise: what to change about a fleet, and why. Each question is a command; its work is done in `plan/`."""

import typer

advise_app = typer.Typer(no_args_is_help=True, help="What to change, and why.")


@advise_app.callback()
def questions() -> None:
    """What to change, and why."""
