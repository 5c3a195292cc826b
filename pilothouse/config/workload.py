"""Workload files: one description for `sim`, `bench` and `plan`. Strict, with every problem and its path."""

from pathlib import Path
from typing import get_args

import msgspec

from pilothouse.config.convert import convert_tagged
from pilothouse.config.load import read_yaml
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.workload.mix import Mix
from pilothouse.workload.spec import AnySpec, AnyTrace, Recipe, shape
from pilothouse.workload.traces import agentic, azure, mooncake, sharegpt
from pilothouse.workload.traces.agentic import AgenticTrace
from pilothouse.workload.traces.azure import Azure
from pilothouse.workload.traces.mooncake import Mooncake
from pilothouse.workload.traces.sharegpt import ShareGpt

KINDS = list(get_args(AnySpec))
DEPTH_MAX = 4  # files that refer to files


def read_workload(data_or_path: object, base: Path) -> Recipe:
    """A mapping, or the path of a file that holds one, relative to `base`. Raises ConfigError with every problem.

    What a file refers to is looked for beside it; what a mapping refers to, in `base`.
    """
    problems: list[Problem] = []
    recipe = _read(data_or_path, base, "", problems, DEPTH_MAX)
    if recipe is None or problems:
        raise ConfigError(problems)
    return recipe


def _read(said: object, base: Path, where: str, problems: list[Problem], depth: int) -> Recipe | None:
    if isinstance(said, str | Path):
        return _from_file(base / said, where, problems, depth)
    return _from_data(said, base, where, problems, depth)


def _from_file(path: Path, where: str, problems: list[Problem], depth: int) -> Recipe | None:
    if not depth:
        problems.append(Problem(where, f"{path}: workloads refer to each other more than {DEPTH_MAX} deep"))
        return None
    inner: list[Problem] = []
    recipe = None
    try:
        data = read_yaml(path.read_text(encoding="utf-8"), str(path))
        recipe = _from_data(data, path.parent, "", inner, depth - 1)
        inner = [Problem(f"{path}: {p.where}" if p.where else str(path), p.what) for p in inner]
    except (OSError, UnicodeDecodeError) as error:
        inner.append(Problem(where or "workload", f"cannot read {path}: {_reason(error)}"))
    except ConfigError as error:
        inner += error.problems
    problems += inner
    return recipe


def _from_data(data: object, base: Path, where: str, problems: list[Problem], depth: int) -> Recipe | None:
    spec = convert_tagged(KINDS, data, where, problems)
    if spec is None:
        return None
    if isinstance(spec, Mix):
        return _mix(spec, base, where, problems, depth)
    if isinstance(spec, AnyTrace):
        return _trace(spec, base / spec.file, f"{where}.file" if where else "file", problems)
    return Recipe(spec)


def _mix(spec: Mix, base: Path, where: str, problems: list[Problem], depth: int) -> Recipe | None:
    parts: list[Recipe] = []
    before = len(problems)
    for i, tenant in enumerate(spec.tenants):
        place = f"{where}.tenants[{i}].workload" if where else f"tenants[{i}].workload"
        part = _read(tenant.workload, base, place, problems, depth)
        if part is None:
            continue
        if parts and shape(part) != shape(parts[0]):
            model, size = shape(part)
            other, wanted = shape(parts[0])
            both = f"{model!r} in blocks of {size}, but the tenants before it {other!r} in blocks of {wanted}"
            problems.append(Problem(place, f"is for model {both}: give all the same `model` and `block_size`"))
        parts.append(part)
    return None if len(problems) > before else Recipe(spec, parts=parts)


def _trace(spec: AnyTrace, path: Path, where: str, problems: list[Problem]) -> Recipe | None:
    try:
        match spec:
            case AgenticTrace():
                return _sessions(spec, path)
            case Mooncake():
                rows = mooncake.parse(path.read_bytes())
            case Azure():
                rows = azure.parse(path.read_bytes())
            case ShareGpt():
                rows = sharegpt.parse(path.read_bytes(), spec.block_size)
        if not rows:
            raise ValueError("it holds no requests")
        return Recipe(spec, rows)
    except OSError as error:
        problems.append(Problem(where, f"cannot read {path}: {_reason(error)}"))
    except (msgspec.MsgspecError, ValueError, IndexError) as error:
        kind = spec.__struct_config__.tag
        problems.append(Problem(where, f"{path} is no {kind} trace: {error}"))
    return None


def _sessions(spec: AgenticTrace, path: Path) -> Recipe:
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ValueError("the directory holds no *.json")
    conversations = agentic.parse([file.read_bytes() for file in files])
    if not agentic.playable(spec, conversations):
        raise ValueError(f"no session begins within context_max, {spec.context_max} tokens")
    return Recipe(spec, conversations=conversations)


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "is not UTF-8 text"
