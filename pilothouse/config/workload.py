"""Workload files: one description for `sim`, `bench` and `plan`. Strict, with every problem and its path."""

from pathlib import Path
from typing import get_args

import msgspec

from pilothouse.config.convert import convert_tagged
from pilothouse.config.load import read_yaml
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.workload.mix import Mix
from pilothouse.workload.spec import AnySpec, AnyTrace, Recipe
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
    recipe = _read(data_or_path, _Place(base), "", problems)
    if recipe is None or problems:
        raise ConfigError(problems)
    return recipe


class _Place(msgspec.Struct, frozen=True):
    """Where a workload is written."""

    base: Path  # its paths are relative to this
    source: str = ""  # its file
    depth: int = DEPTH_MAX

    def problem(self, where: str, what: str) -> Problem:
        return Problem(f"{self.source}: {where}" if self.source else where, what)


def _read(said: object, place: _Place, where: str, problems: list[Problem]) -> Recipe | None:
    if isinstance(said, str | Path):
        return _from_file(place.base / said, place, where, problems)
    return _from_data(said, place, where, problems)


def _from_file(path: Path, place: _Place, where: str, problems: list[Problem]) -> Recipe | None:
    if not place.depth:
        problems.append(place.problem(where, f"workloads refer to each other more than {DEPTH_MAX} deep"))
        return None
    try:
        data = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        problems.append(place.problem(where or "workload", f"cannot read {path}: {_reason(error)}"))
        return None
    except ConfigError as error:
        problems += error.problems
        return None
    return _from_data(data, _Place(path.parent, str(path), place.depth - 1), "", problems)


def _from_data(data: object, place: _Place, where: str, problems: list[Problem]) -> Recipe | None:
    found: list[Problem] = []
    spec = convert_tagged(KINDS, data, where, found)
    problems += [place.problem(problem.where or "top level", problem.what) for problem in found]
    if spec is None:
        return None
    if isinstance(spec, Mix):
        return _mix(spec, place, f"{where}.tenants" if where else "tenants", problems)
    if isinstance(spec, AnyTrace):
        return _trace(spec, place, f"{where}.file" if where else "file", problems)
    return Recipe(spec)


def _mix(spec: Mix, place: _Place, where: str, problems: list[Problem]) -> Recipe | None:
    parts: list[Recipe] = []
    before = len(problems)
    for i, tenant in enumerate(spec.tenants):
        here = f"{where}[{i}].workload"
        part = _read(tenant.workload, place, here, problems)
        if part is None:
            continue
        if parts and (part.model, part.block_size) != (parts[0].model, parts[0].block_size):
            own, others = (f"{p.model!r} in blocks of {p.block_size}" for p in (part, parts[0]))
            what = f"is for model {own}, but the tenants before it {others}: give all the same `model` and `block_size`"
            problems.append(place.problem(here, what))
        parts.append(part)
    days = [len(day) for part in parts if (day := _day(part))]
    if len(set(days)) > 1:
        problems.append(
            place.problem(where, f"their `day`s have {', '.join(map(str, days))} parts: give all the same number")
        )
    return None if len(problems) > before else Recipe(spec, parts=parts)


def _day(part: Recipe) -> list[float]:
    return next(filter(None, map(_day, part.parts)), []) if isinstance(part.spec, Mix) else part.spec.day


def _trace(spec: AnyTrace, place: _Place, where: str, problems: list[Problem]) -> Recipe | None:
    path = place.base / spec.file
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
        problems.append(place.problem(where, f"cannot read {path}: {_reason(error)}"))
    except (msgspec.MsgspecError, ValueError, IndexError) as error:
        kind = spec.__struct_config__.tag
        problems.append(place.problem(where, f"{path} is no {kind} trace: {error}"))
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
