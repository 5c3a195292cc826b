"""Text to `Config`, strictly: unknown fields, wrong types and impossible values are all reported, each with its path."""

from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec
import yaml
from msgspec.structs import fields

from pilothouse.config.schema import Config
from pilothouse.config.values import Duration, Size
from pilothouse.core.errors import ConfigError, Problem

T = TypeVar("T", bound=msgspec.Struct)


def load(text: str, source: str = "config") -> Config:
    """Reads YAML. Raises ConfigError with every problem found; `source` names the file in it."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError([Problem(source, f"is not YAML: {' '.join(str(error).split())}")]) from None
    return from_data({} if data is None else data, source)


def from_data(data: object, source: str = "config") -> Config:
    """As `load`, from what YAML would give."""
    problems: list[Problem] = []
    config = convert(Config, data, "", problems)
    if isinstance(config, Config):
        problems += _rules(config)
    if problems or config is None:
        raise ConfigError([Problem(f"{source}: {p.where}" if p.where else source, p.what) for p in problems])
    return config


def convert(kind: type[T], data: object, where: str, problems: list[Problem]) -> T | None:
    """`data` as the struct `kind`; None if anything is wrong, with the reasons added to `problems`."""
    if not isinstance(data, dict):
        problems.append(Problem(where or "top level", f"must be a mapping, not {_said(data)}"))
        return None
    known = {field.encode_name: field for field in fields(kind)}
    before = len(problems)
    for name in data:
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            problems.append(Problem(_join(where, name), f"unknown field, {hint}"))
    values: dict[str, Any] = {}
    for name, field in known.items():
        if name in data:
            values[field.name] = _value(field.type, data[name], _join(where, name), problems)
        elif field.required:
            problems.append(Problem(_join(where, name), "is required"))
    if len(problems) > before:
        return None
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:  # a rule in __post_init__
        problems.append(Problem(where, str(error)))
        return None


def _value(kind: Any, data: object, where: str, problems: list[Problem]) -> Any:
    inner, parts = _strip(kind), get_args(_strip(kind))
    if get_origin(inner) in (Union, UnionType):
        if data is None:
            return None
        inner = next(part for part in parts if part is not type(None))
    if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
        return convert(inner, data, where, problems)
    if get_origin(inner) is list and isinstance(data, list):
        values = [_value(get_args(inner)[0], item, f"{where}[{i}]", problems) for i, item in enumerate(data)]
        if not data and kind is not inner:
            return _leaf(kind, values, where, problems)
        return values
    return _leaf(kind, data, where, problems)


def _leaf(kind: Any, data: object, where: str, problems: list[Problem]) -> Any:
    try:
        bare = _strip(kind)
        if bare in (Duration, Size):
            return bare.parse(data)
        return msgspec.convert(data, kind)
    except (msgspec.ValidationError, ValueError) as error:
        problems.append(Problem(where, str(error)))
        return None


def _strip(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _rules(config: Config) -> list[Problem]:
    """What no single field can know."""
    problems = []
    for where, address in (("listen", config.listen), ("control", config.control)):
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            problems.append(Problem(where, f"{address!r} is not host:port"))
    if config.listen == config.control and not config.listen.endswith(":0"):
        problems.append(Problem("control", "must differ from `listen`"))
    names: dict[str, str] = {}
    for i, pool in enumerate(config.pools):
        if not pool.endpoints and pool.dns is None:
            problems.append(Problem(f"pools[{i}]", "has no engines: give `endpoints` or `dns`"))
        if pool.endpoints and pool.dns is not None:
            problems.append(Problem(f"pools[{i}]", "give `endpoints` or `dns`, not both"))
        for j, engine in enumerate(pool.endpoints):
            where = f"pools[{i}].endpoints[{j}]"
            if not engine.url.startswith("http://") or not engine.url[7:]:
                problems.append(Problem(f"{where}.url", f"{engine.url!r} is not http://host:port"))
            name = engine.name or engine.url
            if name in names:
                problems.append(Problem(where, f"{name} is there already, as {names[name]}"))
            names[name] = where
    return problems


def _join(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def _said(data: object) -> str:
    return "nothing" if data is None else type(data).__name__
