"""Third-party policies: found by entry point, named when they are wrong, and nothing can be registered after them."""

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, entry_points
from pathlib import Path

import pytest

from pilothouse import plugins
from pilothouse.config.policy import profile
from pilothouse.core.errors import ConfigError
from pilothouse.core.policy import filters, pickers, queues, scorers
from tests.core.worlds import arrived, given, route

EXAMPLE = Path(__file__).parent.parent / "examples" / "plugin"
Install = Callable[[str, str, str], None]


@pytest.fixture(autouse=True)
def _registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers and seals is gone after it."""
    for registry in (filters, scorers, pickers, queues):
        monkeypatch.setattr(registry, "_types", dict(registry._types))
        monkeypatch.setattr(registry, "_sealed", False)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with one module where Python finds both."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def add(name: str, module: str, source: str) -> None:
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{module} = {module}\n")

    yield add
    for module in set(sys.modules) - before:
        del sys.modules[module]


def test_the_example_is_found_and_routes(install: Install) -> None:
    install("pilothouse-spread", "pilothouse_spread", (EXAMPLE / "pilothouse_spread.py").read_text())
    assert plugins.load_plugins() == ["pilothouse-spread 1.0"]
    chosen = profile({"scorers": [{"type": "knee", "requests": 2}]})
    given("a streaming=3 | b streaming=1", chosen).when(arrived("r", 10)).expect(route("r", "b"))
    with pytest.raises(ConfigError, match=r"policy\.scorers\[0\]: requests must be at least 1"):
        profile({"scorers": [{"type": "knee", "requests": 0}]})


def test_the_example_declares_what_it_contains() -> None:
    import tomllib

    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
    (module,) = project["project"]["entry-points"][plugins.GROUP].values()
    assert (EXAMPLE / f"{module}.py").is_file()


def test_the_test_of_the_example_passes(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    install("pilothouse-spread", "pilothouse_spread", (EXAMPLE / "pilothouse_spread.py").read_text())
    import test_pilothouse_spread  # type: ignore[import-not-found]

    test_pilothouse_spread.test_it_is_flat_up_to_the_knee_and_falls_behind_it()


def test_every_plugin_that_is_wrong_is_named(install: Install) -> None:
    good = (
        "from pilothouse.core.policy import Scorer, scorers\n@scorers.register({!r})\nclass A(Scorer, frozen=True):\n"
    )
    install("missing-import", "missing_import", "import nowhere_to_be_found")
    install("taken-name", "taken_name", good.format("session") + "    'A page.'\n")
    install("no-manual", "no_manual", good.format("other") + "    pass\n")
    with pytest.raises(ConfigError) as caught:
        plugins.load_plugins()
    lines = [str(problem) for problem in caught.value.problems]
    assert lines == [
        "plugin missing-import 1.0: missing_import: ModuleNotFoundError: No module named 'nowhere_to_be_found'",
        "plugin no-manual 1.0: no_manual: AssertionError: scorer other has no docstring, which is its manual page",
        "plugin taken-name 1.0: taken_name: AssertionError: scorer session is registered twice",
    ]


def test_without_plugins_the_registries_are_closed_all_the_same() -> None:
    assert [entry.name for entry in entry_points(group=plugins.GROUP) if isinstance(entry.dist, Distribution)] == []
    assert plugins.load_plugins() == []
    for registry in (filters, scorers, pickers, queues):
        with pytest.raises(AssertionError, match="sealed"):
            registry.register("late")
            registry.register("late")(object)  # type: ignore[arg-type]
