"""A chart and what is to be said of it as an HTML file that needs nothing else."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from pilothouse.core.errors import ConfigError, PilothouseError, Problem
from pilothouse.report.charts import Figure

EXTRA = "pip install 'pilothouse[report]'"
STYLE = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}.note{color:#666}"


def write_chart(path: Path, title: str, figure: Figure, said: Sequence[str], notes: Sequence[str]) -> None:
    """Raises PilothouseError without the extra `report`, ConfigError where the file cannot be written."""
    try:
        from plotly.io import to_html  # type: ignore[import-untyped]
    except ImportError:
        raise PilothouseError(f"--page needs plotly: {EXTRA}; the table and --json do without") from None
    drawn = to_html(figure, include_plotlyjs=True, full_html=False)
    lines = [f"<p>{escape(line)}</p>" for line in said] + [f'<p class="note">{escape(line)}</p>' for line in notes]
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
        f"<h1>{escape(title)}</h1>{drawn}{''.join(lines)}</html>"
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot be written: {error.strerror}")]) from None
