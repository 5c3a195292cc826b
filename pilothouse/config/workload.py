"""Workload files: one description for `sim`, `bench` and `plan`. Strict, with every problem and its path."""

from pathlib import Path
from typing import get_args

from pilothouse.config.convert import convert_tagged
from pilothouse.config.load import read_yaml
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.workload.spec import AnySpec, Recipe

KINDS = list(get_args(AnySpec))


def read_workload(data_or_path: object, base: Path) -> Recipe:
    """A mapping, or the path of a file that holds one, relative to `base`. Raises ConfigError with every problem.

    What a file refers to is looked for beside it; what a mapping refers to, in `base`.
    """
    problems: list[Problem] = []
    recipe = _read(data_or_path, base, "", problems)
    if recipe is None or problems:
        raise ConfigError(problems)
    return recipe


def _read(said: object, base: Path, where: str, problems: list[Problem]) -> Recipe | None:
    if isinstance(said, str | Path):
        return _from_file(base / said, where, problems)
    return _from_data(said, base, where, problems)


def _from_file(path: Path, where: str, problems: list[Problem]) -> Recipe | None:
    try:
        text = path.read_text(encoding="utf-8")
        data = read_yaml(text, str(path))
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(where or "workload", f"cannot read {path}: {_reason(error)}"))
        return None
    except ConfigError as error:
        problems += error.problems
        return None
    inner: list[Problem] = []
    recipe = _from_data(data, path.parent, "", inner)
    problems += [Problem(f"{path}: {p.where}" if p.where else str(path), p.what) for p in inner]
    return recipe


def _from_data(data: object, base: Path, where: str, problems: list[Problem]) -> Recipe | None:
    spec = convert_tagged(KINDS, data, where, problems)
    return None if spec is None else Recipe(spec)


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "is not UTF-8 text"
