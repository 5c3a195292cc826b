"""Every configuration that a reader may copy, in examples and documents, is one that the gateway accepts."""

import re
import textwrap
from pathlib import Path

import pytest

from pilothouse.config.load import load

ROOT = Path(__file__).resolve().parents[2]
HIDDEN = re.compile(r"/(\.[^/]+|node_modules|__pycache__)/")
BLOCK = re.compile(r"^( *)```ya?ml[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def shown(pattern: str) -> list[Path]:
    folders = (ROOT / "examples", ROOT / "docs")
    return sorted(path for folder in folders for path in folder.rglob(pattern) if not HIDDEN.search(str(path)))


def configurations() -> list[tuple[str, str]]:
    """Where it stands, and its text. A file or block without `pools` is something else, or a part of one; one with a
    workload is a scenario."""
    found = [(str(path.relative_to(ROOT)), path.read_text()) for path in [*shown("*.yaml"), *shown("*.yml")]]
    for document in [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *shown("*.md")]:
        text = document.read_text()
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            found.append((f"{document.relative_to(ROOT)}:{line}", textwrap.dedent(block[2])))
    return [
        (where, text)
        for where, text in found
        if re.search(r"^pools:", text, re.MULTILINE) and not re.search(r"^workload:", text, re.MULTILINE)
    ]


@pytest.mark.parametrize(("where", "text"), configurations(), ids=lambda value: value if len(value) < 80 else "")
def test_a_shown_configuration_loads(where: str, text: str) -> None:
    load(text, where)


def test_there_is_something_to_check() -> None:
    places = [where for where, _ in configurations()]
    assert "examples/pilothouse.yaml" in places
    assert any(where.startswith("README.md") for where in places)


def test_links_between_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *shown("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.relative_to(ROOT)}: {target}"
