"""`python -m pilothouse.cli`, as the supervisor starts its children."""

from pilothouse.cli import app

app()
