"""Installs Pilothouse itself, editable, into the environment of the Python that runs this file.

    VENV/bin/python engine/project.py [--extra demo] [--group dev]

By the same uv as the engine, and with the engine's versions as constraints: neither then replaces packages of the other.
"""

import argparse
import sys
import time
from pathlib import Path

from install import LOCK, CannotInstall, run_aloud, say, uv_command, uv_environment

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """One uv command."""
    parser = argparse.ArgumentParser(description="Installs Pilothouse, editable, into this environment.")
    parser.add_argument("--extra", action="append", default=[], help="optional dependencies, e.g. demo")
    parser.add_argument("--group", action="append", default=[], help="dependency group, e.g. dev")
    chosen = parser.parse_args()
    started = time.monotonic()
    extras = f"[{','.join(chosen.extra)}]" if chosen.extra else ""
    groups = [word for name in chosen.group for word in ("--group", f"{ROOT / 'pyproject.toml'}:{name}")]
    command = [*uv_command(), "pip", "install", "--python", sys.executable, "--constraints", str(LOCK)]
    if run_aloud([*command, "--editable", f"{ROOT}{extras}", *groups], uv_environment()):
        raise CannotInstall("uv could not install Pilothouse; its message is above. Is there a network?")
    say(f"Pilothouse is installed in {sys.prefix} ({time.monotonic() - started:.0f} s).")


if __name__ == "__main__":
    try:
        main()
    except CannotInstall as problem:
        sys.exit(f"Cannot install: {problem}")
    except KeyboardInterrupt:
        sys.exit("Stopped. Running it again goes on where it was.")
