"""The style is a test: layers, purity, one clock, types, lint, format, lengths, docstrings, and nothing of this machine.

An entry of an allow-list carries its reason; one that is no longer needed fails.
"""

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from pilothouse import policies
from pilothouse.core.policy import Policy, filters, pickers, queues, scorers

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pilothouse"
FILE_LINES_MAX, FUNCTION_LINES_MAX = 400, 70
CLOCK = "live/clock.py"

LONG_FILES = {  # path in the package -> reason
    "sim/engine.py": "one step of an engine: its parts share the counters that make a step cheap",
}
TYPED = ["pilothouse", "engine/install.py", "engine/project.py", "examples/demo", "examples/demo_pd"]
LONG_FUNCTIONS: dict[str, str] = {}  # path:name -> reason
CLOCK_READERS = {  # path -> reason
    "live/tokens/template.py": "chat templates may print the date, and the engine reads its clock for the same text",
}
# Beside local paths: hosts that only resolve where packages come from a mirror.
OF_THIS_MACHINE = re.compile(
    r"(?<![\w.:/-])/(?:work|root|mnt|home/\w+|Users/\w+)/\w|file:///\w|/simple/\w|index-url\s*="
)
TEXT = {".py", ".toml", ".md", ".yaml", ".yml", ".json", ".sh", ".cfg", ".lock", ".txt", ".html", ".js", ".css", ""}

assert policies  # importing it fills the registries


def run(*command: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=os.environ | {"MYPYPATH": "engine"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@cache
def modules() -> dict[str, ast.Module]:
    """Path in the package -> its tree."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in paths}


def test_imports_point_down_pure_packages_are_pure_and_one_file_reads_the_clock() -> None:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_logo=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_lint() -> None:
    code, said = run("ruff", "check", "--output-format=concise", ".")
    assert code == 0, said


def test_format() -> None:
    code, said = run("ruff", "format", "--check", "--output-format=concise", ".")
    assert code == 0, f"{said}make format puts it right"


def test_types() -> None:
    code, said = run("mypy", "--strict", *TYPED)
    assert code == 0, said


def test_files_are_short() -> None:
    long = {path for path in modules() if len((PACKAGE / path).read_text().splitlines()) > FILE_LINES_MAX}
    assert long == set(LONG_FILES) and all(LONG_FILES.values())


def test_functions_are_short() -> None:
    long = {
        f"{path}:{node.name}"
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
    }
    assert long == set(LONG_FUNCTIONS) and all(LONG_FUNCTIONS.values())


def test_every_module_says_what_it_is_for() -> None:
    assert [path for path, tree in modules().items() if not ast.get_docstring(tree)] == []


def reads_clock(tree: ast.Module) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(name.name.split(".")[0] == "time" for name in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = f"{ast.unparse(node.func.value)}.{node.func.attr}"
            if re.search(r"(date|datetime)\.(now|today|utcnow)$|loop(\(\))?\.time$", called):
                return True
    return False


def test_one_file_reads_the_clock() -> None:
    readers = {path for path, tree in modules().items() if reads_clock(tree)}
    assert readers == {CLOCK} | set(CLOCK_READERS) and all(CLOCK_READERS.values())


@pytest.mark.parametrize(
    "code",
    [
        "import time",
        "from time import sleep",
        "datetime.now()",
        "x.datetime.utcnow()",
        "asyncio.get_running_loop().time()",
        "loop.time()",
        "self._loop.time()",
        "date.today()",
    ],
)
def test_a_reader_of_the_clock_would_be_seen(code: str) -> None:
    assert reads_clock(ast.parse(code))


def test_every_plugin_has_its_manual_page() -> None:
    for registry in (filters, scorers, pickers, queues):
        for name, kind in registry:
            assert kind.__doc__ and kind.__doc__ != Policy.__doc__, name


def test_nothing_names_this_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in TEXT and path.is_file() and path != Path(__file__):
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                if OF_THIS_MACHINE.search(line):
                    found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert found == []
